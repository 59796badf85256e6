// Metrics in Prometheus' text format, of agents and kubelets.
package kit

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
)

// sum adds up the series of that name that have all of the labels, each written as in the format: `policy="x"`.
func sum(text, name string, labels []string) (value float64, found bool, err error) {
	for line := range strings.Lines(text) {
		series, number, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok || (series != name && !strings.HasPrefix(series, name+"{")) || !containsAll(series, labels) {
			continue
		}
		one, err := strconv.ParseFloat(number, 64)
		if err != nil {
			return 0, false, fmt.Errorf("%s: %w", line, err)
		}
		value, found = value+one, true
	}
	return value, found, nil
}

func containsAll(text string, parts []string) bool {
	for _, part := range parts {
		if !strings.Contains(text, part) {
			return false
		}
	}
	return true
}

// kubelets serve with certificates of their own making.
var kubelets = http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}

// probes is how often the kubelet's probes of the pod passed and failed.
func (p *Pod) probes(t *testing.T) (passed, failed float64) {
	t.Helper()
	answer, err := kubelets.Get("https://" + NodeAddress(p.Node) + ":10250/metrics/probes")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	pod := fmt.Sprintf("pod=%q", p.Name)
	namespace := fmt.Sprintf("namespace=%q", p.world.Namespace)
	passed, _, err = sum(string(text), "prober_probe_total", []string{pod, namespace, `result="successful"`})
	if err != nil {
		t.Fatal(err)
	}
	failed, _, err = sum(string(text), "prober_probe_total", []string{pod, namespace, `result="failed"`})
	if err != nil {
		t.Fatal(err)
	}
	return passed, failed
}
