//! The reference says which condition of a rule failed, in words that `explain` can print.

use podgate_api::Direction::{Egress, Ingress};
use podgate_api::Protocol::{Tcp, Udp};
use podgate_policy::reference::{self, PeerMismatch, rule_matches};

use crate::cluster::cluster_with;
use crate::common::{PolicyBuilder, RuleBuilder, policy, rule};

#[track_caller]
fn mismatch(rule: RuleBuilder, direction: podgate_api::Direction, flow: &str) -> String {
    let (c, policy): (_, PolicyBuilder) = (cluster_with(Vec::new()), policy("shop/x"));
    let flow = c.flow(flow);
    rule_matches(&c.world, &policy.0, &rule.0, &flow, direction).expect_err("no match").to_string()
}

#[test]
fn a_pods_label_that_differs_is_told() {
    assert_eq!(
        mismatch(rule().pods("app=web, tier"), Ingress, "lab/web -> shop/db TCP 80"),
        "peer 0: pod lab/web: its namespace is lab, not shop, pod label tier is absent, but must be there"
    );
}

#[test]
fn a_namespaces_label_that_differs_is_told() {
    assert_eq!(
        mismatch(rule().pods_in("team=a", "app notin web|db"), Ingress, "lab/web -> shop/db TCP 80"),
        "peer 0: pod lab/web: namespace label team is \"b\", not \"a\", \
         pod label app is \"web\", which is excluded by NotIn [\"db\", \"web\"]"
    );
}

#[test]
fn an_address_outside_the_block_or_in_an_except_is_told() {
    let blocks = rule().block("10.2.0.0/16", &["10.2.0.0/28"]).block("192.0.2.0/24", &[]);
    assert_eq!(
        mismatch(blocks, Egress, "shop/db -> lab/web TCP 80"),
        "peer 0: 10.2.0.10 is in 10.2.0.0/16, but excepted by 10.2.0.0/28; peer 1: 10.2.0.10 is not in 192.0.2.0/24"
    );
}

#[test]
fn an_address_that_is_no_pods_is_told() {
    let c = cluster_with(Vec::new());
    let (policy, rule) = (policy("shop/x"), rule().pods(""));
    let mismatch =
        rule_matches(&c.world, &policy.0, &rule.0, &c.flow("10.0.0.2 -> shop/db TCP 80"), Ingress).unwrap_err();
    assert!(matches!(mismatch.peers[..], [PeerMismatch::NoPod { .. }]), "{mismatch}");
    assert!(mismatch.ports.is_empty());
}

#[test]
fn ports_that_differ_are_told() {
    let ports = rule().port(Tcp, 80).ports(Tcp, 90, 99).port(Udp, 81).port_named(Tcp, "http").port_named(Tcp, "dns");
    assert_eq!(
        mismatch(ports, Ingress, "lab/web -> shop/db TCP 81"),
        "port 0: port 81 is not 80; port 1: port 81 is not in 90-99; port 2: protocol is TCP, not UDP; \
         port 3: pod shop/db has no TCP port named \"http\"; port 4: port 81 is not \"dns\", which is 5353 there"
    );
    assert_eq!(
        mismatch(rule().port_named(Tcp, "http"), Egress, "shop/db -> 203.0.113.9 TCP 80"),
        "port 0: port name \"http\" cannot be resolved: 203.0.113.9 is no pod's address"
    );
    assert_eq!(
        mismatch(rule().port(Tcp, 80), Ingress, "lab/web -> shop/db ICMP"),
        "port 0: ICMP has no ports: only a rule without ports matches it, this is TCP"
    );
}

#[test]
fn the_policies_of_a_pod_are_told_in_the_order_in_which_they_speak() {
    let c = cluster_with(objects![
        crate::common::baseline("z", 0).ingress(rule()),
        policy("shop/b").isolating(Ingress),
        policy("shop/a").isolating(Ingress),
        policy("shop/egress-only").isolating(Egress),
        crate::common::legacy("shop/old").ingress(rule()),
        crate::common::admin("b", 1).ingress(rule()),
        crate::common::admin("a", 2).ingress(rule()),
    ]);
    let db = reference::owner(&c.world, crate::common::address("10.1.0.11")).unwrap();
    let names =
        |policies: Vec<&podgate_api::PolicySpec>| policies.iter().map(|p| p.key.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(reference::policies_selecting(&c.world, db, Ingress)), ["b", "a", "a", "b", "z"]);
    assert_eq!(names(reference::isolating(&c.world, db, Ingress)), ["a", "b"]);
    assert_eq!(names(reference::policies_selecting(&c.world, db, Egress)), ["egress-only"]);
}
