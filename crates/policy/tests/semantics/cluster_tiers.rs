//! The Admin and Baseline tiers, from hand-built specs, until their kinds can be read.

use podgate_api::Direction::Egress;
use podgate_api::Peers;
use podgate_api::Protocol::Tcp;

use crate::cluster::{Cluster, cluster_with, objects};
use crate::common::{admin, baseline, deny, pass, policy, rule};

#[test]
fn the_lower_priority_number_goes_first() {
    let c =
        cluster_with(objects![admin("a", 10).ingress(rule()), admin("b", 5).ingress(deny().pods_in("team=b", "")),]);
    c.ingress("lab/web -> shop/db TCP 80", "deny admin//b/ingress/0");
    c.ingress("shop/web -> shop/db TCP 80", "allow admin//a/ingress/0");
}

#[test]
fn of_equal_priorities_the_name_decides_in_any_order_of_arrival() {
    let mut policies = objects![admin("b", 5).ingress(deny()), admin("a", 5).ingress(rule())];
    for _ in 0..2 {
        policies.reverse();
        let c = Cluster::of([policies.clone(), objects()].concat());
        c.ingress("lab/web -> shop/db TCP 80", "allow admin//a/ingress/0");
    }
}

#[test]
fn within_a_policy_the_first_rule_that_matches_decides() {
    let c = cluster_with(objects![
        admin("a", 5).ingress(deny().port(Tcp, 80)).ingress(rule().ports(Tcp, 80, 90)).ingress(deny()),
    ]);
    c.ingress("lab/web -> shop/db TCP 80", "deny admin//a/ingress/0");
    c.ingress("lab/web -> shop/db TCP 81", "allow admin//a/ingress/1");
    c.ingress("lab/web -> shop/db TCP 91", "deny admin//a/ingress/2");
}

#[test]
fn a_rule_with_a_name_is_called_by_it() {
    let c = cluster_with(objects![admin("a", 5).egress(rule().port(Tcp, 1)).egress(deny().named("no-lab"))]);
    c.egress("shop/db -> lab/web TCP 80", "deny admin//a/egress/no-lab");
    c.egress("shop/db -> lab/web TCP 1", "allow admin//a/egress/0");
}

#[test]
fn the_admin_tier_goes_before_network_policies() {
    let c = cluster_with(objects![
        admin("a", 5).ingress(rule().pods_in("team=b", "")).ingress(deny().port(Tcp, 22)),
        policy("shop/x").ingress(rule().pods("app=web")),
    ]);
    c.ingress("lab/web -> shop/db TCP 80", "allow admin//a/ingress/0");
    c.ingress("shop/web -> shop/db TCP 22", "deny admin//a/ingress/1");
    c.ingress("shop/web -> shop/db TCP 80", "allow networkpolicy/shop/x/ingress/0");
    c.ingress("shop/job -> shop/db TCP 80", "deny networkpolicy/shop/x/ingress/default-deny");
}

#[test]
fn pass_skips_the_rest_of_the_admin_tier() {
    let c = cluster_with(objects![
        admin("a", 1).ingress(pass().pods_in("team=b", "")),
        admin("b", 2).ingress(deny()),
        policy("shop/x").select("app=db").ingress(rule().port(Tcp, 80)),
        baseline("z", 0).ingress(deny().port(Tcp, 81)),
    ]);
    c.ingress("lab/web -> shop/db TCP 80", "allow networkpolicy/shop/x/ingress/0");
    c.ingress("lab/web -> shop/db TCP 81", "deny networkpolicy/shop/x/ingress/default-deny");
    c.ingress("lab/web -> shop/web TCP 81", "deny baseline//z/ingress/0");
    c.ingress("lab/web -> shop/web TCP 80", "allow");
    c.ingress("shop/job -> shop/db TCP 80", "deny admin//b/ingress/0");
}

#[test]
fn cluster_policies_isolate_nothing_by_themselves() {
    let c = cluster_with(objects![admin("a", 1).ingress(rule().port(Tcp, 80)).egress(deny().port(Tcp, 22))]);
    c.ingress("lab/web -> shop/db TCP 81", "allow");
    c.egress("shop/db -> lab/web TCP 80", "allow");
}

#[test]
fn network_policies_are_final_for_the_pods_and_directions_they_isolate() {
    let c = cluster_with(objects![
        policy("shop/x").select("app=db").isolating(Egress),
        baseline("z", 0).ingress(deny()).egress(rule()),
    ]);
    c.egress("shop/db -> lab/web TCP 80", "deny networkpolicy/shop/x/egress/default-deny");
    c.egress("shop/web -> lab/web TCP 80", "allow baseline//z/egress/0");
    // An egress-only policy leaves the Baseline in force for ingress.
    c.ingress("lab/web -> shop/db TCP 80", "deny baseline//z/ingress/0");
}

