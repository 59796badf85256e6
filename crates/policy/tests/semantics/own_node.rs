//! A pod and its own node, other nodes, and a pod with itself.

use podgate_api::Direction::{Egress, Ingress};
use podgate_engine::{NodeOrigin, Verdict};

use crate::cluster::{Cluster, cluster_with};
use crate::common::{node, pod, policy, rule};

const DENIED: &str = "deny networkpolicy/shop/x/ingress/default-deny";
const DENIED_OUT: &str = "deny networkpolicy/shop/x/egress/default-deny";

fn isolated() -> Cluster {
    cluster_with(objects![policy("shop/x").isolating(Ingress).isolating(Egress)])
}

#[test]
fn a_pods_own_node_reaches_it() {
    let c = isolated();
    c.ingress("10.0.0.1 -> shop/db TCP 8080", "allow");
    c.ingress("10.0.0.1 -> shop/db ICMP", "allow");
    c.ingress("fd00::1 -> shop/db#6 TCP 8080", "allow");
}

#[test]
fn a_pod_reaches_its_own_node() {
    let c = isolated();
    c.egress("shop/db -> 10.0.0.1 TCP 10250", "allow");
    c.egress("shop/db#6 -> fd00::1 UDP 53", "allow");
}

#[test]
fn other_nodes_are_no_exception() {
    let c = isolated();
    c.ingress("10.0.0.2 -> shop/db TCP 8080", DENIED);
    c.egress("shop/db -> 10.0.0.2 TCP 10250", DENIED_OUT);
    c.ingress("10.0.0.1 -> shop/job TCP 8080", DENIED);
    c.ingress("10.0.0.2 -> shop/job TCP 8080", "allow");
}

#[test]
fn only_a_block_matches_another_node() {
    let everything = rule().pods_in("", "").pods("");
    let c = cluster_with(objects![policy("shop/x").ingress(everything.clone())]);
    c.ingress("10.0.0.2 -> shop/db TCP 8080", DENIED);
    let c = cluster_with(objects![policy("shop/x").ingress(everything.block("10.0.0.2/32", &[]))]);
    c.ingress("10.0.0.2 -> shop/db TCP 8080", "allow networkpolicy/shop/x/ingress/0");
}

#[test]
fn host_network_pods_of_the_own_node_are_the_node() {
    let c = isolated();
    c.ingress("shop/proxy -> shop/job TCP 80", "allow");
    c.egress("shop/job -> shop/proxy TCP 8080", "allow");
    c.ingress("shop/proxy -> shop/db TCP 80", DENIED);
}

#[test]
fn a_nodes_address_is_known_from_its_pods_too() {
    let mut c = isolated();
    c.ingress("10.0.9.1 -> shop/db TCP 80", DENIED);
    c.apply(objects![pod("lab/tool").at("10.2.0.11").on("n1").host_at("10.0.9.1")]);
    c.ingress("10.0.9.1 -> shop/db TCP 80", "allow");
    c.ingress("10.0.9.1 -> shop/job TCP 80", DENIED);
    c.apply(objects![pod("lab/agent").host_network().at("10.0.9.2").on("n1")]);
    c.egress("shop/db -> 10.0.9.2 TCP 80", "allow");
    c.delete(crate::common::key(podgate_api::Kind::Pod, "lab/agent"));
    c.egress("shop/db -> 10.0.9.2 TCP 80", DENIED_OUT);
}

#[test]
fn finished_pods_say_nothing_of_a_nodes_addresses() {
    let mut c = isolated();
    c.apply(objects![
        pod("lab/done").at("10.2.0.99").on("n1").host_at("10.0.9.1").finished(),
        pod("lab/done-too").host_network().at("10.0.9.2").on("n1").finished(),
    ]);
    c.ingress("10.0.9.1 -> shop/db TCP 80", DENIED);
    c.egress("shop/db -> 10.0.9.2 TCP 80", DENIED_OUT);
}

#[test]
fn a_node_without_an_object_is_known_from_its_pods() {
    let mut c = isolated();
    c.apply(objects![pod("shop/new").at("10.1.0.40").on("n9").host_at("10.0.0.9")]);
    c.ingress("10.0.0.9 -> shop/new TCP 80", "allow");
    c.ingress("10.0.0.9 -> shop/db TCP 80", DENIED);
}

#[test]
fn a_pod_without_a_node_has_no_own_node() {
    let mut c = isolated();
    c.apply(objects![pod("shop/new").at("10.1.0.40")]);
    c.ingress("10.0.0.1 -> shop/new TCP 80", DENIED);
}

#[test]
fn a_pod_that_is_bound_gets_its_own_node() {
    let mut c = isolated();
    c.apply(objects![pod("shop/new").at("10.1.0.40")]);
    c.apply(objects![pod("shop/new").at("10.1.0.40").on("n2")]);
    c.ingress("10.0.0.2 -> shop/new TCP 80", "allow");
    c.ingress("10.0.0.1 -> shop/new TCP 80", DENIED);
}

#[test]
fn a_node_that_changes_its_address_is_followed() {
    let mut c = isolated();
    c.apply(objects![node("n1").at("10.0.0.77")]);
    c.ingress("10.0.0.77 -> shop/db TCP 80", "allow");
    c.ingress("10.0.0.1 -> shop/db TCP 80", DENIED);
    c.delete(crate::common::key(podgate_api::Kind::Node, "n1"));
    c.ingress("10.0.0.77 -> shop/db TCP 80", DENIED);
}

#[test]
fn a_live_pods_address_wins_over_a_nodes() {
    let mut c = isolated();
    c.apply(objects![pod("lab/thief").at("10.0.0.1").on("n1")]);
    c.ingress("10.0.0.1 -> shop/db TCP 80", DENIED);
    c.egress("shop/db -> 10.0.0.1 TCP 80", DENIED_OUT);
    c.apply(objects![pod("lab/thief").at("10.0.0.1").on("n1").finished()]);
    c.ingress("10.0.0.1 -> shop/db TCP 80", "allow");
}

#[test]
fn a_nodes_address_is_taken_for_it_only_where_it_cannot_be_forged() {
    let c = isolated();
    let flow = c.flow("10.0.0.1 -> shop/db TCP 8080").to_engine();
    assert_eq!(c.snapshot.judge(&flow, NodeOrigin::Forged).ingress.verdict(), Verdict::Drop);
    assert_eq!(c.snapshot.judge(&flow, NodeOrigin::Address).ingress.verdict(), Verdict::Accept);
    // The other way the destination is the routing's word, not the packet's.
    let flow = c.flow("shop/db -> 10.0.0.1 TCP 8080").to_engine();
    assert_eq!(c.snapshot.judge(&flow, NodeOrigin::Forged).egress.verdict(), Verdict::Accept);
}

#[test]
fn own_node_traffic_is_decided_by_no_rule() {
    let c = cluster_with(objects![policy("shop/x").ingress(rule()).egress(rule())]);
    c.ingress("10.0.0.1 -> shop/db TCP 8080", "allow");
    c.egress("shop/db -> 10.0.0.1 TCP 8080", "allow");
}

#[test]
fn a_pod_cannot_block_itself() {
    let c = isolated();
    c.ingress("shop/db -> shop/db TCP 80", "allow");
    c.egress("shop/db -> shop/db TCP 80", "allow");
    c.ingress("shop/db#6 -> shop/db#6 ICMPv6", "allow");
    c.verdict("shop/db -> shop/db UDP 53", "allow");
    c.verdict("shop/db -> shop/web UDP 53", "deny");
}
