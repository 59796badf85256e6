//! The builder kit: worlds of plain objects in a few words. What the objects mean is not known here.
//!
//! ```ignore
//! let world = objects![
//!     namespace("shop").label("team", "a"),
//!     pod("shop/web").label("app", "web").at("10.1.0.5").on("n1").port("http", Tcp, 8080),
//!     policy("shop/only-web").select("app=db").ingress(rule().pods("app=web").port(Tcp, 5432)),
//! ];
//! ```
//!
//! Selectors are text: terms divided by commas, each `key=value`, `key in a|b`, `key notin a|b`, `key` or `!key`.
#![allow(dead_code)] // each test binary uses a part of the kit

pub mod rng;

use std::net::IpAddr;

use ipnet::IpNet;
use jiff::Timestamp;
use podgate_api::{
    Action, ContainerPort, Direction, IpBlock, Kind, LabelSelector, Labels, Namespace, NamespaceMatch, Node, Object,
    ObjectKey, Operator, Peer, Peers, Phase, Pod, PolicySpec, PortMatch, Protocol, Requirement, Rule, Subject, Tier,
};

/// A list of objects from any builders.
#[macro_export]
macro_rules! objects {
    ($($object:expr),* $(,)?) => { vec![$(podgate_api::Object::from($crate::common::Built::from($object))),*] };
}

/// What a builder comes to; only there because `Object` and `From` are both foreign here.
pub struct Built(Object);

impl From<Built> for Object {
    fn from(built: Built) -> Self {
        built.0
    }
}

impl From<Object> for Built {
    fn from(object: Object) -> Self {
        Built(object)
    }
}

pub fn address(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|_| panic!("{text:?} is no address"))
}

pub fn block(text: &str) -> IpNet {
    text.parse::<IpNet>().unwrap_or_else(|_| panic!("{text:?} is no block")).trunc()
}

/// The key of an object, its name as `namespace/name` or `name`.
pub fn key(kind: Kind, name: &str) -> ObjectKey {
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    ObjectKey { kind, namespace: namespace.to_owned(), name: name.to_owned() }
}

/// A selector from text.
pub fn selector(text: &str) -> LabelSelector {
    LabelSelector::new(text.split(',').map(str::trim).filter(|t| !t.is_empty()).map(requirement))
}

fn requirement(term: &str) -> Requirement {
    let values = |text: &str| text.split('|').map(|v| v.trim().to_owned()).collect();
    let (key, operator, values) = if let Some((key, list)) = term.split_once(" notin ") {
        (key, Operator::NotIn, values(list))
    } else if let Some((key, list)) = term.split_once(" in ") {
        (key, Operator::In, values(list))
    } else if let Some((key, value)) = term.split_once('=') {
        (key, Operator::In, vec![value.to_owned()])
    } else if let Some(key) = term.strip_prefix('!') {
        (key, Operator::DoesNotExist, Vec::new())
    } else {
        (term, Operator::Exists, Vec::new())
    };
    Requirement { key: key.trim().to_owned(), operator, values }
}

#[derive(Clone)]
pub struct PodBuilder(pub Pod);

/// A live pod, without labels, addresses or node.
pub fn pod(name: &str) -> PodBuilder {
    let ObjectKey { namespace, name, .. } = key(Kind::Pod, name);
    PodBuilder(Pod { namespace, name, ..Pod::default() })
}

impl PodBuilder {
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.0.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    pub fn at(mut self, text: &str) -> Self {
        self.0.addresses.push(address(text));
        self
    }

    pub fn on(mut self, node: &str) -> Self {
        self.0.node = Some(node.to_owned());
        self
    }

    pub fn host_at(mut self, text: &str) -> Self {
        self.0.host_addresses.push(address(text));
        self
    }

    pub fn host_network(mut self) -> Self {
        self.0.host_network = true;
        self
    }

    pub fn finished(mut self) -> Self {
        self.0.phase = Phase::Finished;
        self
    }

    pub fn terminating(mut self) -> Self {
        self.0.terminating = true;
        self
    }

    /// Created so many seconds after the epoch.
    pub fn created(mut self, seconds: i64) -> Self {
        self.0.created = Some(Timestamp::from_second(seconds).unwrap());
        self
    }

    pub fn port(mut self, name: &str, protocol: Protocol, number: u16) -> Self {
        self.0.ports.push(ContainerPort { name: name.to_owned(), protocol, number });
        self
    }
}

impl From<PodBuilder> for Built {
    fn from(builder: PodBuilder) -> Self {
        Built(Object::Pod(builder.0))
    }
}

#[derive(Clone)]
pub struct NamespaceBuilder(pub Namespace);

/// A namespace with the label that every namespace has.
pub fn namespace(name: &str) -> NamespaceBuilder {
    let labels = Labels::from([("kubernetes.io/metadata.name".to_owned(), name.to_owned())]);
    NamespaceBuilder(Namespace { name: name.to_owned(), labels, ingress_default_deny: false })
}

impl NamespaceBuilder {
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.0.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// With the isolation annotation.
    pub fn annotated(mut self) -> Self {
        self.0.ingress_default_deny = true;
        self
    }
}

impl From<NamespaceBuilder> for Built {
    fn from(builder: NamespaceBuilder) -> Self {
        Built(Object::Namespace(builder.0))
    }
}

#[derive(Clone)]
pub struct NodeBuilder(pub Node);

pub fn node(name: &str) -> NodeBuilder {
    NodeBuilder(Node { name: name.to_owned(), ..Node::default() })
}

