//! Ports: numbers, ranges, names, and protocols that have none.

use podgate_api::Protocol::{Sctp, Tcp, Udp};

use crate::cluster::{Cluster, cluster, cluster_with, manifests, objects, refused, v1};
use crate::common::{pod, policy, rule};

const DENIED: &str = "deny networkpolicy/shop/x/ingress/default-deny";
const RULE: &str = "allow networkpolicy/shop/x/ingress/0";
const DENIED_OUT: &str = "deny networkpolicy/shop/x/egress/default-deny";
const RULE_OUT: &str = "allow networkpolicy/shop/x/egress/0";

fn policy_with(port: &str) -> String {
    v1("shop/x", &format!("podSelector: {{}}\ningress:\n- ports:\n  - {port}"))
}

#[test]
fn a_port_without_a_number_is_every_port_of_its_protocol() {
    let c = cluster(&policy_with("{protocol: UDP}"));
    c.ingress("lab/web -> shop/db UDP 1", RULE);
    c.ingress("lab/web -> shop/db UDP 65535", RULE);
    c.ingress("lab/web -> shop/db UDP ?", RULE);
    c.ingress("lab/web -> shop/db TCP 1", DENIED);
    c.ingress("lab/web -> shop/db ICMP", DENIED);
}

#[test]
fn an_absent_protocol_is_tcp() {
    let c = cluster(&policy_with("{port: 80}"));
    c.ingress("lab/web -> shop/db TCP 80", RULE);
    c.ingress("lab/web -> shop/db UDP 80", DENIED);
    let c = cluster(&policy_with("{}"));
    c.ingress("lab/web -> shop/db TCP 7", RULE);
    c.ingress("lab/web -> shop/db UDP 7", DENIED);
}

#[test]
fn the_end_port_is_inclusive() {
    let c = cluster(&policy_with("{port: 8000, endPort: 8002}"));
    c.ingress("lab/web -> shop/db TCP 7999", DENIED);
    c.ingress("lab/web -> shop/db TCP 8000", RULE);
    c.ingress("lab/web -> shop/db TCP 8002", RULE);
    c.ingress("lab/web -> shop/db TCP 8003", DENIED);
    let c = cluster(&policy_with("{port: 8000, endPort: 8000}"));
    c.ingress("lab/web -> shop/db TCP 8000", RULE);
    c.ingress("lab/web -> shop/db TCP 8001", DENIED);
}

#[test]
fn the_end_port_needs_a_numeric_port_that_is_not_above_it() {
    for port in
        ["{port: 8000, endPort: 7999}", "{port: http, endPort: 8000}", "{endPort: 8000}", "{port: 1, endPort: 65536}"]
    {
        let errors = refused(&policy_with(port));
        assert!(errors.contains("spec.ingress[0].ports[0]"), "{port}: {errors}");
    }
}

#[test]
fn a_named_port_has_its_number_on_the_destination_pod() {
    let spec = "podSelector: {}\ningress:\n- ports: [{port: http}]";
    let c = cluster(&[v1("shop/x", spec), v1("lab/x", spec)].concat());
    c.ingress("shop/job -> shop/web TCP 8080", RULE);
    c.ingress("shop/job -> shop/web TCP 80", DENIED);
    c.ingress("shop/job -> lab/web TCP 80", "allow networkpolicy/lab/x/ingress/0");
    c.ingress("shop/job -> lab/web TCP 8080", "deny networkpolicy/lab/x/ingress/default-deny");
}

#[test]
fn in_egress_a_named_port_has_its_number_on_each_peer() {
    let spec = "podSelector: {matchLabels: {app: db}}\npolicyTypes: [Egress]\negress:\n- ports: [{port: http}]";
    let c = cluster(&v1("shop/x", spec));
    c.egress("shop/db -> shop/web TCP 8080", RULE_OUT);
    c.egress("shop/db -> shop/web TCP 80", DENIED_OUT);
    c.egress("shop/db -> lab/web TCP 80", RULE_OUT);
    c.egress("shop/db -> lab/web TCP 8080", DENIED_OUT);
    c.egress("shop/db -> shop/job TCP 80", DENIED_OUT);
    // The subject's own port of that name is of no interest.
    c.egress("shop/db -> lab/tool TCP 5432", DENIED_OUT);
}

#[test]
fn a_named_port_is_looked_up_by_protocol_as_well() {
    let c = cluster(&policy_with("{port: dns, protocol: UDP}"));
    c.ingress("lab/web -> shop/db UDP 53", RULE);
    c.ingress("lab/web -> shop/db TCP 53", DENIED);
    c.ingress("lab/web -> shop/db UDP 5353", DENIED);
    c.ingress("lab/web -> shop/db TCP 5353", DENIED);
    let c = cluster(&policy_with("{port: dns}"));
    c.ingress("lab/web -> shop/db TCP 5353", RULE);
    c.ingress("lab/web -> shop/db UDP 53", DENIED);
}

#[test]
fn a_named_port_never_matches_outside_the_cluster_or_a_node() {
    let egress = policy("shop/x").select("app=db").egress(rule().port_named(Tcp, "http"));
    let blocks = policy("shop/y").select("app=db").egress(rule().block("0.0.0.0/0", &[]).port_named(Tcp, "http"));
    let c = cluster_with(objects![egress, blocks]);
    c.egress("shop/db -> 203.0.113.9 TCP 80", DENIED_OUT);
    c.egress("shop/db -> 10.0.0.2 TCP 8080", DENIED_OUT); // the hostNetwork pod has a port of that name
    c.egress("shop/db -> shop/web TCP 8080", RULE_OUT);
    c.egress("shop/db -> shop/web TCP 443", DENIED_OUT);
}

