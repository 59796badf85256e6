//! Pods on a bridge: same-node packets are filtered too, or the agent says that they are not.

use podgate_sandbox::ProbeKind::{Echo, Tcp};
use podgate_sandbox::{PodOptions, Probe};

use crate::kit::{Node, deny_all, policy};

#[test]
fn bridged_pods_are_isolated_by_deny_all() {
    let mut node = Node::new();
    node.write("node.yaml", &node.host.manifest());
    let bridge = node.host.bridge("cni0").expect("a bridge");
    node.host.filter_bridged(false, false).expect("set");
    let web = node.pod(PodOptions::new("shop/web").label("app", "web").on(&bridge));
    let client = node.pod(PodOptions::new("shop/client").on(&bridge));
    let _server = web.server(&[80], &[]).expect("a server");
    node.start(&[]);
    node.expect(&[Probe::open(client.client(), web.v4(), Tcp(80)), Probe::open(client.client(), web.v6(), Tcp(80))]);
    node.apply("deny.yaml", &deny_all("shop"));
    node.expect(&[
        Probe::closed(client.client(), web.v4(), Tcp(80)),
        Probe::closed(client.client(), web.v6(), Tcp(80)),
        Probe::closed(client.client(), web.v4(), Echo),
        Probe::open(node.netns().client(), web.v4(), Tcp(80)),
        Probe::open(node.netns().client(), web.v6(), Tcp(80)),
    ]);
    let allow = "{podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{ports: [{port: 80}]}], egress: [{ports: [{port: 80}]}]}";
    node.apply("allow.yaml", &policy("allow", "shop", allow));
    node.expect(&[
        Probe::open(client.client(), web.v4(), Tcp(80)),
        Probe::open(client.client(), web.v6(), Tcp(80)),
        Probe::closed(client.client(), web.v4(), Echo),
    ]);
}
