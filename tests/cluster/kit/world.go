// A namespace of a test's own, and pods pinned to nodes in it.
package kit

import (
	"context"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Agnhost is upstream's test image, as `build` made it.
const Agnhost = "registry.k8s.io/e2e-test-images/agnhost:2.59"

// Ports of every pod of a World: an HTTP server on each of the first two, a UDP server on the third.
const (
	HTTP    = 8080
	Second  = 9090
	UDPPort = 8081
)

// World is a namespace that goes when the test ends.
type World struct {
	*Cluster
	Namespace string
}

// NewWorld makes the namespace.
func NewWorld(t *testing.T) *World {
	t.Helper()
	c := Connect(t)
	name := strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name())) + "-"
	namespace, err := c.Client.CoreV1().Namespaces().Create(t.Context(),
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: name}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w := &World{Cluster: c, Namespace: namespace.Name}
	t.Cleanup(func() {
		err := c.Client.CoreV1().Namespaces().Delete(context.Background(), w.Namespace, metav1.DeleteOptions{})
		if err != nil {
			t.Errorf("namespace %s stays: %v", w.Namespace, err)
		}
	})
	// No pod is admitted before the controllers have made it.
	Eventually(t, Patience, func() error {
		_, err := c.Client.CoreV1().ServiceAccounts(w.Namespace).Get(t.Context(), "default", metav1.GetOptions{})
		return err
	})
	return w
}

// Pod is a running pod: its addresses, by family.
type Pod struct {
	Name, Node string
	Four, Six  string

	world *World
}

// Pods makes one pod per NAME=NODE and returns them when all are ready. Each has the label app=NAME, and a readiness
// probe that the kubelet asks every second.
func (w *World) Pods(t *testing.T, placed ...string) []*Pod {
	t.Helper()
	pods := make([]*Pod, len(placed))
	for i, entry := range placed {
		name, node, _ := strings.Cut(entry, "=")
		if _, err := w.Client.CoreV1().Pods(w.Namespace).Create(t.Context(), manifest(name, node), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		pods[i] = &Pod{Name: name, Node: node, world: w}
	}
	for _, pod := range pods {
		pod.WaitReady(t)
	}
	return pods
}

// WaitReady waits until the pod is ready and takes its addresses, which a restart of its node changes.
func (p *Pod) WaitReady(t *testing.T) {
	t.Helper()
	Eventually(t, Patience, func() error {
		pod, err := p.world.Client.CoreV1().Pods(p.world.Namespace).Get(t.Context(), p.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if !IsReady(pod) {
			return fmt.Errorf("pod %s is not ready: %s", p.Name, pod.Status.Phase)
		}
		p.Four, p.Six = "", ""
		for _, address := range pod.Status.PodIPs {
			if strings.Contains(address.IP, ":") {
				p.Six = address.IP
			} else {
				p.Four = address.IP
			}
		}
		return nil
	})
}

// IsReady tells whether a pod's Ready condition is true.
func IsReady(pod *corev1.Pod) bool {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}

// Restarts is how often the pod's containers were started again.
func (p *Pod) Restarts(t *testing.T) int32 {
	t.Helper()
	pod, err := p.world.Client.CoreV1().Pods(p.world.Namespace).Get(t.Context(), p.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var restarts int32
	for _, status := range pod.Status.ContainerStatuses {
		restarts += status.RestartCount
	}
	return restarts
}

func manifest(name, node string) *corev1.Pod {
	grace := int64(0)
	probe := func(path string) *corev1.Probe {
		return &corev1.Probe{PeriodSeconds: 1, FailureThreshold: 3, ProbeHandler: corev1.ProbeHandler{
			HTTPGet: &corev1.HTTPGetAction{Path: path, Port: intstr.FromInt32(HTTP)}}}
	}
	container := func(name string, arguments ...string) corev1.Container {
		return corev1.Container{Name: name, Image: Agnhost, ImagePullPolicy: corev1.PullNever, Args: arguments}
	}
	first := container("first", "netexec", fmt.Sprintf("--http-port=%d", HTTP), fmt.Sprintf("--udp-port=%d", UDPPort))
	first.ReadinessProbe, first.LivenessProbe = probe("/healthz"), probe("/healthz")
	second := container("second", "netexec", fmt.Sprintf("--http-port=%d", Second), "--udp-port=-1")
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}},
		Spec: corev1.PodSpec{
			NodeSelector:                  map[string]string{"kubernetes.io/hostname": node},
			TerminationGracePeriodSeconds: &grace,
			Tolerations:                   []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
			Containers:                    []corev1.Container{first, second},
		},
	}
}

// Apply applies manifests by kubectl, in this world's namespace.
func (w *World) Apply(t *testing.T, manifests string) {
	t.Helper()
	w.Kubectl(t, manifests, "apply", "--namespace", w.Namespace, "-f", "-")
}

// Delete deletes an object of this world, such as networkpolicy/NAME.
func (w *World) Delete(t *testing.T, object string) {
	t.Helper()
	w.Kubectl(t, "", "delete", "--namespace", w.Namespace, object)
}

// ProbedAgain waits until the kubelet asked the pod's readiness three more times, by the probe's counter of the kubelet,
// and fails the test if any of them failed.
func (p *Pod) ProbedAgain(t *testing.T) {
	t.Helper()
	passed, failed := p.probes(t)
	Eventually(t, Patience, func() error {
		now, broken := p.probes(t)
		if broken > failed {
			t.Fatalf("a probe of %s failed", p.Name)
		}
		if now < passed+3 {
			return fmt.Errorf("%s was probed %v times, %v before", p.Name, now, passed)
		}
		return nil
	})
}

// WaitRestarted waits until the pod's containers were started again, and then until it is ready.
func (p *Pod) WaitRestarted(t *testing.T) {
	t.Helper()
	Eventually(t, Patience, func() error {
		if p.Restarts(t) == 0 {
			return fmt.Errorf("%s was not started again", p.Name)
		}
		return nil
	})
	p.WaitReady(t)
}
