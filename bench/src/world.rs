//! [`Cluster`]: 100,000 pods on 500 nodes, and any number of policies.
//!
//! - 500 nodes with 200 pods each; every pod has an IPv4 and an IPv6 address.
//! - 1,000 namespaces. Ten big ones have half of the pods, in 500 apps each; the others have some 50 pods, in 10 apps.
//! - An app's pods share labels (an identity), one in ten of them on another track; one pod in ten is of a
//!   StatefulSet and has a label of its own, so that there are some 30,000 identities.
//! - The first ten policies isolate the ten big namespaces; all further ones are about apps in these. So **half of the
//!   pods are isolated, whether there are ten policies or ten thousand**, and verdicts compare. Peers are pods of the
//!   namespace, pods of other namespaces by label, and blocks with exceptions of both families; ports are numbers,
//!   ranges and names.
//!
//! Everything follows from the seed. Not here: flows.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use podgate_api::{ContainerPort, Labels, Namespace, Node, Object, Phase, Pod, Protocol};

use crate::rng::Rng;

mod policies;

/// Pods in the cluster.
pub const PODS: usize = 100_000;
/// Nodes in the cluster.
pub const NODES: usize = 500;
/// Pods on each node.
pub const PODS_PER_NODE: usize = PODS / NODES;
/// Namespaces that are isolated and have half of the pods.
pub const BIG_NAMESPACES: usize = 10;
/// All namespaces.
pub const NAMESPACES: usize = 1_000;
const APPS_IN_BIG: usize = 500;
const APPS_IN_SMALL: usize = 10;
const TIERS: [&str; 5] = ["web", "api", "db", "cache", "job"];
const STAGES: [&str; 3] = ["prod", "staging", "dev"];
const TEAMS: usize = 20;

/// A cluster; its objects are made as they are asked for.
#[derive(Debug, Clone, Copy)]
pub struct Cluster {
    /// How many policies.
    pub policies: usize,
    /// What everything follows from.
    pub seed: u64,
}

/// A pod's place in a namespace.
#[derive(Debug, Clone, Copy)]
struct Place {
    namespace: usize,
    app: usize,
}

impl Cluster {
    /// Every object: namespaces, nodes, pods, policies.
    pub fn objects(self) -> impl Iterator<Item = Object> {
        let namespaces = (0..NAMESPACES).map(|n| Object::Namespace(namespace(n)));
        let nodes = (0..NODES).map(|n| Object::Node(node(n)));
        let pods = (0..PODS).map(move |p| Object::Pod(self.pod(p)));
        let policies = (0..self.policies).map(move |k| Object::Policy(policies::policy(self.seed, k)));
        namespaces.chain(nodes).chain(pods).chain(policies)
    }

    fn place(self, pod: usize) -> Place {
        let mut rng = Rng::keyed(self.seed, pod as u64);
        if rng.percent(50) {
            return Place { namespace: rng.below(BIG_NAMESPACES), app: rng.below(APPS_IN_BIG) };
        }
        let namespace = BIG_NAMESPACES + rng.below(NAMESPACES - BIG_NAMESPACES);
        Place { namespace, app: rng.below(APPS_IN_SMALL) }
    }

    fn pod(self, pod: usize) -> Pod {
        let Place { namespace, app } = self.place(pod);
        let mut rng = Rng::keyed(self.seed ^ 1, pod as u64);
        let track = if rng.percent(10) { "canary" } else { "stable" };
        let mut labels: Labels = [
            ("app", format!("app-{app}")),
            ("tier", TIERS[app % TIERS.len()].to_owned()),
            ("track", track.to_owned()),
            ("pod-template-hash", format!("{:08x}", namespace * 1000 + app)),
        ]
        .map(|(k, v)| (k.to_owned(), v))
        .into();
        if rng.percent(10) {
            labels.insert("statefulset.kubernetes.io/pod-name".to_owned(), format!("app-{app}-{pod}"));
        }
        let port = |name: &str, protocol, number| ContainerPort { name: name.to_owned(), protocol, number };
        let http = 8080 + (app % 10) as u16;
        Pod {
            namespace: namespace_name(namespace),
            name: format!("app-{app}-{pod}"),
            uid: None,
            labels,
            created: None,
            terminating: false,
            node: Some(node_name(pod % NODES)),
            host_network: false,
            phase: Phase::Live,
            addresses: vec![pod_v4(pod).into(), pod_v6(pod).into()],
            host_addresses: vec![node_address(pod % NODES)],
            ports: vec![port("http", Protocol::Tcp, http), port("metrics", Protocol::Tcp, 9090)],
        }
    }
}

/// The name of the node whose traffic is judged.
pub fn local_node() -> String {
    node_name(0)
}

/// The pods of that node.
pub fn local_pods() -> impl Iterator<Item = usize> {
    (0..PODS).step_by(NODES)
}

/// A pod's IPv4 address: the node's /24, the pod's place on the node.
pub fn pod_v4(pod: usize) -> Ipv4Addr {
    let (node, slot) = (pod % NODES, pod / NODES);
    Ipv4Addr::new(10, 64 + (node / 256) as u8, (node % 256) as u8, 2 + slot as u8)
}

/// A pod's IPv6 address: the node's /64.
pub fn pod_v6(pod: usize) -> Ipv6Addr {
    let (node, slot) = ((pod % NODES) as u16, (pod / NODES) as u16);
    Ipv6Addr::new(0xfd00, 0x10, 0x244, node, 0, 0, 0, 2 + slot)
}

/// A node's address.
pub fn node_address(node: usize) -> IpAddr {
    Ipv4Addr::new(192, 168, (node / 250) as u8, 1 + (node % 250) as u8).into()
}

fn node_name(node: usize) -> String {
    format!("node-{node}")
}

fn namespace_name(namespace: usize) -> String {
    format!("ns-{namespace}")
}

fn namespace(index: usize) -> Namespace {
    let name = namespace_name(index);
    let labels = [
        ("kubernetes.io/metadata.name", name.clone()),
        ("team", format!("team-{}", index % TEAMS)),
        ("stage", STAGES[index % STAGES.len()].to_owned()),
    ];
    Namespace { name, labels: labels.map(|(k, v)| (k.to_owned(), v)).into(), ingress_default_deny: false }
}

fn node(index: usize) -> Node {
    let v4 = Ipv4Addr::new(10, 64 + (index / 256) as u8, (index % 256) as u8, 0);
    let v6 = Ipv6Addr::new(0xfd00, 0x10, 0x244, index as u16, 0, 0, 0, 0);
    Node {
        name: node_name(index),
        labels: Labels::new(),
        addresses: vec![node_address(index)],
        pod_cidrs: vec![IpNet::V4(Ipv4Net::new_assert(v4, 24)), IpNet::V6(Ipv6Net::new_assert(v6, 64))],
    }
}
