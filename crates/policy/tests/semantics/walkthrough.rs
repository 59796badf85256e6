//! The use cases of Kubernetes' own documents, as people write them.

use crate::cluster::{cluster, v1};

const DENIED: &str = "deny networkpolicy/shop/x/ingress/default-deny";
const RULE: &str = "allow networkpolicy/shop/x/ingress/0";

#[test]
fn deny_all_to_a_service() {
    let c = cluster(&v1("shop/x", "podSelector:\n  matchLabels:\n    app: web\ningress: []"));
    c.verdict("shop/db -> shop/web TCP 8080", "deny");
    c.ingress("lab/web -> shop/web TCP 8080", DENIED);
    c.verdict("lab/web -> shop/db TCP 5432", "allow");
}

#[test]
fn allow_only_certain_pods_to_a_service() {
    let spec =
        "podSelector: {matchLabels: {app: db}}\ningress:\n- from:\n  - podSelector: {matchLabels: {tier: front}}";
    let c = cluster(&v1("shop/x", spec));
    c.ingress("shop/web -> shop/db TCP 5432", RULE);
    c.ingress("shop/job -> shop/db TCP 5432", DENIED);
    c.ingress("lab/web -> shop/db TCP 5432", DENIED);
}

#[test]
fn forbid_traffic_within_a_namespace() {
    let c = cluster(&v1("shop/x", "podSelector: {}\npolicyTypes: [Ingress]"));
    c.ingress("shop/web -> shop/db TCP 5432", DENIED);
    c.ingress("shop/db -> shop/web TCP 8080", DENIED);
}

#[test]
fn keep_other_namespaces_out() {
    let c = cluster(&v1("shop/x", "podSelector:\n  matchLabels:\ningress:\n- from:\n  - podSelector: {}"));
    c.ingress("shop/web -> shop/db TCP 5432", RULE);
    c.ingress("lab/web -> shop/db TCP 5432", DENIED);
    c.ingress("203.0.113.9 -> shop/db TCP 5432", DENIED);
}

#[test]
fn allow_one_namespace() {
    let spec = "podSelector: {}\ningress:\n- from:\n  - namespaceSelector:\n      matchLabels: {team: b}";
    let c = cluster(&v1("shop/x", spec));
    c.ingress("lab/tool -> shop/db TCP 5432", RULE);
    c.ingress("shop/web -> shop/db TCP 5432", DENIED);
}

#[test]
fn allow_the_outside_world_to_one_service() {
    let all = v1("shop/deny", "podSelector: {}\npolicyTypes: [Ingress]");
    let web = v1("shop/x", "podSelector: {matchLabels: {app: web}}\ningress:\n- ports:\n  - port: http");
    let c = cluster(&[all, web].concat());
    c.ingress("203.0.113.9 -> shop/web TCP 8080", RULE);
    c.ingress("203.0.113.9 -> shop/web TCP 22", "deny networkpolicy/shop/deny/ingress/default-deny");
    c.ingress("203.0.113.9 -> shop/db TCP 8080", "deny networkpolicy/shop/deny/ingress/default-deny");
}

#[test]
fn allow_dns_and_one_service_out_and_nothing_else() {
    let dns = "- ports:\n  - {protocol: UDP, port: 53}\n  - {protocol: TCP, port: 53}";
    let db = "- to:\n  - podSelector: {matchLabels: {app: db}}\n  ports:\n  - port: sql";
    let spec = format!("podSelector: {{matchLabels: {{app: web}}}}\npolicyTypes: [Egress]\negress:\n{dns}\n{db}");
    let c = cluster(&v1("shop/x", &spec));
    c.egress("shop/web -> lab/tool UDP 53", "allow networkpolicy/shop/x/egress/0");
    c.egress("shop/web -> shop/db TCP 5432", "allow networkpolicy/shop/x/egress/1");
    c.egress("shop/web -> shop/db TCP 5433", "deny networkpolicy/shop/x/egress/default-deny");
    c.egress("shop/web -> 203.0.113.9 TCP 443", "deny networkpolicy/shop/x/egress/default-deny");
}
