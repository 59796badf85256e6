//! Selectors of subjects and peers, and how policies add up.

use podgate_api::Protocol::Tcp;

use crate::cluster::{Cluster, cluster, cluster_with, objects, refused, v1};
use crate::common::{namespace, pod, policy, rule};

const DENIED: &str = "deny networkpolicy/shop/x/ingress/default-deny";
const RULE: &str = "allow networkpolicy/shop/x/ingress/0";

/// The cluster with one ingress rule for shop/db, its peers given.
#[track_caller]
fn from(peers: &str) -> Cluster {
    let peers: String = peers.lines().map(|l| format!("  {l}\n")).collect();
    cluster(&v1("shop/x", &format!("podSelector: {{matchLabels: {{app: db}}}}\ningress:\n- from:\n{peers}")))
}

#[test]
fn both_selectors_in_one_item_must_match() {
    let c = from("- namespaceSelector: {matchLabels: {team: b}}\n  podSelector: {matchLabels: {app: web}}");
    c.ingress("lab/web -> shop/db TCP 80", RULE);
    c.ingress("lab/tool -> shop/db TCP 80", DENIED);
    c.ingress("shop/web -> shop/db TCP 80", DENIED);
}

#[test]
fn of_two_items_one_must_match() {
    let c = from("- namespaceSelector: {matchLabels: {team: b}}\n- podSelector: {matchLabels: {app: web}}");
    c.ingress("lab/web -> shop/db TCP 80", RULE);
    c.ingress("lab/tool -> shop/db TCP 80", RULE);
    c.ingress("shop/web -> shop/db TCP 80", RULE);
    c.ingress("shop/job -> shop/db TCP 80", DENIED);
}

#[test]
fn a_pod_selector_alone_is_about_the_policys_own_namespace() {
    let c = from("- podSelector: {matchLabels: {app: web}}");
    c.ingress("shop/web -> shop/db TCP 80", RULE);
    c.ingress("lab/web -> shop/db TCP 80", DENIED);
}

#[test]
fn an_empty_pod_selector_is_every_pod_of_the_own_namespace() {
    let c = from("- podSelector: {}");
    c.ingress("shop/job -> shop/db TCP 80", RULE);
    c.ingress("lab/web -> shop/db TCP 80", DENIED);
    c.ingress("203.0.113.9 -> shop/db TCP 80", DENIED);
}

#[test]
fn an_empty_namespace_selector_is_every_namespace_but_pods_only() {
    let c = from("- namespaceSelector: {}");
    c.ingress("shop/job -> shop/db TCP 80", RULE);
    c.ingress("lab/tool -> shop/db TCP 80", RULE);
    c.ingress("203.0.113.9 -> shop/db TCP 80", DENIED);
    c.ingress("10.0.0.2 -> shop/db TCP 80", DENIED);
}

#[test]
fn a_namespace_selector_alone_is_every_pod_in_those_namespaces() {
    let c = from("- namespaceSelector: {matchLabels: {team: b}}");
    c.ingress("lab/tool -> shop/db TCP 80", RULE);
    c.ingress("shop/web -> shop/db TCP 80", DENIED);
}

#[test]
fn an_empty_subject_is_every_pod_of_the_namespace_and_of_no_other() {
    let c = cluster(&v1("shop/x", "podSelector: {}"));
    c.ingress("lab/web -> shop/db TCP 80", DENIED);
    c.ingress("lab/web -> shop/job TCP 80", DENIED);
    c.ingress("shop/web -> lab/web TCP 80", "allow");
}

#[test]
fn a_subject_selects_by_all_of_its_terms() {
    let selector = "podSelector:\n  matchLabels: {app: web}\n  matchExpressions:\n  - {key: tier, operator: Exists}";
    let mut c = cluster(&v1("shop/x", selector));
    c.apply(objects![pod("shop/bare").label("app", "web").at("10.1.0.13")]);
    c.ingress("lab/web -> shop/web TCP 80", DENIED);
    c.ingress("lab/web -> shop/bare TCP 80", "allow");
}

