//! `extensions/v1beta1` and the isolation annotation.

use podgate_api::Protocol::Tcp;
use podgate_api::{Kind, Object, manifest};

use crate::cluster::{Cluster, cluster, cluster_with, manifests, objects, v1, v1beta1};
use crate::common::{key, legacy, namespace, pod, policy, rule};

const DENIED: &str = "deny networkpolicy/shop/(annotation)/ingress/default-deny";
const RULE: &str = "allow networkpolicy/shop/old/ingress/0";

const ANNOTATED: &str = r#"---
apiVersion: v1
kind: Namespace
metadata:
  name: shop
  labels: {team: a}
  annotations:
    net.beta.kubernetes.io/network-policy: |
      {"ingress": {"isolation": "DefaultDeny"}}
"#;

/// The namespace annotated, and one old policy about shop/db.
#[track_caller]
fn old(ingress: &str) -> Cluster {
    let spec = format!("podSelector: {{matchLabels: {{app: db}}}}\ningress:\n{ingress}");
    cluster(&[ANNOTATED, &v1beta1("shop/old", &spec)].concat())
}

#[test]
fn an_annotated_namespace_accepts_nothing_but_from_the_pods_own_nodes() {
    let c = cluster(ANNOTATED);
    c.ingress("shop/web -> shop/db TCP 5432", DENIED);
    c.ingress("203.0.113.9 -> shop/db TCP 5432", DENIED);
    c.ingress("shop/web -> shop/db ICMP", DENIED);
    c.ingress("10.0.0.2 -> shop/db TCP 5432", DENIED);
    c.ingress("10.0.0.1 -> shop/db TCP 5432", "allow");
    c.ingress("shop/db -> shop/db TCP 5432", "allow");
    c.egress("shop/db -> lab/web TCP 80", "allow");
    c.ingress("shop/db -> lab/web TCP 80", "allow");
}

#[test]
fn host_network_pods_of_an_annotated_namespace_are_not_isolated() {
    let c = cluster(ANNOTATED);
    c.ingress("lab/web -> shop/proxy TCP 8080", "allow");
}

#[test]
fn an_old_policy_opens_an_annotated_namespace() {
    let c = old("- from:\n  - podSelector: {matchLabels: {app: web}}\n  ports:\n  - port: 5432");
    c.ingress("shop/web -> shop/db TCP 5432", RULE);
    c.ingress("shop/web -> shop/db TCP 80", DENIED);
    c.ingress("shop/web -> shop/db UDP 5432", DENIED);
    c.ingress("shop/job -> shop/db TCP 5432", DENIED);
    c.ingress("lab/web -> shop/db TCP 5432", DENIED);
    c.ingress("shop/web -> shop/job TCP 5432", DENIED);
}

#[test]
fn an_old_policy_selects_namespaces() {
    let c = old("- from:\n  - namespaceSelector: {matchLabels: {team: b}}");
    c.ingress("lab/tool -> shop/db TCP 5432", RULE);
    c.ingress("shop/web -> shop/db TCP 5432", DENIED);
}

#[test]
fn empty_or_absent_from_and_ports_of_an_old_policy_are_any() {
    for rule in ["- {}", "- {from: [], ports: []}", "- {from: []}", "- {ports: []}"] {
        let c = old(rule);
        c.ingress("lab/tool -> shop/db TCP 5432", RULE);
        c.ingress("203.0.113.9 -> shop/db ICMP", RULE);
    }
}

#[test]
fn an_old_policys_named_port_is_the_destinations() {
    let c = old("- ports: [{port: sql}]");
    c.ingress("lab/tool -> shop/db TCP 5432", RULE);
    c.ingress("lab/tool -> shop/db TCP 5433", DENIED);
}

#[test]
fn without_the_annotation_an_old_policy_has_no_effect() {
    let c = cluster(&v1beta1("shop/old", "podSelector: {}"));
    c.ingress("lab/web -> shop/db TCP 5432", "allow");
    let isolated = objects![legacy("shop/old").ingress(rule()), policy("shop/x").ingress(rule().port(Tcp, 80))];
    let c = cluster_with(isolated);
    c.ingress("lab/web -> shop/db TCP 80", "allow networkpolicy/shop/x/ingress/0");
    c.ingress("lab/web -> shop/db TCP 81", "deny networkpolicy/shop/x/ingress/default-deny");
}

#[test]
fn an_old_policy_never_isolates_egress() {
    let c = old("- {}");
    c.egress("shop/db -> lab/web TCP 80", "allow");
}

#[test]
fn the_api_version_of_a_manifest_says_which_meaning_it_wants() {
    let spec = "podSelector: {}\ningress:\n- {}";
    let c = cluster(&v1beta1("shop/p", spec));
    c.ingress("lab/web -> shop/db TCP 80", "allow");
    let c = cluster(&v1("shop/p", spec));
    c.ingress("lab/web -> shop/db TCP 80", "allow networkpolicy/shop/p/ingress/0");
}

