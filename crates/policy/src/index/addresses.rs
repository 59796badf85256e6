//! Addresses: who claims them, and whose they are.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use podgate_engine::{Addr, Endpoint, EndpointKind};

use super::Index;
use super::block_map::Span;
use super::build::Exposure;
use super::identities::IdentityId;
use super::nodes::NodeNumber;
use super::pods::PodId;

/// A list that has one entry almost always.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Few<T> {
    None,
    One(T),
    Many(Vec<T>),
}

impl<T: Copy + PartialEq> Few<T> {
    fn push(&mut self, value: T) {
        *self = match std::mem::replace(self, Few::None) {
            Few::None => Few::One(value),
            Few::One(first) => Few::Many(vec![first, value]),
            Few::Many(mut list) => {
                list.push(value);
                Few::Many(list)
            }
        }
    }

    fn remove(&mut self, value: T) {
        match self {
            Few::One(one) if *one == value => *self = Few::None,
            Few::One(_) | Few::None => {}
            Few::Many(list) => {
                if let Some(at) = list.iter().position(|v| *v == value) {
                    list.swap_remove(at);
                }
                if let [last] = list.as_slice() {
                    *self = Few::One(*last);
                }
            }
        }
    }

    pub(crate) fn as_slice(&self) -> &[T] {
        match self {
            Few::None => &[],
            Few::One(one) => std::slice::from_ref(one),
            Few::Many(list) => list,
        }
    }
}

/// What is known of an address.
#[derive(Debug)]
struct Claims {
    pods: Few<PodId>,
    /// Nodes, each with how often it is told.
    nodes: Few<(NodeNumber, u32)>,
    /// As of the last build: the identity that lists it as a local address.
    local_of: Option<IdentityId>,
    /// As of the last build, for a local pod's address.
    exposure: Option<Exposure>,
}

/// All addresses that somebody claims.
#[derive(Debug, Default)]
pub(crate) struct Addresses {
    claims: BTreeMap<Addr, Claims>,
    /// Addresses whose claims changed.
    pub(crate) dirty: BTreeSet<Addr>,
    /// (address, node) of addresses that several nodes have.
    nodes_of: BTreeSet<(Addr, NodeNumber)>,
    /// (address, pod) of pods with several addresses of one family.
    pod_of: BTreeSet<(Addr, PodId)>,
    exceptions_changed: bool,
}

/// What became of an address in a build.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) before: Option<Endpoint>,
    pub(crate) after: Option<Endpoint>,
    /// Another exposure than before.
    pub(crate) exposure: Option<Option<Exposure>>,
    /// Other nodes have it than before, or its pod has other addresses.
    pub(crate) exception: bool,
}

/// Addresses, each with a number.
type Exceptions = Vec<(Addr, u32)>;

impl Addresses {
    fn claims(&mut self, address: Addr) -> &mut Claims {
        self.dirty.insert(address);
        self.claims.entry(address).or_insert_with(|| Claims {
            pods: Few::None,
            nodes: Few::None,
            local_of: None,
            exposure: None,
        })
    }

    /// The addresses in a span that somebody claims.
    pub(crate) fn within(&self, span: Span) -> impl Iterator<Item = Addr> {
        let (first, last) = span.addresses();
        self.claims.range(first..=last).map(|c| *c.0).filter(move |a| a.as_v4().is_some() == span.v4)
    }

    /// The nodes that have the address.
    pub(crate) fn nodes(&self, address: Addr) -> impl Iterator<Item = NodeNumber> {
        self.claims.get(&address).into_iter().flat_map(|c| c.nodes.as_slice()).map(|n| n.0)
    }

    /// The exceptions as the engine takes them, if they changed.
    pub(crate) fn changed_exceptions(&mut self) -> Option<(Exceptions, Exceptions)> {
        std::mem::take(&mut self.exceptions_changed)
            .then(|| (self.nodes_of.iter().copied().collect(), self.pod_of.iter().copied().collect()))
    }

