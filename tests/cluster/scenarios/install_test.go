// What is installed and taken away: the cluster-wide policies' definitions, and podgate itself.
package scenarios

import (
	"fmt"
	"strings"
	"testing"

	"podgate/tests/cluster/kit"
)

const definitions = "target/cluster/definitions"

func TestClusterPoliciesInstalledLater(t *testing.T) {
	w := kit.NewWorld(t)
	pods := w.Pods(t, "web=n1", "friend=n2", "stranger=n2")
	web, friend, stranger := pods[0], pods[1], pods[2]
	w.Apply(t, denyAll)
	w.Denies(t, friend, kit.TCP(web.Four, kit.HTTP))

	// The agents have run all the while without this kind.
	w.Kubectl(t, "", "apply", "--server-side", "-f", w.File(definitions))
	t.Cleanup(func() { w.Kubectl(t, "", "delete", "--ignore-not-found", "-f", w.File(definitions)) })
	w.Kubectl(t, "", "wait", "--for=condition=Established", "-f", w.File(definitions), "--timeout=60s")
	w.Apply(t, fmt.Sprintf(`
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: friends}
spec:
  tier: Admin
  priority: 10
  subject: {namespaces: {matchLabels: {kubernetes.io/metadata.name: %[1]s}}}
  ingress:
  - name: from-friends
    action: Accept
    from: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: friend}}}}]
  egress:
  - name: anywhere
    action: Accept
    to: [{namespaces: {}}]
`, w.Namespace))
	w.Allows(t, friend, kit.TCP(web.Four, kit.HTTP)) // before deny-all, which is of a lower tier
	w.Denies(t, stranger, kit.TCP(web.Four, kit.HTTP))

	w.Kubectl(t, "", "delete", "clusternetworkpolicy", "friends")
	w.Denies(t, friend, kit.TCP(web.Four, kit.HTTP))
}

func TestUninstall(t *testing.T) {
	w := kit.NewWorld(t)
	web, friend, stranger := travellers(t, w)
	product, cleanup := w.File("deploy", "podgate.yaml"), w.File("deploy", "cleanup", "podgate-cleanup.yaml")
	t.Cleanup(func() {
		w.Kubectl(t, "", "delete", "--ignore-not-found", "-f", cleanup)
		w.Script(t, "agent")
	})

	// Nodes stay closed when agents are deleted...
	w.Kubectl(t, "", "delete", "-f", product)
	w.StillDenies(t, stranger, kit.TCP(web.Four, kit.HTTP))
	w.StillDenies(t, friend, kit.TCP(web.Four, kit.Second))

	// ... until they are cleaned, and then nothing is left.
	w.Kubectl(t, "", "apply", "-f", cleanup)
	w.Kubectl(t, "", "--namespace", "podgate-cleanup", "rollout", "status", "daemonset/podgate-cleanup", "--timeout=90s")
	w.Allows(t, stranger, kit.TCP(web.Four, kit.HTTP))
	w.Allows(t, friend, kit.TCP(web.Four, kit.Second))
	for _, node := range []string{"n1", "n2"} {
		if tables := w.In(t, node, "nft", "list", "tables"); strings.Contains(tables, "podgate") {
			t.Errorf("%s still has podgate's table:\n%s", node, tables)
		}
	}
}
