//! `ipBlock`: blocks, what they leave out, and both address families.

use crate::cluster::{Cluster, cluster, cluster_with, refused, v1};
use crate::common::{policy, rule};

const DENIED: &str = "deny networkpolicy/shop/x/ingress/default-deny";
const RULE: &str = "allow networkpolicy/shop/x/ingress/0";

fn block_policy(block: &str) -> String {
    v1("shop/x", &format!("podSelector: {{}}\ningress:\n- from:\n  - ipBlock: {block}"))
}

#[track_caller]
fn from(block: &str) -> Cluster {
    cluster(&block_policy(block))
}

#[test]
fn a_block_ends_at_its_ends() {
    let c = from("{cidr: 203.0.113.64/26}");
    c.ingress("203.0.113.63 -> shop/db TCP 80", DENIED);
    c.ingress("203.0.113.64 -> shop/db TCP 80", RULE);
    c.ingress("203.0.113.127 -> shop/db TCP 80", RULE);
    c.ingress("203.0.113.128 -> shop/db TCP 80", DENIED);
}

#[test]
fn an_except_leaves_a_part_out() {
    let c = from("{cidr: 203.0.113.0/24, except: [203.0.113.64/26, 203.0.113.0/32]}");
    c.ingress("203.0.113.0 -> shop/db TCP 80", DENIED);
    c.ingress("203.0.113.1 -> shop/db TCP 80", RULE);
    c.ingress("203.0.113.63 -> shop/db TCP 80", RULE);
    c.ingress("203.0.113.64 -> shop/db TCP 80", DENIED);
    c.ingress("203.0.113.127 -> shop/db TCP 80", DENIED);
    c.ingress("203.0.113.128 -> shop/db TCP 80", RULE);
}

#[test]
fn an_empty_except_leaves_nothing_out() {
    let c = from("{cidr: 203.0.113.0/24, except: []}");
    c.ingress("203.0.113.0 -> shop/db TCP 80", RULE);
}

#[test]
fn an_except_does_not_keep_another_peer_from_matching() {
    let block = "podSelector: {}\ningress:\n- from:\n  - ipBlock: {cidr: 203.0.113.0/24, except: [203.0.113.64/26]}\n";
    let c = cluster(&v1("shop/x", &format!("{block}  - ipBlock: {{cidr: 203.0.113.65/32}}")));
    c.ingress("203.0.113.65 -> shop/db TCP 80", RULE);
    c.ingress("203.0.113.66 -> shop/db TCP 80", DENIED);
}

#[test]
fn an_except_does_not_keep_another_rule_or_policy_from_matching() {
    let excepting = rule().block("203.0.113.0/24", &["203.0.113.64/26"]);
    let c = cluster_with(objects![
        policy("shop/x").ingress(excepting).ingress(rule().block("203.0.113.65/32", &[])),
        policy("shop/y").ingress(rule().block("203.0.113.66/32", &[])),
    ]);
    c.ingress("203.0.113.1 -> shop/db TCP 80", RULE);
    c.ingress("203.0.113.65 -> shop/db TCP 80", "allow networkpolicy/shop/x/ingress/1");
    c.ingress("203.0.113.66 -> shop/db TCP 80", "allow networkpolicy/shop/y/ingress/0");
    c.ingress("203.0.113.67 -> shop/db TCP 80", DENIED);
}

#[test]
fn a_block_matches_pod_addresses_too() {
    let c = from("{cidr: 10.0.0.0/8, except: [10.2.0.10/32]}");
    c.ingress("shop/web -> shop/db TCP 80", RULE);
    c.ingress("lab/tool -> shop/db TCP 80", RULE);
    c.ingress("lab/web -> shop/db TCP 80", DENIED);
}

#[test]
fn an_excepted_pod_is_let_in_by_a_selector() {
    let blocks = rule().block("10.0.0.0/8", &["10.2.0.0/16"]);
    let c = cluster_with(objects![policy("shop/x").ingress(blocks.pods_in("", "app=tool"))]);
    c.ingress("lab/tool -> shop/db TCP 80", RULE);
    c.ingress("lab/web -> shop/db TCP 80", DENIED);
}

