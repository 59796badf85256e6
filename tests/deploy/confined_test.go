package deploy

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
)

// What the agents on the node are told instead of an API server's address.
var fromManifests = map[string]string{"PODGATE_MANIFESTS": "/manifests"}

// world: web admits port 80 only, everybody else nothing is about.
const world = `
apiVersion: v1
kind: Node
metadata: {name: node-1}
spec: {podCIDRs: [10.244.0.0/24]}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {nodeName: node-1}
status: {phase: Running, podIP: 10.244.0.2, podIPs: [{ip: 10.244.0.2}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop}
spec: {nodeName: node-1}
status: {phase: Running, podIP: 10.244.0.3, podIPs: [{ip: 10.244.0.3}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress]
  ingress: [{ports: [{port: 80}]}]
`

// shop is a node with a web server's pod and a client's.
func shop(t *testing.T) (host *node, client namespace) {
	t.Helper()
	host = newNode(t)
	if err := os.WriteFile(filepath.Join(host.manifests, "world.yaml"), []byte(world), 0o644); err != nil {
		t.Fatal(err)
	}
	web, client := host.pod(t, "10.244.0.2"), host.pod(t, "10.244.0.3")
	web.listen(t, 80, 81)
	return host, client
}

// listen accepts connections in the namespace.
func (n namespace) listen(t *testing.T, ports ...int) {
	t.Helper()
	for _, port := range ports {
		n.within(t, func() {
			listener, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
			if err != nil {
				t.Error(err)
				return
			}
			t.Cleanup(func() { listener.Close() })
			go func() {
				for {
					connection, err := listener.Accept()
					if err != nil {
						return
					}
					connection.Close()
				}
			}()
		})
	}
}

// judged says whether policies hold: port 80 open, port 81 closed.
func judged(t *testing.T, client namespace) {
	t.Helper()
	if !client.reaches(t, "10.244.0.2:80", patience) {
		t.Error("what is allowed does not pass")
	}
	if client.reaches(t, "10.244.0.2:81", 300*time.Millisecond) {
		t.Error("what is denied passes")
	}
}

// startAgent starts the DaemonSet's container and waits until it is ready.
func (n *node) startAgent(t *testing.T) *container {
	t.Helper()
	return n.startAgentAs(t, agent(t).Spec.Template.Spec)
}

func (n *node) startAgentAs(t *testing.T, pod core.PodSpec) *container {
	t.Helper()
	one := pod.Containers[0]
	running := n.start(t, pod, one, fromManifests)
	running.await(t, "started", func() (string, bool) { return running.probe(one.StartupProbe) })
	running.await(t, "ready", func() (string, bool) { return running.probe(one.ReadinessProbe) })
	return running
}

// get asks the metrics address, plain.
func (n *node) get(t *testing.T, path string) (string, error) {
	t.Helper()
	status, text, err := n.ask(t, "http://"+n.address+":9840"+path, "", nil)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("%d: %s", status, text)
	}
	return text, err
}

// ask is one request from within the namespace.
func (n *node) ask(t *testing.T, url, token string, security *tls.Config) (status int, text string, err error) {
	t.Helper()
	n.within(t, func() {
		// The dial must be on this thread, and a kept connection would be of this namespace.
		var connection net.Conn
		if connection, err = net.DialTimeout("tcp", n.address+":9840", patience); err != nil {
			return
		}
		transport := &http.Transport{
			Dial:              func(string, string) (net.Conn, error) { return connection, nil },
			DisableKeepAlives: true, TLSClientConfig: security,
		}
		request, _ := http.NewRequest(http.MethodGet, url, nil)
		if token != "" {
			request.Header.Set("Authorization", "Bearer "+token)
		}
		var answer *http.Response
		if answer, err = (&http.Client{Transport: transport, Timeout: patience}).Do(request); err != nil {
			return
		}
		defer answer.Body.Close()
		body, problem := io.ReadAll(answer.Body)
		status, text, err = answer.StatusCode, string(body), problem
	})
	return status, text, err
}

var toldMetrics string

