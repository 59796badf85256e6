//! A pod and its own node: always allowed, both ways, whoever speaks on the node. Other nodes are not.

use podgate_sandbox::ProbeKind::{Echo, Tcp, Udp};
use podgate_sandbox::{PodOptions, Probe};

use crate::kit::{Node, deny_all};

#[test]
fn the_node_reaches_its_isolated_pods_from_any_user() {
    let mut node = Node::new();
    node.write("node.yaml", &node.host.manifest());
    let pod = node.pod(PodOptions::new("shop/web"));
    let _server = pod.server(&[80], &[53]).expect("a server");
    node.write("deny.yaml", &deny_all("shop"));
    node.start(&[]);
    let root = || node.netns().client();
    let nobody = || node.netns().client().as_user(65534);
    node.expect(&[
        Probe::open(root(), pod.v4(), Tcp(80)),
        Probe::open(nobody(), pod.v4(), Tcp(80)),
        Probe::open(nobody(), pod.v6(), Tcp(80)),
        Probe::open(nobody(), pod.v6(), Udp(53)),
        Probe::open(root(), pod.v4(), Echo),
    ]);
}

#[test]
fn an_isolated_pod_reaches_a_server_on_its_node() {
    let mut node = Node::new();
    node.write("node.yaml", &node.host.manifest());
    let pod = node.pod(PodOptions::new("shop/web"));
    let _server = node.host.server(&[10250], &[53]).expect("a server");
    node.write("deny.yaml", &deny_all("shop"));
    node.start(&[]);
    let probes: Vec<_> = node
        .host
        .addresses()
        .iter()
        .flat_map(|a| [Tcp(10250), Udp(53), Echo].map(|kind| Probe::open(pod.client(), *a, kind)))
        .collect();
    node.expect(&probes);
}

#[test]
fn another_node_is_a_stranger() {
    let mut node = Node::new();
    let far = node.neighbour(2);
    node.write("node.yaml", &(node.host.manifest() + &far.manifest()));
    let pod = node.pod(PodOptions::new("shop/web"));
    let _server = pod.server(&[80], &[]).expect("a server");
    let _far_server = far.server(&[80], &[]).expect("a server");
    node.start(&[]);
    node.expect(&[Probe::open(far.netns().client(), pod.v4(), Tcp(80))]);
    node.apply("deny.yaml", &deny_all("shop"));
    node.expect(&[
        Probe::closed(far.netns().client(), pod.v4(), Tcp(80)),
        Probe::closed(far.netns().client(), pod.v6(), Tcp(80)),
        Probe::closed(pod.client(), far.addresses()[0], Tcp(80)),
    ]);
}

#[test]
fn a_pod_reaches_itself() {
    let mut node = Node::new();
    node.write("node.yaml", &node.host.manifest());
    let pod = node.pod(PodOptions::new("shop/web"));
    let _server = pod.server(&[80], &[]).expect("a server");
    node.write("deny.yaml", &deny_all("shop"));
    node.start(&[]);
    node.expect(&[Probe::open(pod.client(), pod.v4(), Tcp(80)), Probe::open(pod.client(), pod.v6(), Tcp(80))]);
}

#[test]
fn a_packet_that_claims_the_nodes_address_is_judged() {
    let mut node = Node::new();
    node.write("node.yaml", &node.host.manifest());
    let web = node.pod(PodOptions::new("shop/web"));
    let liar = node.pod(PodOptions::new("ops/liar"));
    let _server = web.server(&[], &[53]).expect("a server");
    node.write("deny.yaml", &deny_all("shop"));
    node.start(&[]);
    // IPv4 has the kernel's martian check before us; IPv6 has none.
    let source = node.host.addresses().iter().find(|a| a.is_ipv6()).copied().expect("an IPv6 address");
    let capture = web.netns().capture(None).expect("a capture");
    let lie = podgate_sandbox::Packet::udp((source, 4000).into(), (web.v6(), 53).into(), b"lie");
    liar.netns().send(&lie).expect("sent");
    // Something that does arrive, sent after the lie: what was let through must have come before it.
    node.expect(&[Probe::open(node.netns().client(), web.v6(), Udp(53))]);
    let lied = capture.wait(std::time::Duration::from_millis(1), |p| p.body().ends_with(b"lie"));
    assert!(lied.is_none(), "the forged packet arrived\n{}", node.log());
}
