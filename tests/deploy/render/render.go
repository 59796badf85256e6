// Package render makes Kubernetes objects of what deploy/ has, by the same code that people's tools have: kustomize's and
// Helm's own modules, and the API's own types for strict decoding.
package render

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/releaseutil"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// Header of deploy/podgate.yaml.
const Header = `# podgate in a cluster: kubectl apply -f podgate.yaml
#
# Made of deploy/kustomize/base, where the reason of each line stands; do not edit. Settings, metrics, upgrade and
# uninstalling (deleting this leaves the nodes closed): deploy/README.md.
`

func init() {
	if err := monitoring.AddToScheme(scheme.Scheme); err != nil {
		panic(err)
	}
}

// Objects by "Kind namespace/name".
type Objects map[string]runtime.Object

// Names in order.
func (o Objects) Names() []string {
	names := make([]string, 0, len(o))
	for name := range o {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

// Kustomize is `kubectl kustomize DIRECTORY`.
func Kustomize(directory string) ([]byte, error) {
	options := krusty.MakeDefaultOptions()
	// kubectl's own order: what others need comes first.
	options.Reorder = krusty.ReorderOptionLegacy
	built, err := krusty.MakeKustomizer(options).Run(filesys.MakeFsOnDisk(), directory)
	if err != nil {
		return nil, err
	}
	return built.AsYaml()
}

// Chart is what `helm template` renders.
type Chart struct {
	// Manifests is what an install applies.
	Manifests []byte
	// Hooks by the events that run them.
	Hooks map[string][]byte
	// Notes are told after an install.
	Notes string
}

// Helm is `helm template podgate CHART --namespace podgate-system` with these values in a file.
func Helm(directory, values string) (Chart, error) {
	var out Chart
	chart, err := loader.LoadDir(directory)
	if err != nil {
		return out, err
	}
	given, err := chartutil.ReadValues([]byte(values))
	if err != nil {
		return out, err
	}
	release := chartutil.ReleaseOptions{Name: "podgate", Namespace: "podgate-system", Revision: 1, IsInstall: true}
	all, err := chartutil.ToRenderValues(chart, given, release, chartutil.DefaultCapabilities)
	if err != nil {
		return out, err
	}
	files, err := engine.Render(chart, all)
	if err != nil {
		return out, err
	}
	for name, text := range files {
		if strings.HasSuffix(name, "NOTES.txt") {
			out.Notes = text
			delete(files, name)
		}
	}
	hooks, manifests, err := releaseutil.SortManifests(files, chartutil.DefaultVersionSet, releaseutil.InstallOrder)
	if err != nil {
		return out, err
	}
	for _, manifest := range manifests {
		out.Manifests = append(out.Manifests, ("---\n" + manifest.Content + "\n")...)
	}
	out.Hooks = map[string][]byte{}
	for _, hook := range hooks {
		for _, event := range hook.Events {
			out.Hooks[string(event)] = append(out.Hooks[string(event)], ("---\n" + hook.Manifest + "\n")...)
		}
	}
	return out, nil
}

// Decode reads each document into its API type; a field that the type does not have is an error, and so is a kind that
// nobody knows.
func Decode(text []byte) (Objects, error) {
	objects := Objects{}
	for _, document := range documents(text) {
		var any unstructured.Unstructured
		if err := yaml.UnmarshalStrict(document, &any.Object); err != nil {
			return nil, err
		}
		if len(any.Object) == 0 {
			continue
		}
		typed, err := scheme.Scheme.New(any.GroupVersionKind())
		if err != nil {
			return nil, err
		}
		if err := yaml.UnmarshalStrict(document, typed); err != nil {
			return nil, fmt.Errorf("%s %s: %w", any.GetKind(), any.GetName(), err)
		}
		name := fmt.Sprintf("%s %s/%s", any.GetKind(), any.GetNamespace(), any.GetName())
		if _, twice := objects[name]; twice {
			return nil, fmt.Errorf("%s is there twice", name)
		}
		objects[name] = typed
	}
	return objects, nil
}

// PrometheusRule wraps a file of Prometheus' rules for the operator.
func PrometheusRule(rules []byte) ([]byte, error) {
	var groups struct {
		Groups []map[string]any `json:"groups"`
	}
	if err := yaml.UnmarshalStrict(rules, &groups); err != nil {
		return nil, err
	}
	object := map[string]any{
		"apiVersion": "monitoring.coreos.com/v1",
		"kind":       "PrometheusRule",
		"metadata": map[string]any{
			"name": "podgate", "namespace": "podgate-system",
			"labels": map[string]any{"app.kubernetes.io/name": "podgate", "app.kubernetes.io/component": "agent"},
		},
		"spec": groups,
	}
	text, err := yaml.Marshal(object)
	return append([]byte("# Made of deploy/prometheus/rules.yaml; do not edit.\n"), text...), err
}

// Generated is each file under deploy/ that is made of others, by its path there.
func Generated(deploy string) (map[string][]byte, error) {
	read := func(path string) []byte {
		text, err := os.ReadFile(filepath.Join(deploy, path))
		if err != nil {
			panic(err)
		}
		return text
	}
	base, err := Kustomize(filepath.Join(deploy, "kustomize/base"))
	if err != nil {
		return nil, err
	}
	rule, err := PrometheusRule(read("prometheus/rules.yaml"))
	if err != nil {
		return nil, err
	}
	return map[string][]byte{
		"podgate.yaml": append([]byte(Header), base...),
		"prometheus/operator/prometheus-rule.yaml": rule,
		// A chart cannot reach outside of its directory.
		"helm/podgate/files/rules.yaml":   read("prometheus/rules.yaml"),
		"helm/podgate/files/podgate.json": read("grafana/podgate.json"),
	}, nil
}

func documents(text []byte) [][]byte {
	var all [][]byte
	for _, document := range bytes.Split(append([]byte("\n"), text...), []byte("\n---")) {
		if len(bytes.TrimSpace(document)) > 0 {
			all = append(all, append(document, '\n'))
		}
	}
	return all
}
