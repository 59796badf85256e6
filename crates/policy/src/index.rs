//! [`Index`]: the world as the compiler needs it, and [`Index::build`].

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use podgate_api::{Change, Direction, NamespaceMatch, Object, ObjectKey, Peers, Phase, Pod, PortMatch};
use podgate_engine::{
    Action, Addr, Cause, DirectionTable, Endpoint, EndpointKind, Generation, Group, PeerTable, PortSpan, RuleId,
    RuleInfo, Snapshot, Subject, Tables, Tier,
};

use crate::World;
use crate::compile::{Middle, Ruling, port_table};

/// Which pods are subjects of the snapshots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Locality {
    /// All of them (`podgate test`, `explain`, and an agent that was given no node's name).
    All,
    /// Those with this `spec.nodeName`.
    Node(String),
}

/// What the kernel has to know of one local pod address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Exposure {
    /// Some policy is about its ingress: packets to it must be judged.
    pub ingress: bool,
    /// Some policy is about its egress: packets from it must be judged.
    pub egress: bool,
}

/// A compiled state of the world, and what differs for the kernel from the build before.
#[derive(Debug, Clone)]
pub struct Build {
    /// The tables.
    pub snapshot: Arc<Snapshot>,
    /// Local pod addresses whose exposure is new or another than in the build before; `None`: no live local pod has
    /// the address any more. An address that gets less exposed may join a known-open set only after the snapshot is
    /// in use; one that gets more exposed must have left it before.
    pub exposure: Vec<(IpAddr, Option<Exposure>)>,
    /// The pod ranges of the node (`Locality::All`: of all nodes), sorted; `None` where nothing changed.
    pub pod_ranges: Option<Vec<IpNet>>,
    /// Established connections of these local addresses may have lost their permission. (An over-estimate is fine.)
    pub touched: Vec<IpAddr>,
    /// Some cluster-tier rule is about egress of a local pod, so that traffic to its own node must be judged as well.
    pub judge_input: bool,
}

/// Something in the world that is valid but hardly meant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Warning {
    /// The object it is about.
    pub object: ObjectKey,
    /// What it is and what to do about it.
    pub message: String,
}

/// The world, indexed. Changes mark what depends on them; a build compiles only that.
#[derive(Debug)]
pub struct Index {
    locality: Locality,
    world: World,
    generation: Generation,
    rules: HashMap<String, RuleId>,
    void: HashSet<(IpAddr, String, String)>,
    exposure: BTreeMap<IpAddr, Exposure>,
    ranges: Option<Vec<IpNet>>,
}

struct Peer<'w> {
    group: u32,
    pod: Option<&'w Pod>,
    address: IpAddr,
}

impl Index {
    /// An empty world.
    pub fn new(locality: Locality) -> Self {
        Self {
            locality,
            world: World::default(),
            generation: Generation(0),
            rules: HashMap::new(),
            void: HashSet::new(),
            exposure: BTreeMap::new(),
            ranges: None,
        }
    }

    /// Takes one change in. Order among changes of different objects does not matter to the outcome.
    pub fn apply(&mut self, change: Change) {
        if let Change::Apply(Object::Pod(pod)) = &change {
            self.void.retain(|v| (&v.1, &v.2) != (&pod.namespace, &pod.name));
        }
        self.world.apply(change);
    }

    /// The address' link or route on this node went away: whoever had it has it no more, until a pod is applied anew.
    pub fn forget_address(&mut self, address: IpAddr) {
        let claims = self.world.pods.values().filter(|p| p.addresses.contains(&address));
        self.void.extend(claims.map(|p| (address, p.namespace.clone(), p.name.clone())));
    }

    fn owner(&self, address: IpAddr) -> Option<&Pod> {
        let live = |p: &&Pod| p.phase == Phase::Live && !p.host_network && p.addresses.contains(&address);
        let valid = |p: &&Pod| !self.void.contains(&(address, p.namespace.clone(), p.name.clone()));
        let pods = self.world.pods.values().filter(live).filter(valid);
        pods.max_by_key(|p| (p.created, !p.terminating, &p.namespace, &p.name))
    }

    fn is_local(&self, pod: &Pod) -> bool {
        match &self.locality {
            Locality::All => true,
            Locality::Node(node) => pod.node.as_ref() == Some(node),
        }
    }

    fn rule_id(&mut self, tables: &mut Tables, info: RuleInfo) -> RuleId {
        let next = RuleId(self.rules.len() as u32);
        let id = *self.rules.entry(info.name.to_string()).or_insert(next);
        tables.set_rule(id, Some(Arc::new(info)));
        id
    }

