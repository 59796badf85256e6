//! Files as such: documents, Lists, YAML and JSON, broken text.

use super::*;
use crate::Object;

fn names(text: &str) -> Vec<(usize, String)> {
    let parsed = parse("t.yaml", text);
    parsed.objects.iter().map(|located| (located.line, located.object.key().name)).collect()
}

fn pod_text(name: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\n")
}

#[test]
fn documents_keep_their_order_and_lines() {
    let text = format!(
        "# first\n{}---\n# second\n\n{}--- # none\n---\n...\n---\n{}",
        pod_text("a"),
        pod_text("b"),
        pod_text("c")
    );
    assert_eq!(names(&text), [(2, "a".into()), (8, "b".into()), (15, "c".into())]);
    assert_eq!(parse("t.yaml", &text).errors, []);
}

#[test]
fn windows_line_ends_and_byte_order_marks_do_not_matter() {
    let text = format!("\u{feff}{}---\n{}", pod_text("a"), pod_text("b")).replace('\n', "\r\n");
    assert_eq!(names(&text), [(1, "a".into()), (5, "b".into())]);
}

#[test]
fn nothing_in_a_file_is_no_error() {
    for text in ["", "\n\n", "# only words\n", "---\n---\n", "--- \n# x\n...\n", "null"] {
        assert_eq!(objects(text), []);
    }
}

#[test]
fn other_kinds_are_passed_over() {
    let text = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: 5, name: 6}
spec: [x]
---
{apiVersion: v1, kind: ConfigMap, data: {on: 1}}
---
{apiVersion: metrics.k8s.io/v1beta1, kind: Pod, metadata: {}}
---
{apiVersion: v1, kind: ServiceList, items: [{}]}
";
    assert_eq!(objects(text), []);
}

#[test]
fn a_misspelt_kind_is_not_passed_over() {
    for (version, kind, ours) in [
        ("v1", "pod", "Pod"),
        ("v1", "NameSpace", "Namespace"),
        ("v1", "NODE", "Node"),
        ("networking.k8s.io/v1", "networkpolicy", "NetworkPolicy"),
        ("networking.k8s.io/v1", "NetworkPolicies", "NetworkPolicy"),
        ("networking.k8s.io/v1", "NetworkPolcy", "NetworkPolicy"),
        ("extensions/v1beta1", "Networkpolicy", "NetworkPolicy"),
        ("policy.networking.k8s.io/v1alpha2", "ClusterNetworkpolicy", "ClusterNetworkPolicy"),
        ("policy.networking.k8s.io/v1alpha2", "NetworkPolicies", "ClusterNetworkPolicy"),
        (
            "policy.networking.k8s.io/v1alpha1",
            "AdminNetworkPolicies",
            "AdminNetworkPolicy or BaselineAdminNetworkPolicy",
        ),
    ] {
        let (line, field, message) = error(&format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: a}}\n"));
        assert_eq!((line, &*field), (2, "kind"), "{kind}");
        assert!(message.contains(kind) && message.ends_with(ours), "{message}");
    }
    for list in ["v1alpha2, kind: ClusterNetworkPolicyList", "v1alpha1, kind: AdminNetworkPolicyList"] {
        assert_eq!(objects(&format!("{{apiVersion: policy.networking.k8s.io/{list}}}")), []);
    }
    for kind in ["Ingress", "IngressClass", "IPAddress", "ServiceCIDR", "IngressList"] {
        assert_eq!(objects(&format!("apiVersion: networking.k8s.io/v1\nkind: {kind}\nitems: []\n")), []);
    }
}

#[test]
fn a_document_that_does_not_say_what_it_is_is_an_error() {
    for (text, line, field) in [
        ("a: b\n", 1, "kind"),
        ("\nkind: Pod\nmetadata: {name: a}\n", 2, "apiVersion"),
        ("apiVersion: v1\nkind: ''\n", 2, "kind"),
        ("apiVersion: v1\nkind: [Pod]\n", 2, "kind"),
        ("just words\n", 1, ""),
        ("- a\n- b\n", 1, ""),
        ("{apiVersion: v2, kind: Pod, metadata: {name: a}}", 1, "apiVersion"),
    ] {
        let (found_line, found_field, _) = error(text);
        assert_eq!((found_line, &*found_field), (line, field), "{text}");
    }
}

