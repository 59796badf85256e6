//! What is done to packets and tables in the kernel: others' marks, others' tables, others' hands.

use podgate_sandbox::ProbeKind::Tcp;
use podgate_sandbox::{PATIENCE, Pod, Probe, Server};

use crate::kit::{Node, pair, policy, web_on};

/// Only port 80 of the two is open.
fn shop() -> (Node, Pod, Pod, Server) {
    let (node, web, client, server) = pair(&[80, 81], &[]);
    node.write("policy.yaml", &web_on("TCP", 80));
    (node, web, client, server)
}

fn nft(node: &Node, rules: &str) {
    let (ok, said) = node.command("nft", &[rules]);
    assert!(ok, "{said}");
}

#[test]
fn marks_of_others_survive_a_verdict_and_ours_do_not_leave() {
    let (mut node, web, client, _server) = shop();
    // kube-proxy's bits before us, and a counter behind us for each outcome.
    nft(
        &node,
        "table inet others { chain before { type filter hook forward priority filter; meta mark set meta mark or 0xabcd4000; }; \
         chain after { type filter hook postrouting priority 300; meta mark 0xabcd4000 counter name kept; \
         meta mark != 0xabcd4000 ip daddr 10.244.0.0/16 tcp dport 80 counter name lost; }; counter kept { }; counter lost { }; }",
    );
    node.start(&[]);
    let mut connection = client.client().open(web.v4(), 80, PATIENCE).expect("permitted");
    for _ in 0..3 {
        connection.ping(PATIENCE).expect("permitted");
    }
    let counters = node.command("nft", &["list", "counters", "table", "inet", "others"]).1;
    let count = |name: &str| {
        let after = counters.split_once(&format!("counter {name} {{")).expect("the counter").1;
        after.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).expect("a number")
    };
    assert!(count("kept") > 0 && count("lost") == 0, "{counters}");
}

#[test]
fn a_service_address_is_judged_as_the_pod_behind_it() {
    let (mut node, web, client, _server) = shop();
    nft(
        &node,
        "table ip services { chain prerouting { type nat hook prerouting priority dstnat; \
         ip daddr 10.96.0.1 tcp dport 8080 dnat to 10.244.1.2:80; ip daddr 10.96.0.1 tcp dport 8081 dnat to 10.244.1.2:81; }; }",
    );
    assert_eq!(web.v4().to_string(), "10.244.1.2", "the first pod's address");
    node.start(&[]);
    let service = "10.96.0.1".parse().expect("an address");
    node.expect(&[
        Probe::open(client.client(), service, Tcp(8080)),
        Probe::closed(client.client(), service, Tcp(8081)),
    ]);
    let mut connection = client.client().open(service, 8080, PATIENCE).expect("permitted");
    connection.ping(PATIENCE).expect("permitted");
    node.apply("policy.yaml", &policy("web", "shop", "{podSelector: {matchLabels: {app: web}}}"));
    assert!(connection.ping(podgate_sandbox::DENY_WAIT).is_err(), "{}", node.log());
}

#[test]
fn a_pod_that_a_service_brings_back_to_itself_is_denied_by_cluster_tiers_alone() {
    let (mut node, web, _client, _server) = shop();
    // As kube-proxy does it: the pod would drop what comes from its own address.
    nft(
        &node,
        "table ip services { chain prerouting { type nat hook prerouting priority dstnat; \
         ip daddr 10.96.0.1 tcp dport 80 dnat to 10.244.1.2:80; }; \
         chain postrouting { type nat hook postrouting priority srcnat; \
         ip saddr 10.244.1.2 ip daddr 10.244.1.2 masquerade; }; }",
    );
    assert_eq!(web.v4().to_string(), "10.244.1.2", "the first pod's address");
    node.write("policy.yaml", &policy("web", "shop", "{podSelector: {}, policyTypes: [Ingress, Egress]}"));
    node.start(&[]);
    let service = "10.96.0.1".parse().expect("an address");
    node.expect(&[Probe::open(web.client(), service, Tcp(80)), Probe::open(web.client(), web.v4(), Tcp(80))]);
    node.apply(
        "cluster.yaml",
        "{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {name: no-hairpin}, spec: \
         {tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}}",
    );
    node.expect(&[Probe::closed(web.client(), service, Tcp(80)), Probe::open(web.client(), web.v4(), Tcp(80))]);
}

#[test]
fn a_flushed_ruleset_is_put_back() {
    let (mut node, web, client, _server) = shop();
    node.start(&[]);
    node.expect(&[Probe::closed(client.client(), web.v4(), Tcp(81))]);
    nft(&node, "flush ruleset");
    node.await_metric("podgate_kernel_repairs_total", 1.0);
    node.expect(&[Probe::closed(client.client(), web.v4(), Tcp(81)), Probe::open(client.client(), web.v4(), Tcp(80))]);
}

#[test]
fn sets_that_others_change_are_put_back() {
    let (mut node, web, client, _server) = shop();
    node.start(&[]);
    let forbidden = || Probe::closed(client.client(), web.v4(), Tcp(81));
    node.expect(&[forbidden()]);
    let opened = format!("add element inet podgate open_ingress4 {{ {} }}", web.v4());
    for (others, repairs) in [("flush set inet podgate ranges4", 1.0), (&*opened, 2.0)] {
        nft(&node, others);
        node.await_metric("podgate_kernel_repairs_total", repairs);
        node.expect(&[forbidden(), Probe::open(client.client(), web.v4(), Tcp(80))]);
    }
    // What it does itself to put things back does not count as others' doing.
    assert_eq!(node.metric("podgate_kernel_repairs_total"), 2.0, "{}", node.log());
}

#[test]
fn not_ready_while_the_rules_cannot_be_written_whatever_else_changes() {
    let (mut node, web, client, _server) = shop();
    node.start(&[]);
    // A chain of our name and another kind is in the way.
    nft(
        &node,
        "delete table inet podgate; add table inet podgate; \
         add chain inet podgate postrouting { type filter hook forward priority filter; }",
    );
    node.agent().await_line("cannot write the kernel's rules");
    let generation = node.generation();
    // A change for which the kernel's sets stay as they are: nothing to write is no proof that all is well.
    node.write("policy.yaml", &web_on("TCP", 81));
    node.await_metric("podgate_generation", (generation + 1) as f64);
    let (status, body) = node.get("/readyz");
    assert!(status == 503 && body.contains("kernel's rules"), "{status} {body}\n{}", node.log());
    nft(&node, "delete table inet podgate");
    node.await_generation(generation + 1);
    node.expect(&[Probe::closed(client.client(), web.v4(), Tcp(80)), Probe::open(client.client(), web.v4(), Tcp(81))]);
}

#[test]
fn traffic_that_is_no_pods_is_not_touched() {
    let (mut node, _web, _client, _server) = shop();
    let near = node.host.outside("near", &["198.51.100.7".parse().expect("one")]).expect("an outside");
    let far = node.host.outside("far", &["203.0.113.9".parse().expect("one")]).expect("an outside");
    let _server = far.server(&[80], &[]).expect("a server");
    node.start(&[]);
    let before = node.metric("podgate_packets_total{verdict=\"accept\"}");
    node.expect(&[Probe::open(near.netns().client(), far.addresses()[0], Tcp(80))]);
    assert_eq!(node.metric("podgate_packets_total{verdict=\"accept\"}"), before);
}
