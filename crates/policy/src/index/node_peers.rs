//! Node selectors as peers. A block is the same range of addresses whatever is there; a node selector is about single
//! addresses that come and go with Node objects. So they paint no range: an address of a node that some selector
//! selects has a profile of its own, that of its range and the selectors besides.

use std::collections::{BTreeMap, BTreeSet};

use podgate_api::LabelSelector;
use podgate_engine::Addr;

use super::Index;
use super::block_map::Span;
use super::classifier::{ProfileId, TermId};
use super::labels::Requirements;

/// The node selectors of rules in force here, and what they select.
#[derive(Debug, Default)]
pub(crate) struct NodePeers {
    selectors: BTreeMap<TermId, Requirements>,
    /// The profiles of selected addresses, as of the last build.
    profiles: BTreeMap<Addr, ProfileId>,
    /// Selectors came or went since.
    changed: bool,
}

impl NodePeers {
    /// The profile of an address that some selector selects.
    pub(crate) fn profile(&self, address: Addr) -> Option<ProfileId> {
        self.profiles.get(&address).copied()
    }
}

impl Index {
    pub(super) fn acquire_node_selector(&mut self, selector: &LabelSelector) -> TermId {
        let labels = Requirements::acquire(&mut self.symbols, selector);
        let (term, new) = self.blocks.acquire_nodes(labels.clone());
        if new {
            self.node_peers.selectors.insert(term, labels);
            self.node_peers.changed = true;
        } else {
            labels.release(&mut self.symbols);
        }
        term
    }

    /// One user less of a block or node selector.
    pub(super) fn release_block(&mut self, term: TermId) {
        if let Some(labels) = self.blocks.release(term) {
            self.node_peers.selectors.remove(&term);
            self.node_peers.changed = true;
            labels.release(&mut self.symbols);
        }
    }

    /// Brings the profiles of nodes' addresses up to date, after ranges were painted, and gives the addresses that have
    /// another one than before. `dirty` are those whose claims changed.
    pub(super) fn settle_node_peers(&mut self, dirty: &[Addr], repainted: &[Span]) -> Vec<Addr> {
        let all = std::mem::take(&mut self.node_peers.changed);
        if self.node_peers.selectors.is_empty() && self.node_peers.profiles.is_empty() {
            return Vec::new();
        }
        let painted = repainted.iter().flat_map(|s| self.addresses.within(*s));
        let mut addresses: BTreeSet<Addr> = painted.chain(dirty.iter().copied()).collect();
        if all {
            addresses.extend(self.nodes.told_addresses().map(Addr::from));
            addresses.extend(self.node_peers.profiles.keys());
        }
        addresses.retain(|address| self.settle_node_peer(*address));
        addresses.into_iter().collect()
    }

    /// Whether the address has another profile than before.
    fn settle_node_peer(&mut self, address: Addr) -> bool {
        let mut terms = self.node_terms(address);
        let after = (!terms.is_empty()).then(|| {
            terms.extend(self.block_terms.terms(self.blocks.profile(address)).iter());
            terms.sort_unstable();
            self.block_terms.acquire(terms)
        });
        let before = match after {
            Some(profile) => self.node_peers.profiles.insert(address, profile),
            None => self.node_peers.profiles.remove(&address),
        };
        before.into_iter().for_each(|profile| self.block_terms.release(profile));
        before != after
    }

    /// The selectors that select a node whose object tells the address; none where a live pod owns it.
    fn node_terms(&self, address: Addr) -> Vec<TermId> {
        if self.owner(address).is_some() {
            return Vec::new();
        }
        let nodes = self.addresses.nodes(address).filter_map(|node| self.nodes.labels_at(node, address.ip()));
        let nodes: Vec<_> = nodes.collect();
        let selected = |labels: &&Requirements| nodes.iter().any(|node| labels.matches(node));
        self.node_peers.selectors.iter().filter(|(_, labels)| selected(labels)).map(|(term, _)| *term).collect()
    }
}