#[test]
fn the_annotation_alone_isolates_and_v1_policies_open_it() {
    let spec = "podSelector: {matchLabels: {app: db}}\ningress:\n- from:\n  - podSelector: {}";
    let c = cluster(&[ANNOTATED, &v1("shop/new", spec)].concat());
    c.ingress("shop/web -> shop/db TCP 80", "allow networkpolicy/shop/new/ingress/0");
    c.ingress("lab/web -> shop/db TCP 80", "deny networkpolicy/shop/new/ingress/default-deny");
    c.ingress("lab/web -> shop/web TCP 80", DENIED);
}

#[test]
fn old_and_new_policies_of_an_annotated_namespace_add_up() {
    let mut c = cluster(ANNOTATED);
    c.apply(objects![
        legacy("shop/b").ingress(rule().port(Tcp, 80)).ingress(rule().port(Tcp, 81)),
        policy("shop/a").ingress(rule().port(Tcp, 81)),
        policy("shop/c").ingress(rule().port(Tcp, 80)).ingress(rule().port(Tcp, 82)),
    ]);
    c.ingress("lab/web -> shop/db TCP 80", "allow networkpolicy/shop/b/ingress/0");
    c.ingress("lab/web -> shop/db TCP 81", "allow networkpolicy/shop/a/ingress/0");
    c.ingress("lab/web -> shop/db TCP 82", "allow networkpolicy/shop/c/ingress/1");
    c.ingress("lab/web -> shop/db TCP 83", "deny networkpolicy/shop/a/ingress/default-deny");
}

#[test]
fn of_an_old_and_a_new_policy_of_one_name_the_new_goes_first() {
    let mut c = cluster(ANNOTATED);
    c.apply(objects![
        legacy("shop/p").ingress(rule().port(Tcp, 81)).ingress(rule()),
        policy("shop/p").ingress(rule().port(Tcp, 80)).ingress(rule().port(Tcp, 81)),
    ]);
    c.ingress("lab/web -> shop/db TCP 80", "allow networkpolicy/shop/p/ingress/0");
    c.ingress("lab/web -> shop/db TCP 81", "allow networkpolicy/shop/p/ingress/1");
    c.ingress("lab/web -> shop/db TCP 82", "allow networkpolicy/shop/p/ingress/1");
    // Each goes on its own.
    c.delete(key(Kind::NetworkPolicy, "shop/p"));
    c.ingress("lab/web -> shop/db TCP 81", "allow networkpolicy/shop/p/ingress/0");
    c.delete(key(Kind::LegacyNetworkPolicy, "shop/p"));
    c.ingress("lab/web -> shop/db TCP 81", DENIED);
}

#[test]
fn the_annotation_comes_and_goes() {
    let mut c = cluster_with(objects![legacy("shop/old").ingress(rule().pods("app=web"))]);
    c.ingress("lab/web -> shop/db TCP 80", "allow");
    c.apply(objects![namespace("shop").label("team", "a").annotated()]);
    c.ingress("lab/web -> shop/db TCP 80", DENIED);
    c.ingress("shop/web -> shop/db TCP 80", RULE);
    c.apply(objects![namespace("shop").label("team", "a")]);
    c.ingress("lab/web -> shop/db TCP 80", "allow");
    c.apply(objects![namespace("shop").annotated()]);
    c.delete(key(Kind::Namespace, "shop"));
    c.ingress("lab/web -> shop/db TCP 80", "allow");
}

#[test]
fn a_new_pod_of_an_annotated_namespace_is_isolated_at_once() {
    let mut c = cluster(ANNOTATED);
    c.apply(objects![pod("shop/new").at("10.1.0.40").on("n1")]);
    c.ingress("shop/web -> shop/new TCP 80", DENIED);
}

#[test]
fn an_annotation_without_isolation_does_not_isolate() {
    for value in [r#"{"ingress": {}}"#, "{}"] {
        let other = ANNOTATED.replace(r#"{"ingress": {"isolation": "DefaultDeny"}}"#, value);
        let c = Cluster::of([objects(), manifests(&other)].concat());
        c.ingress("shop/web -> shop/db TCP 5432", "allow");
    }
}

#[test]
fn an_unknown_isolation_is_an_error_and_does_not_open_the_namespace() {
    let parsed = manifest::parse("test.yaml", &ANNOTATED.replace("DefaultDeny", "Sometimes"));
    assert!(parsed.errors[0].field.contains("net.beta.kubernetes.io/network-policy"), "{:?}", parsed.errors);
    let open = |o: &manifest::Located| matches!(&o.object, Object::Namespace(n) if !n.ingress_default_deny);
    assert!(!parsed.objects.iter().any(open), "{:?}", parsed.objects);
}

#[test]
fn an_old_policy_without_the_annotation_is_warned_about() {
    let mut c = cluster_with(objects![legacy("shop/old").ingress(rule())]);
    let warnings = c.index.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_eq!(warnings[0].object, key(Kind::LegacyNetworkPolicy, "shop/old"));
    assert!(warnings[0].message.contains("net.beta.kubernetes.io/network-policy"), "{}", warnings[0].message);
    c.apply(objects![namespace("shop").annotated()]);
    assert!(c.index.warnings().is_empty(), "{:?}", c.index.warnings());
}
