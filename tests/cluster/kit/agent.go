// The agents: one on each node, asked over HTTP on the node's address, and ended by the hand of the node.
package kit

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// System is the namespace of the agents.
const System = "podgate-system"

// Agent is the agent of a node.
type Agent struct {
	Node string

	cluster *Cluster
}

// Agent of a node.
func (c *Cluster) Agent(node string) Agent { return Agent{node, c} }

// Get asks the agent for a page and returns the status and the text.
func (a Agent) Get(path string) (int, string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+NodeAddress(a.Node)+":9840"+path, nil)
	if err != nil {
		return 0, "", err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	return answer.StatusCode, string(text), err
}

// WaitReady waits until the agent says that it enforces.
func (a Agent) WaitReady(t *testing.T) {
	t.Helper()
	Eventually(t, Patience, func() error { return a.says(http.StatusOK, "") })
}

// WaitUnready waits until the agent says that it is not ready, for a reason with those words.
func (a Agent) WaitUnready(t *testing.T, reason string) {
	t.Helper()
	Eventually(t, Patience, func() error { return a.says(http.StatusServiceUnavailable, reason) })
}

// WaitSays waits until the agent, ready or not, says those words.
func (a Agent) WaitSays(t *testing.T, words string) {
	t.Helper()
	Eventually(t, Patience, func() error {
		_, text, err := a.Get("/readyz")
		if err == nil && !strings.Contains(text, words) {
			err = fmt.Errorf("the agent of %s does not say %q but %q", a.Node, words, text)
		}
		return err
	})
}

func (a Agent) says(status int, words string) error {
	got, text, err := a.Get("/readyz")
	if err != nil {
		return err
	}
	if got != status || !strings.Contains(text, words) {
		return fmt.Errorf("the agent of %s says %d %s", a.Node, got, strings.TrimSpace(text))
	}
	return nil
}

// Metric is the sum of the agent's series of that name and those labels ([sum]).
func (a Agent) Metric(name string, labels ...string) (float64, error) {
	_, text, err := a.Get("/metrics")
	if err != nil {
		return 0, err
	}
	value, found, err := sum(text, name, labels)
	if err == nil && !found {
		err = fmt.Errorf("the agent of %s has no series %s%v", a.Node, name, labels)
	}
	return value, err
}

// Pods are the agents' pods on the node, those that end left out.
func (a Agent) Pods(t *testing.T) []corev1.Pod {
	t.Helper()
	list, err := a.cluster.Client.CoreV1().Pods(System).List(t.Context(), metav1.ListOptions{
		LabelSelector: "app.kubernetes.io/name=podgate,app.kubernetes.io/component=agent", FieldSelector: "spec.nodeName=" + a.Node})
	if err != nil {
		t.Fatal(err)
	}
	var pods []corev1.Pod
	for _, pod := range list.Items {
		if pod.DeletionTimestamp == nil {
			pods = append(pods, pod)
		}
	}
	return pods
}

// Kill ends the agent's process without farewell; the kubelet starts another by itself. It returns when that listens.
func (a Agent) Kill(t *testing.T) {
	t.Helper()
	started, err := a.Metric("podgate_start_time_seconds")
	if err != nil {
		t.Fatal(err)
	}
	a.cluster.In(t, a.Node, "bash", "-c", `for at in /proc/[0-9]*; do [[ $(readlink $at/exe) == /podgate ]] && kill -KILL ${at#/proc/}; done; true`)
	Eventually(t, Patience, func() error {
		now, err := a.Metric("podgate_start_time_seconds")
		if err == nil && now == started {
			err = fmt.Errorf("the agent of %s goes on", a.Node)
		}
		return err
	})
}
