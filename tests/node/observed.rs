//! What people and Prometheus see: counters by rule, readiness with reasons, broken files, denies.

use podgate_sandbox::ProbeKind::Tcp;
use podgate_sandbox::{PodOptions, Probe};

use crate::kit::{Node, deny_all, pair, web_on};

fn web_80() -> String {
    web_on("TCP", 80)
}

#[test]
fn each_verdict_counts_at_its_rule_exactly_once() {
    let (mut node, web, client, _server) = pair(&[80, 81], &[]);
    node.write("policy.yaml", &web_80());
    node.start(&[]);
    let (allow, deny) = ("networkpolicy/shop/web/ingress/0", "networkpolicy/shop/web/ingress/default-deny");
    assert_eq!((node.rule_count(allow), node.rule_count(deny)), (0.0, 0.0), "rules are there before they are used");
    let permitted = Probe::open(client.client(), web.v4(), Tcp(80));
    node.expect(&vec![permitted; 20]);
    assert_eq!(node.rule_count(allow), 20.0);
    node.expect(&[Probe::closed(client.client(), web.v4(), Tcp(81))]);
    assert!(node.rule_count(deny) >= 1.0);
    let default = "podgate_default_deny_total{namespace=\"shop\",policy=\"web\",direction=\"ingress\"}";
    assert!(node.metric(default) >= 1.0);
    // On a slow machine the kernel repeats the last of them already.
    let repeated = node.metric("podgate_cache_hits_total{verdict=\"accept\"}");
    assert!(node.metric("podgate_verdict_duration_seconds_count") + repeated >= 21.0);
    node.agent().await_line(deny);
}

#[test]
fn the_metrics_pass_promtool() {
    let (mut node, web, client, _server) = pair(&[80, 81], &[]);
    node.write("policy.yaml", &web_80());
    node.start(&[]);
    node.expect(&[Probe::open(client.client(), web.v4(), Tcp(80)), Probe::closed(client.client(), web.v4(), Tcp(81))]);
    let metrics = node.get("/metrics").1;
    let file = node.directory().join("metrics.txt");
    std::fs::write(&file, &metrics).expect("written");
    let (ok, said) = node.command("bash", &["-c", &format!("promtool check metrics < {}", file.display())]);
    assert!(ok && said.trim().is_empty(), "{said}\n{metrics}");
}

#[test]
fn a_broken_file_keeps_its_last_good_state_and_is_told() {
    let (mut node, web, client, _server) = pair(&[80, 81], &[]);
    node.write("policy.yaml", &web_80());
    node.start(&[]);
    node.write("policy.yaml", &web_80().replace("port: 80", "port: 80, endPort: 79"));
    let line = node.agent().await_line("endPort");
    assert!(line.contains("policy.yaml:"), "{line}");
    assert_eq!(node.metric("podgate_source_problems"), 1.0);
    node.expect(&[Probe::open(client.client(), web.v4(), Tcp(80)), Probe::closed(client.client(), web.v4(), Tcp(81))]);
    node.apply("policy.yaml", &web_80().replace("port: 80", "port: 81"));
    assert_eq!(node.metric("podgate_source_problems"), 0.0);
    node.expect(&[Probe::open(client.client(), web.v4(), Tcp(81))]);
}

#[test]
fn a_policy_that_cannot_be_understood_at_the_start_closes_its_namespace() {
    let (mut node, web, client, _server) = pair(&[80, 81], &[]);
    node.write("policy.yaml", &web_80().replace("podSelector", "podSelektor"));
    node.start(&[]);
    node.expect(&[Probe::closed(client.client(), web.v4(), Tcp(80))]);
    node.apply("policy.yaml", &web_80());
    node.expect(&[Probe::open(client.client(), web.v4(), Tcp(80))]);
}

#[test]
fn every_metric_is_in_the_architectures_table() {
    let (mut node, ..) = pair(&[], &[]);
    node.start(&[]);
    let table = include_str!("../../ARCHITECTURE.md");
    let metrics = node.get("/metrics").1;
    let names = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let missing: Vec<_> = names.filter(|n| !n.starts_with("process_") && !table.contains(&format!("`{n}`"))).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn the_size_of_the_world_is_told() {
    let (mut node, ..) = pair(&[], &[]);
    node.write("deny.yaml", &deny_all("shop"));
    node.start(&[]);
    let sizes = |node: &Node| ["podgate_namespaces", "podgate_pods", "podgate_policies"].map(|name| node.metric(name));
    assert_eq!(sizes(&node), [1.0, 2.0, 1.0]);
    node.agent().await_line("the manifests are in force namespaces=1 pods=2 policies=1");
    node.remove("deny.yaml");
    assert_eq!(sizes(&node), [1.0, 2.0, 0.0]);
}

#[test]
fn readiness_and_health_are_told() {
    let (mut node, ..) = pair(&[], &[]);
    node.write("deny.yaml", &deny_all("shop"));
    node.start(&[]);
    assert_eq!(node.get("/healthz").0, 200);
    assert_eq!(node.get("/readyz").0, 200);
    assert_eq!(node.get("/elsewhere").0, 404);
}

#[test]
fn a_node_without_pods_of_its_own_is_told() {
    let mut node = Node::new();
    let pod = node.host.pod(PodOptions::new("shop/web")).expect("a pod");
    node.write("pod.yaml", &pod.manifest().replace("nodeName: node", "nodeName: another"));
    node.start(&[]);
    node.agent().await_line("no pod has spec.nodeName node");
}
