// Command agnhost is upstream's test server and client with only the subcommands that the netpol suite and our own
// tests use: a third of the size and a faster start, which counts at one exec per probe.
package main

import (
	"os"

	"github.com/spf13/cobra"
	"k8s.io/kubernetes/test/images/agnhost/connect"
	"k8s.io/kubernetes/test/images/agnhost/inclusterclient"
	"k8s.io/kubernetes/test/images/agnhost/netexec"
	"k8s.io/kubernetes/test/images/agnhost/pause"
	"k8s.io/kubernetes/test/images/agnhost/porter"
	servehostname "k8s.io/kubernetes/test/images/agnhost/serve-hostname"
)

func main() {
	root := &cobra.Command{Use: "agnhost", SilenceUsage: true}
	root.AddCommand(
		connect.CmdConnect,
		inclusterclient.CmdInClusterClient,
		netexec.CmdNetexec,
		pause.CmdPause,
		porter.CmdPorter,
		servehostname.CmdServeHostname,
		trafficCommand(),
		witnessCommand(),
		newcomerCommand(),
		toldCommand(),
	)
	if root.Execute() != nil {
		os.Exit(1)
	}
}
