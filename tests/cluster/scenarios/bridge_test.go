// Pods on a bridge: traffic within a node reaches netfilter only by br_netfilter, and where it does not, the agent says so.
package scenarios

import (
	"testing"

	"podgate/tests/cluster/kit"
)

func TestOnBridgeTheReasonIsToldWhereTrafficBypasses(t *testing.T) {
	w := kit.NewWorld(t)
	pods := w.Pods(t, "web=n1", "stranger=n1", "friend=n1")
	web, stranger, friend := pods[0], pods[1], pods[2]
	w.Apply(t, allowWeb)
	for _, address := range web.Addresses() { // same node, over the bridge
		w.Denies(t, stranger, kit.TCP(address, kit.HTTP))
		w.Allows(t, friend, kit.TCP(address, kit.HTTP))
	}

	agent := w.Agent("n1")
	bridged := func(value string) {
		w.In(t, "n1", "sysctl", "-qw", "net.bridge.bridge-nf-call-iptables="+value, "net.bridge.bridge-nf-call-ip6tables="+value)
	}
	bridged("0")
	t.Cleanup(func() { bridged("1") })
	agent.Kill(t) // what is looked at when it starts
	agent.WaitUnready(t, "bridge-nf-call-iptables")
	bridged("1")
	agent.WaitReady(t)
	w.Denies(t, stranger, kit.TCP(web.Four, kit.HTTP))
}
