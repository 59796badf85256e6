// Package deploy tests what is under deploy/: that the three ways of installing are one, that the API has every field, that
// the agent gets no more than it needs, and that alerts and dashboard ask for metrics that exist.
package deploy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	rbac "k8s.io/api/rbac/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"podgate/tests/deploy/render"
)

const (
	deploy = "../../deploy"
	chart  = deploy + "/helm/podgate"
)

// Each overlay, and the chart's values that mean the same.
var overlays = map[string]string{
	"fail-open":      "failOpen: true",
	"reject":         "onDeny: reject",
	"metrics-tls":    "metrics: {tlsSecret: podgate-metrics-tls, tokenSecret: podgate-metrics-token}",
	"metrics-local":  "metrics: {address: local}",
	"labelled-nodes": "nodeSelector: {node-restriction.kubernetes.io/podgate: enforce}",
	"debug":          "log: {level: debug, format: json}",
	"gke":            "resourceQuota: true",
	"selinux":        "seLinuxOptions: {type: spc_t}",
	"seccomp":        "seccompProfile: podgate.json",
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(deploy, path))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func decode(t *testing.T, text []byte) render.Objects {
	t.Helper()
	objects, err := render.Decode(text)
	if err != nil {
		t.Fatal(err)
	}
	return objects
}

func kustomize(t *testing.T, directory string) render.Objects {
	t.Helper()
	text, err := render.Kustomize(filepath.Join(deploy, directory))
	if err != nil {
		t.Fatal(err)
	}
	return decode(t, text)
}

// helm is the rendered chart without the labels that tell who rendered it.
func helm(t *testing.T, values string) (objects render.Objects, afterDelete render.Objects) {
	t.Helper()
	rendered, err := render.Helm(chart, values)
	if err != nil {
		t.Fatal(err)
	}
	objects, afterDelete = decode(t, rendered.Manifests), decode(t, rendered.Hooks["post-delete"])
	for _, all := range []render.Objects{objects, afterDelete} {
		for name, object := range all {
			labels := object.(meta.Object).GetLabels()
			if _, namespace := object.(*core.Namespace); !namespace && labels["app.kubernetes.io/managed-by"] != "Helm" {
				t.Errorf("%s is not labelled as Helm's", name)
			}
			delete(labels, "app.kubernetes.io/managed-by")
			delete(labels, "helm.sh/chart")
		}
	}
	return objects, afterDelete
}

// plain is an object as its JSON tells it, with what goes by name in the order of the names.
func plain(t *testing.T, object any) any {
	t.Helper()
	text, err := json.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	var value any
	if err := json.Unmarshal(text, &value); err != nil {
		t.Fatal(err)
	}
	sortNamed(value)
	return value
}

func sortNamed(value any) {
	switch value := value.(type) {
	case map[string]any:
		for key, part := range value {
			if list, ok := part.([]any); ok && (key == "env" || key == "volumes" || key == "volumeMounts") {
				name := func(entry any) string { return fmt.Sprint(entry.(map[string]any)["name"]) }
				slices.SortFunc(list, func(a, b any) int { return strings.Compare(name(a), name(b)) })
			}
			sortNamed(part)
		}
	case []any:
		for _, part := range value {
			sortNamed(part)
		}
	}
}

func same(t *testing.T, what string, one, other any) {
	t.Helper()
	if difference := cmp.Diff(plain(t, one), plain(t, other)); difference != "" {
		t.Errorf("%s differ:\n%s", what, difference)
	}
}

func find[T runtime.Object](t *testing.T, objects render.Objects, name string) T {
	t.Helper()
	object, ok := objects[name].(T)
	if !ok {
		t.Fatalf("%s is not there; there are: %s", name, strings.Join(objects.Names(), ", "))
	}
	return object
}

func agent(t *testing.T) *apps.DaemonSet {
	t.Helper()
	return find[*apps.DaemonSet](t, decode(t, read(t, "podgate.yaml")), "DaemonSet podgate-system/podgate")
}

func TestFilesMadeOfOthersAreUpToDate(t *testing.T) {
	files, err := render.Generated(deploy)
	if err != nil {
		t.Fatal(err)
	}
	for path, wanted := range files {
		if !bytes.Equal(read(t, path), wanted) {
			t.Errorf("deploy/%s is not what it is made of: run `go run ./generate` in tests/deploy", path)
		}
	}
}

func TestTheChartRendersWhatTheManifestHas(t *testing.T) {
	chart, _ := helm(t, "namespaceObject: true")
	same(t, "deploy/podgate.yaml and the chart", decode(t, read(t, "podgate.yaml")), chart)
	without, _ := helm(t, "")
	if len(without) != len(chart)-1 || without["Namespace /podgate-system"] != nil {
		t.Errorf("by default all but the Namespace is rendered, not: %s", without.Names())
	}
}

