//! [`Index`]: the world as the compiler needs it, and [`Index::build`].
//!
//! ```text
//!   Change ─▶ pods ──────▶ addresses (who claims, who owns) ─────────────────────▶ endpoints
//!             │  └───────▶ identities (namespace, labels, named ports) ─┬────────▶ groups
//!             namespaces ─▶ selectors (which select which identity) ────┤
//!             policies ───▶ rules, selectors, blocks ─▶ classifier ─────┴ subjects ─▶ rule tables
//!             nodes ──────▶ addresses, pod ranges
//! ```
//!
//! A change marks what depends on it, and a build compiles only that: a pod like others is a new entry in one bucket,
//! a policy is the tables of its own subjects. Everything equal is kept once and counted, so that nothing outlives its
//! last user. Rooms: each noun above is a file; `build.rs` is the order of the stages.

mod addresses;
mod block_map;
mod build;
mod classifier;
mod counts;
mod identities;
mod interner;
mod labels;
mod namespaces;
mod node_peers;
mod nodes;
mod pod_blocks;
mod pods;
mod policies;
mod port_sets;
mod rule_book;
mod selectors;
mod subjects;
mod warnings;

use std::net::IpAddr;

use ipnet::IpNet;
use podgate_api::{Change, Kind, Namespace, Object};
use podgate_engine::{Generation, RuleId, Tables};
use rustc_hash::FxHashMap;

use addresses::Addresses;
use block_map::BlockMap;
use classifier::Classifier;
use identities::Identities;
use labels::{Symbols, acquire_labels};
use namespaces::{NamespaceId, Namespaces};
use node_peers::NodePeers;
use nodes::Nodes;
use pod_blocks::PodBlocks;
use pods::Pods;
use policies::Policies;
use port_sets::PortSets;
use rule_book::RuleBook;
use selectors::Selectors;
use subjects::Subjects;

pub use build::{Build, Exposure, Locality};
pub use counts::Counts;
pub use warnings::Warning;

/// The world, indexed. Changes mark what depends on them; a build compiles only that.
#[derive(Debug)]
pub struct Index {
    generation: Generation,
    /// As of the last build, and what later changes wrote into it.
    tables: Tables,
    symbols: Symbols,
    namespaces: Namespaces,
    nodes: Nodes,
    pods: Pods,
    addresses: Addresses,
    pod_blocks: PodBlocks,
    identities: Identities,
    port_sets: PortSets,
    subject_selectors: Selectors,
    peer_selectors: Selectors,
    pod_terms: Classifier,
    block_terms: Classifier,
    blocks: BlockMap,
    node_peers: NodePeers,
    policies: Policies,
    subjects: Subjects,
    rules: RuleBook,
    /// The default denies of annotated namespaces.
    annotations: FxHashMap<NamespaceId, RuleId>,
    /// As of the last build.
    pod_ranges: Option<Vec<IpNet>>,
    /// As of the last build.
    pod_networks: Vec<IpNet>,
    ranges_dirty: bool,
    /// Unknown addresses of the pod ranges are denied.
    guard_ranges: bool,
}

impl Index {
    /// An empty world.
    pub fn new(locality: Locality) -> Self {
        let mut index = Self {
            generation: Generation(0),
            tables: Tables::new(),
            symbols: Symbols::default(),
            namespaces: Namespaces::default(),
            nodes: Nodes::default(),
            pods: Pods::default(),
            addresses: Addresses::default(),
            pod_blocks: PodBlocks::default(),
            identities: Identities::default(),
            port_sets: PortSets::default(),
            subject_selectors: Selectors::default(),
            peer_selectors: Selectors::default(),
            pod_terms: Classifier::new(1),
            block_terms: Classifier::new(2),
            blocks: BlockMap::default(),
            node_peers: NodePeers::default(),
            policies: Policies::default(),
            subjects: Subjects::default(),
            rules: RuleBook::default(),
            annotations: FxHashMap::default(),
            pod_ranges: None,
            pod_networks: Vec::new(),
            ranges_dirty: true,
            guard_ranges: locality != Locality::All,
        };
        index.set_locality(&locality);
        index
    }