#[test]
fn not_in_matches_where_the_key_is_absent() {
    let c = from("- podSelector:\n    matchExpressions:\n    - {key: app, operator: NotIn, values: [web, db]}");
    c.ingress("shop/job -> shop/db TCP 80", RULE);
    c.ingress("shop/web -> shop/db TCP 80", DENIED);
}

#[test]
fn in_needs_the_key_and_one_of_the_values() {
    let c = from("- podSelector:\n    matchExpressions:\n    - {key: app, operator: In, values: [web, db]}");
    c.ingress("shop/web -> shop/db TCP 80", RULE);
    c.ingress("shop/job -> shop/db TCP 80", DENIED);
}

#[test]
fn exists_and_does_not_exist_ask_for_the_key_only() {
    let c = from("- podSelector:\n    matchExpressions:\n    - {key: app, operator: Exists}");
    c.ingress("shop/web -> shop/db TCP 80", RULE);
    c.ingress("shop/job -> shop/db TCP 80", DENIED);
    let c = from("- podSelector:\n    matchExpressions:\n    - {key: app, operator: DoesNotExist}");
    c.ingress("shop/web -> shop/db TCP 80", DENIED);
    c.ingress("shop/job -> shop/db TCP 80", RULE);
}

#[test]
fn exists_and_does_not_exist_take_no_values() {
    for operator in ["Exists", "DoesNotExist"] {
        let expression = format!("{{key: app, operator: {operator}, values: [web]}}");
        let errors = refused(&v1("shop/x", &format!("podSelector:\n  matchExpressions:\n  - {expression}")));
        assert!(errors.contains("spec.podSelector.matchExpressions[0].values"), "{errors}");
    }
}

#[test]
fn all_terms_of_a_selector_must_match() {
    let peer =
        "- podSelector:\n    matchLabels: {app: web}\n    matchExpressions:\n    - {key: tier, operator: In, values: ";
    let c = from(&format!("{peer}[front]}}"));
    c.ingress("shop/web -> shop/db TCP 80", RULE);
    let c = from(&format!("{peer}[back]}}"));
    c.ingress("shop/web -> shop/db TCP 80", DENIED);
    c.ingress("shop/db -> shop/db TCP 80", "allow"); // itself
}

#[test]
fn host_network_pods_are_no_subjects() {
    let c = cluster(&v1("shop/x", "podSelector: {}\npolicyTypes: [Ingress, Egress]"));
    c.ingress("lab/tool -> shop/proxy TCP 8080", "allow");
    c.egress("shop/proxy -> lab/tool TCP 80", "allow");
}

#[test]
fn host_network_pods_are_no_selectable_peers() {
    let c = from("- podSelector: {matchLabels: {app: web}}\n- namespaceSelector: {}");
    c.ingress("shop/proxy -> shop/db TCP 80", DENIED);
    let c = from("- ipBlock: {cidr: 10.0.0.2/32}");
    c.ingress("shop/proxy -> shop/db TCP 80", RULE);
}

#[test]
fn a_changed_namespace_label_changes_who_is_a_peer_everywhere() {
    let mut c = from("- namespaceSelector: {matchLabels: {team: b}}");
    c.apply(objects![namespace("lab").label("team", "c"), namespace("shop").label("team", "b")]);
    c.ingress("lab/tool -> shop/db TCP 80", DENIED);
    c.ingress("shop/web -> shop/db TCP 80", RULE);
    c.apply(objects![namespace("lab").label("team", "b"), namespace("shop")]);
    c.ingress("lab/tool -> shop/db TCP 80", RULE);
    c.ingress("shop/web -> shop/db TCP 80", DENIED);
}

#[test]
fn a_changed_pod_label_changes_subjects_and_peers() {
    let mut c = from("- podSelector: {matchLabels: {app: web}}");
    c.apply(objects![pod("shop/job").label("app", "web").at("10.1.0.12").on("n2")]);
    c.ingress("shop/job -> shop/db TCP 80", RULE);
    c.apply(objects![pod("shop/job").label("app", "db").at("10.1.0.12").on("n2")]);
    c.ingress("shop/job -> shop/db TCP 80", DENIED);
    c.ingress("lab/web -> shop/job TCP 80", DENIED);
}

