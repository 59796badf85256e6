//! A service by IPVS, as kube-proxy makes it in that mode: the service's address is the node's own, packets go in by
//! `input` and leave through `output` towards the pod. Policies hold for the pod behind it, and what `input` lets by
//! is no permission.

use std::net::IpAddr;

use podgate_sandbox::ProbeKind::{Tcp, Udp};
use podgate_sandbox::{DENY_WAIT, PATIENCE, Pod, PodOptions, Probe, Server};

use super::has;
use crate::kit::{Node, pair, policy};

const SERVICES: [(&str, &str); 2] = [("10.96.0.1", "10.244.1.2"), ("[fd00:96::1]", "[fd00:10:244:1::2]")];

/// shop/web admits shop/client on TCP 80 and UDP 53; each of TCP 80, 81 and UDP 53 has a service port (8080, 8081, 5353).
fn shop() -> Option<(Node, Pod, Pod, Pod, Server)> {
    let (node, web, client, server) = pair(&[80, 81], &[53]);
    let (ok, said) = match std::process::Command::new("ipvsadm").arg("--version").output() {
        Ok(_) => node.command("ipvsadm", &["-Ln"]),
        Err(error) => (false, format!("ipvsadm: {error}")),
    };
    if !has("ipvs", if ok { Ok(()) } else { Err(said.lines().next().unwrap_or("refused").to_owned()) }) {
        return None;
    }
    assert_eq!((web.v4().to_string(), web.v6().to_string()), ("10.244.1.2".into(), "fd00:10:244:1::2".into()));
    let stranger = node.pod(PodOptions::new("shop/stranger"));
    let spec = "{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{podSelector: {matchLabels: {app: client}}}], \
                ports: [{port: 80}, {protocol: UDP, port: 53}]}]}";
    node.write("policy.yaml", &policy("web", "shop", spec));
    run(&node, "ip link add kube-ipvs0 type dummy");
    node.netns().sysctl("net.ipv4.vs.conntrack", "1").expect("IPVS with conntrack");
    for (service, pod) in SERVICES {
        run(&node, &format!("ip addr add {} dev kube-ipvs0", service.trim_matches(['[', ']'])));
        for (kind, port, target) in [("-t", 8080, 80), ("-t", 8081, 81), ("-u", 5353, 53)] {
            run(&node, &format!("ipvsadm -A {kind} {service}:{port} -s rr"));
            run(&node, &format!("ipvsadm -a {kind} {service}:{port} -r {pod}:{target} -m"));
        }
    }
    Some((node, web, client, stranger, server))
}

#[track_caller]
fn run(node: &Node, line: &str) {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (ok, said) = node.command(words[0], &words[1..]);
    assert!(ok, "{line}: {said}");
}

fn services() -> [IpAddr; 2] {
    ["10.96.0.1", "fd00:96::1"].map(|a| a.parse().expect("an address"))
}

#[track_caller]
fn expect_verdicts(node: &Node, client: &Pod, stranger: &Pod) {
    for service in services() {
        node.expect(&[
            Probe::open(client.client(), service, Tcp(8080)),
            Probe::open(client.client(), service, Udp(5353)),
            Probe::closed(client.client(), service, Tcp(8081)),
            Probe::closed(stranger.client(), service, Tcp(8080)),
            Probe::closed(stranger.client(), service, Udp(5353)),
            Probe::open(node.netns().client(), service, Tcp(8081)),
        ]);
    }
}

#[test]
fn policies_hold_for_the_pod_behind_an_ipvs_service() {
    let Some((mut node, web, client, stranger, _server)) = shop() else { return };
    // The services are there, or `closed` would show nothing.
    for service in services() {
        node.expect(&[
            Probe::open(client.client(), service, Tcp(8080)),
            Probe::open(stranger.client(), service, Tcp(8081)),
            Probe::open(stranger.client(), service, Udp(5353)),
        ]);
    }
    node.start(&[]);
    expect_verdicts(&node, &client, &stranger);
    let connections = services().map(|service| client.client().open(service, 8080, PATIENCE).expect("permitted"));
    node.apply("policy.yaml", &policy("web", "shop", "{podSelector: {matchLabels: {app: web}}}"));
    for mut connection in connections {
        assert!(connection.ping(DENY_WAIT).is_err(), "{}", node.log());
    }
    node.expect(&[Probe::closed(client.client(), web.v4(), Tcp(80))]);
}

#[test]
fn what_input_lets_by_is_no_permission_to_reach_the_pod_behind_an_ipvs_service() {
    let Some((mut node, _web, client, stranger, _server)) = shop() else { return };
    // An egress Deny of a cluster tier has pods' packets to the node judged, and with them those to its services.
    node.write(
        "cluster.yaml",
        "{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {name: out}, spec: \
         {tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{networks: [198.51.100.0/24]}]}]}}",
    );
    node.start(&[]);
    let chains = node.command("nft", &["list", "chain", "inet", "podgate", "input"]);
    assert!(chains.0 && chains.1.contains("hook input"), "{}", chains.1);
    expect_verdicts(&node, &client, &stranger);
    // Twice: a first accept, in `input`, is nothing that a second packet could stand on.
    expect_verdicts(&node, &client, &stranger);
}
