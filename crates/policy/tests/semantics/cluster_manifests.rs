//! ClusterNetworkPolicy, AdminNetworkPolicy and BaselineAdminNetworkPolicy by their manifests.

use crate::cluster::{Cluster, cluster, cluster_with, manifests, objects, refused, v1};
use crate::common::{key, node, pod};
use podgate_api::{Kind, Object, manifest};

/// A ClusterNetworkPolicy about every pod.
fn cnp(name: &str, tier: &str, priority: u32, rules: &str) -> String {
    of_subject(name, tier, priority, "namespaces: {}", rules)
}

fn of_subject(name: &str, tier: &str, priority: u32, subject: &str, rules: &str) -> String {
    format!(
        "---\napiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {{name: {name}}}\n\
         spec:\n  tier: {tier}\n  priority: {priority}\n  subject: {{{subject}}}\n{rules}"
    )
}

fn v1alpha1(kind: &str, name: &str, priority: Option<u32>, rules: &str) -> String {
    let priority = priority.map(|p| format!("  priority: {p}\n")).unwrap_or_default();
    format!(
        "---\napiVersion: policy.networking.k8s.io/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n\
         {priority}  subject: {{namespaces: {{}}}}\n{rules}"
    )
}

fn anp(name: &str, priority: u32, rules: &str) -> String {
    v1alpha1("AdminNetworkPolicy", name, Some(priority), rules)
}

fn banp(rules: &str) -> String {
    v1alpha1("BaselineAdminNetworkPolicy", "default", None, rules)
}

fn ingress(action: &str, from: &str, more: &str) -> String {
    format!("  ingress: [{{action: {action}, from: [{from}]{more}}}]\n")
}

fn egress(action: &str, to: &str, more: &str) -> String {
    format!("  egress: [{{action: {action}, to: [{to}]{more}}}]\n")
}

const EVERY_POD: &str = "{namespaces: {}}";
const TEAM_B: &str = "{namespaces: {matchLabels: {team: b}}}";
const TCP_80: &str = ", protocols: [{tcp: {destinationPort: {number: 80}}}]";

fn warnings(c: &Cluster) -> Vec<String> {
    c.index.warnings().iter().map(|w| format!("{}: {}", w.object, w.message)).collect()
}

#[test]
fn tiers_are_asked_in_their_order() {
    let text = cnp("top", "Admin", 1, &ingress("Deny", TEAM_B, ""))
        + &cnp("passing", "Admin", 0, &ingress("Pass", TEAM_B, TCP_80))
        + &v1("shop/db", "podSelector: {matchLabels: {app: db}}\ningress: [{ports: [{port: 80}]}]")
        + &cnp("bottom", "Baseline", 3, &ingress("Deny", EVERY_POD, ""));
    let c = cluster(&text);
    c.ingress("lab/web -> shop/db TCP 80", "allow networkpolicy/shop/db/ingress/0");
    c.ingress("lab/web -> shop/db TCP 81", "deny admin//top/ingress/0");
    c.ingress("lab/web -> shop/web TCP 80", "deny baseline//bottom/ingress/0");
    c.ingress("shop/web -> shop/db TCP 81", "deny networkpolicy/shop/db/ingress/default-deny");
    assert_eq!(warnings(&c), [""; 0]);
}

#[test]
fn an_accept_of_the_admin_tier_opens_what_network_policies_close() {
    let closed = v1("shop/closed", "podSelector: {}\npolicyTypes: [Ingress, Egress]");
    let rules = "  ingress: [{name: monitoring, action: Accept, from: [{pods: {namespaceSelector: {matchLabels: {team: \
                 b}}, podSelector: {matchLabels: {app: tool}}}}]}]\n";
    let c = cluster(&(closed + &cnp("scrape", "Admin", 1000, rules)));
    c.ingress("lab/tool -> shop/db TCP 9100", "allow admin//scrape/ingress/monitoring");
    c.ingress("lab/web -> shop/db TCP 9100", "deny networkpolicy/shop/closed/ingress/default-deny");
}