#[test]
fn a_list_is_its_items() {
    let text = "
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Pod
  metadata: {name: a}
- {apiVersion: v1, kind: Service, metadata: {name: s}}
-
  apiVersion: v1
  kind: List
  items:
  - {apiVersion: v1, kind: Node, metadata: {name: b}}
";
    assert_eq!(names(text), [(5, "a".into()), (13, "b".into())]);
    for empty in ["items: []", "items: null", ""] {
        assert_eq!(objects(&format!("apiVersion: v1\nkind: List\n{empty}\n")), []);
    }
    assert_eq!(error("apiVersion: v1\nkind: List\nitems: {}\n").1, "items");
    assert_eq!(error("apiVersion: v1\nkind: List\nitems: []\nitems: []\n").0, 4);
}

#[test]
fn items_of_a_typed_list_need_no_type() {
    let text = "apiVersion: v1\nkind: PodList\nitems:\n- metadata: {name: a}\n- metadata: {name: b}\n";
    assert_eq!(names(text), [(4, "a".into()), (5, "b".into())]);
    let text = "
kind: NetworkPolicyList
apiVersion: networking.k8s.io/v1
metadata: {}
items:
- metadata: {name: a}
  spec: {podSelector: {}}
- metadata: {name: b}
  spec: {podselector: {}}
";
    let parsed = parse("t.yaml", text);
    assert_eq!(parsed.objects.len(), 1);
    assert!(matches!(&parsed.objects[0].object, Object::Policy(policy) if policy.key.name == "a"));
    assert_eq!((parsed.errors[0].line, &*parsed.errors[0].field), (9, "spec.podselector"));
}

#[test]
fn a_broken_object_leaves_the_others_alone() {
    let text = format!("{}---\n{}---\n{}", pod_text("a"), pod_text("B"), pod_text("c"));
    let parsed = parse("dir/t.yaml", &text);
    assert_eq!(parsed.objects.len(), 2);
    assert_eq!(parsed.errors.len(), 1);
    assert!(parsed.errors[0].to_string().starts_with("dir/t.yaml:7: Pod default/B: metadata.name: "));
}

#[test]
fn broken_syntax_breaks_its_own_document_only() {
    let text = format!("{}---\nkind: {{\n---\n{}", pod_text("a"), pod_text("c"));
    let parsed = parse("t.yaml", &text);
    assert_eq!(parsed.objects.iter().map(|o| o.object.key().name).collect::<Vec<_>>(), ["a", "c"]);
    assert_eq!(parsed.errors.len(), 1);
    assert!((5..=6).contains(&parsed.errors[0].line), "{:?}", parsed.errors);
    assert!(parsed.errors[0].message.contains("not valid YAML"));
}

#[test]
fn broken_syntax_tells_which_object_it_would_have_been() {
    let text = v1("  podSelector: {}\n ingress:\n   - x\n\t- y: [\n");
    let errors = errors(&text);
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0].object.as_ref().unwrap().to_string(), "NetworkPolicy shop/p");
    let json = r#"{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "p", "namespace": "shop"},
        "spec": {"ingress": [}"#;
    let error = parse("t.json", json).errors.remove(0);
    assert_eq!((error.line, error.object.unwrap().to_string()), (3, "NetworkPolicy shop/p".into()));
}

