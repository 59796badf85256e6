//! Whose an address is: reuse, finished and terminating pods, dual stack, arrival and departure in any order.

use podgate_api::Direction::{Egress, Ingress};
use podgate_api::{Change, Kind, Object};
use podgate_engine::{Cause, NodeOrigin};
use podgate_policy::{Exposure, Index, Locality};

use crate::cluster::{Cluster, cluster_with, objects};
use crate::common::{address, key, legacy, namespace, pod, policy, rule};

const DENIED: &str = "deny networkpolicy/shop/x/ingress/default-deny";
const RULE: &str = "allow networkpolicy/shop/x/ingress/0";

fn only_web() -> Cluster {
    cluster_with(objects![policy("shop/x").select("app=db").ingress(rule().pods("app=web"))])
}

#[test]
fn finished_pods_do_not_count() {
    let mut c = only_web();
    c.apply(objects![pod("shop/web").label("app", "web").at("10.1.0.10").on("n1").finished()]);
    c.ingress("10.1.0.10 -> shop/db TCP 80", DENIED);
    c.apply(objects![pod("shop/db").label("app", "db").at("10.1.0.11").on("n1").finished()]);
    c.ingress("lab/web -> 10.1.0.11 TCP 80", "allow");
}

#[test]
fn a_finished_pods_address_belongs_to_the_pod_that_uses_it_now() {
    let mut c = only_web();
    c.apply(objects![
        pod("shop/done").label("app", "web").at("10.2.0.11").created(99).finished(),
        pod("lab/tool").label("app", "tool").at("10.2.0.11").created(1).on("n1"),
    ]);
    c.ingress("lab/tool -> shop/db TCP 80", DENIED);
}

#[test]
fn terminating_pods_count_until_they_are_gone() {
    let mut c = only_web();
    c.apply(objects![pod("shop/web").label("app", "web").at("10.1.0.10").on("n1").terminating()]);
    c.apply(objects![pod("shop/db").label("app", "db").at("10.1.0.11").on("n1").terminating()]);
    c.ingress("shop/web -> shop/db TCP 80", RULE);
    c.ingress("lab/web -> shop/db TCP 80", DENIED);
    c.delete(key(Kind::Pod, "shop/web"));
    c.ingress("10.1.0.10 -> shop/db TCP 80", DENIED);
}

#[test]
fn every_address_of_a_dual_stack_pod_counts() {
    let c = only_web();
    c.ingress("shop/web -> shop/db TCP 80", RULE);
    c.ingress("shop/web#6 -> shop/db#6 TCP 80", RULE);
    c.ingress("lab/web -> shop/db TCP 80", DENIED);
    c.ingress("lab/web#6 -> shop/db#6 TCP 80", DENIED);
}

/// Every order of these, among the objects of the cluster.
fn in_every_order(some: [Object; 3], check: impl Fn(&Cluster)) {
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let mut c = only_web();
        order.iter().for_each(|i| c.apply(vec![some[*i].clone()]));
        check(&c);
    }
}

#[test]
fn an_address_belongs_to_the_newest_pod_whatever_the_order_of_arrival() {
    let [a, b, c] = [
        pod("shop/old").label("app", "web").at("10.1.0.50"),
        pod("shop/older").label("app", "web").at("10.1.0.50").created(10),
        pod("lab/new").label("app", "tool").at("10.1.0.50").created(20),
    ];
    let some: [Object; 3] = objects![a, b, c].try_into().unwrap();
    in_every_order(some, |c| {
        c.ingress("10.1.0.50 -> shop/db TCP 80", DENIED);
        assert_eq!(c.index.pod_at(address("10.1.0.50")).as_deref(), Some("lab/new"));
    });
}

#[test]
fn a_newer_pod_has_the_address_even_while_it_terminates() {
    let some = objects![
        pod("shop/old").label("app", "tool").at("10.1.0.50").created(10),
        pod("shop/new").label("app", "web").at("10.1.0.50").created(20).terminating(),
        pod("shop/done").label("app", "tool").at("10.1.0.50").created(30).finished(),
    ];
    in_every_order(some.try_into().unwrap(), |c| c.ingress("10.1.0.50 -> shop/db TCP 80", RULE));
}

#[test]
fn of_pods_of_one_age_a_terminating_one_gives_way_then_the_greater_name_has_it() {
    let some = objects![
        pod("shop/z").label("app", "tool").at("10.1.0.50").created(10).terminating(),
        pod("shop/a").label("app", "tool").at("10.1.0.50").created(10),
        pod("shop/b").label("app", "web").at("10.1.0.50").created(10),
    ];
    in_every_order(some.try_into().unwrap(), |c| {
        c.ingress("10.1.0.50 -> shop/db TCP 80", RULE);
        assert_eq!(c.index.pod_at(address("10.1.0.50")).as_deref(), Some("shop/b"));
    });
}

#[test]
fn an_address_goes_back_to_the_older_pod_when_the_newer_one_leaves_it() {
    let mut c = only_web();
    c.apply(objects![pod("shop/thief").label("app", "tool").at("10.1.0.10").created(10)]);
    c.ingress("10.1.0.10 -> shop/db TCP 80", DENIED);
    c.apply(objects![pod("shop/thief").label("app", "tool").at("10.1.0.99").created(10)]);
    c.ingress("10.1.0.10 -> shop/db TCP 80", RULE);
}

#[test]
fn a_new_pod_is_isolated_from_the_build_that_knows_its_address() {
    let mut c = only_web();
    c.apply(objects![pod("shop/db-2").label("app", "db").on("n1")]); // init containers: no address yet
    c.apply(objects![pod("shop/db-2").label("app", "db").on("n1").at("10.1.0.60")]);
    c.ingress("lab/web -> shop/db-2 TCP 80", DENIED);
    c.ingress("shop/web -> shop/db-2 TCP 80", RULE);
}

