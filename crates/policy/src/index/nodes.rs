//! Nodes: their numbers, objects, pod ranges.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Index;
use super::build::Locality;
use super::interner::{Interner, entry};
use super::labels::{LabelSet, Sym, Symbols, acquire_labels, release_labels};

/// A node's number, from 1; 0: none. Less than 2^29.
pub(crate) type NodeNumber = u32;

#[derive(Debug, Default)]
struct Node {
    labels: LabelSet,
    addresses: Vec<IpAddr>,
    pod_ranges: Vec<IpNet>,
}

/// All nodes that something is on, or that have an object.
#[derive(Debug, Default)]
pub(crate) struct Nodes {
    names: Interner<Sym>,
    /// What a Node object says.
    objects: Vec<Option<Node>>,
    /// The node whose pods are subjects; `None`: all.
    pub(crate) local: Option<NodeNumber>,
    /// The pod ranges by setting, instead of those of the objects.
    pub(crate) fixed_ranges: Option<Vec<IpNet>>,
}

impl Nodes {
    /// The node of that name, with one user more.
    pub(crate) fn acquire(&mut self, symbols: &mut Symbols, name: &str) -> NodeNumber {
        let sym = symbols.acquire(name).0;
        let (id, new) = self.names.acquire(sym);
        if !new {
            symbols.release(sym);
        }
        id + 1
    }

    /// One user less.
    pub(crate) fn release(&mut self, symbols: &mut Symbols, node: NodeNumber) {
        if node != 0
            && let Some(name) = self.names.release(node - 1)
        {
            symbols.release(*name);
        }
    }

    /// Whether pods of this node are subjects.
    pub(crate) fn is_local(&self, node: NodeNumber) -> bool {
        self.local.is_none_or(|local| local == node)
    }

    /// The ranges in which every address is a local pod's, sorted.
    pub(crate) fn pod_ranges(&self) -> Vec<IpNet> {
        if let Some(fixed) = &self.fixed_ranges {
            return fixed.clone();
        }
        let objects = self.objects.iter().enumerate().filter(|(id, _)| self.is_local(*id as u32 + 1));
        let mut ranges: Vec<IpNet> =
            objects.filter_map(|(_, n)| n.as_ref()).flat_map(|n| n.pod_ranges.clone()).collect();
        ranges.sort();
        ranges.dedup();
        ranges
    }

    /// The ranges in which every address is a pod's of another node, as far as Node objects tell.
    pub(crate) fn peer_ranges(&self) -> Vec<IpNet> {
        let objects = self.objects.iter().enumerate().filter(|(id, _)| !self.is_local(*id as u32 + 1));
        objects.filter_map(|(_, n)| n.as_ref()).flat_map(|n| n.pod_ranges.iter().copied()).collect()
    }

    /// The labels of the node, if its object tells this address.
    pub(crate) fn labels_at(&self, node: NodeNumber, address: IpAddr) -> Option<&LabelSet> {
        let object = self.objects.get(node.checked_sub(1)? as usize)?.as_ref()?;
        object.addresses.contains(&address).then_some(&object.labels)
    }

    /// Every address that a Node object tells.
    pub(crate) fn told_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.objects.iter().flatten().flat_map(|node| node.addresses.iter().copied())
    }

    /// How many nodes there are.
    pub(crate) fn len(&self) -> usize {
        self.names.len()
    }

    /// How many objects there are.
    pub(crate) fn objects(&self) -> usize {
        self.objects.iter().flatten().count()
    }

    /// Whether there is an object of this name; None where there is none at all.
    pub(crate) fn knows(&self, symbols: &Symbols, name: &str) -> Option<bool> {
        self.objects.iter().flatten().next()?;
        let id = symbols.get(name).and_then(|sym| self.names.get(&sym));
        Some(id.is_some_and(|id| self.objects.get(id as usize).is_some_and(Option::is_some)))
    }
}

impl Index {
    /// Makes the node of this locality known.
    pub(super) fn set_locality(&mut self, locality: &Locality) {
        if let Locality::Node(name) = locality {
            self.nodes.local = Some(self.nodes.acquire(&mut self.symbols, name));
        }
    }

    pub(super) fn apply_node(&mut self, node: podgate_api::Node) {
        let number = self.nodes.acquire(&mut self.symbols, &node.name);
        let labels = acquire_labels(&mut self.symbols, &node.labels);
        let object = Node { labels, addresses: node.addresses, pod_ranges: node.pod_cidrs };
        self.set_node(number, Some(object));
    }

    pub(super) fn delete_node(&mut self, name: &str) {
        let number = self.nodes.acquire(&mut self.symbols, name);
        self.set_node(number, None);
        self.nodes.release(&mut self.symbols, number);
    }

    /// Replaces what the node's object says. An object is one user of the node.
    fn set_node(&mut self, number: NodeNumber, object: Option<Node>) {
        for address in object.iter().flat_map(|n| &n.addresses) {
            self.claim_for_node((*address).into(), number);
        }
        let old = std::mem::replace(entry(&mut self.nodes.objects, number - 1), object);
        if let Some(old) = old {
            old.addresses.iter().for_each(|a| self.unclaim_for_node((*a).into(), number));
            release_labels(&mut self.symbols, &old.labels);
            self.nodes.release(&mut self.symbols, number);
        }
        self.ranges_dirty = true;
    }
}