    fn set_exceptions(&mut self, address: Addr, nodes: &[NodeNumber], pod: Option<PodId>) -> bool {
        let all = (address, 0)..=(address, u32::MAX);
        let differs = |known: &BTreeSet<(Addr, u32)>, now: &[u32]| !known.range(all.clone()).map(|k| &k.1).eq(now);
        let pod = pod.as_slice();
        let changed = differs(&self.nodes_of, nodes) || differs(&self.pod_of, pod);
        if changed {
            self.nodes_of.retain(|k| k.0 != address);
            self.pod_of.retain(|k| k.0 != address);
            self.nodes_of.extend(nodes.iter().map(|n| (address, *n)));
            self.pod_of.extend(pod.iter().map(|p| (address, *p)));
            self.exceptions_changed = true;
        }
        changed
    }

    /// How many addresses there are.
    pub(crate) fn len(&self) -> usize {
        self.claims.len()
    }
}

impl Index {
    pub(super) fn claim_for_pod(&mut self, address: Addr, pod: PodId) {
        let claims = self.addresses.claims(address);
        if !claims.pods.as_slice().contains(&pod) {
            claims.pods.push(pod);
        }
    }

    pub(super) fn unclaim_for_pod(&mut self, address: Addr, pod: PodId) {
        self.addresses.claims(address).pods.remove(pod);
    }

    pub(super) fn claim_for_node(&mut self, address: Addr, node: NodeNumber) {
        let claims = self.addresses.claims(address);
        let known = claims.nodes.as_slice().iter().find(|n| n.0 == node).copied();
        if let Some(known) = known {
            claims.nodes.remove(known);
        }
        claims.nodes.push((node, known.map_or(0, |k| k.1) + 1));
    }

    pub(super) fn unclaim_for_node(&mut self, address: Addr, node: NodeNumber) {
        let claims = self.addresses.claims(address);
        let known = claims.nodes.as_slice().iter().find(|n| n.0 == node).copied();
        if let Some((_, count)) = known {
            claims.nodes.remove((node, count));
            if count > 1 {
                claims.nodes.push((node, count - 1));
            }
        }
    }

    /// Whoever has the address has it no more.
    pub(super) fn void_claims(&mut self, address: Addr) {
        let Some(claims) = self.addresses.claims.get(&address) else { return };
        for pod in claims.pods.as_slice() {
            if let Some(pod) = self.pods.get_mut(*pod).filter(|p| !p.void.contains(&address)) {
                pod.void.push(address);
            }
        }
        self.addresses.dirty.insert(address);
    }

    /// Takes [`Index::void_claims`] back.
    pub(super) fn revive_claims(&mut self, address: Addr) {
        let Some(claims) = self.addresses.claims.get(&address) else { return };
        for pod in claims.pods.as_slice() {
            if let Some(pod) = self.pods.get_mut(*pod) {
                pod.void.retain(|void| *void != address);
            }
        }
        self.addresses.dirty.insert(address);
    }

    /// The pod that owns the address: of those that claim it the newest; among equals one that is not terminating,
    /// then the greater namespace and name, so that the order of arrival never matters.
    pub(super) fn owner(&self, address: Addr) -> Option<PodId> {
        let claims = self.addresses.claims.get(&address)?.pods.as_slice().iter().copied();
        claims.filter(|id| !self.pods.get(*id).void.contains(&address)).max_by(|a, b| {
            let order = |id: PodId| {
                let pod = self.pods.get(id);
                (pod.created, !pod.terminating, &**self.symbols.value(pod.namespace), &*pod.name)
            };
            order(*a).cmp(&order(*b))
        })
    }

