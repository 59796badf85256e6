// Package scenarios is podgate in a cluster, as people use it: policies by kubectl, on real nodes, under real events.
//
// This file: policies take effect and are counted. Names with OnBridge are for a cluster whose pods are on a bridge.
package scenarios

import (
	"fmt"
	"testing"

	"podgate/tests/cluster/kit"
)

// denyAll isolates every pod of the namespace in both directions.
const denyAll = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny-all}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
`

// allowWeb lets the pod `friend` reach the first HTTP port and the UDP port of the pod `web`.
const allowWeb = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: allow-web}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: friend}}}]
    ports: [{port: 8080}, {port: 8081, protocol: UDP}]
`

func TestPolicyTakesEffectAndIsCounted(t *testing.T) {
	w := kit.NewWorld(t)
	pods := w.Pods(t, "web=n1", "friend=n2", "stranger=n2", "neighbour=n1")
	web, friend, stranger, neighbour := pods[0], pods[1], pods[2], pods[3]
	for _, address := range web.Addresses() {
		w.Allows(t, stranger, kit.TCP(address, kit.HTTP))
		w.Allows(t, neighbour, kit.UDP(address, kit.UDPPort))
	}

	w.Apply(t, allowWeb)
	for _, address := range web.Addresses() {
		w.Denies(t, stranger, kit.TCP(address, kit.HTTP))  // another node
		w.Denies(t, neighbour, kit.TCP(address, kit.HTTP)) // the same node
		w.Denies(t, stranger, kit.UDP(address, kit.UDPPort))
		w.Denies(t, friend, kit.TCP(address, kit.Second)) // another port
		w.Allows(t, friend, kit.TCP(address, kit.HTTP))
		w.Allows(t, friend, kit.UDP(address, kit.UDPPort))
	}
	countsGrow(t, w, "n1", "0", func() { w.Allows(t, friend, kit.TCP(web.Four, kit.HTTP)) })
	countsGrow(t, w, "n1", "default-deny", func() { w.StillDenies(t, stranger, kit.TCP(web.Four, kit.HTTP)) })

	// A label of a pod is part of the world as much as a policy is.
	w.Kubectl(t, "", "label", "--namespace", w.Namespace, "--overwrite", "pod/stranger", "app=friend")
	w.Allows(t, stranger, kit.TCP(web.Four, kit.HTTP))
	w.Kubectl(t, "", "label", "--namespace", w.Namespace, "--overwrite", "pod/stranger", "app=stranger")
	w.Denies(t, stranger, kit.TCP(web.Four, kit.HTTP))

	w.Delete(t, "networkpolicy/allow-web")
	for _, address := range web.Addresses() {
		w.Allows(t, stranger, kit.TCP(address, kit.Second))
	}
}

// countsGrow checks that a rule of allow-web is counted on that node while `act` runs.
func countsGrow(t *testing.T, w *kit.World, node, rule string, act func()) {
	t.Helper()
	count := func() (float64, error) {
		return w.Agent(node).Metric("podgate_rule_verdicts_total",
			fmt.Sprintf("namespace=%q", w.Namespace), `policy="allow-web"`,
			fmt.Sprintf("rule=\"networkpolicy/%s/allow-web/ingress/%s\"", w.Namespace, rule))
	}
	before, err := count()
	if err != nil {
		t.Fatal(err)
	}
	act()
	kit.Eventually(t, kit.Effect, func() error {
		now, err := count()
		if err == nil && now <= before {
			err = fmt.Errorf("%s is still counted %v times", rule, now)
		}
		return err
	})
}

func TestEgressIsJudgedWhereThePodIs(t *testing.T) {
	w := kit.NewWorld(t)
	pods := w.Pods(t, "web=n1", "near=n1", "far=n2")
	web, near, far := pods[0], pods[1], pods[2]
	w.Apply(t, `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: only-first-port}
spec:
  podSelector: {matchExpressions: [{key: app, operator: In, values: [near, far]}]}
  policyTypes: [Egress]
  egress:
  - to: [{podSelector: {matchLabels: {app: web}}}]
    ports: [{port: 8080}]
`)
	for _, from := range []*kit.Pod{near, far} {
		for _, address := range web.Addresses() {
			w.Denies(t, from, kit.TCP(address, kit.Second))
			w.Denies(t, from, kit.UDP(address, kit.UDPPort))
			w.Allows(t, from, kit.TCP(address, kit.HTTP))
		}
	}
	w.Allows(t, web, kit.TCP(near.Four, kit.Second))
}

func TestProbesPassUnderDenyAll(t *testing.T) {
	w := kit.NewWorld(t)
	w.Apply(t, denyAll)
	// Their readiness is asked every second over the pod's network: they become ready, and stay so, by probes that pass.
	pods := w.Pods(t, "one=n1", "two=n2")
	for _, pod := range pods {
		other := pods[0]
		if pod == other {
			other = pods[1]
		}
		for _, address := range other.Addresses() {
			w.Denies(t, pod, kit.TCP(address, kit.HTTP))
		}
	}
	for _, pod := range pods {
		pod.ProbedAgain(t)
		if restarts := pod.Restarts(t); restarts != 0 {
			t.Errorf("%s was restarted %d times: its liveness probe failed", pod.Name, restarts)
		}
	}
}

func TestAnnotatedNamespaceIsIsolated(t *testing.T) {
	w := kit.NewWorld(t)
	pods := w.Pods(t, "web=n1", "friend=n2")
	web, friend := pods[0], pods[1]
	w.Allows(t, friend, kit.TCP(web.Four, kit.HTTP))
	w.Kubectl(t, "", "annotate", "namespace", w.Namespace, `net.beta.kubernetes.io/network-policy={"ingress":{"isolation":"DefaultDeny"}}`)
	w.Denies(t, friend, kit.TCP(web.Four, kit.HTTP))
	w.Apply(t, allowWeb)
	w.Allows(t, friend, kit.TCP(web.Four, kit.HTTP))
	w.Denies(t, friend, kit.TCP(web.Four, kit.Second))
}