// realMetrics is what an agent tells that runs as in the DaemonSet and has judged something.
func realMetrics(t *testing.T) string {
	t.Helper()
	if toldMetrics == "" {
		host, client := shop(t)
		host.startAgent(t)
		judged(t, client)
		told, err := host.get(t, "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		toldMetrics = told
	}
	return toldMetrics
}

var toldOfCluster string

// clusterMetrics is what an agent tells that follows a cluster, whose API server does not answer.
func clusterMetrics(t *testing.T) string {
	t.Helper()
	if toldOfCluster == "" {
		host := newNode(t)
		// The image has no certificates of its own, and none is checked here.
		server := httptest.NewTLSServer(nil)
		server.Close()
		authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
		kubeconfig := fmt.Sprintf(`{apiVersion: v1, kind: Config, current-context: c, users: [{name: u, user: {}}],
  clusters: [{name: c, cluster: {server: "https://127.0.0.1:9", certificate-authority-data: %s}}],
  contexts: [{name: c, context: {cluster: c, user: u}}]}`, base64.StdEncoding.EncodeToString(authority))
		if err := os.WriteFile(filepath.Join(host.manifests, "kubeconfig"), []byte(kubeconfig), 0o644); err != nil {
			t.Fatal(err)
		}
		pod := agent(t).Spec.Template.Spec
		running := host.start(t, pod, pod.Containers[0], map[string]string{"PODGATE_KUBECONFIG": "/manifests/kubeconfig"})
		running.await(t, "asked", func() (string, bool) {
			told, err := host.get(t, "/metrics")
			toldOfCluster = told
			return told, err == nil
		})
	}
	return toldOfCluster
}

func TestTheAgentWorksWithNoMoreThanTheDaemonSetGives(t *testing.T) {
	host, client := shop(t)
	running := host.startAgent(t)
	judged(t, client)
	one := agent(t).Spec.Template.Spec.Containers[0]
	if said, live := running.probe(one.LivenessProbe); !live {
		t.Errorf("not live: %s", said)
	}
	for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
		if _, err := host.get(t, path); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}

	text, err := running.runc("state", running.id).Output()
	var state struct{ PID int }
	if err != nil || json.Unmarshal(text, &state) != nil {
		t.Fatalf("%v: %s", err, text)
	}
	status := string(readFile(t, fmt.Sprintf("/proc/%d/status", state.PID)))
	// capabilities(7): NET_ADMIN is bit 12. Seccomp 2 is a filter.
	for _, line := range []string{
		"CapEff:\t0000000000001000", "CapPrm:\t0000000000001000", "CapBnd:\t0000000000001000", "CapAmb:\t0000000000000000",
		"NoNewPrivs:\t1", "Seccomp:\t2", "Uid:\t0\t0\t0\t0",
	} {
		if !strings.Contains(status, line+"\n") {
			t.Errorf("no %q in\n%s", line, status)
		}
	}
	if pod := agent(t).Spec.Template.Spec; running.stop(t, pod) != 0 {
		t.Errorf("it does not end well: %s", running.said)
	}
}

func TestWithoutTheCapabilityTheAgentSaysWhatItNeeds(t *testing.T) {
	host, _ := shop(t)
	pod := agent(t).Spec.Template.Spec
	one := pod.Containers[0]
	one.SecurityContext = one.SecurityContext.DeepCopy()
	one.SecurityContext.Capabilities.Add = nil
	running := host.start(t, pod, one, fromManifests)
	if code := running.wait(t, patience); code == 0 || !strings.Contains(running.said.String(), "the capability NET_ADMIN") {
		t.Errorf("%d: %s", code, running.said)
	}
}

func TestPodsOnAnUnfilteredBridgeAreNotPassedOverInSilence(t *testing.T) {
	host := newNode(t)
	if err := os.WriteFile(filepath.Join(host.manifests, "world.yaml"), []byte(world), 0o644); err != nil {
		t.Fatal(err)
	}
	host.sh(t, `ip link add br0 type bridge; ip link set br0 up; ip address add 10.244.0.1/24 dev br0
		sysctl -qw net.bridge.bridge-nf-call-iptables=0`)
	// /proc/sys is read-only in a container that is not privileged: the node's administrator has to do it.
	pod := agent(t).Spec.Template.Spec
	running := host.start(t, pod, pod.Containers[0], fromManifests)
	running.await(t, "told why it is not ready", func() (string, bool) {
		said, ready := running.probe(pod.Containers[0].ReadinessProbe)
		if ready {
			t.Fatal("ready, and traffic between pods of the bridge is not seen")
		}
		return said, strings.Contains(said, "sysctl -w net.bridge.bridge-nf-call-iptables=1")
	})
}

func TestTheTwoAgentsOfARolloutHandOver(t *testing.T) {
	host, client := shop(t)
	pod := agent(t).Spec.Template.Spec
	old := host.startAgent(t)
	judged(t, client)
	next := host.startAgent(t)
	judged(t, client)
	if code := old.stop(t, pod); code != 0 {
		t.Errorf("the old one ends with %d: %s", code, old.said)
	}
	judged(t, client)
	for _, probe := range []*core.Probe{pod.Containers[0].LivenessProbe, pod.Containers[0].ReadinessProbe} {
		if said, is := next.probe(probe); !is {
			t.Errorf("%v: %s", probe.Exec.Command, said)
		}
	}
}