#[test]
fn the_older_kinds_stand_in_the_same_tiers() {
    let text = anp("a", 5, &ingress("Allow", EVERY_POD, ", ports: [{portNumber: {port: 80}}]"))
        + &cnp("b", "Admin", 4, &ingress("Deny", TEAM_B, TCP_80))
        + &banp(&ingress("Deny", EVERY_POD, ""))
        + &cnp(
            "c",
            "Baseline",
            1000,
            &ingress("Accept", TEAM_B, ", protocols: [{tcp: {destinationPort: {number: 81}}}]"),
        );
    let c = cluster(&text);
    c.ingress("lab/web -> shop/db TCP 80", "deny admin//b/ingress/0");
    c.ingress("shop/web -> shop/db TCP 80", "allow admin//a/ingress/0");
    // The BaselineAdminNetworkPolicy is after every other of its tier.
    c.ingress("lab/web -> shop/db TCP 81", "allow baseline//c/ingress/0");
    c.ingress("shop/web -> shop/db TCP 81", "deny baseline//default/ingress/0");
}

#[test]
fn equal_priorities_go_by_name_and_are_told() {
    let deny = ingress("Deny", TEAM_B, "");
    let accept = ingress("Accept", TEAM_B, "");
    let c = cluster(&(cnp("b", "Admin", 7, &deny) + &cnp("a", "Admin", 7, &accept) + &cnp("c", "Baseline", 7, &deny)));
    c.ingress("lab/web -> shop/db TCP 80", "allow admin//a/ingress/0");
    let [warning] = &*warnings(&c) else { panic!("{:?}", warnings(&c)) };
    assert!(warning.starts_with("ClusterNetworkPolicy b: ") && warning.contains("admin priority 7"), "{warning}");
    // Of two kinds and one name, too.
    let c = cluster(&(anp("a", 7, &deny) + &cnp("a", "Admin", 7, &accept)));
    c.ingress("lab/web -> shop/db TCP 80", "allow admin//a/ingress/0");
    assert!(warnings(&c)[0].starts_with("AdminNetworkPolicy a: "), "{:?}", warnings(&c));
    let rules: Vec<_> = c.snapshot.rules().map(|(_, rule)| (rule.name.to_string(), rule.action)).collect();
    assert_eq!(rules.len(), 2, "two actions, each with a counter of its own: {rules:?}");
}

#[test]
fn no_protocols_are_every_protocol() {
    let c = cluster(
        &(cnp("a", "Admin", 1, &ingress("Deny", TEAM_B, ""))
            + &cnp("b", "Admin", 2, &ingress("Deny", EVERY_POD, TCP_80))),
    );
    c.ingress("lab/web -> shop/db ICMP", "deny admin//a/ingress/0");
    c.ingress("lab/web -> shop/db GRE", "deny admin//a/ingress/0");
    c.ingress("shop/web -> shop/db ICMP", "allow");
    c.ingress("shop/web -> shop/db UDP 80", "allow");
}

#[test]
fn a_named_port_is_of_whatever_protocol_the_pod_has() {
    for text in [
        cnp("a", "Admin", 1, &egress("Deny", EVERY_POD, ", protocols: [{destinationNamedPort: dns}]")),
        anp("a", 1, &egress("Deny", EVERY_POD, ", ports: [{namedPort: dns}]")),
    ] {
        let c = cluster(&text);
        c.egress("lab/web -> shop/db UDP 53", "deny admin//a/egress/0");
        c.egress("lab/web -> shop/db TCP 5353", "deny admin//a/egress/0");
        c.egress("lab/web -> shop/db TCP 53", "allow");
        c.egress("lab/web -> shop/web UDP 53", "allow");
    }
}

#[test]
fn networks_match_pods_and_everybody_else() {
    let c = cluster(&cnp("a", "Admin", 1, &egress("Deny", "{networks: [10.0.0.0/8, 'fd00::/8']}", "")));
    c.egress("lab/web -> shop/db TCP 80", "deny admin//a/egress/0");
    c.egress("lab/web#6 -> fd00:99::1 TCP 80", "deny admin//a/egress/0");
    c.egress("lab/web -> 10.0.0.1 TCP 80", "deny admin//a/egress/0");
    c.egress("lab/web -> 192.0.2.1 TCP 80", "allow");
}

#[test]
fn a_deny_of_a_pods_own_node_counts_in_egress_only() {
    for rules in [egress("Deny", "{nodes: {}}", ""), egress("Deny", "{networks: [0.0.0.0/0, '::/0']}", "")] {
        let c = cluster(&cnp("a", "Admin", 1, &(rules + &ingress("Deny", EVERY_POD, ""))));
        c.egress("shop/db -> 10.0.0.1 TCP 10250", "deny admin//a/egress/0");
        c.egress("shop/db#6 -> fd00::1 ICMPv6", "deny admin//a/egress/0");
        c.ingress("10.0.0.1 -> shop/db TCP 80", "allow");
        // A hostNetwork pod is its node.
        c.egress("shop/job -> shop/proxy TCP 8080", "deny admin//a/egress/0");
        c.ingress("shop/proxy -> shop/job TCP 80", "allow");
    }
}