#[test]
fn a_pod_without_the_named_port_is_not_opened_by_it() {
    let c = cluster(&policy_with("{port: http}"));
    c.ingress("lab/web -> shop/job TCP 80", DENIED);
    c.ingress("lab/web -> shop/job TCP ?", DENIED);
}

#[test]
fn several_container_ports_of_one_name_all_match() {
    let mut c = cluster(&policy_with("{port: http}"));
    c.apply(objects![pod("shop/two").at("10.1.0.20").port("http", Tcp, 80).port("http", Tcp, 8080)]);
    c.ingress("lab/web -> shop/two TCP 80", RULE);
    c.ingress("lab/web -> shop/two TCP 8080", RULE);
    c.ingress("lab/web -> shop/two TCP 81", DENIED);
}

#[test]
fn a_named_port_follows_the_pod_that_changes_it() {
    let mut c = cluster(&policy_with("{port: http}"));
    c.apply(objects![pod("shop/web").at("10.1.0.10").on("n1").port("http", Tcp, 9090)]);
    c.ingress("lab/web -> shop/web TCP 9090", RULE);
    c.ingress("lab/web -> shop/web TCP 8080", DENIED);
}

#[test]
fn ports_of_sidecars_have_names_and_those_of_other_init_containers_have_none() {
    let text = "
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: mesh}
spec:
  initContainers:
  - {name: setup, ports: [{name: admin, containerPort: 1}]}
  - {name: proxy, restartPolicy: Always, ports: [{name: admin, containerPort: 15000}]}
  containers:
  - {name: main, ports: [{containerPort: 80}]}
status: {podIP: 10.1.0.30}
";
    let c = Cluster::of([objects(), manifests(text), manifests(&policy_with("{port: admin}"))].concat());
    c.ingress("lab/web -> shop/mesh TCP 15000", RULE);
    c.ingress("lab/web -> shop/mesh TCP 1", DENIED);
    c.ingress("lab/web -> shop/mesh TCP 80", DENIED);
}

#[test]
fn sctp_rules_do_not_open_tcp() {
    let c = cluster(&policy_with("{protocol: SCTP, port: 80}"));
    c.ingress("lab/web -> shop/db SCTP 80", RULE);
    c.ingress("lab/web -> shop/db TCP 80", DENIED);
    c.ingress("lab/web -> shop/db UDP 80", DENIED);
    let c = cluster(&policy_with("{protocol: SCTP}"));
    c.ingress("lab/web -> shop/db SCTP 7", RULE);
    c.ingress("lab/web -> shop/db TCP 7", DENIED);
}

#[test]
fn protocols_without_ports_need_a_rule_without_ports() {
    let every_port = rule().ports(Tcp, 0, 65535).ports(Udp, 0, 65535).ports(Sctp, 0, 65535);
    let c = cluster_with(objects![policy("shop/x").ingress(every_port)]);
    c.ingress("lab/web -> shop/db ICMP", DENIED);
    c.ingress("lab/web#6 -> shop/db#6 ICMPv6", DENIED);
    c.ingress("lab/web -> shop/db GRE", DENIED);
    c.ingress("lab/web -> shop/db SCTP 1", RULE);
    let c = cluster_with(objects![policy("shop/x").ingress(rule().pods_in("team=b", ""))]);
    c.ingress("lab/web -> shop/db ICMP", RULE);
    c.ingress("lab/web#6 -> shop/db#6 ICMPv6", RULE);
    c.ingress("shop/web -> shop/db ICMP", DENIED);
}

#[test]
fn one_of_several_ports_must_match() {
    let c = cluster(&v1(
        "shop/x",
        "podSelector: {}\ningress:\n- ports: [{port: 80}, {protocol: UDP, port: 53}, {port: dns}]",
    ));
    c.ingress("lab/web -> shop/db TCP 80", RULE);
    c.ingress("lab/web -> shop/db UDP 53", RULE);
    c.ingress("lab/web -> shop/db TCP 5353", RULE);
    c.ingress("lab/web -> shop/db TCP 53", DENIED);
}

#[test]
fn peers_and_ports_of_one_rule_must_both_match() {
    let web = rule().pods("app=web").port(Tcp, 80);
    let c = cluster_with(objects![policy("shop/x").ingress(web).ingress(rule().pods_in("team=b", "").port(Tcp, 81))]);
    c.ingress("shop/web -> shop/db TCP 80", RULE);
    c.ingress("shop/web -> shop/db TCP 81", DENIED);
    c.ingress("lab/web -> shop/db TCP 80", DENIED);
    c.ingress("lab/web -> shop/db TCP 81", "allow networkpolicy/shop/x/ingress/1");
}

#[test]
fn of_overlapping_ranges_the_first_rule_gives_its_name() {
    let c = cluster_with(objects![
        policy("shop/x").ingress(rule().ports(Tcp, 10, 20)).ingress(rule().ports(Tcp, 0, 65535)).ingress(rule()),
    ]);
    c.ingress("lab/web -> shop/db TCP 10", RULE);
    c.ingress("lab/web -> shop/db TCP 20", RULE);
    c.ingress("lab/web -> shop/db TCP 9", "allow networkpolicy/shop/x/ingress/1");
    c.ingress("lab/web -> shop/db TCP 21", "allow networkpolicy/shop/x/ingress/1");
    c.ingress("lab/web -> shop/db TCP 65535", "allow networkpolicy/shop/x/ingress/1");
    c.ingress("lab/web -> shop/db UDP 10", "allow networkpolicy/shop/x/ingress/2");
    c.ingress("lab/web -> shop/db TCP ?", "allow networkpolicy/shop/x/ingress/1");
}
