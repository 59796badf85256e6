//! [`Index::build`]: what changed since the last build, stage by stage, into the tables.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use podgate_engine::{Addr, Block, Endpoint, EndpointKind, Group, RuleId, Snapshot};
use rustc_hash::FxHashSet;

use super::Index;
use super::addresses::Outcome;
use super::block_map::Span;
use super::classifier::{Settled, TermId};
use super::identities::IdentityId;
use super::subjects::SubjectId;

/// Which pods are subjects of the snapshots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Locality {
    /// All of them (`podgate test`, `explain`, and an agent that was given no node's name).
    All,
    /// Those with this `spec.nodeName`.
    Node(String),
}

/// What the kernel has to know of one local pod address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
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
    /// The networks in which pods' addresses lie, sorted: blocks (/24, /64) that hold any, and the pod ranges of other
    /// nodes; `None` where nothing changed. One that is new must be known to be a pod's before the snapshot is in use, one
    /// that is missing may be so no more after that.
    pub pod_networks: Option<Vec<IpNet>>,
    /// Established connections with one of these addresses at either end may have lost their permission: local pods
    /// whose policies changed, and whatever address (a local pod's or not) got another owner or labels. Sorted. (An
    /// over-estimate is fine.)
    pub touched: Vec<IpAddr>,
    /// Between other addresses than these and the touched ones every flow is decided as before, by the same rules, unless
    /// `pod_ranges` changed: what is remembered of their verdicts may stay. Sorted.
    pub changed: Vec<IpAddr>,
    /// Some cluster-tier rule is about egress of a local pod, so that traffic to its own node must be judged as well.
    pub judge_input: bool,
    /// Numbers of rules that were other rules' in earlier snapshots, of which none is left. What is counted by them must begin
    /// anew before this snapshot is in use, and whoever keeps such a number must give it up. Sorted.
    pub reused: Vec<RuleId>,
}

/// What a build finds out on its way.
#[derive(Debug, Default)]
struct Findings {
    exposure: Vec<(IpAddr, Option<Exposure>)>,
    touched: BTreeSet<Addr>,
    changed: BTreeSet<Addr>,
    /// Subject classes whose local addresses are touched.
    touched_subjects: FxHashSet<SubjectId>,
    /// Terms that became true or untrue of pods that stayed.
    shifted: FxHashSet<TermId>,
    /// Identities of another subject class than before.
    moved: Vec<IdentityId>,
}

impl Index {
    /// Compiles what changed since the last build. The generation grows by one.
    pub fn build(&mut self) -> Build {
        self.generation.0 += 1;
        let mut findings = Findings::default();
        let dirty: Vec<Addr> = std::mem::take(&mut self.addresses.dirty).into_iter().collect();
        dirty.iter().for_each(|a| self.settle_owner(*a));

        findings.moved = self.settle_subjects();
        self.wake_policies();
        let (blocks, repainted, selected) = self.settle_blocks(&dirty);
        let (pods, gone) = self.settle_identities(&mut findings);
        let compiled = self.compile_subjects(&pods.classes, &blocks.classes, pods.wrapped || blocks.wrapped);
        findings.touched_subjects.extend(&compiled.changed);

        findings.touched.extend(&selected);
        let dirty = [dirty, selected].concat();
        self.settle_addresses(&dirty, &repainted, &compiled.exposed, &mut findings);
        self.collect_touched(&mut findings);
        for identity in gone {
            self.remove_identity(identity);
        }
        let pod_networks = self.settle_pod_networks();
        let pod_ranges = self.settle_pod_ranges();
        findings.exposure.sort_unstable();
        let snapshot = Arc::new(Snapshot::new(self.generation, self.tables.clone()));
        Build {
            reused: self.rules.built(&snapshot),
            snapshot,
            exposure: findings.exposure,
            pod_ranges,
            pod_networks,
            changed: findings.changed.difference(&findings.touched).map(|a| a.ip()).collect(),
            touched: findings.touched.into_iter().map(Addr::ip).collect(),
            judge_input: self.subjects.judge_input(),
        }
    }