/// Like the cluster, with labels on nodes.
fn with_roles(text: &str) -> Cluster {
    let roles =
        objects![node("n1").at("10.0.0.1").label("role", "worker"), node("n2").at("10.0.0.2").label("role", "db")];
    Cluster::of([objects(), roles, manifests(text)].concat())
}

#[test]
fn nodes_match_by_their_labels_as_they_are_now() {
    let mut c = with_roles(&cnp("a", "Admin", 1, &egress("Deny", "{nodes: {matchLabels: {role: db}}}", "")));
    c.egress("shop/web -> 10.0.0.2 TCP 5432", "deny admin//a/egress/0");
    c.egress("shop/web -> 10.0.0.1 TCP 5432", "allow");
    c.egress("shop/web -> lab/web TCP 80", "allow");
    c.apply(objects![node("n1").at("10.0.0.1").at("fd00::1").label("role", "db")]);
    c.egress("shop/web -> 10.0.0.1 TCP 5432", "deny admin//a/egress/0");
    c.egress("shop/web#6 -> fd00::1 TCP 5432", "deny admin//a/egress/0");
    c.apply(objects![node("n2").at("10.0.0.2")]);
    c.egress("shop/web -> 10.0.0.2 TCP 5432", "allow");
    c.delete(key(Kind::Node, "n1"));
    c.egress("shop/web -> 10.0.0.1 TCP 5432", "allow");
}

#[test]
fn an_address_of_several_nodes_is_each_of_them() {
    let mut c = with_roles(&cnp("a", "Admin", 1, &egress("Deny", "{nodes: {matchLabels: {role: db}}}", "")));
    c.apply(objects![node("n0").at("10.0.0.2").label("role", "worker")]);
    c.egress("shop/web -> 10.0.0.2 TCP 5432", "deny admin//a/egress/0");
    c.delete(key(Kind::Node, "n2"));
    c.egress("shop/web -> 10.0.0.2 TCP 5432", "allow");
}

#[test]
fn nodes_match_what_their_objects_tell_and_no_pods_address() {
    let mut c = with_roles(&cnp("a", "Admin", 1, &egress("Deny", "{nodes: {}}", "")));
    c.apply(objects![pod("lab/tool").at("10.2.0.11").on("n1").host_at("10.0.9.1")]);
    c.egress("lab/web -> 10.0.9.1 TCP 80", "allow");
    c.apply(objects![pod("lab/thief").at("10.0.0.2").on("n1")]);
    c.egress("lab/web -> 10.0.0.2 TCP 80", "allow");
    c.apply(objects![pod("lab/thief").at("10.0.0.2").on("n1").finished()]);
    c.egress("lab/web -> 10.0.0.2 TCP 80", "deny admin//a/egress/0");
}

#[test]
fn nodes_and_networks_of_one_rule_add_up() {
    let to = "{nodes: {matchLabels: {role: db}}}, {networks: [10.0.0.0/30]}, {nodes: {matchLabels: {role: none}}}";
    let mut c = with_roles(&cnp("a", "Admin", 1, &egress("Deny", to, "")));
    c.egress("shop/web -> 10.0.0.1 TCP 80", "deny admin//a/egress/0");
    c.egress("shop/web -> 10.0.0.2 TCP 80", "deny admin//a/egress/0");
    c.delete(key(Kind::ClusterNetworkPolicy, "a"));
    c.egress("shop/web -> 10.0.0.2 TCP 80", "allow");
}

#[test]
fn a_subject_by_namespaces_is_all_their_pods_and_no_host_network_ones() {
    let c =
        cluster(&of_subject("a", "Admin", 1, "namespaces: {matchLabels: {team: a}}", &ingress("Deny", EVERY_POD, "")));
    c.ingress("lab/web -> shop/job TCP 80", "deny admin//a/ingress/0");
    c.ingress("lab/web -> shop/proxy TCP 80", "allow");
    c.ingress("shop/web -> lab/web TCP 80", "allow");
    // A hostNetwork pod is no peer either.
    c.ingress("shop/proxy -> shop/db TCP 80", "allow");
}