#[test]
fn every_namespace_has_its_name_as_a_label() {
    let c = from("- namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: lab}}");
    c.ingress("lab/tool -> shop/db TCP 80", RULE);
    c.ingress("shop/web -> shop/db TCP 80", DENIED);
}

#[test]
fn a_namespace_without_an_object_has_its_name_as_a_label() {
    let mut c = from("- namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: bare}}");
    c.apply(objects![pod("bare/a").at("10.3.0.1")]);
    c.ingress("bare/a -> shop/db TCP 80", RULE);
    let mut c = from("- namespaceSelector: {matchExpressions: [{key: team, operator: DoesNotExist}]}");
    c.apply(objects![pod("bare/a").at("10.3.0.1")]);
    c.ingress("bare/a -> shop/db TCP 80", RULE);
    c.apply(objects![namespace("bare").label("team", "c")]);
    c.ingress("bare/a -> shop/db TCP 80", DENIED);
}

#[test]
fn policies_add_up() {
    let rules = objects![
        policy("shop/x").select("app=db").ingress(rule().pods("app=web").port(Tcp, 80)),
        policy("shop/y").ingress(rule().pods_in("team=b", "").port(Tcp, 81)),
    ];
    let c = cluster_with(rules);
    c.ingress("shop/web -> shop/db TCP 80", RULE);
    c.ingress("lab/tool -> shop/db TCP 81", "allow networkpolicy/shop/y/ingress/0");
    c.ingress("shop/web -> shop/db TCP 81", DENIED);
    c.ingress("lab/tool -> shop/db TCP 80", DENIED);
}

#[test]
fn the_order_of_policies_does_not_matter() {
    let mut policies = objects![
        policy("shop/z").ingress(rule()),
        policy("shop/y").ingress(rule().port(Tcp, 80)).ingress(rule().pods("")),
        policy("shop/x").ingress(rule().port(Tcp, 81)),
    ];
    for _ in 0..3 {
        policies.rotate_left(1);
        let c = Cluster::of([policies.clone(), objects()].concat());
        c.ingress("shop/web -> shop/db TCP 80", "allow networkpolicy/shop/y/ingress/0");
        c.ingress("shop/web -> shop/db TCP 82", "allow networkpolicy/shop/y/ingress/1");
        c.ingress("lab/web -> shop/db TCP 82", "allow networkpolicy/shop/z/ingress/0");
        c.ingress("lab/web -> shop/db TCP 81", RULE);
    }
}

#[test]
fn a_default_deny_is_named_by_the_first_policy_that_isolates() {
    let c = cluster_with(objects![
        policy("shop/b").select("app=db").isolating(podgate_api::Direction::Ingress),
        policy("shop/c").isolating(podgate_api::Direction::Ingress),
        policy("shop/a").isolating(podgate_api::Direction::Egress),
    ]);
    c.ingress("lab/web -> shop/db TCP 80", "deny networkpolicy/shop/b/ingress/default-deny");
    c.ingress("lab/web -> shop/web TCP 80", "deny networkpolicy/shop/c/ingress/default-deny");
    c.egress("shop/web -> lab/web TCP 80", "deny networkpolicy/shop/a/egress/default-deny");
}

#[test]
fn both_ends_must_allow() {
    let c = cluster_with(objects![
        policy("shop/out").select("app=web").egress(rule().pods("app=db").port(Tcp, 5432)),
        policy("shop/in").select("app=db").ingress(rule().pods("app=web").port(Tcp, 5432)),
    ]);
    c.verdict("shop/web -> shop/db TCP 5432", "allow");
    c.verdict("shop/web -> shop/job TCP 5432", "deny");
    c.verdict("shop/job -> shop/db TCP 5432", "deny");
    c.egress("shop/web -> shop/job TCP 5432", "deny networkpolicy/shop/out/egress/default-deny");
    c.ingress("shop/web -> shop/job TCP 5432", "allow");
}
