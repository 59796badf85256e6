//! Random objects from small alphabets, so that selectors meet labels, blocks cut pod ranges, and addresses are reused.

use std::net::IpAddr;

use ipnet::IpNet;
use jiff::Timestamp;
use podgate_api::{
    Action, ContainerPort, IpBlock, Kind, LabelSelector, Labels, Namespace, NamespaceMatch, Node, Object, ObjectKey,
    Operator, Peer, Peers, Phase, Pod, PolicySpec, PortMatch, Protocol, Requirement, Rule, Subject, Tier,
};

use crate::common::rng::Rng;
use crate::common::{address, key};

const NAMESPACES: [&str; 3] = ["a", "b", "c"];
const NODES: [&str; 3] = ["n0", "n1", "n2"];
const NAME_LABEL: &str = "kubernetes.io/metadata.name";
const PORT_NAMES: [&str; 3] = ["http", "dns", "peer"];
pub const PORTS: [u16; 9] = [0, 1, 53, 79, 80, 81, 443, 8080, 65535];
const PROTOCOLS: [Protocol; 4] = [Protocol::Tcp, Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

/// Every object that a world may have, by key.
pub fn keys() -> Vec<ObjectKey> {
    keys_of(4, 3)
}

fn keys_of(pods: usize, policies: usize) -> Vec<ObjectKey> {
    let mut keys = Vec::new();
    keys.extend(NODES.map(|n| key(Kind::Node, n)));
    for namespace in NAMESPACES {
        keys.push(key(Kind::Namespace, namespace));
        keys.extend((0..pods).map(|i| key(Kind::Pod, &format!("{namespace}/p{i}"))));
        keys.extend((0..policies).map(|i| key(Kind::NetworkPolicy, &format!("{namespace}/x{i}"))));
        keys.extend((1..3).map(|i| key(Kind::LegacyNetworkPolicy, &format!("{namespace}/x{i}"))));
    }
    keys.extend((0..2).map(|i| key(Kind::ClusterNetworkPolicy, &format!("admin{i}"))));
    // One of the same name as another kind's.
    keys.extend((1..3).map(|i| key(Kind::AdminNetworkPolicy, &format!("admin{i}"))));
    keys.extend((0..2).map(|i| key(Kind::ClusterNetworkPolicy, &format!("baseline{i}"))));
    keys.push(key(Kind::BaselineAdminNetworkPolicy, "default"));
    keys
}

/// A world: some of the objects that may be there, in any order. Cluster tiers are in half of the worlds only, so that
/// they do not hide the NetworkPolicies.
pub fn world(rng: &mut Rng) -> Vec<Object> {
    let cluster_tiers = rng.chance(50);
    let policies = 20 + rng.below(60);
    let mut keys = keys();
    keys.retain(|key| match key.kind {
        Kind::Namespace => rng.chance(80),
        Kind::Node | Kind::Pod => rng.chance(90),
        kind if kind.is_cluster_policy() => cluster_tiers && rng.chance(60),
        _ => rng.chance(policies),
    });
    rng.shuffle(&mut keys);
    keys.iter().map(|key| object(rng, key)).collect()
}

/// A world of a few hundred pods, most with addresses of their own, and some dozens of policies: for what shows only
/// where tables have more than one page.
pub fn large_world(rng: &mut Rng) -> Vec<Object> {
    let mut objects: Vec<_> = keys_of(100, 20).iter().map(|key| object(rng, key)).collect();
    for object in &mut objects {
        let Object::Pod(pod) = object else { continue };
        for address in &mut pod.addresses {
            *address = match *address {
                kept if rng.chance(10) => kept,
                IpAddr::V4(_) => IpAddr::from([10, 1, rng.below(4) as u8, rng.below(256) as u8]),
                IpAddr::V6(_) => crate::common::address(&format!("fd00:1::{:x}", rng.below(1024))),
            };
        }
    }
    rng.shuffle(&mut objects);
    objects
}

/// A random object of that kind and name.
pub fn object(rng: &mut Rng, key: &ObjectKey) -> Object {
    match key.kind {
        Kind::Namespace => Object::Namespace(namespace(rng, &key.name)),
        Kind::Node => Object::Node(node(rng, &key.name)),
        Kind::Pod => Object::Pod(pod(rng, &key.namespace, &key.name)),
        kind if kind.is_cluster_policy() && rng.chance(50) => {
            Object::Policy(crate::text::through_manifest(policy(rng, key)))
        }
        _ => Object::Policy(policy(rng, key)),
    }
}

/// The object with one aspect of it drawn anew, as most updates are.
pub fn edited(rng: &mut Rng, old: &Object) -> Object {
    let mut edited = old.clone();
    match (&mut edited, object(rng, &old.key())) {
        (Object::Pod(pod), Object::Pod(new)) => match rng.below(8) {
            0 => pod.labels = new.labels,
            1 => pod.addresses = new.addresses,
            2 => pod.phase = new.phase,
            3 => pod.terminating = new.terminating,
            4 => pod.ports = new.ports,
            5 => pod.node = new.node,
            6 => pod.created = new.created,
            _ => pod.host_addresses = new.host_addresses,
        },
        (Object::Namespace(namespace), Object::Namespace(new)) => match rng.below(2) {
            0 => namespace.labels = new.labels,
            _ => namespace.ingress_default_deny = !namespace.ingress_default_deny,
        },
        (Object::Node(node), Object::Node(new)) => match rng.below(3) {
            0 => node.labels = new.labels,
            1 => node.addresses = new.addresses,
            _ => node.pod_cidrs = new.pod_cidrs,
        },
        (Object::Policy(policy), Object::Policy(new)) => match rng.below(4) {
            0 => policy.subject = new.subject,
            1 => policy.ingress = new.ingress,
            2 => policy.egress = new.egress,
            _ => policy.priority = new.priority,
        },
        (edited, new) => *edited = new,
    }
    if let Object::Policy(policy) = &mut edited {
        drop_undeclared_rules(policy);
    }
    edited
}

fn namespace(rng: &mut Rng, name: &str) -> Namespace {
    let mut labels = labels(rng, &["team", "env"]);
    labels.insert(NAME_LABEL.to_owned(), name.to_owned());
    Namespace { name: name.to_owned(), labels, ingress_default_deny: rng.chance(35) }
}

fn node(rng: &mut Rng, name: &str) -> Node {
    let mut addresses = Vec::new();
    addresses.extend(rng.chance(85).then(|| own_node_address(rng, name)));
    addresses.extend(rng.chance(40).then(|| any_node_address(rng)));
    let ranges = ["10.1.0.0/29", "10.1.0.8/29", "fd00:1::/125"];
    let pod_cidrs = ranges.iter().filter(|_| rng.chance(25)).map(|r| r.parse().unwrap()).collect();
    Node { name: name.to_owned(), labels: labels(rng, &["role", "env"]), addresses, pod_cidrs }
}

fn own_node_address(rng: &mut Rng, name: &str) -> IpAddr {
    let index = NODES.iter().position(|n| *n == name).unwrap_or(0) + 1;
    let text = if rng.chance(70) { format!("10.0.0.{index}") } else { format!("fd00::{index}") };
    address(&text)
}

/// Mostly of the nodes' own range, now and then one that a pod may have.
fn any_node_address(rng: &mut Rng) -> IpAddr {
    match rng.below(10) {
        0 => pod_address(rng, true),
        1..=6 => address(&format!("10.0.0.{}", 1 + rng.below(4))),
        _ => address(&format!("fd00::{}", 1 + rng.below(4))),
    }
}

fn pod_address(rng: &mut Rng, v4: bool) -> IpAddr {
    match v4 {
        true => address(&format!("10.1.0.{}", rng.below(16))),
        false => address(&format!("fd00:1::{:x}", rng.below(8))),
    }
}

fn pod(rng: &mut Rng, namespace: &str, name: &str) -> Pod {
    let node = rng.chance(90).then(|| (*rng.pick(&NODES)).to_owned());
    let host_network = rng.chance(12);
    let mut addresses = Vec::new();
    if host_network {
        let node_name = node.as_deref().unwrap_or("n0");
        addresses.extend(rng.chance(80).then(|| own_node_address(rng, node_name)));
        addresses.extend(rng.chance(10).then(|| any_node_address(rng)));
    } else {
        addresses.extend(rng.chance(80).then(|| pod_address(rng, true)));
        addresses.extend(rng.chance(50).then(|| pod_address(rng, false)));
        addresses.extend(rng.chance(3).then(|| pod_address(rng, true)));
    }
    let mut host_addresses = Vec::new();
    if let Some(node) = &node {
        host_addresses.extend(rng.chance(40).then(|| own_node_address(rng, node)));
        host_addresses.extend(rng.chance(5).then(|| any_node_address(rng)));
    }
    let ports = (0..rng.below(4))
        .map(|_| ContainerPort {
            name: (*rng.pick(&PORT_NAMES)).to_owned(),
            protocol: *rng.pick(&PROTOCOLS),
            number: *rng.pick(&PORTS[1..]),
        })
        .collect();
    Pod {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        uid: None,
        labels: labels(rng, &["app", "env"]),
        created: rng.chance(80).then(|| Timestamp::from_second(rng.below(3) as i64).unwrap()),
        terminating: rng.chance(10),
        node,
        host_network,
        phase: if rng.chance(10) { Phase::Finished } else { Phase::Live },
        addresses,
        host_addresses,
        ports,
    }
}

fn labels(rng: &mut Rng, keys: &[&str]) -> Labels {
    let there: Vec<_> = keys.iter().filter(|_| rng.chance(75)).collect();
    there.into_iter().map(|k| ((*k).to_owned(), (*rng.pick(&["x", "y"])).to_owned())).collect()
}

fn selector(rng: &mut Rng, keys: &[&str], most: usize) -> LabelSelector {
    let count = rng.below(most + 1);
    LabelSelector::new((0..count).map(|_| requirement(rng, keys)).collect::<Vec<_>>())
}

fn requirement(rng: &mut Rng, keys: &[&str]) -> Requirement {
    let key = (*rng.pick(keys)).to_owned();
    let operator = *rng.pick(&[Operator::In, Operator::In, Operator::NotIn, Operator::Exists, Operator::DoesNotExist]);
    let alphabet: &[&str] = if key == NAME_LABEL { &NAMESPACES } else { &["x", "y", "z"] };
    let values = match operator {
        Operator::In | Operator::NotIn => (0..1 + rng.below(2)).map(|_| (*rng.pick(alphabet)).to_owned()).collect(),
        Operator::Exists | Operator::DoesNotExist => Vec::new(),
    };
    Requirement { key, operator, values }
}

fn namespaces(rng: &mut Rng) -> NamespaceMatch {
    NamespaceMatch::Labels(selector(rng, &["team", "env", NAME_LABEL], 2))
}

fn policy(rng: &mut Rng, key: &ObjectKey) -> PolicySpec {
    let tier = match key.kind {
        Kind::BaselineAdminNetworkPolicy => Tier::Baseline,
        kind if kind.is_cluster_policy() && key.name.starts_with("admin") => Tier::Admin,
        kind if kind.is_cluster_policy() => Tier::Baseline,
        _ => Tier::NetworkPolicy,
    };
    let network_policy = tier == Tier::NetworkPolicy;
    let legacy = key.kind == Kind::LegacyNetworkPolicy;
    let rules = |rng: &mut Rng, to_nodes| (0..rng.below(4)).map(|_| rule(rng, tier, to_nodes)).collect();
    let mut policy = PolicySpec {
        key: key.clone(),
        tier,
        priority: if network_policy { 0 } else { *rng.pick(&[0, 1, 1, 1000]) },
        subject: Subject {
            namespaces: if network_policy { NamespaceMatch::Own } else { namespaces(rng) },
            pods: selector(rng, &["app", "env"], 1),
        },
        isolates_ingress: network_policy && (legacy || rng.chance(70)),
        isolates_egress: network_policy && !legacy && rng.chance(50),
        ingress: rules(rng, false),
        egress: rules(rng, !network_policy),
        caveats: Vec::new(),
    };
    drop_undeclared_rules(&mut policy);
    policy
}

/// A NetworkPolicy has no rules of a direction that its types leave out.
fn drop_undeclared_rules(policy: &mut PolicySpec) {
    if policy.tier == Tier::NetworkPolicy {
        if !policy.isolates_ingress {
            policy.ingress.clear();
        }
        if !policy.isolates_egress {
            policy.egress.clear();
        }
    }
}

/// `to_nodes`: node selectors may be among the peers, as in egress rules of the cluster tiers.
fn rule(rng: &mut Rng, tier: Tier, to_nodes: bool) -> Rule {
    let cluster = tier != Tier::NetworkPolicy;
    let action = match tier {
        Tier::NetworkPolicy => Action::Accept,
        Tier::Admin => *rng.pick(&[Action::Accept, Action::Deny, Action::Pass]),
        Tier::Baseline => *rng.pick(&[Action::Accept, Action::Deny]),
    };
    let peers = match rng.below(100) {
        0..15 => Peers::Any,
        15..17 if cluster => Peers::Of(Vec::new()),
        _ => Peers::Of((0..1 + rng.below(3)).map(|_| peer(rng, cluster, to_nodes)).collect()),
    };
    let ports = if rng.chance(40) { 0 } else { 1 + rng.below(3) };
    Rule {
        name: (cluster && rng.chance(50)).then(|| (*rng.pick(&["first", "second"])).to_owned()),
        action,
        peers,
        ports: (0..ports).map(|_| port(rng)).collect(),
    }
}

fn peer(rng: &mut Rng, cluster: bool, to_nodes: bool) -> Peer {
    match rng.below(10) {
        0..3 if to_nodes => Peer::Nodes(selector(rng, &["role", "env"], 2)),
        0..4 => Peer::Block(ip_block(rng)),
        4..7 if !cluster => Peer::Pods { namespaces: NamespaceMatch::Own, pods: selector(rng, &["app", "env"], 2) },
        _ => Peer::Pods { namespaces: namespaces(rng), pods: selector(rng, &["app", "env"], 2) },
    }
}

fn ip_block(rng: &mut Rng) -> IpBlock {
    let cidr = sub_block(rng, None);
    let except = (0..rng.below(3)).filter_map(|_| strict_part(rng, cidr)).collect();
    IpBlock { cidr, except }
}

fn strict_part(rng: &mut Rng, cidr: IpNet) -> Option<IpNet> {
    let part = sub_block(rng, Some(cidr));
    (cidr.contains(&part) && part.prefix_len() > cidr.prefix_len()).then_some(part)
}

/// A block around an address that may well be somebody's, of the family of `within`.
fn sub_block(rng: &mut Rng, within: Option<IpNet>) -> IpNet {
    let v4 = within.map_or_else(|| rng.chance(60), |w| matches!(w, IpNet::V4(_)));
    let base = match rng.below(10) {
        0 if v4 => address("203.0.113.77"),
        0 => address("2001:db8::77"),
        1 if v4 => address("10.0.0.2"),
        1 => address("fd00::2"),
        _ => pod_address(rng, v4),
    };
    let lengths: &[u8] = if v4 { &[0, 1, 8, 24, 28, 29, 30, 31, 32] } else { &[0, 1, 16, 32, 64, 125, 126, 127, 128] };
    IpNet::new(base, *rng.pick(lengths)).unwrap().trunc()
}

fn port(rng: &mut Rng) -> PortMatch {
    let protocol = *rng.pick(&PROTOCOLS);
    match rng.below(10) {
        0..2 => PortMatch::Range { protocol, first: 0, last: u16::MAX },
        2..5 => {
            let number = *rng.pick(&PORTS[1..]);
            PortMatch::Range { protocol, first: number, last: number }
        }
        5..7 => {
            let (a, b) = (*rng.pick(&PORTS[1..]), *rng.pick(&PORTS[1..]));
            PortMatch::Range { protocol, first: a.min(b), last: a.max(b) }
        }
        _ => PortMatch::Named { protocol, name: (*rng.pick(&PORT_NAMES)).to_owned() },
    }
}