func TestTheChartHasWhatEachOverlayDoes(t *testing.T) {
	base := kustomize(t, "kustomize/base")
	directories, err := os.ReadDir(filepath.Join(deploy, "kustomize/overlays"))
	if err != nil || len(directories) != len(overlays) {
		t.Fatalf("%d overlays, %d with values: %v", len(directories), len(overlays), err)
	}
	for name, values := range overlays {
		t.Run(name, func(t *testing.T) {
			overlay := kustomize(t, "kustomize/overlays/"+name)
			if cmp.Equal(plain(t, base), plain(t, overlay)) {
				t.Error("the overlay changes nothing")
			}
			address := false
			for _, variable := range find[*apps.DaemonSet](t, overlay, "DaemonSet podgate-system/podgate").Spec.Template.Spec.Containers[0].Env {
				address = address || variable.Name == "NODE_IP"
				if strings.Contains(variable.Value, "$(NODE_IP)") && !address {
					t.Errorf("%s can only mention a variable before it", variable.Name)
				}
			}
			chart, _ := helm(t, "namespaceObject: true\n"+values)
			same(t, "overlay and chart", overlay, chart)
		})
	}
}

func TestTheChartHasTheOperatorsObjects(t *testing.T) {
	chart, _ := helm(t, "metrics: {serviceMonitor: true, podMonitor: true, prometheusRule: true, dashboard: true}")
	for kind, path := range map[string]string{
		"ServiceMonitor": "service-monitor", "PodMonitor": "pod-monitor", "PrometheusRule": "prometheus-rule",
	} {
		name := kind + " podgate-system/podgate"
		same(t, kind, decode(t, read(t, "prometheus/operator/"+path+".yaml"))[name], chart[name])
	}
	dashboard := find[*core.ConfigMap](t, chart, "ConfigMap podgate-system/podgate-dashboard")
	if dashboard.Data["podgate.json"] != string(read(t, "grafana/podgate.json")) {
		t.Error("the ConfigMap's dashboard is another")
	}
	protected, _ := helm(t, "metrics: {serviceMonitor: true, podMonitor: true, tlsSecret: cert, tokenSecret: bearer}")
	if len(protected) != len(chart)-2 {
		t.Errorf("with TLS and token: %s", protected.Names())
	}
}

func TestTheChartIsSound(t *testing.T) {
	for _, values := range []map[string]any{{}, {"failOpen": true, "metrics": map[string]any{"podMonitor": true}}} {
		for _, message := range lint.AllWithKubeVersion(chart, values, "podgate-system", nil).Messages {
			if message.Severity > support.InfoSev {
				t.Error(message)
			}
		}
	}
	for _, wrong := range []string{"failopen: true", "metrics: {address: everywhere}", "image: {digest: latest}"} {
		if _, err := render.Helm(chart, wrong); err == nil {
			t.Errorf("%s is accepted", wrong)
		}
	}
}

func TestTheChartTakesAllItsValues(t *testing.T) {
	values := `
image: {repository: registry.example/podgate, digest: "sha256:` + strings.Repeat("ab", 32) + `"}
imagePullSecrets: [{name: pull}]
podCIDRs: [10.1.0.0/16, "fd00::/64"]
env: [{name: PODGATE_QUEUES, value: "4"}]
apiServer: {host: 192.0.2.1, port: 6443}
metrics: {port: 9999}
cleanup: false`
	objects, hooks := helm(t, values)
	pod := find[*apps.DaemonSet](t, objects, "DaemonSet podgate-system/podgate").Spec.Template
	container := pod.Spec.Containers[0]
	if len(hooks) != 0 || pod.Spec.ImagePullSecrets[0].Name != "pull" || pod.Annotations["prometheus.io/port"] != "9999" ||
		container.Image != "registry.example/podgate@sha256:"+strings.Repeat("ab", 32) {
		t.Errorf("%+v", pod)
	}
	got := map[string]string{}
	for _, variable := range container.Env {
		got[variable.Name] = variable.Value
	}
	for name, value := range map[string]string{
		"PODGATE_POD_CIDRS": "10.1.0.0/16,fd00::/64", "PODGATE_QUEUES": "4", "PODGATE_HTTP": "$(NODE_IP):9999",
		"KUBERNETES_SERVICE_HOST": "192.0.2.1", "KUBERNETES_SERVICE_PORT": "6443",
	} {
		if got[name] != value {
			t.Errorf("%s is %q, not %q", name, got[name], value)
		}
	}
}

func TestUninstallingByHelmCleansLikeTheManifest(t *testing.T) {
	_, hooks := helm(t, "")
	hook := find[*apps.DaemonSet](t, hooks, "DaemonSet podgate-system/podgate-cleanup")
	if len(hooks) != 1 || hook.Annotations["helm.sh/hook-delete-policy"] != "before-hook-creation" {
		t.Errorf("%s, %v", hooks.Names(), hook.Annotations)
	}
	manifest := decode(t, read(t, "cleanup/podgate-cleanup.yaml"))
	alone := find[*apps.DaemonSet](t, manifest, "DaemonSet podgate-cleanup/podgate-cleanup")
	// Helm's is in the release's namespace, which stays; the other is in one of its own, as podgate's is deleted with it.
	hook.Namespace, hook.Annotations = alone.Namespace, nil
	same(t, "deploy/cleanup and the chart's hook", alone, hook)
	same(t, "kustomize and manifest", kustomize(t, "cleanup"), manifest)

	// It comes only where no agent is.
	term := alone.Spec.Template.Spec.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution[0]
	same(t, "who is kept away from and the agent's labels", term.LabelSelector.MatchLabels, agent(t).Spec.Template.Labels)
	if term.NamespaceSelector == nil || term.TopologyKey != "kubernetes.io/hostname" {
		t.Errorf("%+v", term)
	}
}

