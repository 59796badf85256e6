package deploy

import (
	"encoding/json"
	"fmt"
	"maps"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"sigs.k8s.io/yaml"
)

// targetLabels are those that Prometheus gives to each series of a target as deploy/prometheus tells it to.
var targetLabels = []string{"job", "instance", "node"}

// metrics are what a real agent told.
type metrics map[string]*dto.MetricFamily

func scraped(t *testing.T) metrics {
	t.Helper()
	families := metrics{}
	for _, told := range []string{clusterMetrics(t), realMetrics(t)} {
		parser := expfmt.NewTextParser(model.UTF8Validation)
		more, err := parser.TextToMetricFamilies(strings.NewReader(told))
		if err != nil {
			t.Fatal(err)
		}
		maps.Copy(families, more)
	}
	// Prometheus' own.
	families["up"] = &dto.MetricFamily{Metric: []*dto.Metric{{}}}
	return families
}

// family of a series' name; a histogram's series have more names than one.
func (m metrics) family(name string) (*dto.MetricFamily, []string) {
	if family := m[name]; family != nil {
		return family, nil
	}
	for suffix, more := range map[string][]string{"_bucket": {"le"}, "_sum": nil, "_count": nil} {
		if family := m[strings.TrimSuffix(name, suffix)]; strings.HasSuffix(name, suffix) && family.GetType() == dto.MetricType_HISTOGRAM {
			return family, more
		}
	}
	return nil, nil
}

// labels of a metric's series, and every value that one has.
func (m metrics) labels(name string) map[string][]string {
	family, more := m.family(name)
	if family == nil {
		return nil
	}
	all := map[string][]string{}
	for _, label := range slices.Concat(targetLabels, more) {
		all[label] = nil
	}
	for _, metric := range family.Metric {
		for _, pair := range metric.Label {
			all[pair.GetName()] = append(all[pair.GetName()], pair.GetValue())
		}
	}
	return all
}

// check returns what is wrong with a query, and the labels that its result has.
func (m metrics) check(query string) (labels []string, wrong []string) {
	expression, err := parser.ParseExpr(query)
	if err != nil {
		return nil, []string{err.Error()}
	}
	labels = m.result(expression, func(format string, values ...any) { wrong = append(wrong, fmt.Sprintf(format, values...)) })
	return labels, wrong
}

// result is the labels of what an expression gives.
func (m metrics) result(node parser.Expr, wrong func(string, ...any)) []string {
	switch node := node.(type) {
	case *parser.VectorSelector:
		known := m.labels(node.Name)
		if known == nil {
			wrong("there is no metric %s", node.Name)
			return nil
		}
		var names []string
		for name := range known {
			names = append(names, name)
		}
		for _, matcher := range node.LabelMatchers {
			values, is := known[matcher.Name]
			switch {
			case matcher.Name == labels.MetricName:
			case !is:
				wrong("%s has no label %s", node.Name, matcher.Name)
			case matcher.Type == labels.MatchEqual && !slices.Contains(targetLabels, matcher.Name) && !slices.Contains(values, matcher.Value):
				wrong("%s has no %s=%q, only %q", node.Name, matcher.Name, matcher.Value, values)
			}
		}
		return names
	case *parser.MatrixSelector:
		return m.result(node.VectorSelector, wrong)
	case *parser.SubqueryExpr:
		return m.result(node.Expr, wrong)
	case *parser.ParenExpr:
		return m.result(node.Expr, wrong)
	case *parser.UnaryExpr:
		return m.result(node.Expr, wrong)
	case *parser.AggregateExpr:
		inner := m.result(node.Expr, wrong)
		if node.Op == parser.TOPK || node.Op == parser.BOTTOMK {
			return inner
		}
		if node.Without {
			wrong("`without` depends on labels that others add: say `by`")
		}
		for _, label := range node.Grouping {
			if !slices.Contains(inner, label) {
				wrong("there is no label %s to group %s by", label, node.Expr)
			}
		}
		return node.Grouping
	case *parser.Call:
		var inner []string
		for _, argument := range node.Args {
			if argument.Type() != parser.ValueTypeScalar && argument.Type() != parser.ValueTypeString {
				inner = m.result(argument, wrong)
			}
		}
		switch node.Func.Name {
		case "histogram_quantile":
			if !slices.Contains(inner, "le") {
				wrong("%s has no buckets", node.Args[1])
			}
			return slices.DeleteFunc(slices.Clone(inner), func(label string) bool { return label == "le" })
		case "absent", "vector", "scalar", "time":
			return nil
		}
		return inner
	case *parser.BinaryExpr:
		left, right := m.result(node.LHS, wrong), m.result(node.RHS, wrong)
		if node.LHS.Type() == parser.ValueTypeScalar {
			return right
		}
		return left
	}
	return nil
}