#[test]
fn a_list_that_breaks_off_keeps_its_whole_items() {
    let json = r#"{"apiVersion": "v1", "items": [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}},
        {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "p"}, "spec": {"#;
    let parsed = parse("t.json", json);
    assert_eq!(parsed.objects.len(), 1);
    assert_eq!(parsed.errors[0].object.as_ref().unwrap().to_string(), "NetworkPolicy default/p");
}

#[test]
fn json_is_read_with_tabs_and_lines() {
    let text = "{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"Pod\",\n\t\"metadata\": {\n\t\t\"name\": \"A\"\n\t}\n}\n";
    for file in ["t.json", "t.yaml"] {
        let error = parse(file, text).errors.remove(0);
        assert_eq!((error.line, &*error.field), (5, "metadata.name"));
    }
}

#[test]
fn json_values_may_follow_each_other_or_stand_between_dashes() {
    let one = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}}"#;
    let text = format!("{one}\n{one} {one}\n---\n{one}\n--- {one}\n");
    assert_eq!(names(&text).iter().map(|(line, _)| *line).collect::<Vec<_>>(), [1, 2, 2, 4, 5]);
}

#[test]
fn json_in_a_yaml_file_may_end_with_three_dots() {
    let one = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}}"#;
    assert_eq!(names(&format!("{one}\n...\n---\n{one}\n# end\n")).len(), 2);
}

#[test]
fn json_is_told_as_json_and_flow_style_as_yaml() {
    let trailing = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"},}"#;
    assert_eq!(names(trailing).len(), 1);
    assert!(parse("t.json", trailing).errors[0].message.contains("not valid JSON"));
    assert!(error("{\"apiVersion\": \"v1\"\n\"kind\": \"Pod\"}").2.contains("not valid JSON"));
    assert!(error("{apiVersion: v1\nkind: Pod}").2.contains("not valid YAML"));
}

#[test]
fn anchors_aliases_and_merge_keys_work() {
    let text = "
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Pod
  metadata:
    name: a
    labels: &common
      app: web
      tier: front
- apiVersion: v1
  kind: Pod
  metadata:
    name: b
    labels: *common
- apiVersion: v1
  kind: Pod
  metadata:
    name: c
    labels:
      <<: *common
      tier: back
      new: 'yes'
- apiVersion: v1
  kind: Pod
  metadata:
    name: d
    labels:
      tier: own
      <<: [{tier: x, a: x}, {a: z, b: z}]
";
    let labels: Vec<_> = objects(text)
        .into_iter()
        .map(|object| match object {
            Object::Pod(pod) => pod.labels.into_iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(","),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(labels, ["app=web,tier=front", "app=web,tier=front", "app=web,new=yes,tier=back", "a=x,b=z,tier=own"]);
}

#[test]
fn anchors_end_with_their_document() {
    let text = format!("{}x: &a 1\n---\ny: *a\n", pod_text("a"));
    let parsed = parse("t.yaml", &text);
    assert_eq!((parsed.objects.len(), parsed.errors.len()), (1, 1));
    let within = format!("{}x: &a 1\n...\ny: *a\n", pod_text("a"));
    assert_eq!(parse("t.yaml", &within).errors.len(), 1);
}

#[test]
fn aliases_cannot_blow_up() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..12 {
        let previous = format!("*a{}", i - 1);
        text += &format!("a{i}: &a{i} [{}]\n", [previous.as_str(); 10].join(", "));
    }
    assert!(error(&text).2.contains("stand for too much"));
    let mut text = "a0: &a0 [x]\n".to_owned();
    for i in 1..200 {
        text += &format!("a{i}: &a{i} [*a{}]\n", i - 1);
    }
    assert!(error(&text).2.contains("nest deeper"));
}

#[test]
fn tags_mean_what_they_say_or_are_errors() {
    let with = |value: &str| format!("{}spec: {{nodeName: {value}}}\n", pod_text("a"));
    assert_eq!(pod(&with("!!str 5")).node.as_deref(), Some("5"));
    assert_eq!(pod(&with("! 5")).node.as_deref(), Some("5"));
    assert!(error(&with("!!int x")).2.contains("!!int"));
    assert!(error(&with("!mine x")).2.contains("leave it out"));
}

#[test]
fn block_scalars_with_dashes_in_them_stay_whole() {
    let text = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  annotations:\n    x: |\n      ---\n      y\n";
    assert_eq!(names(text).len(), 1);
}