#[test]
fn network_policies_that_accept_are_final_as_well() {
    let c = cluster_with(objects![policy("shop/x").ingress(rule()), baseline("z", 0).ingress(deny())]);
    c.ingress("lab/web -> shop/db TCP 80", "allow networkpolicy/shop/x/ingress/0");
    c.ingress("shop/web -> lab/web TCP 80", "deny baseline//z/ingress/0");
}

#[test]
fn baseline_policies_have_priorities_too() {
    let c = cluster_with(objects![baseline("a", 9).ingress(deny()), baseline("b", 8).ingress(rule().port(Tcp, 80)),]);
    c.ingress("lab/web -> shop/db TCP 80", "allow baseline//b/ingress/0");
    c.ingress("lab/web -> shop/db TCP 81", "deny baseline//a/ingress/0");
}

#[test]
fn a_subject_is_namespaces_and_pods_both() {
    let c = cluster_with(objects![admin("a", 1).select_namespaces("team=b").select("app=web").ingress(deny())]);
    c.ingress("shop/db -> lab/web TCP 80", "deny admin//a/ingress/0");
    c.ingress("shop/db -> lab/tool TCP 80", "allow");
    c.ingress("lab/tool -> shop/web TCP 80", "allow");
}

#[test]
fn host_network_pods_are_never_subjects_nor_peers() {
    let c = cluster_with(objects![admin("a", 1).ingress(deny().pods_in("", "")).egress(deny())]);
    c.ingress("lab/web -> shop/proxy TCP 8080", "allow");
    c.egress("shop/proxy -> lab/web TCP 80", "allow");
    c.ingress("shop/proxy -> shop/db TCP 80", "allow");
}

#[test]
fn the_own_node_always_gets_in() {
    let c = cluster_with(objects![admin("a", 1).ingress(deny()), baseline("z", 1).ingress(deny())]);
    c.ingress("10.0.0.1 -> shop/db TCP 80", "allow");
    c.ingress("10.0.0.2 -> shop/db TCP 80", "deny admin//a/ingress/0");
}

#[test]
fn a_deny_of_the_admin_tier_is_about_the_own_node_in_egress() {
    let denying = objects![admin("a", 1).egress(deny().block("10.0.0.0/24", &[]).port(Tcp, 10250))];
    let c = cluster_with([denying, objects![policy("shop/x").isolating(Egress)]].concat());
    c.egress("shop/db -> 10.0.0.1 TCP 10250", "deny admin//a/egress/0");
    c.egress("shop/db -> 10.0.0.1 TCP 53", "allow");
    c.egress("shop/db -> 10.0.0.2 TCP 10250", "deny admin//a/egress/0");
}

#[test]
fn a_deny_of_the_baseline_is_about_the_own_node_where_no_network_policy_isolates() {
    let c =
        cluster_with(objects![baseline("z", 1).egress(deny()), policy("shop/x").select("app=db").isolating(Egress),]);
    c.egress("shop/web -> 10.0.0.1 TCP 80", "deny baseline//z/egress/0");
    c.egress("shop/db -> 10.0.0.1 TCP 80", "allow");
}

#[test]
fn a_pod_with_itself_is_exempt() {
    let c = cluster_with(objects![admin("a", 1).ingress(deny()).egress(deny())]);
    c.verdict("shop/db -> shop/db TCP 80", "allow");
    c.egress("shop/db -> shop/web TCP 80", "deny admin//a/egress/0");
}

#[test]
fn a_rule_without_ports_is_about_protocols_without_ports_too() {
    let c = cluster_with(objects![admin("a", 1).ingress(deny().port(Tcp, 80)).ingress(deny().pods_in("team=b", ""))]);
    c.ingress("lab/web -> shop/db ICMP", "deny admin//a/ingress/1");
    c.ingress("shop/web -> shop/db ICMP", "allow");
}

#[test]
fn a_rule_whose_peers_are_all_unknown_matches_nobody() {
    let mut none = rule().named("newer");
    none.0.peers = Peers::Of(Vec::new());
    let c = cluster_with(objects![admin("a", 1).ingress(none).ingress(deny())]);
    c.ingress("lab/web -> shop/db TCP 80", "deny admin//a/ingress/1");
}