    /// Compiles what changed since the last build. The generation grows by one.
    pub fn build(&mut self) -> Build {
        self.generation.0 += 1;
        let mut tables = Tables::new();
        let world = self.world.clone();
        let rule_ids = self.number_rules(&world, &mut tables);

        let mut owned: BTreeMap<IpAddr, &Pod> = BTreeMap::new();
        for address in world.pods.values().flat_map(|p| p.addresses.iter().copied()) {
            if let Some(pod) = self.owner(address) {
                owned.insert(address, &world.pods[&(pod.namespace.clone(), pod.name.clone())]);
            }
        }
        let mut node_numbers: BTreeMap<&str, u32> = BTreeMap::new();
        let names = world.nodes.keys().chain(world.pods.values().filter_map(|p| p.node.as_ref()));
        for name in names {
            let next = node_numbers.len() as u32 + 1;
            node_numbers.entry(name).or_insert(next);
        }
        let mut nodes_at: BTreeMap<IpAddr, BTreeSet<u32>> = BTreeMap::new();
        for (name, number) in &node_numbers {
            let addresses = crate::reference::node_addresses(&world, name);
            addresses.into_iter().for_each(|a| drop(nodes_at.entry(a).or_default().insert(*number)));
        }

        // Ranges between the boundaries of all blocks, a group each.
        let mut peers = vec![Peer { group: 0, pod: None, address: IpAddr::from([0, 0, 0, 0]) }];
        let mut starts: BTreeSet<Addr> = BTreeSet::new();
        for block in blocks(&world) {
            starts.insert(block.network().into());
            let above = match block.broadcast() {
                IpAddr::V4(a) => u32::from(a).checked_add(1).map(|a| IpAddr::V4(a.into())),
                IpAddr::V6(a) => u128::from(a).checked_add(1).map(|a| IpAddr::V6(a.into())),
            };
            starts.extend(above.map(Addr::from));
        }
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for start in starts {
            let group = peers.len() as u32;
            peers.push(Peer { group, pod: None, address: start.ip() });
            match start.as_v4() {
                Some(start) => v4.push((start, group)),
                None => v6.push((start.bits(), group)),
            }
        }
        tables.set_ranges(v4, v6);

        let (mut nodes_of, mut pod_of) = (Vec::new(), Vec::new());
        for (address, nodes) in &nodes_at {
            let first = nodes.first().copied().unwrap_or(0);
            let (group, exceptional) = (tables.range((*address).into()), nodes.len() > 1);
            let endpoint = Endpoint { group, node: first, kind: EndpointKind::Node, exceptional };
            tables.set_endpoint((*address).into(), Some(endpoint));
            nodes_of.extend(nodes.iter().filter(|_| exceptional).map(|n| (Addr::from(*address), *n)));
        }
        for (number, (address, pod)) in owned.iter().enumerate() {
            let group = peers.len() as u32;
            peers.push(Peer { group, pod: Some(pod), address: *address });
            let kind = if self.is_local(pod) { EndpointKind::LocalPod } else { EndpointKind::RemotePod };
            let node = pod.node.as_deref().and_then(|n| node_numbers.get(n)).copied().unwrap_or(0);
            tables.set_endpoint((*address).into(), Some(Endpoint { group, node, kind, exceptional: true }));
            let first = owned.iter().position(|(_, p)| std::ptr::eq(*p, *pod)).unwrap_or(number);
            pod_of.push(((*address).into(), first as u32));
        }
        nodes_of.sort();
        pod_of.sort();
        tables.set_exceptions(nodes_of, pod_of);

        let (mut exposure, mut judge_input, mut subjects) = (BTreeMap::new(), false, 0);
        for peer in &peers {
            let mut group = Group { exact: peer.group, broad: 0, subject: 0 };
            if let Some(pod) = peer.pod.filter(|p| self.is_local(p)) {
                subjects += 1;
                group.subject = subjects;
                let ingress = direction_table(&world, &rule_ids, pod, &peers, Direction::Ingress);
                let egress = direction_table(&world, &rule_ids, pod, &peers, Direction::Egress);
                judge_input |= egress.as_ref().is_some_and(|t| t.own_node.is_some());
                exposure.insert(peer.address, Exposure { ingress: ingress.is_some(), egress: egress.is_some() });
                let subject = Subject { ingress: ingress.map(Arc::new), egress: egress.map(Arc::new) };
                tables.set_subject(subjects, Some(subject));
            }
            tables.set_group(peer.group, Some(group));
        }

        let local = |n: &&podgate_api::Node| match &self.locality {
            Locality::All => true,
            Locality::Node(node) => n.name == *node,
        };
        let mut ranges: Vec<IpNet> = world.nodes.values().filter(local).flat_map(|n| n.pod_cidrs.clone()).collect();
        ranges.sort();
        ranges.dedup();
        if self.locality != Locality::All {
            tables.set_pod_ranges(&ranges);
        }

        let gone = self.exposure.keys().filter(|a| !exposure.contains_key(a)).map(|a| (*a, None));
        let new = exposure.iter().filter(|(a, e)| self.exposure.get(a) != Some(e)).map(|(a, e)| (*a, Some(*e)));
        let changed = gone.chain(new).collect();
        let touched = exposure.keys().copied().collect();
        let pod_ranges = (self.ranges.as_ref() != Some(&ranges)).then(|| ranges.clone());
        (self.exposure, self.ranges) = (exposure, Some(ranges));
        let snapshot = Arc::new(Snapshot::new(self.generation, tables));
        Build { snapshot, exposure: changed, pod_ranges, touched, judge_input }
    }