    /// Lists the address with the identity of the local pod that owns it.
    pub(super) fn settle_owner(&mut self, address: Addr) {
        let owner = self.owner(address).map(|id| self.pods.get(id));
        let now = owner.filter(|pod| self.nodes.is_local(pod.node)).and_then(|pod| pod.identity);
        let Some(claims) = self.addresses.claims.get_mut(&address) else { return };
        let before = std::mem::replace(&mut claims.local_of, now);
        if before == now {
            return;
        }
        if let Some(identity) = before {
            let local = &mut self.identities.get_mut(identity).local;
            local.retain(|a| *a != address);
            if local.is_empty() {
                self.identities.dirty.insert(identity);
            }
        }
        if let Some(identity) = now {
            let local = &mut self.identities.get_mut(identity).local;
            local.push(address);
            if local.len() == 1 {
                self.identities.dirty.insert(identity);
            }
        }
    }

    /// Brings an address' endpoint and exposure up to date.
    pub(super) fn settle_endpoint(&mut self, address: Addr) -> Outcome {
        let before = self.tables.endpoint(address);
        let owner = self.owner(address);
        let after = match owner {
            Some(pod) => Some(self.pod_endpoint(address, pod)),
            None => self.node_endpoint(address),
        };
        if before != after {
            self.tables.set_endpoint(address, after);
            let is_pod = |endpoint: Option<Endpoint>| endpoint.is_some_and(|e| e.kind != EndpointKind::Node);
            match (is_pod(before), is_pod(after)) {
                (false, true) => self.pod_blocks.add(address),
                (true, false) => self.pod_blocks.remove(address),
                _ => {}
            }
        }
        let sibling = owner.filter(|pod| self.pods.get(*pod).has_siblings());
        let nodes: Vec<NodeNumber> = match (owner, self.addresses.claims.get(&address)) {
            (None, Some(claims)) if claims.nodes.as_slice().len() > 1 => {
                let mut nodes: Vec<_> = claims.nodes.as_slice().iter().map(|n| n.0).collect();
                nodes.sort_unstable();
                nodes
            }
            _ => Vec::new(),
        };
        let exception = self.addresses.set_exceptions(address, &nodes, sibling);
        let exposure = self.settle_exposure(address);
        Outcome { before, after, exposure, exception }
    }

    /// The address' exposure, if it is another than in the build before. Forgets addresses that nobody claims.
    pub(super) fn settle_exposure(&mut self, address: Addr) -> Option<Option<Exposure>> {
        let claims = self.addresses.claims.get_mut(&address)?;
        let subject = claims.local_of.map(|identity| self.identities.get(identity).subject);
        let now = subject.map(|class| self.subjects.exposure(class));
        let before = std::mem::replace(&mut claims.exposure, now);
        if claims.pods == Few::None && claims.nodes == Few::None {
            self.addresses.claims.remove(&address);
        }
        (before != now).then_some(now)
    }

    fn pod_endpoint(&self, address: Addr, pod: PodId) -> Endpoint {
        let pod = self.pods.get(pod);
        let local = self.nodes.is_local(pod.node);
        Endpoint {
            group: pod.identity.map_or(0, |i| i + 1),
            block: self.blocks.profile(address),
            node: pod.node,
            kind: if local { EndpointKind::LocalPod } else { EndpointKind::RemotePod },
            exceptional: pod.has_siblings(),
        }
    }

    fn node_endpoint(&self, address: Addr) -> Option<Endpoint> {
        let nodes = self.addresses.claims.get(&address)?.nodes.as_slice();
        let node = nodes.iter().map(|n| n.0).min()?;
        let block = self.node_peers.profile(address).unwrap_or_else(|| self.blocks.profile(address));
        Some(Endpoint { group: 0, block, node, kind: EndpointKind::Node, exceptional: nodes.len() > 1 })
    }

    /// The name (`namespace/name`) of the pod that has the address, if one has.
    pub fn pod_at(&self, address: IpAddr) -> Option<String> {
        let pod = self.pods.get(self.owner(address.into())?);
        Some(format!("{}/{}", self.symbols.value(pod.namespace), pod.name))
    }
}
