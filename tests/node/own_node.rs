//! A pod and its own node: always allowed, both ways, whoever speaks on the node, but for what a cluster tier denies
//! the pod. Other nodes are not.

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

/// A cluster-tier policy about the pods of namespace `shop`.
fn cluster_policy(name: &str, rules: &str) -> String {
    format!(
        "---\napiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {{name: {name}}}\n\
         spec:\n  tier: Admin\n  priority: 10\n  subject: {{namespaces: {{matchLabels: {{kubernetes.io/metadata.name: \
         shop}}}}}}\n{rules}"
    )
}

#[test]
fn a_deny_of_a_cluster_tier_keeps_a_pod_from_its_own_node() {
    let mut node = Node::new();
    node.write("node.yaml", &node.host.manifest());
    let web = node.pod(PodOptions::new("shop/web"));
    let other = node.pod(PodOptions::new("ops/tool"));
    let _server = web.server(&[80], &[]).expect("a server");
    let _node_server = node.host.server(&[9100, 10250], &[53]).expect("a server");
    node.start(&[]);
    let addresses = node.host.addresses().to_vec();
    let to_node = |pod: &podgate_sandbox::Pod, kinds: &[podgate_sandbox::ProbeKind], open: bool| -> Vec<Probe> {
        let probe = |address, kind| match open {
            true => Probe::open(pod.client(), address, kind),
            false => Probe::closed(pod.client(), address, kind),
        };
        addresses.iter().flat_map(|a| kinds.iter().map(|kind| probe(*a, *kind)).collect::<Vec<_>>()).collect()
    };
    let from_node =
        || [Probe::open(node.netns().client(), web.v4(), Tcp(80)), Probe::open(node.netns().client(), web.v6(), Echo)];
    node.expect(&to_node(&web, &[Tcp(10250), Tcp(9100), Udp(53), Echo], true));

    let one_port = "  egress:\n  - name: no-kubelet\n    action: Deny\n    to: [{nodes: {}}]\n    \
                    protocols: [{tcp: {destinationPort: {number: 10250}}}]\n";
    node.apply("cluster.yaml", &cluster_policy("hosts", one_port));
    node.expect(&to_node(&web, &[Tcp(10250)], false));
    node.expect(&to_node(&web, &[Tcp(9100), Udp(53), Echo], true));
    node.expect(&to_node(&other, &[Tcp(10250)], true));
    assert!(node.rule_count("admin//hosts/egress/no-kubelet") >= addresses.len() as f64);

    // By network and of every port; the node still reaches its pod, and has its answers.
    let all = "  egress: [{action: Deny, to: [{networks: [0.0.0.0/0, '::/0']}]}]\n  \
               ingress: [{action: Deny, from: [{namespaces: {}}]}]\n";
    node.apply("cluster.yaml", &cluster_policy("hosts", all));
    node.expect(&to_node(&web, &[Tcp(10250), Tcp(9100), Udp(53), Echo], false));
    node.expect(&from_node());
    node.expect(&to_node(&other, &[Tcp(9100), Echo], true));

    node.remove("cluster.yaml");
    node.expect(&to_node(&web, &[Tcp(10250), Udp(53), Echo], true));
}

#[test]
fn nodes_are_denied_by_their_labels_as_they_change() {
    let mut node = Node::new();
    let far = node.neighbour(2);
    let labelled = |text: String, role: &str| text.replace("}\nspec:", &format!(", labels: {{role: {role}}}}}\nspec:"));
    node.write("node.yaml", &labelled(node.host.manifest(), "worker"));
    node.write("far.yaml", &labelled(far.manifest(), "control"));
    let web = node.pod(PodOptions::new("shop/web"));
    let _server = node.host.server(&[6443], &[]).expect("a server");
    let _far_server = far.server(&[6443], &[]).expect("a server");
    let rules = "  egress: [{action: Deny, to: [{nodes: {matchLabels: {role: control}}}]}]\n";
    node.write("cluster.yaml", &cluster_policy("control", rules));
    node.start(&[]);
    let probes = |near: bool, away: bool| {
        let ends = [(node.host.addresses(), near), (far.addresses(), away)];
        let probe = |address, open| match open {
            true => Probe::open(web.client(), address, Tcp(6443)),
            false => Probe::closed(web.client(), address, Tcp(6443)),
        };
        ends.iter().flat_map(|(all, open)| all.iter().map(move |a| probe(*a, *open))).collect::<Vec<_>>()
    };
    node.expect(&probes(true, false));
    node.apply("node.yaml", &labelled(node.host.manifest(), "control"));
    node.expect(&probes(false, false));
    node.apply("far.yaml", &labelled(far.manifest(), "worker"));
    node.expect(&probes(false, true));
}