    fn number_rules(&mut self, world: &World, tables: &mut Tables) -> HashMap<String, RuleId> {
        let mut infos = Vec::new();
        for policy in world.policies.values().filter(|p| crate::reference::in_force(world, p)) {
            for direction in Direction::BOTH {
                let info = |name: String, action, default_deny| RuleInfo {
                    name: name.into(),
                    tier: policy.tier.into_engine(),
                    namespace: policy.key.namespace.as_str().into(),
                    policy: policy.key.name.as_str().into(),
                    direction: direction.into_engine(),
                    action,
                    default_deny,
                };
                for (i, rule) in policy.rules(direction).iter().enumerate() {
                    let name = crate::reference::rule_name(policy, direction, i);
                    infos.push(info(name, rule.action.into_engine(), false));
                }
                if policy.tier == podgate_api::Tier::NetworkPolicy && policy.isolates(direction) {
                    let name = crate::reference::default_deny_name(policy, direction);
                    infos.push(info(name, Action::Deny, true));
                }
            }
        }
        for namespace in world.namespaces.values().filter(|n| n.ingress_default_deny) {
            infos.push(RuleInfo {
                name: format!("networkpolicy/{}/(annotation)/ingress/default-deny", namespace.name).into(),
                tier: Tier::NetworkPolicy,
                namespace: namespace.name.as_str().into(),
                policy: "(annotation)".into(),
                direction: podgate_engine::Direction::Ingress,
                action: Action::Deny,
                default_deny: true,
            });
        }
        infos.into_iter().map(|info| (info.name.to_string(), self.rule_id(tables, info))).collect()
    }

    /// What is valid but hardly meant, sorted.
    pub fn warnings(&self) -> Vec<Warning> {
        let legacy = self.world.policies.values().filter(|p| p.key.kind == podgate_api::Kind::LegacyNetworkPolicy);
        let idle = legacy.filter(|p| !crate::reference::in_force(&self.world, p));
        idle.map(|p| Warning {
            object: p.key.clone(),
            message: "extensions/v1beta1 has no effect in a namespace that is not isolated by annotation".to_owned(),
        })
        .collect()
    }

    /// The name (`namespace/name`) of the pod that has the address, if one has.
    pub fn pod_at(&self, address: IpAddr) -> Option<String> {
        self.owner(address).map(|p| format!("{}/{}", p.namespace, p.name))
    }
}

fn blocks(world: &World) -> Vec<IpNet> {
    let mut blocks = Vec::new();
    for policy in world.policies.values() {
        for rule in policy.ingress.iter().chain(&policy.egress) {
            let Peers::Of(peers) = &rule.peers else { continue };
            for peer in peers {
                if let podgate_api::Peer::Block(block) = peer {
                    blocks.push(block.cidr);
                    blocks.extend(&block.except);
                }
            }
        }
    }
    blocks
}