    /// Ranges of blocks, and their classes; nodes' addresses that node selectors select otherwise than before.
    fn settle_blocks(&mut self, dirty: &[Addr]) -> (Settled, Vec<Span>, Vec<Addr>) {
        let repainted = self.blocks.paint(&mut self.block_terms);
        let selected = self.settle_node_peers(dirty, &repainted);
        let settled = self.block_terms.settle();
        for profile in &settled.profiles {
            let classes = self.block_terms.classes(*profile);
            self.tables.set_block(*profile, Some(Block { narrow: classes.narrow, broad: classes.broad }));
        }
        if !repainted.is_empty() {
            self.tables.set_ranges(self.blocks.v4(), self.blocks.v6());
        }
        (settled, repainted, selected)
    }

    /// Classes of identities that others select now, and which identities have no pods any more.
    fn settle_identities(&mut self, findings: &mut Findings) -> (Settled, Vec<IdentityId>) {
        let dirty = std::mem::take(&mut self.identities.dirty);
        let (mut gone, mut stay) = (Vec::new(), Vec::new());
        for id in dirty {
            let identity = self.identities.get(id);
            if identity.pods == 0 {
                gone.push(id);
                continue;
            }
            let (before, is_new) = (identity.profile, identity.group.is_none());
            let after = self.pod_terms.acquire(identity.peer_of.to_vec());
            if !is_new && before != after {
                let (old, new) = (self.pod_terms.terms(before), self.pod_terms.terms(after));
                findings.shifted.extend(old.iter().filter(|t| !new.contains(t)));
                findings.shifted.extend(new.iter().filter(|t| !old.contains(t)));
            }
            self.pod_terms.release(before);
            let shared = self.pod_terms.terms(after).clone();
            let identity = self.identities.get_mut(id);
            (identity.profile, identity.peer_of) = (after, shared);
            stay.push(id);
        }
        let settled = self.pod_terms.settle();
        // A term that became broad changes the classes of profiles whose identities did not change.
        let resettled = |index: &Self, id: &IdentityId| settled.profiles.contains(&index.identities.get(*id).profile);
        let others = self.identities.ids().filter(|_| settled.reclassified);
        let others: Vec<_> = others.filter(|id| resettled(self, id)).collect();
        stay.into_iter().chain(others).for_each(|id| self.settle_group(id));
        (settled, gone)
    }

    /// Puts identities into their subject classes, and gives those that are in another one than before.
    fn settle_subjects(&mut self) -> Vec<IdentityId> {
        let dirty: Vec<IdentityId> = self.identities.dirty.iter().copied().collect();
        dirty.into_iter().filter(|id| self.settle_subject(*id)).collect()
    }

    /// Puts an identity into its subject class, and tells whether it is another than before.
    fn settle_subject(&mut self, id: IdentityId) -> bool {
        let key = self.subject_key(id);
        let before = self.identities.get(id).subject;
        if self.is_subject_key(before, &key) {
            return false;
        }
        let after = self.enter_subject(key, id);
        self.leave_subject(before, id);
        self.identities.get_mut(id).subject = after;
        true
    }

    fn settle_group(&mut self, id: IdentityId) {
        let identity = self.identities.get(id);
        let classes = self.pod_terms.classes(identity.profile);
        let group = Some(Group {
            narrow: classes.narrow,
            broad: classes.broad,
            subject: identity.subject,
            ports: self.identities.key(id).ports,
        });
        if identity.group != group {
            self.identities.get_mut(id).group = group;
            self.tables.set_group(id + 1, group);
        }
    }

    /// Endpoints and exposure of addresses that changed hands, are in blocks that changed, or are of subjects about
    /// which other directions are judged now.
    fn settle_addresses(&mut self, dirty: &[Addr], repainted: &[Span], exposed: &[SubjectId], findings: &mut Findings) {
        let in_blocks = repainted.iter().flat_map(|s| self.addresses.within(*s));
        let addresses: BTreeSet<Addr> = in_blocks.chain(dirty.iter().copied()).collect();
        for address in addresses {
            let outcome = self.settle_endpoint(address);
            self.note(address, outcome, findings);
        }
        let identities = exposed.iter().flat_map(|c| self.subjects.identities(*c)).chain(&findings.moved);
        let identities: FxHashSet<IdentityId> = identities.copied().collect();
        for identity in identities {
            self.note_exposure(identity, findings);
        }
        if let Some((nodes_of, pod_of)) = self.addresses.changed_exceptions() {
            self.tables.set_exceptions(nodes_of, pod_of);
        }
    }

