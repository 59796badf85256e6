//! `policyTypes`, and what absent and empty lists mean.

use crate::cluster::{cluster, v1};

const DENIED: &str = "deny networkpolicy/shop/x/ingress/default-deny";
const DENIED_OUT: &str = "deny networkpolicy/shop/x/egress/default-deny";
const RULE: &str = "allow networkpolicy/shop/x/ingress/0";
const RULE_OUT: &str = "allow networkpolicy/shop/x/egress/0";

#[test]
fn absent_policy_types_mean_ingress_always() {
    let c = cluster(&v1("shop/x", "podSelector: {}"));
    c.ingress("lab/web -> shop/db TCP 80", DENIED);
    c.egress("shop/db -> lab/web TCP 80", "allow");
}

#[test]
fn absent_policy_types_mean_egress_too_if_there_are_egress_rules() {
    let c = cluster(&v1("shop/x", "podSelector: {}\negress:\n- to:\n  - podSelector: {}"));
    c.ingress("lab/web -> shop/db TCP 80", DENIED);
    c.egress("shop/db -> lab/web TCP 80", DENIED_OUT);
    c.egress("shop/db -> shop/job TCP 80", RULE_OUT);
}

#[test]
fn an_empty_egress_list_is_no_egress_rule() {
    let c = cluster(&v1("shop/x", "podSelector: {}\negress: []"));
    c.ingress("lab/web -> shop/db TCP 80", DENIED);
    c.egress("shop/db -> lab/web TCP 80", "allow");
}

#[test]
fn empty_policy_types_are_absent_ones() {
    let c = cluster(&v1("shop/x", "podSelector: {}\npolicyTypes: []\negress:\n- {}"));
    c.ingress("lab/web -> shop/db TCP 80", DENIED);
    c.egress("shop/db -> lab/web TCP 80", RULE_OUT);
}

#[test]
fn type_egress_alone_leaves_ingress_open_whatever_the_ingress_rules_say() {
    let rules = "ingress:\n- from:\n  - podSelector: {matchLabels: {app: web}}";
    let c = cluster(&v1("shop/x", &format!("podSelector: {{}}\npolicyTypes: [Egress]\n{rules}")));
    c.ingress("lab/tool -> shop/db TCP 80", "allow");
    c.ingress("shop/web -> shop/db TCP 80", "allow");
    c.egress("shop/db -> lab/web TCP 80", DENIED_OUT);
}

#[test]
fn type_ingress_alone_leaves_egress_open_whatever_the_egress_rules_say() {
    let rules = "egress:\n- to:\n  - podSelector: {matchLabels: {app: web}}";
    let c = cluster(&v1("shop/x", &format!("podSelector: {{}}\npolicyTypes: [Ingress]\n{rules}")));
    c.egress("shop/db -> lab/web TCP 80", "allow");
    c.egress("shop/db -> shop/web TCP 80", "allow");
    c.ingress("lab/web -> shop/db TCP 80", DENIED);
}

#[test]
fn type_egress_without_rules_denies_all_egress() {
    let c = cluster(&v1("shop/x", "podSelector: {}\npolicyTypes: [Ingress, Egress]"));
    c.egress("shop/db -> lab/web TCP 80", DENIED_OUT);
    c.egress("shop/db -> 203.0.113.9 UDP 53", DENIED_OUT);
    c.ingress("203.0.113.9 -> shop/db TCP 80", DENIED);
}

#[test]
fn an_empty_ingress_list_isolates_and_allows_nothing() {
    for rules in ["ingress: []", ""] {
        let c = cluster(&v1("shop/x", &format!("podSelector: {{}}\npolicyTypes: [Ingress]\n{rules}")));
        c.ingress("shop/web -> shop/db TCP 5432", DENIED);
        c.ingress("203.0.113.9 -> shop/db TCP 5432", DENIED);
        c.ingress("shop/web -> shop/db ICMP", DENIED);
    }
}

#[test]
fn an_empty_rule_allows_everything() {
    let c = cluster(&v1("shop/x", "podSelector: {}\npolicyTypes: [Ingress, Egress]\ningress:\n- {}\negress:\n- {}"));
    for peer in ["lab/web", "203.0.113.9", "10.0.0.2", "shop/job"] {
        for service in ["TCP 1", "UDP 65535", "SCTP 7", "ICMP", "GRE"] {
            c.ingress(&format!("{peer} -> shop/db {service}"), RULE);
            c.egress(&format!("shop/db -> {peer} {service}"), RULE_OUT);
        }
    }
}

#[test]
fn an_empty_or_absent_from_is_any_peer() {
    for from in ["\n  from: []", ""] {
        let c = cluster(&v1("shop/x", &format!("podSelector: {{}}\ningress:\n- ports: [{{port: 80}}]{from}")));
        c.ingress("lab/web -> shop/db TCP 80", RULE);
        c.ingress("203.0.113.9 -> shop/db TCP 80", RULE);
        c.ingress("203.0.113.9 -> shop/db TCP 81", DENIED);
    }
}

#[test]
fn an_empty_or_absent_to_is_any_peer() {
    for to in ["\n  to: []", ""] {
        let spec = format!("podSelector: {{}}\npolicyTypes: [Egress]\negress:\n- ports: [{{port: 80}}]{to}");
        let c = cluster(&v1("shop/x", &spec));
        c.egress("shop/db -> lab/web TCP 80", RULE_OUT);
        c.egress("shop/db -> 203.0.113.9 TCP 80", RULE_OUT);
        c.egress("shop/db -> 203.0.113.9 TCP 81", DENIED_OUT);
    }
}

#[test]
fn empty_or_absent_ports_are_any_port_and_any_protocol() {
    for ports in ["\n  ports: []", ""] {
        let c = cluster(&v1("shop/x", &format!("podSelector: {{}}\ningress:\n- from: [{{podSelector: {{}}}}]{ports}")));
        for service in ["TCP 1", "UDP 65535", "SCTP 7", "ICMP", "GRE", "TCP ?"] {
            c.ingress(&format!("shop/web -> shop/db {service}"), RULE);
            c.ingress(&format!("lab/web -> shop/db {service}"), DENIED);
        }
    }
}
