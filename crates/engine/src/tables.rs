//! [`Tables`]: everything that verdicts need, as the compiler writes it. A clone is cheap and shares all parts, and a
//! write copies only the part it changes; what is read from a clone never changes. Verdicts are in `snapshot.rs`.

use std::sync::Arc;

use ipnet::IpNet;

use crate::endpoints::Endpoints;
use crate::paged::Paged;
use crate::ranges::{AddressSet, Ranges};
use crate::{Addr, Direction, DirectionTable, Endpoint, PortNames, RuleId, RuleInfo};

/// Pods that are the same to every policy, but for their addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Group {
    /// What rarely used selectors tell of it as a peer: a class, 0 for none.
    pub narrow: u32,
    /// What widely used selectors tell of it as a peer: a class, 0 for none.
    pub broad: u32,
    /// Its subject class; 0: no policy is about it.
    pub subject: u32,
    /// Its named ports (see [`Tables::set_port_names`]); 0: none.
    pub ports: u32,
}

/// Addresses that are in the same blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Block {
    /// Its rarely used blocks: a class, 0 for none.
    pub narrow: u32,
    /// Its widely used blocks: a class, 0 for none.
    pub broad: u32,
}

/// What the policies about one class of pods come to.
#[derive(Debug, Clone, Default)]
pub struct Subject {
    /// Ingress; `None`: no policy is about it.
    pub ingress: Option<Arc<DirectionTable>>,
    /// Egress; `None`: no policy is about it.
    pub egress: Option<Arc<DirectionTable>>,
}

impl Subject {
    /// The table of one direction.
    #[inline]
    pub fn table(&self, direction: Direction) -> Option<&DirectionTable> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }
}

/// The tables of a [`crate::Snapshot`].
#[derive(Debug, Clone)]
pub struct Tables {
    endpoints: Endpoints,
    ranges: Ranges,
    groups: Paged<Option<Group>, 128>,
    blocks: Paged<Option<Block>, 128>,
    port_names: Paged<Option<Arc<PortNames>>, 64>,
    subjects: Paged<Option<Subject>, 32>,
    rules: Paged<Option<Arc<RuleInfo>>, 64>,
    pod_ranges: AddressSet,
    peer_ranges: AddressSet,
    nodes_of: Arc<[(Addr, u32)]>,
    pod_of: Arc<[(Addr, u32)]>,
}

impl Default for Tables {
    fn default() -> Self {
        Self::new()
    }
}

impl Tables {
    /// A world without anything.
    pub fn new() -> Self {
        let (mut groups, mut blocks, mut port_names) = (Paged::new(), Paged::new(), Paged::new());
        groups.set(0, Some(Group::default()));
        blocks.set(0, Some(Block::default()));
        port_names.set(0, Some(Arc::default()));
        Self {
            endpoints: Endpoints::new(),
            ranges: Ranges::new(),
            groups,
            blocks,
            port_names,
            subjects: Paged::new(),
            rules: Paged::new(),
            pod_ranges: AddressSet::new(&[]),
            peer_ranges: AddressSet::new(&[]),
            nodes_of: Arc::new([]),
            pod_of: Arc::new([]),
        }
    }

    /// What is known of an address.
    #[inline]
    pub fn endpoint(&self, address: Addr) -> Option<Endpoint> {
        self.endpoints.get(address)
    }

    /// Sets what is known of an address.
    pub fn set_endpoint(&mut self, address: Addr, endpoint: Option<Endpoint>) {
        self.endpoints.set(address, endpoint);
    }

    /// The class of blocks of an address that is no endpoint.
    #[inline]
    pub fn range(&self, address: Addr) -> u32 {
        self.ranges.block(address)
    }

    /// Replaces the classes of blocks of addresses that are no endpoints: starts of ranges, ascending, with classes.
    pub fn set_ranges(&mut self, v4: Vec<(u32, u32)>, v6: Vec<(u128, u32)>) {
        self.ranges.set(v4, v6);
    }