func TestTheCheckOfQueriesFindsWhatIsWrong(t *testing.T) {
	real := scraped(t)
	for query, wanted := range map[string]string{
		`podgate_no_such_metric`:                                            "no metric",
		`sum(rate(podgate_rule_verdict_total[5m]))`:                         "no metric",
		`podgate_rule_verdicts_total{verdict="deny"}`:                       "no label verdict",
		`podgate_packets_total{verdict="drop_it"}`:                          `no verdict="drop_it"`,
		`sum by (pod) (podgate_packets_total)`:                              "no label pod",
		`histogram_quantile(0.5, rate(podgate_packets_total[1m]))`:          "no buckets",
		`histogram_quantile(0.5, podgate_enforcement_duration_seconds_sum)`: "no buckets",
		`rate(podgate_ready[)`:                                              "parse error",
	} {
		if _, wrong := real.check(query); len(wrong) == 0 || !strings.Contains(strings.Join(wrong, " "), wanted) {
			t.Errorf("%s: %q", query, wrong)
		}
	}
	labels, wrong := real.check(`sum by (direction, le) (rate(podgate_verdict_duration_seconds_bucket[1m]))`)
	if len(wrong) != 1 || !slices.Equal(labels, []string{"direction", "le"}) {
		t.Errorf("%v %v", labels, wrong)
	}
}

type alert struct {
	Alert       string
	Expr        string
	For         string
	Labels      map[string]string
	Annotations map[string]string
}

func alerts(t *testing.T) []alert {
	t.Helper()
	var rules struct {
		Groups []struct {
			Name  string
			Rules []alert
		}
	}
	if err := yaml.UnmarshalStrict(read(t, "prometheus/rules.yaml"), &rules); err != nil {
		t.Fatal(err)
	}
	return rules.Groups[0].Rules
}

func TestEveryAlertAsksForMetricsThatExist(t *testing.T) {
	real := scraped(t)
	mentioned := regexp.MustCompile(`\$labels\.(\w+)`)
	for _, alert := range alerts(t) {
		labels, wrong := real.check(alert.Expr)
		for _, line := range wrong {
			t.Errorf("%s: %s", alert.Alert, line)
		}
		for _, match := range mentioned.FindAllStringSubmatch(fmt.Sprint(alert.Annotations), -1) {
			if !slices.Contains(labels, match[1]) {
				t.Errorf("%s tells the label %s, and has %v", alert.Alert, match[1], labels)
			}
		}
		if !slices.Contains([]string{"critical", "warning", "info"}, alert.Labels["severity"]) || alert.Annotations["summary"] == "" || alert.Annotations["description"] == "" {
			t.Errorf("%s: severity, summary or description is missing", alert.Alert)
		}
	}
}

