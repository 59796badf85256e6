package deploy

import (
	"testing"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/relabel"
	"gopkg.in/yaml.v2"
	core "k8s.io/api/core/v1"
)

// discovered are the labels that Prometheus finds at a podgate pod, which declares no port.
func discovered(address string) map[string]string {
	return map[string]string{
		"__address__":                                             address,
		"__meta_kubernetes_pod_ip":                                address,
		"__meta_kubernetes_pod_node_name":                         "node-1",
		"__meta_kubernetes_pod_phase":                             "Running",
		"__meta_kubernetes_pod_label_app_kubernetes_io_name":      "podgate",
		"__meta_kubernetes_pod_label_app_kubernetes_io_component": "agent",
	}
}

func relabelled(t *testing.T, configs []*relabel.Config, from map[string]string) (labels.Labels, bool) {
	t.Helper()
	for _, config := range configs {
		config.NameValidationScheme = model.UTF8Validation
		if err := config.Validate(model.UTF8Validation); err != nil {
			t.Fatal(err)
		}
	}
	builder := labels.NewBuilder(labels.FromMap(from))
	kept := relabel.ProcessBuilder(builder, configs...)
	return builder.Labels(), kept
}

func expectTargets(t *testing.T, configs []*relabel.Config) {
	t.Helper()
	for address, wanted := range map[string]string{"192.0.2.7": "192.0.2.7:9840", "2001:db8::7": "[2001:db8::7]:9840"} {
		got, kept := relabelled(t, configs, discovered(address))
		if !kept || got.Get("__address__") != wanted || got.Get("node") != "node-1" {
			t.Errorf("%s is scraped at %s, node %q", address, got.Get("__address__"), got.Get("node"))
		}
	}
}

func TestTheScrapeJobFindsEachAgentOnce(t *testing.T) {
	var config struct {
		Jobs []struct {
			Name    string            `yaml:"job_name"`
			Honor   bool              `yaml:"honor_labels"`
			Relabel []*relabel.Config `yaml:"relabel_configs"`
		} `yaml:"scrape_configs"`
	}
	if err := yaml.Unmarshal(read(t, "prometheus/scrape.yaml"), &config); err != nil {
		t.Fatal(err)
	}
	job := config.Jobs[0]
	if job.Name != "podgate" || !job.Honor {
		t.Errorf("job %s, honor_labels %v: the policy's namespace would be renamed", job.Name, job.Honor)
	}
	expectTargets(t, job.Relabel)
	for label, value := range map[string]string{
		"__meta_kubernetes_pod_phase": "Succeeded", "__meta_kubernetes_pod_label_app_kubernetes_io_component": "cleanup",
	} {
		other := discovered("192.0.2.7")
		other[label] = value
		if got, kept := relabelled(t, job.Relabel, other); kept {
			t.Errorf("scraped although %s is %s: %s", label, value, got)
		}
	}
}

func TestTheMonitorsFindTheAgents(t *testing.T) {
	pods := decode(t, read(t, "prometheus/operator/pod-monitor.yaml"))
	pod := find[*monitoring.PodMonitor](t, pods, "PodMonitor podgate-system/podgate")
	same(t, "whom it selects", pod.Spec.Selector.MatchLabels, agent(t).Spec.Template.Labels)
	endpoint := pod.Spec.PodMetricsEndpoints[0]
	var configs []*relabel.Config
	for _, one := range endpoint.RelabelConfigs {
		config := relabel.DefaultRelabelConfig
		config.Action, config.TargetLabel = relabel.Action(one.Action), one.TargetLabel
		for _, label := range one.SourceLabels {
			config.SourceLabels = append(config.SourceLabels, model.LabelName(label))
		}
		if one.Regex != "" {
			config.Regex = relabel.MustNewRegexp(one.Regex)
		}
		if one.Replacement != nil {
			config.Replacement = *one.Replacement
		}
		configs = append(configs, &config)
	}
	expectTargets(t, configs)

	services := decode(t, read(t, "prometheus/operator/service-monitor.yaml"))
	monitor := find[*monitoring.ServiceMonitor](t, services, "ServiceMonitor podgate-system/podgate")
	service := find[*core.Service](t, decode(t, read(t, "podgate.yaml")), "Service podgate-system/podgate-metrics")
	same(t, "the selected and the Service", monitor.Spec.Selector.MatchLabels, service.Labels)
	same(t, "the Service's pods and the agents", service.Spec.Selector, agent(t).Spec.Template.Labels)
	if monitor.Spec.Endpoints[0].Port != service.Spec.Ports[0].Name || !monitor.Spec.Endpoints[0].HonorLabels || !endpoint.HonorLabels {
		t.Errorf("%+v", monitor.Spec.Endpoints[0])
	}
	for _, label := range []string{monitor.Spec.JobLabel, pod.Spec.JobLabel} {
		if service.Labels[label] != "podgate" || agent(t).Spec.Template.Labels[label] != "podgate" {
			t.Errorf("job is not podgate by %s", label)
		}
	}
}