#[test]
fn an_address_whose_pod_is_unknown_is_denied_on_its_node_until_the_pod_is_known() {
    let mut index = Index::new(Locality::Node("n1".to_owned()));
    objects().into_iter().for_each(|o| index.apply(Change::Apply(o)));
    let c = Cluster::of(objects());
    let flow = |text| c.flow(text).to_engine();
    let snapshot = index.build().snapshot;
    let to_unknown = snapshot.judge(&flow("lab/web -> 10.1.0.200 TCP 80"), NodeOrigin::Forged);
    assert_eq!(to_unknown.ingress.cause, Cause::Unknown);
    let from_unknown = snapshot.judge(&flow("10.1.0.200 -> lab/web TCP 80"), NodeOrigin::Forged);
    assert_eq!(from_unknown.egress.cause, Cause::Unknown);
    let elsewhere = snapshot.judge(&flow("lab/web -> 10.2.0.200 TCP 80"), NodeOrigin::Forged);
    assert_eq!(elsewhere.ingress.cause, Cause::Open, "another node's range is not this node's business");
    let missing = |index: &mut Index, text| index.build().snapshot.tables().is_missing_peer(address(text).into());
    let of = ["10.1.0.200", "10.2.0.200", "10.2.0.11", "203.0.113.1"].map(|text| missing(&mut index, text));
    assert_eq!(of, [false, true, false, false], "this node's, the other's, one of its pods', the world's");
    let known = pod("lab/late").at("10.1.0.200").on("n1");
    objects![known].into_iter().for_each(|o| index.apply(Change::Apply(o)));
    let snapshot = index.build().snapshot;
    let judged = snapshot.judge(&flow("lab/web -> 10.1.0.200 TCP 80"), NodeOrigin::Forged);
    assert_eq!(judged.ingress.cause, Cause::Open);
}

#[test]
fn a_forgotten_address_is_nobodys_until_a_pod_is_applied_anew() {
    let mut c = only_web();
    c.index.forget_address(address("10.1.0.10"));
    let build = c.index.build();
    let flow = c.flow("10.1.0.10 -> shop/db TCP 80").to_engine();
    assert!(matches!(build.snapshot.judge(&flow, NodeOrigin::Address).ingress.cause, Cause::Denied(_)));
    assert_eq!(c.index.pod_at(address("10.1.0.10")), None);
    assert!(build.exposure.contains(&(address("10.1.0.10"), None)), "{:?}", build.exposure);
    c.apply(objects![pod("shop/web").label("app", "web").at("10.1.0.10").on("n1")]);
    c.ingress("10.1.0.10 -> shop/db TCP 80", RULE);
}

#[test]
fn exposure_says_of_every_pod_address_which_directions_are_judged() {
    let mut c = Cluster::of(objects());
    let exposed = |c: &mut Cluster, object: Object| {
        c.index.apply(Change::Apply(object));
        let build = c.index.build();
        build.exposure.iter().find(|(a, _)| *a == address("10.1.0.11")).copied()
    };
    let told = |ingress, egress| Some((address("10.1.0.11"), Some(Exposure { ingress, egress })));
    let [isolated_in, isolated_out, elsewhere] = [
        policy("shop/in").select("app=db").isolating(Ingress),
        policy("shop/out").select("app=db").isolating(Egress),
        policy("lab/in").isolating(Ingress),
    ];
    let mut some = objects![isolated_in, isolated_out, elsewhere].into_iter();
    assert_eq!(exposed(&mut c, some.next().unwrap()), told(true, false));
    assert_eq!(exposed(&mut c, some.next().unwrap()), told(true, true));
    assert_eq!(exposed(&mut c, some.next().unwrap()), None);
}

#[test]
fn the_annotation_exposes_ingress_only_whatever_old_policies_there_are() {
    let mut c = Cluster::of(objects());
    for object in objects![namespace("shop").annotated(), legacy("shop/old").ingress(rule()).egress(rule())] {
        c.index.apply(Change::Apply(object));
    }
    let exposure = c.index.build().exposure;
    let expected = (address("10.1.0.11"), Some(Exposure { ingress: true, egress: false }));
    assert!(exposure.contains(&expected), "{exposure:?}");
    assert!(exposure.iter().all(|(_, e)| e.is_none_or(|e| !e.egress)), "{exposure:?}");
}

#[test]
fn deleting_a_namespace_leaves_no_rule_and_no_address_behind_in_any_order_of_events() {
    let there = objects![
        namespace("gone").annotated(),
        pod("gone/a").label("app", "web").at("10.9.0.1").on("n1"),
        pod("gone/b").at("10.9.0.2").on("n1"),
        policy("gone/x").isolating(Ingress).egress(rule().pods("app=web")),
        legacy("gone/y").ingress(rule()),
    ];
    let keys: Vec<_> = there.iter().map(Object::key).collect();
    for first in 0..keys.len() {
        let mut c = cluster_with(there.clone());
        c.ingress("lab/web -> gone/b TCP 80", "allow networkpolicy/gone/y/ingress/0");
        let mut order = keys.clone();
        order.rotate_left(first);
        order.into_iter().for_each(|key| c.delete(key));
        c.ingress("lab/web -> 10.9.0.2 TCP 80", "allow");
        c.egress("10.9.0.2 -> lab/web TCP 80", "allow");
        // A namespace of that name, made again, inherits nothing.
        c.apply(objects![namespace("gone"), pod("gone/b").at("10.9.0.2").on("n1")]);
        c.ingress("lab/web -> gone/b TCP 80", "allow");
        c.egress("gone/b -> lab/web TCP 80", "allow");
    }
}