    fn note_exposure(&mut self, identity: IdentityId, findings: &mut Findings) {
        for address in self.identities.get(identity).local.clone() {
            if let Some(exposure) = self.settle_exposure(address) {
                findings.exposure.push((address.ip(), exposure));
            }
        }
    }

    /// An address with another owner: what could lose its permission are its own connections. A peer that no rule in
    /// force here tells from others can't.
    fn note(&self, address: Addr, outcome: Outcome, findings: &mut Findings) {
        if let Some(exposure) = outcome.exposure {
            findings.exposure.push((address.ip(), exposure));
        }
        let (before, after) = (outcome.before, outcome.after);
        if before != after || outcome.exception {
            findings.changed.insert(address);
        }
        let same_but_block = before.zip(after).is_some_and(|(a, b)| Endpoint { block: b.block, ..a } == b);
        let local = [before, after].into_iter().flatten().any(|e| e.kind == EndpointKind::LocalPod);
        let known = before.is_some() && (local || [before, after].into_iter().flatten().any(|e| self.matters(e)));
        let exposed = outcome.exposure.flatten().is_some_and(|e| e != Exposure::default());
        let new = before.is_none() && (exposed || after.is_some_and(|e| self.cluster_tiers() && self.matters(e)));
        let same = same_but_block && !outcome.exception;
        if !same && (known || new) {
            findings.touched.insert(address);
        }
    }

    /// Whether rules about local pods tell this endpoint from others.
    fn matters(&self, endpoint: Endpoint) -> bool {
        let Some(identity) = endpoint.group.checked_sub(1) else { return true };
        if self.subjects.asks_names() && self.identities.key(identity).ports != 0 {
            return true;
        }
        let terms = self.pod_terms.terms(self.identities.get(identity).profile);
        terms.iter().any(|t| self.subjects_using(&self.pod_terms, *t).next().is_some())
    }

    fn cluster_tiers(&self) -> bool {
        self.policies.iter().any(|p| p.tier != podgate_engine::Tier::NetworkPolicy)
    }

    fn collect_touched(&self, findings: &mut Findings) {
        for term in &findings.shifted {
            findings.touched_subjects.extend(self.subjects_using(&self.pod_terms, *term));
        }
        for identity in &findings.moved {
            findings.touched.extend(&self.identities.get(*identity).local);
        }
        for class in &findings.touched_subjects {
            let identities = self.subjects.identities(*class).iter();
            findings.touched.extend(identities.flat_map(|id| &self.identities.get(*id).local));
        }
    }

    fn settle_pod_networks(&mut self) -> Option<Vec<IpNet>> {
        if !self.pod_blocks.take_changed() && !self.ranges_dirty {
            return None;
        }
        let mut networks: Vec<IpNet> = self.pod_blocks.iter().chain(self.nodes.peer_ranges()).collect();
        networks.sort();
        networks.dedup();
        if self.pod_networks == networks {
            return None;
        }
        self.pod_networks.clone_from(&networks);
        Some(networks)
    }

    fn settle_pod_ranges(&mut self) -> Option<Vec<IpNet>> {
        if !std::mem::take(&mut self.ranges_dirty) {
            return None;
        }
        if self.guard_ranges {
            self.tables.set_peer_ranges(&self.nodes.peer_ranges());
        }
        let ranges = self.nodes.pod_ranges();
        if self.pod_ranges.as_ref() == Some(&ranges) {
            return None;
        }
        if self.guard_ranges {
            self.tables.set_pod_ranges(&ranges);
        }
        self.pod_ranges = Some(ranges.clone());
        Some(ranges)
    }
}
