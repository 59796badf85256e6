//! Kubernetes' own walkthrough and the common wishes, on real packets: who gets in, in both directions, IPv4 and IPv6.

use podgate_sandbox::ProbeKind::{Echo, Tcp, Udp};
use podgate_sandbox::{Pod, PodOptions, Probe, Server};

use crate::kit::{Node, deny_all, policy};

struct Shop {
    node: Node,
    web: Pod,
    friend: Pod,
    stranger: Pod,
    elsewhere: Pod,
    _server: Server,
}

/// web serves TCP 80 and UDP 53; friend has access=true; elsewhere is in another namespace, labelled team=ops.
fn shop() -> Shop {
    let mut node = Node::new();
    node.write(
        "namespaces.yaml",
        "{apiVersion: v1, kind: Namespace, metadata: {name: shop}}\n---\n\
         {apiVersion: v1, kind: Namespace, metadata: {name: ops, labels: {team: ops}}}\n",
    );
    node.write("node.yaml", &node.host.manifest());
    let web = node.pod(PodOptions::new("shop/web").label("app", "web"));
    let friend = node.pod(PodOptions::new("shop/friend").label("access", "true"));
    let stranger = node.pod(PodOptions::new("shop/stranger"));
    let elsewhere = node.pod(PodOptions::new("ops/elsewhere"));
    let server = web.server(&[80, 81], &[53]).expect("a server");
    node.start(&[]);
    Shop { node, web, friend, stranger, elsewhere, _server: server }
}

/// Probes of web from a pod over both families.
fn over_both(from: &Pod, web: &Pod, kind: podgate_sandbox::ProbeKind, open: bool) -> [Probe; 2] {
    let probe = if open { Probe::open } else { Probe::closed };
    [probe(from.client(), web.v4(), kind), probe(from.client(), web.v6(), kind)]
}

#[test]
fn without_a_policy_everything_is_open() {
    let shop = shop();
    let probes = [Tcp(80), Udp(53), Echo].map(|kind| over_both(&shop.stranger, &shop.web, kind, true));
    shop.node.expect(probes.as_flattened());
}

#[test]
fn the_annotation_isolates_and_an_old_policy_lets_the_labelled_in() {
    let shop = shop();
    shop.node.apply(
        "namespaces.yaml",
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: shop\n  annotations:\n    \
         net.beta.kubernetes.io/network-policy: '{\"ingress\":{\"isolation\":\"DefaultDeny\"}}'\n",
    );
    shop.node.expect(&over_both(&shop.friend, &shop.web, Tcp(80), false));
    shop.node.apply(
        "policy.yaml",
        "apiVersion: extensions/v1beta1\nkind: NetworkPolicy\nmetadata: {name: access, namespace: shop}\n\
         spec:\n  podSelector: {matchLabels: {app: web}}\n  ingress:\n  \
         - from: [{podSelector: {matchLabels: {access: \"true\"}}}]\n",
    );
    let mut probes = over_both(&shop.friend, &shop.web, Tcp(80), true).to_vec();
    probes.extend(over_both(&shop.stranger, &shop.web, Tcp(80), false));
    probes.extend(over_both(&shop.elsewhere, &shop.web, Tcp(80), false));
    shop.node.expect(&probes);
    assert!(shop.node.rule_count("networkpolicy/shop/access/ingress/0") >= 2.0);
    assert!(shop.node.rule_count("networkpolicy/shop/(annotation)/ingress/default-deny") >= 2.0);
}

#[test]
fn an_old_policy_without_the_annotation_has_no_effect_and_a_warning() {
    let shop = shop();
    shop.node.apply(
        "policy.yaml",
        "apiVersion: extensions/v1beta1\nkind: NetworkPolicy\nmetadata: {name: access, namespace: shop}\n\
         spec:\n  podSelector: {matchLabels: {app: web}}\n  ingress:\n  \
         - from: [{podSelector: {matchLabels: {access: \"true\"}}}]\n",
    );
    shop.node.expect(&over_both(&shop.stranger, &shop.web, Tcp(80), true));
    assert_eq!(shop.node.metric("podgate_policy_warnings"), 1.0);
    shop.node.agent().await_line("has no effect");
}