impl NodeBuilder {
    pub fn at(mut self, text: &str) -> Self {
        self.0.addresses.push(address(text));
        self
    }

    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.0.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    pub fn pods_in(mut self, text: &str) -> Self {
        self.0.pod_cidrs.push(block(text));
        self
    }
}

impl From<NodeBuilder> for Built {
    fn from(builder: NodeBuilder) -> Self {
        Built(Object::Node(builder.0))
    }
}

#[derive(Clone)]
pub struct PolicyBuilder(pub PolicySpec);

fn spec(kind: Kind, name: &str, tier: Tier, priority: i32, namespaces: NamespaceMatch) -> PolicyBuilder {
    PolicyBuilder(PolicySpec {
        key: key(kind, name),
        tier,
        priority,
        subject: Subject { namespaces, pods: LabelSelector::default() },
        isolates_ingress: false,
        isolates_egress: false,
        ingress: Vec::new(),
        egress: Vec::new(),
        caveats: Vec::new(),
    })
}

/// A `networking.k8s.io/v1` policy about every pod of its namespace. A rule brings the type of its direction along;
/// without rules, say [`PolicyBuilder::isolating`].
pub fn policy(name: &str) -> PolicyBuilder {
    spec(Kind::NetworkPolicy, name, Tier::NetworkPolicy, 0, NamespaceMatch::Own)
}

/// An `extensions/v1beta1` policy about every pod of its namespace.
pub fn legacy(name: &str) -> PolicyBuilder {
    spec(Kind::LegacyNetworkPolicy, name, Tier::NetworkPolicy, 0, NamespaceMatch::Own).isolating(Direction::Ingress)
}

/// A policy of the Admin tier about every pod.
pub fn admin(name: &str, priority: i32) -> PolicyBuilder {
    spec(Kind::ClusterNetworkPolicy, name, Tier::Admin, priority, NamespaceMatch::Labels(LabelSelector::default()))
}

/// A policy of the Baseline tier about every pod.
pub fn baseline(name: &str, priority: i32) -> PolicyBuilder {
    spec(Kind::ClusterNetworkPolicy, name, Tier::Baseline, priority, NamespaceMatch::Labels(LabelSelector::default()))
}

impl PolicyBuilder {
    pub fn select(mut self, pods: &str) -> Self {
        self.0.subject.pods = selector(pods);
        self
    }

    pub fn select_namespaces(mut self, namespaces: &str) -> Self {
        self.0.subject.namespaces = NamespaceMatch::Labels(selector(namespaces));
        self
    }

    pub fn isolating(mut self, direction: Direction) -> Self {
        match direction {
            Direction::Ingress => self.0.isolates_ingress = true,
            Direction::Egress => self.0.isolates_egress = true,
        }
        self
    }

    pub fn ingress(mut self, rule: RuleBuilder) -> Self {
        self.0.ingress.push(rule.0);
        self.typed(Direction::Ingress)
    }

    pub fn egress(mut self, rule: RuleBuilder) -> Self {
        self.0.egress.push(rule.0);
        self.typed(Direction::Egress)
    }

    fn typed(self, direction: Direction) -> Self {
        if self.0.tier == Tier::NetworkPolicy { self.isolating(direction) } else { self }
    }
}

impl From<PolicyBuilder> for Built {
    fn from(builder: PolicyBuilder) -> Self {
        Built(Object::Policy(builder.0))
    }
}

#[derive(Clone)]
pub struct RuleBuilder(pub Rule);

/// A rule that accepts anybody on every port, until peers and ports narrow it. In a rule `from` means `to` as well.
pub fn rule() -> RuleBuilder {
    action(Action::Accept)
}

pub fn deny() -> RuleBuilder {
    action(Action::Deny)
}

pub fn pass() -> RuleBuilder {
    action(Action::Pass)
}

fn action(action: Action) -> RuleBuilder {
    RuleBuilder(Rule { name: None, action, peers: Peers::Any, ports: Vec::new() })
}

impl RuleBuilder {
    pub fn named(mut self, name: &str) -> Self {
        self.0.name = Some(name.to_owned());
        self
    }

    pub fn peer(mut self, peer: Peer) -> Self {
        match &mut self.0.peers {
            Peers::Of(peers) => peers.push(peer),
            Peers::Any => self.0.peers = Peers::Of(vec![peer]),
        }
        self
    }

    /// Pods of the policy's own namespace.
    pub fn pods(self, pods: &str) -> Self {
        self.peer(Peer::Pods { namespaces: NamespaceMatch::Own, pods: selector(pods) })
    }

    /// Pods by namespace and pod labels.
    pub fn pods_in(self, namespaces: &str, pods: &str) -> Self {
        self.peer(Peer::Pods { namespaces: NamespaceMatch::Labels(selector(namespaces)), pods: selector(pods) })
    }

    pub fn block(self, cidr: &str, except: &[&str]) -> Self {
        let except = except.iter().map(|e| block(e)).collect();
        self.peer(Peer::Block(IpBlock { cidr: block(cidr), except }))
    }

    /// Nodes by their labels.
    pub fn nodes(self, nodes: &str) -> Self {
        self.peer(Peer::Nodes(selector(nodes)))
    }

    pub fn port(self, protocol: Protocol, number: u16) -> Self {
        self.ports(protocol, number, number)
    }

    pub fn ports(mut self, protocol: Protocol, first: u16, last: u16) -> Self {
        self.0.ports.push(PortMatch::Range { protocol, first, last });
        self
    }

    pub fn port_named(mut self, protocol: Protocol, name: &str) -> Self {
        self.0.ports.push(PortMatch::Named { protocol, name: name.to_owned() });
        self
    }
}
