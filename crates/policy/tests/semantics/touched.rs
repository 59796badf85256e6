//! Which addresses' established connections are judged again after a change: all that may have lost their permission.

use std::net::IpAddr;

use podgate_api::Direction::Ingress;
use podgate_api::{Change, Kind, Object, ObjectKey, Protocol};

use crate::cluster::{Cluster, cluster_with};
use crate::common::{address, admin, deny, key, namespace, node, pod, policy, rule};

/// The cluster with these objects, and what the change touches.
fn touched(before: Vec<Object>, changes: impl IntoIterator<Item = Change>) -> Vec<IpAddr> {
    let mut c: Cluster = cluster_with(before);
    changes.into_iter().for_each(|change| c.index.apply(change));
    c.index.build().touched
}

fn applied(objects: Vec<Object>) -> Vec<Change> {
    objects.into_iter().map(Change::Apply).collect()
}

fn deleted(key: ObjectKey) -> [Change; 1] {
    [Change::Delete(key)]
}

#[track_caller]
fn assert_touches(touched: &[IpAddr], expected: &str) {
    assert!(touched.contains(&address(expected)), "{expected} is not among {touched:?}");
}

#[test]
fn a_pod_that_becomes_isolated_is_touched_by_all_its_addresses() {
    let touched = touched(Vec::new(), applied(objects![policy("shop/x").select("app=db").isolating(Ingress)]));
    assert_touches(&touched, "10.1.0.11");
    assert_touches(&touched, "fd00:1::11");
    assert!(!touched.contains(&address("10.2.0.11")), "lab/tool has nothing to do with it: {touched:?}");
}

#[test]
fn a_pod_is_touched_when_a_rule_of_its_policy_narrows_or_goes() {
    let all = || policy("shop/x").select("app=db").isolating(Ingress).ingress(rule());
    let narrower = objects![policy("shop/x").select("app=db").ingress(rule().pods("app=web"))];
    assert_touches(&touched(objects![all()], applied(narrower)), "10.1.0.11");
    let none = objects![policy("shop/x").select("app=db").isolating(Ingress)];
    assert_touches(&touched(objects![all()], applied(none)), "10.1.0.11");
    let another = policy("shop/y").select("app=db").isolating(Ingress);
    let gone = deleted(key(Kind::NetworkPolicy, "shop/x"));
    assert_touches(&touched(objects![all(), another], gone), "10.1.0.11");
}

#[test]
fn connections_of_a_peer_whose_label_changes_are_touched_at_one_end() {
    let web = objects![policy("shop/x").select("app=db").ingress(rule().pods("app=web"))];
    let other = objects![pod("shop/web").label("app", "tool").at("10.1.0.10").on("n1")];
    let touched = touched(web, applied(other));
    assert!(touched.contains(&address("10.1.0.11")) || touched.contains(&address("10.1.0.10")), "{touched:?}");
}

#[test]
fn connections_of_a_peer_namespace_whose_label_changes_are_touched_at_one_end() {
    let lab = objects![policy("shop/x").select("app=db").ingress(rule().pods_in("team=b", ""))];
    let touched = touched(lab, applied(objects![namespace("lab").label("team", "c")]));
    let ends = ["10.1.0.11", "10.2.0.10"].map(address);
    assert!(ends.iter().any(|end| touched.contains(end)), "{touched:?}");
}

#[test]
fn a_pod_whose_namespace_comes_under_a_policy_that_is_in_force_already_is_touched() {
    let guarded = objects![
        admin("a", 1).select_namespaces("guarded").ingress(deny()),
        namespace("lab").label("guarded", "yes"),
        pod("lab/bare").at("10.2.0.50"),
    ];
    let touched = touched(guarded, applied(objects![namespace("shop").label("guarded", "yes")]));
    assert_touches(&touched, "10.1.0.12");
}

#[test]
fn an_address_that_changes_hands_is_touched() {
    let isolated = objects![policy("shop/x").select("app=db").isolating(Ingress)];
    let taken = objects![pod("shop/db-2").label("app", "db").at("10.1.0.12").created(10)];
    assert_touches(&touched(isolated, applied(taken)), "10.1.0.12");
}

#[test]
fn a_namespace_that_is_annotated_touches_its_pods() {
    let touched = touched(Vec::new(), applied(objects![namespace("shop").label("team", "a").annotated()]));
    assert_touches(&touched, "10.1.0.11");
    assert_touches(&touched, "10.1.0.12");
}

#[test]
fn connections_to_a_node_whose_labels_change_are_touched() {
    let denied = objects![admin("a", 1).egress(deny().nodes("role=db"))];
    let other = objects![node("n2").at("10.0.0.2").at("fd00::2").label("role", "db")];
    let touched = touched(denied, applied(other));
    assert_touches(&touched, "10.0.0.2");
    assert_touches(&touched, "fd00::2");
    assert!(!touched.contains(&address("10.0.0.1")), "{touched:?}");
}

#[test]
fn a_peer_that_goes_takes_the_names_of_its_ports_with_it() {
    let named = policy("lab/x").select("app=tool").egress(rule().port_named(Protocol::Tcp, "http"));
    let peer = objects![named, pod("other/peer").port("http", Protocol::Tcp, 8080).at("10.2.0.99").on("n2")];
    assert_touches(&touched(peer, deleted(key(Kind::Pod, "other/peer"))), "10.2.0.99");
}