func TestTheAgentMayOnlyListAndWatchWhatItNeeds(t *testing.T) {
	objects := decode(t, read(t, "podgate.yaml"))
	allowed := map[string]string{
		"namespaces": "", "nodes": "", "pods": "", "networkpolicies": "networking.k8s.io",
		"adminnetworkpolicies": "policy.networking.k8s.io", "baselineadminnetworkpolicies": "policy.networking.k8s.io",
		"clusternetworkpolicies": "policy.networking.k8s.io", "customresourcedefinitions": "apiextensions.k8s.io",
	}
	granted := map[string]string{}
	for _, rule := range find[*rbac.ClusterRole](t, objects, "ClusterRole /podgate").Rules {
		if !slices.Equal(rule.Verbs, []string{"list", "watch"}) || len(rule.APIGroups) != 1 || len(rule.NonResourceURLs) > 0 {
			t.Errorf("too much: %v", rule)
		}
		for _, resource := range rule.Resources {
			granted[resource] = rule.APIGroups[0]
		}
	}
	same(t, "granted and allowed", granted, allowed)
	for name := range objects {
		if strings.HasPrefix(name, "Role ") || strings.HasPrefix(name, "RoleBinding ") {
			t.Errorf("%s: nothing of a namespace's is needed", name)
		}
	}
	binding := find[*rbac.ClusterRoleBinding](t, objects, "ClusterRoleBinding /podgate")
	subject := rbac.Subject{Kind: "ServiceAccount", Name: agent(t).Spec.Template.Spec.ServiceAccountName, Namespace: "podgate-system"}
	same(t, "who has it", binding.Subjects, []rbac.Subject{subject})
}

func TestEveryContainerIsConfined(t *testing.T) {
	cleanup := find[*apps.DaemonSet](t, decode(t, read(t, "cleanup/podgate-cleanup.yaml")), "DaemonSet podgate-cleanup/podgate-cleanup")
	for _, set := range []*apps.DaemonSet{agent(t), cleanup} {
		pod := set.Spec.Template.Spec
		if pod.HostPID || pod.HostIPC || !pod.HostNetwork || pod.SecurityContext.SeccompProfile.Type != core.SeccompProfileTypeRuntimeDefault {
			t.Errorf("%s: %+v", set.Name, pod.SecurityContext)
		}
		for _, container := range append(pod.InitContainers, pod.Containers...) {
			security := container.SecurityContext
			if *security.Privileged || *security.AllowPrivilegeEscalation || !*security.ReadOnlyRootFilesystem {
				t.Errorf("%s: %+v", container.Name, security)
			}
			same(t, "capabilities", security.Capabilities, &core.Capabilities{
				Drop: []core.Capability{"ALL"}, Add: []core.Capability{"NET_ADMIN"},
			})
		}
	}
	for _, volume := range agent(t).Spec.Template.Spec.Volumes {
		if volume.HostPath != nil && volume.HostPath.Path != "/var/lib/podgate" {
			t.Errorf("the node's %s is not needed", volume.HostPath.Path)
		}
	}
}

func TestAgentsAreOnEveryNodeAndReplacedWithoutAGap(t *testing.T) {
	set := agent(t)
	pod := set.Spec.Template.Spec
	same(t, "tolerations", pod.Tolerations, []core.Toleration{{Operator: core.TolerationOpExists}})
	if pod.NodeSelector != nil || pod.Affinity != nil || pod.PriorityClassName != "system-node-critical" {
		t.Errorf("%v %v %s", pod.NodeSelector, pod.Affinity, pod.PriorityClassName)
	}
	update := set.Spec.UpdateStrategy.RollingUpdate
	if update.MaxSurge.IntValue() != 1 || update.MaxUnavailable.IntValue() != 0 {
		t.Errorf("%v", update)
	}
	for _, container := range pod.Containers {
		if len(container.Ports) > 0 {
			t.Error("with hostNetwork a port keeps the two agents of a rollout off one node")
		}
		for _, probe := range []*core.Probe{container.StartupProbe, container.LivenessProbe, container.ReadinessProbe} {
			if probe == nil || probe.Exec == nil {
				t.Error("the two agents of a rollout share the metrics address: a probe must ask the process")
			}
		}
		if _, limited := container.Resources.Limits[core.ResourceCPU]; limited {
			t.Error("throttled, packets wait")
		}
	}
	for _, volume := range pod.Volumes {
		if volume.Name == "run" && volume.EmptyDir == nil {
			t.Error("the two agents of a rollout must not share the socket's directory")
		}
	}
}
