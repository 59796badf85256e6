// Debian's Prometheus with the scrape job and the alerts of deploy/prometheus.
package scenarios

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"podgate/tests/cluster/kit"
)

func TestPrometheusScrapesEveryNode(t *testing.T) {
	w := kit.NewWorld(t)
	pods := w.Pods(t, "web=n1", "friend=n2", "stranger=n2")
	web, friend, stranger := pods[0], pods[1], pods[2]
	w.Apply(t, allowWeb)
	w.Denies(t, stranger, kit.TCP(web.Four, kit.HTTP))
	w.Allows(t, friend, kit.TCP(web.Four, kit.HTTP))

	startPrometheus(t, w.Cluster)
	eventuallyIs(t, `sum(up{job="podgate"})`, func(value float64) bool { return value == 2 })
	eventuallyIs(t, `count(count by (node) (podgate_build_info))`, func(value float64) bool { return value == 2 })
	verdicts := func(rule string) string {
		return fmt.Sprintf(`sum(podgate_rule_verdicts_total{namespace=%q,rule="networkpolicy/%s/allow-web/ingress/%s"})`, w.Namespace, w.Namespace, rule)
	}
	for _, rule := range []string{"0", "default-deny"} {
		eventuallyIs(t, verdicts(rule), func(value float64) bool { return value > 0 })
	}

	// What is counted afterwards shows too.
	denied := verdicts("default-deny")
	before, err := query(denied)
	if err != nil {
		t.Fatal(err)
	}
	w.StillDenies(t, stranger, kit.TCP(web.Four, kit.Second))
	eventuallyIs(t, denied, func(value float64) bool { return value > before })
}

// startPrometheus runs it with the product's own scrape job and alerts. Debian's is built without discovery by the API
// server, so the test says what that would find, and the job's own rules choose and name the targets from it.
func startPrometheus(t *testing.T, c *kit.Cluster) {
	t.Helper()
	job, err := os.ReadFile(c.File("deploy", "prometheus", "scrape.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	const discovery = "  kubernetes_sd_configs:\n  - role: pod\n    namespaces:\n      names: [podgate-system]\n"
	if strings.Count(string(job), discovery) != 1 {
		t.Fatal("deploy/prometheus/scrape.yaml finds agents in another way than this test knows")
	}
	config := fmt.Sprintf("global: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files: [%s]\n",
		c.File("deploy", "prometheus", "rules.yaml")) + strings.Replace(string(job), discovery, discovered(t, c), 1)
	file := filepath.Join(t.TempDir(), "prometheus.yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	c.Daemon(t, "prometheus", "--config.file="+file, "--storage.tsdb.path="+t.TempDir(), "--web.listen-address="+prometheus)
}

// discovered is what Prometheus' discovery of pods would find in the agents' namespace.
func discovered(t *testing.T, c *kit.Cluster) string {
	t.Helper()
	pods, err := c.Client.CoreV1().Pods(kit.System).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	config := "  static_configs:\n"
	for _, pod := range pods.Items {
		labels := map[string]string{
			"__meta_kubernetes_pod_ip":        pod.Status.PodIP,
			"__meta_kubernetes_pod_node_name": pod.Spec.NodeName,
			"__meta_kubernetes_pod_phase":     string(pod.Status.Phase),
		}
		for name, value := range pod.Labels {
			labels["__meta_kubernetes_pod_label_"+strings.NewReplacer(".", "_", "/", "_", "-", "_").Replace(name)] = value
		}
		text, err := json.Marshal(labels)
		if err != nil {
			t.Fatal(err)
		}
		config += fmt.Sprintf("  - {targets: [%q], labels: %s}\n", pod.Status.PodIP, text)
	}
	return config
}

// prometheus is its address in the network of the control plane, which is this cluster's alone.
const prometheus = "127.0.0.1:9090"

func eventuallyIs(t *testing.T, expression string, check func(float64) bool) {
	t.Helper()
	kit.Eventually(t, kit.Patience, func() error {
		value, err := query(expression)
		if err == nil && !check(value) {
			err = fmt.Errorf("%s is %v", expression, value)
		}
		return err
	})
}

// query asks for the value of an expression with one result.
func query(expression string) (float64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet,
		"http://"+prometheus+"/api/v1/query?query="+url.QueryEscape(expression), nil)
	if err != nil {
		return 0, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err
	}
	defer func() { _ = response.Body.Close() }()
	var answer struct {
		Error string
		Data  struct{ Result []struct{ Value []any } }
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return 0, err
	}
	if len(answer.Data.Result) != 1 || len(answer.Data.Result[0].Value) != 2 {
		return 0, fmt.Errorf("%s has %d results %s", expression, len(answer.Data.Result), answer.Error)
	}
	return strconv.ParseFloat(fmt.Sprint(answer.Data.Result[0].Value[1]), 64)
}