#[test]
fn deny_all_cuts_a_service_off_in_every_protocol() {
    let shop = shop();
    shop.node.apply("policy.yaml", &policy("closed", "shop", "{podSelector: {matchLabels: {app: web}}}"));
    let probes = [Tcp(80), Udp(53), Echo].map(|kind| over_both(&shop.friend, &shop.web, kind, false));
    shop.node.expect(probes.as_flattened());
    // Only web's ingress is isolated: the others are as open as before.
    shop.node.expect(&[Probe::open(shop.web.client(), shop.friend.v4(), Echo)]);
    shop.node.remove("policy.yaml");
    shop.node.expect(&over_both(&shop.friend, &shop.web, Udp(53), true));
}

#[test]
fn an_allowance_by_label_is_for_that_port_and_protocol_only() {
    let shop = shop();
    shop.node.apply(
        "policy.yaml",
        &policy(
            "web",
            "shop",
            "{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{podSelector: {matchLabels: {access: 'true'}}}], \
             ports: [{port: 80}]}]}",
        ),
    );
    let mut probes = over_both(&shop.friend, &shop.web, Tcp(80), true).to_vec();
    probes.extend(over_both(&shop.friend, &shop.web, Tcp(81), false));
    probes.extend(over_both(&shop.friend, &shop.web, Udp(53), false));
    probes.extend(over_both(&shop.friend, &shop.web, Echo, false));
    probes.extend(over_both(&shop.stranger, &shop.web, Tcp(80), false));
    shop.node.expect(&probes);
}

#[test]
fn a_namespace_is_let_in_by_its_label() {
    let shop = shop();
    shop.node.apply(
        "policy.yaml",
        &policy(
            "ops",
            "shop",
            "{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: ops}}}]}]}",
        ),
    );
    let mut probes = over_both(&shop.elsewhere, &shop.web, Tcp(80), true).to_vec();
    probes.extend(over_both(&shop.elsewhere, &shop.web, Echo, true));
    probes.extend(over_both(&shop.friend, &shop.web, Tcp(80), false));
    shop.node.expect(&probes);
    // The label goes: so does the permission.
    shop.node.apply(
        "namespaces.yaml",
        "{apiVersion: v1, kind: Namespace, metadata: {name: shop}}\n---\n\
         {apiVersion: v1, kind: Namespace, metadata: {name: ops, labels: {team: dev}}}\n",
    );
    shop.node.expect(&over_both(&shop.elsewhere, &shop.web, Tcp(80), false));
}

#[test]
fn an_address_block_lets_the_outside_in_but_not_its_exceptions() {
    let shop = shop();
    let outside = ["203.0.113.9", "203.0.113.77", "2001:db8::9", "2001:db8:bad::9"].map(|a| a.parse().expect("one"));
    let world = shop.node.host.outside("outside", &outside).expect("an outside");
    shop.node.apply(
        "policy.yaml",
        &policy(
            "outside",
            "shop",
            "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 203.0.113.0/24, except: [203.0.113.64/26]}}, \
             {ipBlock: {cidr: '2001:db8::/32', except: ['2001:db8:bad::/48']}}]}]}",
        ),
    );
    let from = |address: usize| world.netns().client().from(outside[address]);
    shop.node.expect(&[
        Probe::open(from(0), shop.web.v4(), Tcp(80)),
        Probe::closed(from(1), shop.web.v4(), Tcp(80)),
        Probe::open(from(2), shop.web.v6(), Tcp(80)),
        Probe::closed(from(3), shop.web.v6(), Tcp(80)),
        Probe::closed(shop.friend.client(), shop.web.v4(), Tcp(80)),
    ]);
}

#[test]
fn egress_is_for_the_listed_ports_only_and_replies_follow() {
    let shop = shop();
    shop.node.apply(
        "policy.yaml",
        &policy(
            "egress",
            "shop",
            "{podSelector: {matchLabels: {access: 'true'}}, policyTypes: [Egress], egress: [{ports: [{port: 80, endPort: 80}, \
             {protocol: UDP, port: 50, endPort: 60}]}]}",
        ),
    );
    let mut probes = over_both(&shop.friend, &shop.web, Tcp(80), true).to_vec();
    probes.extend(over_both(&shop.friend, &shop.web, Udp(53), true));
    probes.extend(over_both(&shop.friend, &shop.web, Tcp(81), false));
    probes.extend(over_both(&shop.friend, &shop.web, Echo, false));
    // Its ingress is not isolated: it answers whoever asks.
    probes.extend(over_both(&shop.stranger, &shop.friend, Echo, true));
    shop.node.expect(&probes);
}