func TestEveryAlertFiresWhenItShouldAndIsExplained(t *testing.T) {
	for _, arguments := range [][]string{{"check", "rules", deploy + "/prometheus/rules.yaml"}, {"test", "rules", "testdata/alerts.yaml"}} {
		if said, err := exec.Command("promtool", arguments...).CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(arguments, " "), err, said)
		}
	}
	var tests struct {
		Tests []struct {
			AlertRuleTest []struct {
				Alertname string `json:"alertname"`
				ExpAlerts []any  `json:"exp_alerts"`
			} `json:"alert_rule_test"`
		} `json:"tests"`
	}
	if err := yaml.Unmarshal(readFile(t, "testdata/alerts.yaml"), &tests); err != nil {
		t.Fatal(err)
	}
	fires, silent := map[string]bool{}, map[string]bool{}
	for _, test := range tests.Tests {
		for _, one := range test.AlertRuleTest {
			fires[one.Alertname] = fires[one.Alertname] || len(one.ExpAlerts) > 0
			silent[one.Alertname] = silent[one.Alertname] || len(one.ExpAlerts) == 0
		}
	}
	explained := string(read(t, "README.md"))
	for _, alert := range alerts(t) {
		if !fires[alert.Alert] || !silent[alert.Alert] {
			t.Errorf("testdata/alerts.yaml does not show %s both firing and silent", alert.Alert)
		}
		if !strings.Contains(explained, "`"+alert.Alert+"`") {
			t.Errorf("deploy/README.md does not say what to do about %s", alert.Alert)
		}
	}
}

type dashboard struct {
	Templating struct {
		List []struct{ Name, Type, Definition string }
	}
	Panels []struct {
		ID          int
		Type, Title string
		Description string
		GridPos     struct{ X, Y, W, H int }
		Targets     []struct{ Expr, LegendFormat, RefID string }
	}
}

func TestEveryQueryOfTheDashboardAsksForMetricsThatExist(t *testing.T) {
	real := scraped(t)
	var board dashboard
	if err := json.Unmarshal(read(t, "grafana/podgate.json"), &board); err != nil {
		t.Fatal(err)
	}
	// Grafana puts these in.
	variables := strings.NewReplacer("$__rate_interval", "2m", "$__range", "1h", "$instance", ".*", "$namespace", ".*")
	mentioned := regexp.MustCompile(`{{\s*(\w+)\s*}}`)
	queries, ids := 0, map[int]bool{}
	for _, panel := range board.Panels {
		if ids[panel.ID] || panel.GridPos.X+panel.GridPos.W > 24 || panel.Type != "row" && (panel.Description == "" || len(panel.Targets) == 0) {
			t.Errorf("panel %q: %+v", panel.Title, panel)
		}
		ids[panel.ID] = true
		for _, target := range panel.Targets {
			queries++
			query := variables.Replace(target.Expr)
			if strings.Contains(query, "$") {
				t.Errorf("%s: an unknown variable in %s", panel.Title, query)
			}
			labels, wrong := real.check(query)
			for _, line := range wrong {
				t.Errorf("%s: %s", panel.Title, line)
			}
			for _, match := range mentioned.FindAllStringSubmatch(target.LegendFormat, -1) {
				if !slices.Contains(labels, match[1]) {
					t.Errorf("%s: the legend tells %s, and there is %v", panel.Title, match[1], labels)
				}
			}
		}
	}
	if queries < 30 {
		t.Errorf("only %d queries were found", queries)
	}
	values := regexp.MustCompile(`^label_values\((\w+), (\w+)\)$`)
	for _, variable := range board.Templating.List {
		if variable.Type != "query" {
			continue
		}
		match := values.FindStringSubmatch(variable.Definition)
		if match == nil {
			t.Errorf("$%s: %s", variable.Name, variable.Definition)
		} else if _, is := real.labels(match[1])[match[2]]; !is {
			t.Errorf("$%s: %s has no label %s", variable.Name, match[1], match[2])
		}
	}
}

func TestTheMetricsAreWellFormed(t *testing.T) {
	command := exec.Command("promtool", "check", "metrics")
	command.Stdin = strings.NewReader(realMetrics(t))
	if said, err := command.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, said)
	}
}