fn direction_table(
    world: &World,
    ids: &HashMap<String, RuleId>,
    pod: &Pod,
    peers: &[Peer<'_>],
    direction: Direction,
) -> Option<DirectionTable> {
    let policies = crate::reference::policies_selecting(world, pod, direction);
    let isolation = crate::reference::isolation(world, pod, direction);
    if policies.is_empty() && isolation.is_none() {
        return None;
    }
    let middle =
        isolation.map_or(Middle::Absent, |name| ids.get(&name).map_or(Middle::Absent, |r| Middle::Isolated(*r)));
    let table = |middle, undecided| {
        let everybody = podgate_engine::PortTable::constant(Cause::Unknown);
        let mut table = PeerTable::new(&everybody);
        for peer in peers {
            let rulings = rulings(world, ids, &policies, pod, peer, direction);
            table.set_exact(peer.group, &port_table(rulings.iter().cloned(), middle, undecided));
        }
        table
    };
    let cluster = policies.iter().any(|p| p.tier != podgate_api::Tier::NetworkPolicy);
    let own_node = cluster && direction == Direction::Egress;
    let exempt = if middle == Middle::Absent { Middle::Absent } else { Middle::Exempt };
    Some(DirectionTable {
        peers: table(middle, Cause::Open),
        own_node: own_node.then(|| table(exempt, Cause::OwnNode)),
    })
}

fn rulings(
    world: &World,
    ids: &HashMap<String, RuleId>,
    policies: &[&podgate_api::PolicySpec],
    subject: &Pod,
    peer: &Peer<'_>,
    direction: Direction,
) -> Vec<Ruling<'static>> {
    let destination = if direction == Direction::Ingress { Some(subject) } else { peer.pod };
    let mut rulings = Vec::new();
    for policy in policies {
        for (i, rule) in policy.rules(direction).iter().enumerate() {
            let matches = match &rule.peers {
                Peers::Any => true,
                Peers::Of(peers) => peers.iter().any(|p| peer_matches(world, &policy.key.namespace, p, peer)),
            };
            let Some(id) = ids.get(&crate::reference::rule_name(policy, direction, i)).filter(|_| matches) else {
                continue;
            };
            let deny = policy.tier != podgate_api::Tier::NetworkPolicy && rule.action == podgate_api::Action::Deny;
            let mut spans = Vec::new();
            for port in &rule.ports {
                let ranges: Vec<_> = match port {
                    PortMatch::Range { protocol, first, last } => vec![(protocol, *first, *last)],
                    PortMatch::Named { protocol, name } => destination
                        .iter()
                        .flat_map(|p| &p.ports)
                        .filter(|p| p.name == *name && p.protocol == *protocol)
                        .map(|p| (protocol, p.number, p.number))
                        .collect(),
                };
                for (protocol, first, last) in ranges {
                    spans.push(PortSpan::ports(protocol.number(), first, last));
                    spans.extend(deny.then(|| PortSpan::not_shown(protocol.number())));
                }
            }
            if rule.ports.is_empty() {
                spans.push(PortSpan::EVERYTHING);
            }
            let (tier, action) = (policy.tier.into_engine(), rule.action.into_engine());
            rulings.push(Ruling { tier, action, rule: *id, spans: spans.into() });
        }
    }
    rulings
}

fn peer_matches(world: &World, own: &str, peer: &podgate_api::Peer, at: &Peer<'_>) -> bool {
    match peer {
        podgate_api::Peer::Pods { namespaces, pods } => at.pod.is_some_and(|pod| {
            let namespace = match namespaces {
                NamespaceMatch::Own => pod.namespace == own,
                NamespaceMatch::Labels(s) => s.matches(&crate::reference::namespace_labels(world, &pod.namespace)),
            };
            namespace && pods.matches(&pod.labels)
        }),
        podgate_api::Peer::Block(block) => {
            at.group != 0 && block.cidr.contains(&at.address) && !block.except.iter().any(|e| e.contains(&at.address))
        }
    }
}

trait IntoEngine {
    type Engine;
    fn into_engine(self) -> Self::Engine;
}

impl IntoEngine for podgate_api::Tier {
    type Engine = Tier;
    fn into_engine(self) -> Tier {
        match self {
            podgate_api::Tier::Admin => Tier::Admin,
            podgate_api::Tier::NetworkPolicy => Tier::NetworkPolicy,
            podgate_api::Tier::Baseline => Tier::Baseline,
        }
    }
}

impl IntoEngine for podgate_api::Action {
    type Engine = Action;
    fn into_engine(self) -> Action {
        match self {
            podgate_api::Action::Accept => Action::Accept,
            podgate_api::Action::Deny => Action::Deny,
            podgate_api::Action::Pass => Action::Pass,
        }
    }
}

impl IntoEngine for Direction {
    type Engine = podgate_engine::Direction;
    fn into_engine(self) -> podgate_engine::Direction {
        match self {
            Direction::Ingress => podgate_engine::Direction::Ingress,
            Direction::Egress => podgate_engine::Direction::Egress,
        }
    }
}