func TestUninstallingClosesAndTheCleanUpOpens(t *testing.T) {
	host, client := shop(t)
	running := host.startAgent(t)
	if code := running.stop(t, agent(t).Spec.Template.Spec); code != 0 {
		t.Errorf("%d: %s", code, running.said)
	}
	if client.reaches(t, "10.244.0.2:80", 300*time.Millisecond) {
		t.Error("fail-closed, a new connection passes without an agent")
	}

	objects := decode(t, read(t, "cleanup/podgate-cleanup.yaml"))
	pod := find[*apps.DaemonSet](t, objects, "DaemonSet podgate-cleanup/podgate-cleanup").Spec.Template.Spec
	first := host.start(t, pod, pod.InitContainers[0], nil)
	if code := first.wait(t, patience); code != 0 || !strings.Contains(first.said.String(), "nothing is filtered any more") {
		t.Errorf("%d: %s", code, first.said)
	}
	for _, port := range []string{"80", "81"} {
		if !client.reaches(t, "10.244.0.2:"+port, patience) {
			t.Errorf("port %s is closed after cleaning", port)
		}
	}
	if tables := host.sh(t, "nft list tables"); strings.Contains(tables, "podgate") {
		t.Errorf("left behind: %s", tables)
	}

	// The DaemonSet's pod then runs on until it is deleted.
	idle := host.start(t, pod, pod.Containers[0], nil)
	idle.await(t, "done", func() (string, bool) {
		return idle.said.String(), strings.Contains(idle.said.String(), "nothing to remove")
	})
	if code := idle.stop(t, pod); code != 0 {
		t.Errorf("%d: %s", code, idle.said)
	}
}

func TestProtectedMetricsAreForBearersOverTLSOnly(t *testing.T) {
	host, client := shop(t)
	directory := t.TempDir()
	// As deploy/README.md says.
	command := exec.Command("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "365",
		"-keyout", "tls.key", "-out", "tls.crt", "-subj", "/CN=podgate-metrics", "-addext", "subjectAltName=DNS:podgate-metrics.podgate-system.svc")
	command.Dir = directory
	if said, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	certificate := readFile(t, filepath.Join(directory, "tls.crt"))
	host.secrets = map[string]map[string]string{
		"podgate-metrics-tls":   {"tls.crt": string(certificate), "tls.key": string(readFile(t, filepath.Join(directory, "tls.key")))},
		"podgate-metrics-token": {"token": "0123456789abcdef0123456789abcdef"},
	}
	overlay := kustomize(t, "kustomize/overlays/metrics-tls")
	pod := find[*apps.DaemonSet](t, overlay, "DaemonSet podgate-system/podgate").Spec.Template.Spec
	host.startAgentAs(t, pod)
	judged(t, client)

	known := x509.NewCertPool()
	known.AppendCertsFromPEM(certificate)
	// The name that the monitors check it by.
	security := &tls.Config{RootCAs: known, ServerName: "podgate-metrics.podgate-system.svc"}
	base := "https://" + host.address + ":9840"
	for _, one := range []struct {
		path, token string
		status      int
	}{
		{"/metrics", "0123456789abcdef0123456789abcdef", 200}, {"/metrics", "", 401}, {"/metrics", "another", 401},
		{"/healthz", "", 200}, {"/readyz", "", 200},
	} {
		status, text, err := host.ask(t, base+one.path, one.token, security)
		if err != nil || status != one.status {
			t.Errorf("%s with token %q: %d %v", one.path, one.token, status, err)
		}
		if strings.Contains(text, "podgate_") != (one.path == "/metrics" && one.status == 200) {
			t.Errorf("%s with token %q tells\n%s", one.path, one.token, text)
		}
	}
	if told, err := host.get(t, "/metrics"); err == nil {
		t.Errorf("without TLS it tells\n%s", told)
	}
}

func TestLocalMetricsAreNotOnTheNodesAddress(t *testing.T) {
	host, client := shop(t)
	overlay := kustomize(t, "kustomize/overlays/metrics-local")
	host.startAgentAs(t, find[*apps.DaemonSet](t, overlay, "DaemonSet podgate-system/podgate").Spec.Template.Spec)
	judged(t, client)
	if told, err := host.get(t, "/metrics"); err == nil {
		t.Errorf("the node's address tells\n%s", told)
	}
	host.address = "127.0.0.1"
	if _, err := host.get(t, "/metrics"); err != nil {
		t.Error(err)
	}
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
