// Policies and Services: what is judged is the pod that kube-proxy chose, however the packet got there.
package scenarios

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"podgate/tests/cluster/kit"
)

// services name the pod `web` in every way; the UDP port is where DNS would be.
const services = `
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  ipFamilyPolicy: PreferDualStack
  selector: {app: web}
  ports:
  - {name: first, port: 80, targetPort: 8080}
  - {name: second, port: 81, targetPort: 9090}
  - {name: dns, port: 53, targetPort: 8081, protocol: UDP}
`

func TestServicesAreJudgedByThePodBehind(t *testing.T) {
	w := kit.NewWorld(t)
	pods := w.Pods(t, "web=n1", "friend=n2", "stranger=n2", "neighbour=n1")
	friend, stranger, neighbour := pods[1], pods[2], pods[3]
	w.Apply(t, services)
	service, err := w.Client.CoreV1().Services(w.Namespace).Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range service.Spec.ClusterIPs {
		for _, from := range []*kit.Pod{stranger, neighbour} { // kube-proxy knows the Service, on both nodes
			w.Allows(t, from, kit.TCP(address, 80))
			w.Allows(t, from, kit.UDP(address, 53))
		}
	}

	w.Apply(t, allowWeb)
	for _, address := range service.Spec.ClusterIPs {
		w.Denies(t, stranger, kit.TCP(address, 80))
		w.Denies(t, neighbour, kit.TCP(address, 80))
		w.Denies(t, stranger, kit.UDP(address, 53))
		w.Denies(t, friend, kit.TCP(address, 81))
		w.Allows(t, friend, kit.TCP(address, 80))
		w.Allows(t, friend, kit.UDP(address, 53))
	}

	// A NodePort on the friend's own node: kube-proxy there sends on to the other node, with the node's address as the
	// source, so no label decides but the address; what no policy selects must pass all the same.
	w.Delete(t, "networkpolicy/allow-web")
	for _, address := range nodeAddresses(service) {
		w.Allows(t, friend, kit.TCP(address, nodePort(service, "first")))
		w.Allows(t, stranger, kit.UDP(address, nodePort(service, "dns")))
	}
	w.Apply(t, denyAll)
	for _, address := range nodeAddresses(service) {
		w.Denies(t, friend, kit.TCP(address, nodePort(service, "first")))
	}
}

func TestNodePortFromOutside(t *testing.T) {
	w := kit.NewWorld(t)
	w.Pods(t, "web=n1")
	w.Apply(t, services)
	service, err := w.Client.CoreV1().Services(w.Namespace).Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	port := nodePort(service, "first")
	outside := []string{kit.NodeAddress("n1")}
	if len(service.Spec.ClusterIPs) > 1 {
		outside = append(outside, kit.NodeAddress6("n1"))
	}
	// The test itself is outside: it runs on the control plane's address, which is no node's and no pod's.
	for _, address := range outside {
		kit.Passes(t, kit.TCP(address, port))
	}
	w.Apply(t, allowWeb)
	for _, address := range outside {
		kit.Stops(t, kit.TCP(address, port))
	}
	w.Apply(t, `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: from-outside}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress: [{ports: [{port: 8080}]}]
`)
	for _, address := range outside {
		kit.Passes(t, kit.TCP(address, port))
	}
}

func nodeAddresses(service *corev1.Service) []string {
	all := []string{kit.NodeAddress("n2")}
	if len(service.Spec.ClusterIPs) > 1 {
		all = append(all, kit.NodeAddress6("n2"))
	}
	return all
}

func nodePort(service *corev1.Service, name string) int {
	for _, port := range service.Spec.Ports {
		if port.Name == name {
			return int(port.NodePort)
		}
	}
	return 0
}
