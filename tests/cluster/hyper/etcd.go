// etcd of the version that this Kubernetes asks for: Debian's is too old for streaming lists.
package main

import (
	"net/url"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/embed"
)

// newEtcdCommand is a single member that listens on the loopback only.
func newEtcdCommand() *cobra.Command {
	config := embed.NewConfig()
	// A test cluster is not to survive the machine.
	config.UnsafeNoFsync = true
	config.LogLevel = "warn"
	client, peer := url.URL{Scheme: "http", Host: "127.0.0.1:2379"}, url.URL{Scheme: "http", Host: "127.0.0.1:2380"}
	config.ListenClientUrls, config.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	config.ListenPeerUrls, config.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	command := &cobra.Command{
		Use:          "etcd",
		Args:         cobra.NoArgs,
		SilenceUsage: true,
		RunE: func(command *cobra.Command, _ []string) error {
			ended, stop := signal.NotifyContext(command.Context(), syscall.SIGTERM, syscall.SIGINT)
			defer stop()
			server, err := embed.StartEtcd(config)
			if err != nil {
				return err
			}
			defer server.Close()
			select {
			case <-ended.Done():
				return nil
			case err := <-server.Err():
				return err
			}
		},
	}
	command.Flags().StringVar(&config.Dir, "data-dir", config.Dir, "where its data are")
	return command
}