#[test]
fn a_pod_with_itself_is_exempt() {
    let c = cluster(&cnp("a", "Admin", 1, &(ingress("Deny", EVERY_POD, "") + &egress("Deny", EVERY_POD, ""))));
    c.verdict("shop/db -> shop/db TCP 80", "allow");
    c.verdict("shop/db -> shop/web TCP 80", "deny");
}

#[test]
fn a_pod_that_a_service_brings_back_to_itself_is_subject() {
    use podgate_api::Direction::{Egress, Ingress};
    let asked = |c: &Cluster, direction| {
        // The node sees such packets only: what a pod sends to its own address never leaves it.
        let flow = c.flow("shop/db -> shop/db TCP 80");
        let judgement = c.snapshot.judge(&flow.to_engine(), podgate_engine::NodeOrigin::Forged);
        let decision = if direction == Ingress { judgement.ingress } else { judgement.egress };
        let rule = decision.rule().and_then(|id| c.snapshot.rule(id)).map(|rule| rule.name.to_string());
        let cause = podgate_policy::reference::judge_hairpin(&c.world, &flow, direction);
        assert_eq!(rule.as_deref(), cause.rule());
        rule.unwrap_or_default()
    };
    let c = cluster(&cnp("a", "Admin", 1, &ingress("Deny", EVERY_POD, TCP_80)));
    assert_eq!((asked(&c, Ingress), asked(&c, Egress)), ("admin//a/ingress/0".into(), String::new()));
    let c = cluster(&cnp("z", "Baseline", 1, &egress("Deny", EVERY_POD, "")));
    assert_eq!((asked(&c, Ingress), asked(&c, Egress)), (String::new(), "baseline//z/egress/0".into()));
    // What NetworkPolicies say of it is undefined; they do not deny it.
    let c = cluster(&v1("shop/closed", "podSelector: {}\npolicyTypes: [Ingress, Egress]"));
    assert_eq!((asked(&c, Ingress), asked(&c, Egress)), (String::new(), String::new()));
}

#[test]
fn a_rule_with_a_peer_of_a_newer_api_fails_closed() {
    let newer = |action| ingress(action, "{namespaces: {}}, {serviceAccounts: {}}", TCP_80);
    let accept = cnp("a", "Admin", 1, &newer("Accept")) + &cnp("b", "Admin", 2, &ingress("Deny", EVERY_POD, TCP_80));
    let c = cluster(&accept);
    c.ingress("shop/web -> shop/db TCP 80", "deny admin//b/ingress/0");
    assert!(warnings(&c)[0].contains("spec.ingress[0].from[1]"), "{:?}", warnings(&c));
    for action in ["Deny", "Pass"] {
        let c = cluster(&cnp("a", "Admin", 1, &newer(action)));
        c.ingress("192.0.2.1 -> shop/db ICMP", "deny admin//a/ingress/0");
        c.ingress("10.0.0.1 -> shop/db TCP 80", "allow");
    }
}

#[test]
fn domain_names_open_nothing_yet() {
    let text = cnp("a", "Admin", 1, &egress("Accept", "{domainNames: [example.com]}", ""))
        + &cnp("b", "Admin", 2, &egress("Deny", "{networks: [0.0.0.0/0, '::/0']}", ""));
    let c = cluster(&text);
    c.egress("shop/web -> 192.0.2.1 TCP 443", "deny admin//b/egress/0");
    assert!(warnings(&c)[0].starts_with("ClusterNetworkPolicy a: spec.egress[0].to[0].domainNames: "));
}

#[test]
fn a_rule_with_a_mistake_is_told_and_closed_and_the_others_hold() {
    let text = cnp(
        "a",
        "Admin",
        1,
        "  ingress:\n  - {action: Accept, from: [{namespaces: {}}], protocols: [{tcp: {}}]}\n  - {action: \
                                    Deny, from: [{namespaces: {matchLabels: {team: b}}}]}\n",
    );
    assert!(refused(&text).starts_with("test.yaml:10: ClusterNetworkPolicy a: spec.ingress[0].protocols[0].tcp."));
    let closed: Vec<Object> = manifest::parse("test.yaml", &text).objects.into_iter().map(|o| o.object).collect();
    let c = cluster_with(closed);
    c.ingress("lab/web -> shop/db TCP 80", "deny admin//a/ingress/1");
    c.ingress("shop/web -> shop/db TCP 80", "allow");
}