    /// Takes one change in. Order among changes of different objects does not matter to the outcome.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Apply(Object::Pod(pod)) => self.apply_pod(pod),
            Change::Apply(Object::Namespace(namespace)) => self.apply_namespace(namespace),
            Change::Apply(Object::Node(node)) => self.apply_node(node),
            Change::Apply(Object::Policy(policy)) => self.apply_policy(policy),
            Change::Delete(key) => match key.kind {
                Kind::Pod => self.delete_pod(&key.namespace, &key.name),
                Kind::Namespace => self.delete_namespace(&key.name),
                Kind::Node => self.delete_node(&key.name),
                Kind::NetworkPolicy
                | Kind::LegacyNetworkPolicy
                | Kind::ClusterNetworkPolicy
                | Kind::AdminNetworkPolicy
                | Kind::BaselineAdminNetworkPolicy => self.delete_policy(&key),
            },
        }
    }

    /// The address' link or route on this node went away: whoever had it has it no more, until a pod is applied anew.
    pub fn forget_address(&mut self, address: IpAddr) {
        self.void_claims(address.into());
    }

    /// The address' link or route is back, and is the one that went: whoever had it before [`Index::forget_address`] has
    /// it again.
    pub fn recall_address(&mut self, address: IpAddr) {
        self.revive_claims(address.into());
    }

    /// From now on an address of the pod ranges that no pod is known to have is denied
    /// ([`Cause::Unknown`](podgate_engine::Cause::Unknown)), also where all pods are local: what an agent wants, and
    /// `podgate test` does not. `fixed`, if there are any, are the ranges instead of those of Node objects.
    pub fn guard_pod_ranges(&mut self, mut fixed: Vec<IpNet>) {
        fixed.sort();
        fixed.dedup();
        self.nodes.fixed_ranges = Some(fixed).filter(|ranges| !ranges.is_empty());
        self.guard_ranges = true;
        self.pod_ranges = None;
        self.ranges_dirty = true;
    }

    /// Whether there is a Node object of this name; None where there is none of any name, as where nodes may not be read.
    pub fn knows_node(&self, name: &str) -> Option<bool> {
        self.nodes.knows(&self.symbols, name)
    }

    /// Generations go on after this one: what another index compiled is in force already.
    pub fn go_on_from(&mut self, generation: Generation) {
        self.generation = self.generation.max(generation);
        self.rules.go_on_from(generation);
    }

    /// Up to so many rules that are no more keep their numbers: one that comes back meanwhile goes on counting where it was.
    /// (Unless told otherwise it is 32,768, which is for an agent's life.)
    pub fn remember_rules(&mut self, limit: usize) {
        self.rules.remember(limit);
    }

    /// How much is kept, for telemetry and to see that nothing piles up: what it is, and how many.
    pub fn sizes(&self) -> [(&'static str, usize); 17] {
        let (namespaces, namespace_selectors) = self.namespaces.len();
        let (identities, labels) = self.identities.len();
        let (port_names, port_sets) = self.port_sets.len();
        let ((pod_profiles, pod_classes), (block_profiles, block_classes)) =
            (self.pod_terms.len(), self.block_terms.len());
        [
            ("strings", self.symbols.len()),
            // Policies of the cluster tiers have the namespace without a name.
            ("namespaces", namespaces - usize::from(self.namespaces.find(&self.symbols, "").is_some())),
            ("namespace selectors", namespace_selectors),
            ("nodes", self.nodes.len()),
            ("pods", self.pods.len()),
            ("addresses", self.addresses.len()),
            ("blocks of pods", self.pod_blocks.len()),
            ("identities", identities),
            ("labels", labels),
            ("port names", port_names),
            ("port sets", port_sets),
            ("pod selectors", self.subject_selectors.len() + self.peer_selectors.len()),
            ("blocks", self.blocks.len()),
            ("profiles", pod_profiles + block_profiles),
            ("peer classes", pod_classes + block_classes),
            ("subject classes", self.subjects.len()),
            ("policies", self.policies.iter().count()),
        ]
    }

    fn apply_namespace(&mut self, object: Namespace) {
        let id = self.namespaces.acquire(&mut self.symbols, &object.name);
        // An object is one user of its namespace.
        if !self.namespaces.get(id).exists {
            self.namespaces.retain(id);
        }
        let labels = acquire_labels(&mut self.symbols, &object.labels);
        if self.namespaces.set_labels(&mut self.symbols, id, Some(labels)) {
            self.select_again(id);
        }
        self.annotate(id, &object.name, object.ingress_default_deny);
        self.namespaces.release(&mut self.symbols, id);
    }

    fn delete_namespace(&mut self, name: &str) {
        let Some(id) = self.namespaces.find(&self.symbols, name) else { return };
        if !self.namespaces.get(id).exists {
            return;
        }
        if self.namespaces.set_labels(&mut self.symbols, id, None) {
            self.select_again(id);
        }
        self.annotate(id, name, false);
        self.namespaces.release(&mut self.symbols, id);
    }

    /// Isolates the namespace's pods, or not, and puts its old policies in force, or out of it.
    fn annotate(&mut self, id: NamespaceId, name: &str, isolated: bool) {
        if self.namespaces.get(id).annotated == isolated {
            return;
        }
        self.namespaces.get_mut(id).annotated = isolated;
        self.identities.dirty.extend(&self.namespaces.get(id).identities);
        if isolated {
            let rule = self.rules.acquire(&mut self.tables, Self::annotation_rule(name));
            self.annotations.insert(id, rule);
        } else if let Some(rule) = self.annotations.remove(&id) {
            self.rules.release(&mut self.tables, rule);
        }
        self.switch_legacy(name, isolated);
    }
}