    /// A group by its number. Group 0 is what is no pod.
    #[inline]
    pub fn group(&self, number: u32) -> Option<Group> {
        *self.groups.get(number)?
    }

    /// Sets a group.
    pub fn set_group(&mut self, number: u32, group: Option<Group>) {
        self.groups.set(number, group);
    }

    /// A class of blocks by its number. 0 is outside of every block.
    #[inline]
    pub fn block(&self, number: u32) -> Option<Block> {
        *self.blocks.get(number)?
    }

    /// Sets a class of blocks.
    pub fn set_block(&mut self, number: u32, block: Option<Block>) {
        self.blocks.set(number, block);
    }

    /// The names of a group's ports.
    #[inline]
    pub fn port_names(&self, number: u32) -> Option<&PortNames> {
        self.port_names.get(number)?.as_deref()
    }

    /// Sets the names of a group's ports.
    pub fn set_port_names(&mut self, number: u32, names: Option<PortNames>) {
        self.port_names.set(number, names.map(Arc::new));
    }

    /// A subject class by its number.
    #[inline]
    pub fn subject(&self, number: u32) -> Option<&Subject> {
        self.subjects.get(number)?.as_ref()
    }

    /// Sets a subject class.
    pub fn set_subject(&mut self, number: u32, subject: Option<Subject>) {
        self.subjects.set(number, subject);
    }

    /// What a rule's number stands for.
    pub fn rule(&self, id: RuleId) -> Option<&Arc<RuleInfo>> {
        self.rules.get(id.0)?.as_ref()
    }

    /// Sets what a rule's number stands for.
    pub fn set_rule(&mut self, id: RuleId, rule: Option<Arc<RuleInfo>>) {
        self.rules.set(id.0, rule);
    }

    /// Every rule there is, by ascending number.
    pub fn rules(&self) -> impl Iterator<Item = (RuleId, &RuleInfo)> {
        let numbered = self.rules.iter().enumerate();
        numbered.filter_map(|(i, rule)| Some((RuleId(u32::try_from(i).ok()?), rule.as_deref()?)))
    }

    /// Replaces the ranges in which every address is a pod's: one that is no endpoint is unknown, and denied.
    pub fn set_pod_ranges(&mut self, ranges: &[IpNet]) {
        self.pod_ranges = AddressSet::new(ranges);
    }

    /// Whether the address is in the pod ranges.
    #[inline]
    pub fn in_pod_ranges(&self, address: Addr) -> bool {
        self.pod_ranges.contains(address)
    }

    /// Replaces the ranges in which every address is a pod's of another node: one that is no endpoint is a new pod's, whose
    /// labels may yet decide. Verdicts take it for an address that is no pod's.
    pub fn set_peer_ranges(&mut self, ranges: &[IpNet]) {
        self.peer_ranges = AddressSet::new(ranges);
    }

    /// Whether the address must be a pod's of another node, and no such pod is known.
    #[inline]
    pub fn is_missing_peer(&self, address: Addr) -> bool {
        self.peer_ranges.contains(address) && self.endpoint(address).is_none()
    }

    /// Replaces the exceptions, both sorted: addresses that several nodes have, with each of those nodes; and the
    /// addresses of pods that have several of one family, with a number for the pod.
    pub fn set_exceptions(&mut self, nodes_of: Vec<(Addr, u32)>, pod_of: Vec<(Addr, u32)>) {
        (self.nodes_of, self.pod_of) = (nodes_of.into(), pod_of.into());
    }

    /// Whether the node is one of those that have this address.
    #[inline]
    pub(crate) fn is_node_of(&self, address: Addr, node: u32) -> bool {
        self.nodes_of.binary_search(&(address, node)).is_ok()
    }

    /// Whether both are addresses of one pod that has several.
    #[inline]
    pub(crate) fn same_pod(&self, one: Addr, other: Addr) -> bool {
        let pod = |address| self.pod_of.binary_search_by_key(&address, |p| p.0).ok().and_then(|i| self.pod_of.get(i));
        matches!((pod(one), pod(other)), (Some(one), Some(other)) if one.1 == other.1)
    }
}