#[test]
fn both_ends_must_allow() {
    let shop = shop();
    shop.node.apply("deny.yaml", &deny_all("shop"));
    let ingress = policy("in", "shop", "{podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{port: 80}]}]}");
    shop.node.apply("in.yaml", &ingress);
    shop.node.expect(&over_both(&shop.friend, &shop.web, Tcp(80), false));
    let egress = policy(
        "out",
        "shop",
        "{podSelector: {matchLabels: {access: 'true'}}, policyTypes: [Egress], egress: [{to: [{podSelector: \
         {matchLabels: {app: web}}}]}]}",
    );
    shop.node.apply("out.yaml", &egress);
    shop.node.expect(&over_both(&shop.friend, &shop.web, Tcp(80), true));
    shop.node.expect(&over_both(&shop.elsewhere, &shop.web, Tcp(80), true));
    shop.node.expect(&over_both(&shop.stranger, &shop.web, Tcp(80), false));
}

#[test]
fn a_named_port_is_each_pods_own_number() {
    let mut node = Node::new();
    node.write("node.yaml", &node.host.manifest());
    let low = node.pod(PodOptions::new("shop/low").label("app", "web").port("http", 8080, "TCP"));
    let high = node.pod(PodOptions::new("shop/high").label("app", "web").port("http", 9090, "TCP"));
    let wrong = node.pod(PodOptions::new("shop/wrong").label("app", "web").port("http", 8080, "UDP"));
    let client = node.pod(PodOptions::new("shop/client"));
    let _servers = [&low, &high, &wrong].map(|p| p.server(&[8080, 9090], &[8080]).expect("a server"));
    node.write(
        "policy.yaml",
        &policy("http", "shop", "{podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{port: http}]}]}"),
    );
    node.start(&[]);
    let c = || client.client();
    node.expect(&[
        Probe::open(c(), low.v4(), Tcp(8080)),
        Probe::closed(c(), low.v4(), Tcp(9090)),
        Probe::closed(c(), high.v4(), Tcp(8080)),
        Probe::open(c(), high.v4(), Tcp(9090)),
        Probe::closed(c(), wrong.v4(), Tcp(8080)),
        Probe::closed(c(), wrong.v4(), Udp(8080)),
    ]);
    // The same as egress: resolved on each peer.
    node.remove("policy.yaml");
    node.apply(
        "policy.yaml",
        &policy("out", "shop", "{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: http}]}]}"),
    );
    node.expect(&[
        Probe::open(c(), low.v6(), Tcp(8080)),
        Probe::closed(c(), low.v6(), Tcp(9090)),
        Probe::open(c(), high.v6(), Tcp(9090)),
        Probe::closed(c(), high.v6(), Tcp(8080)),
    ]);
}

#[test]
fn only_the_pods_own_node_judges() {
    let mut node = Node::new();
    let far = node.neighbour(2);
    node.write("node.yaml", &(node.host.manifest() + &far.manifest()));
    let here = node.pod(PodOptions::new("shop/here"));
    let there = far.pod(PodOptions::new("shop/there").label("app", "far")).expect("a pod");
    node.tell(&there);
    let _servers = [&here, &there].map(|p| p.server(&[80], &[]).expect("a server"));
    // What the far pod may take is its own node's business, on which no agent runs.
    let spec = "{podSelector: {matchLabels: {app: far}}, policyTypes: [Ingress, Egress]}";
    node.write("policy.yaml", &policy("far", "shop", spec));
    node.start(&[]);
    node.expect(&[Probe::open(here.client(), there.v4(), Tcp(80)), Probe::open(there.client(), here.v6(), Tcp(80))]);
    node.apply("policy.yaml", &deny_all("shop"));
    node.expect(&[
        Probe::closed(here.client(), there.v4(), Tcp(80)),
        Probe::closed(there.client(), here.v6(), Tcp(80)),
    ]);
}