#[test]
fn host_bits_of_a_block_are_masked() {
    let c = from("{cidr: 10.0.0.5/8, except: [10.2.0.99/16]}");
    c.ingress("10.255.255.255 -> shop/db TCP 80", RULE);
    c.ingress("10.0.0.0 -> shop/db TCP 80", RULE);
    c.ingress("lab/web -> shop/db TCP 80", DENIED);
}

#[test]
fn an_except_must_be_a_strict_part_of_its_block() {
    for except in ["10.0.0.0/8", "10.9.9.9/8", "0.0.0.0/0", "11.0.0.0/16", "fd00::/64", "10.0.0.0"] {
        let errors = refused(&block_policy(&format!("{{cidr: 10.0.0.0/8, except: ['{except}']}}")));
        assert!(errors.contains("spec.ingress[0].from[0].ipBlock.except[0]"), "{except}: {errors}");
    }
}

#[test]
fn a_bad_block_is_refused() {
    for cidr in ["10.0.0.0", "10.0.0.0/33", "fd00::/129", "ten"] {
        let errors = refused(&block_policy(&format!("{{cidr: '{cidr}'}}")));
        assert!(errors.contains("spec.ingress[0].from[0].ipBlock.cidr"), "{cidr}: {errors}");
    }
}

#[test]
fn a_block_and_a_selector_do_not_go_together() {
    let peer = "ipBlock: {cidr: 10.0.0.0/8}\n    podSelector: {}";
    let errors = refused(&v1("shop/x", &format!("podSelector: {{}}\ningress:\n- from:\n  - {peer}")));
    assert!(errors.contains("spec.ingress[0].from[0]"), "{errors}");
}

#[test]
fn an_ipv6_block_ends_at_its_ends() {
    let c = from("{cidr: '2001:db8::/33', except: ['2001:db8:0:1::/64']}");
    c.ingress("2001:db8:: -> shop/db#6 TCP 80", RULE);
    c.ingress("2001:db8:0:1:: -> shop/db#6 TCP 80", DENIED);
    c.ingress("2001:db8:0:1:ffff:ffff:ffff:ffff -> shop/db#6 TCP 80", DENIED);
    c.ingress("2001:db8:0:2:: -> shop/db#6 TCP 80", RULE);
    c.ingress("2001:db8:7fff:ffff:ffff:ffff:ffff:ffff -> shop/db#6 TCP 80", RULE);
    c.ingress("2001:db8:8000:: -> shop/db#6 TCP 80", DENIED);
}

#[test]
fn the_blocks_of_everything_are_of_one_family_each() {
    let c = from("{cidr: 0.0.0.0/0}");
    c.ingress("203.0.113.9 -> shop/db TCP 80", RULE);
    c.ingress("2001:db8::9 -> shop/db#6 TCP 80", DENIED);
    let c = from("{cidr: '::/0'}");
    c.ingress("203.0.113.9 -> shop/db TCP 80", DENIED);
    c.ingress("shop/web -> shop/db TCP 80", DENIED);
    c.ingress("2001:db8::9 -> shop/db#6 TCP 80", RULE);
}

#[test]
fn the_first_and_the_last_address_are_in_the_block_of_everything() {
    let c = from("{cidr: 0.0.0.0/0, except: [128.0.0.0/1]}");
    c.ingress("0.0.0.0 -> shop/db TCP 80", RULE);
    c.ingress("127.255.255.255 -> shop/db TCP 80", RULE);
    c.ingress("255.255.255.255 -> shop/db TCP 80", DENIED);
    let c = from("{cidr: '::/0', except: ['::/1']}");
    c.ingress(":: -> shop/db#6 TCP 80", DENIED);
    c.ingress("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff -> shop/db#6 TCP 80", RULE);
}

#[test]
fn blocks_work_in_egress() {
    let rules = "egress:\n- to:\n  - ipBlock: {cidr: 203.0.113.0/24, except: [203.0.113.9/32]}";
    let c = cluster(&v1("shop/x", &format!("podSelector: {{}}\npolicyTypes: [Egress]\n{rules}")));
    c.egress("shop/db -> 203.0.113.8 TCP 80", "allow networkpolicy/shop/x/egress/0");
    c.egress("shop/db -> 203.0.113.9 TCP 80", "deny networkpolicy/shop/x/egress/default-deny");
    c.egress("shop/db -> lab/web TCP 80", "deny networkpolicy/shop/x/egress/default-deny");
}
