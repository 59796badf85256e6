//! What cannot be read or cannot be seen never opens anything.

use podgate_api::Protocol::Tcp;

use crate::cluster::{cluster, cluster_with, objects, refused, v1};
use crate::common::{admin, baseline, deny, policy, rule};

#[test]
fn an_unknown_field_of_a_policy_is_an_error_and_not_an_open_policy() {
    for spec in [
        "podSelector: {}\ningres: []",
        "podSelector: {}\ningress:\n- form:\n  - podSelector: {}",
        "podSelector: {}\ningress:\n- from:\n  - podSelectors: {}",
        "podSelector: {}\ningress:\n- ports:\n  - {port: 80, endport: 90}",
    ] {
        let text = v1("shop/x", spec);
        refused(&text);
        let parsed = podgate_api::manifest::parse("test.yaml", &text);
        assert!(parsed.objects.is_empty(), "{spec}: half an object");
        assert_eq!(parsed.errors[0].object, Some(crate::common::key(podgate_api::Kind::NetworkPolicy, "shop/x")));
    }
}

#[test]
fn a_wrong_type_or_an_unknown_operator_is_an_error() {
    for spec in [
        "podSelector: []",
        "podSelector: {}\ningress: {}",
        "podSelector: {}\npolicyTypes: [Sideways]",
        "podSelector: {}\ningress:\n- ports:\n  - {port: 80, protocol: QUIC}",
        "podSelector: {}\ningress:\n- ports:\n  - {port: 0}",
        "podSelector: {}\ningress:\n- ports:\n  - {port: 65536}",
        "podSelector: {matchExpressions: [{key: app, operator: Like, values: [web]}]}",
        "podSelector: {matchExpressions: [{key: app, operator: In, values: []}]}",
    ] {
        refused(&v1("shop/x", spec));
    }
}

#[test]
fn a_packet_that_does_not_show_its_port_needs_a_rule_about_every_port() {
    let c = cluster(&v1(
        "shop/x",
        "podSelector: {}\ningress:\n- ports: [{port: 80}, {port: 1, endPort: 65535}, {port: sql}]",
    ));
    c.ingress("lab/web -> shop/db TCP 80", "allow networkpolicy/shop/x/ingress/0");
    c.ingress("lab/web -> shop/db TCP ?", "deny networkpolicy/shop/x/ingress/default-deny");
    let c = cluster(&v1("shop/x", "podSelector: {}\ningress:\n- ports: [{port: 80}]\n- ports: [{protocol: TCP}]"));
    c.ingress("lab/web -> shop/db TCP ?", "allow networkpolicy/shop/x/ingress/1");
    c.ingress("lab/web -> shop/db UDP ?", "deny networkpolicy/shop/x/ingress/default-deny");
}

#[test]
fn a_deny_of_one_port_is_about_packets_that_do_not_show_theirs() {
    let c = cluster_with(objects![admin("a", 1).ingress(deny().port(Tcp, 22)).ingress(rule())]);
    c.ingress("lab/web -> shop/db TCP 23", "allow admin//a/ingress/1");
    c.ingress("lab/web -> shop/db TCP ?", "deny admin//a/ingress/0");
    c.ingress("lab/web -> shop/db UDP ?", "allow admin//a/ingress/1");
    let c = cluster_with(objects![admin("a", 1).ingress(deny().port_named(Tcp, "sql"))]);
    c.ingress("lab/web -> shop/db TCP ?", "deny admin//a/ingress/0");
    c.ingress("lab/web -> shop/job TCP ?", "allow"); // it has no port of that name
    let c = cluster_with(objects![baseline("z", 1).ingress(deny().port(Tcp, 22))]);
    c.ingress("lab/web -> shop/db TCP 23", "allow");
    c.ingress("lab/web -> shop/db TCP ?", "deny baseline//z/ingress/0");
}

#[test]
fn a_policy_that_selects_a_pod_before_the_namespace_is_known_isolates_it() {
    let some = objects![policy("shop/x").isolating(podgate_api::Direction::Ingress)];
    let without: Vec<_> = objects().into_iter().filter(|o| !matches!(o, podgate_api::Object::Namespace(_))).collect();
    let c = crate::cluster::Cluster::of([without, some].concat());
    c.ingress("lab/web -> shop/db TCP 80", "deny networkpolicy/shop/x/ingress/default-deny");
}
