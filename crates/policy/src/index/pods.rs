//! Pods: what of them decides whose an address is, and which identity they are of.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use podgate_api::Phase;
use podgate_engine::Addr;

use super::Index;
use super::identities::IdentityId;
use super::labels::Sym;
use super::nodes::NodeNumber;

/// A pod's number.
pub(crate) type PodId = u32;

/// A pod.
#[derive(Debug, PartialEq)]
pub(crate) struct Pod {
    pub(crate) namespace: Sym,
    pub(crate) name: Arc<str>,
    /// What it is of; only pods that can own addresses are of one.
    pub(crate) identity: Option<IdentityId>,
    pub(crate) node: NodeNumber,
    pub(crate) created: Option<Timestamp>,
    pub(crate) terminating: bool,
    /// The addresses it claims for itself, sorted.
    pub(crate) own: Box<[Addr]>,
    /// The addresses it tells of its node, sorted.
    pub(crate) of_node: Box<[Addr]>,
    /// Those of its own that went away since it was applied.
    pub(crate) void: Vec<Addr>,
}

impl Pod {
    /// Whether it has several addresses of one family.
    pub(crate) fn has_siblings(&self) -> bool {
        let v4 = self.own.iter().filter(|a| a.as_v4().is_some()).count();
        v4 > 1 || self.own.len() - v4 > 1
    }
}

/// All pods.
#[derive(Debug, Default)]
pub(crate) struct Pods {
    names: HashMap<(Sym, Arc<str>), PodId>,
    slots: Vec<Option<Pod>>,
    free: Vec<PodId>,
}

impl Pods {
    pub(crate) fn get(&self, id: PodId) -> &Pod {
        match &self.slots[id as usize] {
            Some(pod) => pod,
            None => unreachable!("pod {id} is no more"),
        }
    }

    pub(crate) fn get_mut(&mut self, id: PodId) -> Option<&mut Pod> {
        self.slots[id as usize].as_mut()
    }

    /// Every pod.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Pod> {
        self.slots.iter().flatten()
    }

    /// How many pods there are.
    pub(crate) fn len(&self) -> usize {
        self.names.len()
    }
}

impl Index {
    pub(super) fn apply_pod(&mut self, pod: podgate_api::Pod) {
        let mut next = self.compact(&pod);
        let Some(id) = self.known_pod(&mut next) else {
            let id = self.new_pod_id(&next);
            self.claim(id, &next);
            self.pods.slots[id as usize] = Some(next);
            return;
        };
        let Some(old) = self.pods.slots[id as usize].take() else { unreachable!("pod {id} has a name and is no more") };
        let (stays, goes) = if old == next {
            (old, next)
        } else {
            // What stays is claimed before it is given up, so that it keeps its numbers.
            self.claim(id, &next);
            self.unclaim_but(id, &old, &next);
            (next, old)
        };
        self.release_pod(goes);
        self.pods.slots[id as usize] = Some(stays);
    }

    /// The number of the pod that has this one's name, if there is one; the name is kept once.
    fn known_pod(&self, pod: &mut Pod) -> Option<PodId> {
        let ((_, name), id) = self.pods.names.get_key_value(&(pod.namespace, Arc::clone(&pod.name)))?;
        pod.name = Arc::clone(name);
        Some(*id)
    }

    pub(super) fn delete_pod(&mut self, namespace: &str, name: &str) {
        let Some(namespace) = self.symbols.get(namespace) else { return };
        let Some(id) = self.pods.names.remove(&(namespace, name.into())) else { return };
        if let Some(pod) = self.pods.slots[id as usize].take() {
            pod.own.iter().for_each(|a| self.unclaim_for_pod(*a, id));
            pod.of_node.iter().for_each(|a| self.unclaim_for_node(*a, pod.node));
            self.release_pod(pod);
        }
        self.pods.free.push(id);
    }

    /// What is kept of a pod, everything in it with one user more.
    fn compact(&mut self, pod: &podgate_api::Pod) -> Pod {
        let live = pod.phase == Phase::Live;
        let owns = live && !pod.host_network && !pod.addresses.is_empty();
        let node = pod.node.as_deref().map_or(0, |name| self.nodes.acquire(&mut self.symbols, name));
        let own: &[IpAddr] = if owns { &pod.addresses } else { &[] };
        let mut of_node = Vec::new();
        if live && node != 0 {
            of_node.extend(&pod.host_addresses);
            of_node.extend(pod.addresses.iter().filter(|_| pod.host_network));
        }
        Pod {
            namespace: self.symbols.acquire(pod.namespace.as_str()).0,
            name: pod.name.as_str().into(),
            identity: owns.then(|| self.acquire_identity(pod)),
            node,
            created: pod.created,
            terminating: pod.terminating,
            own: sorted(own),
            of_node: sorted(&of_node),
            void: Vec::new(),
        }
    }

    fn new_pod_id(&mut self, pod: &Pod) -> PodId {
        let id = self.pods.free.pop().unwrap_or_else(|| {
            self.pods.slots.push(None);
            self.pods.slots.len() as PodId - 1
        });
        self.pods.names.insert((pod.namespace, pod.name.clone()), id);
        id
    }

    fn claim(&mut self, id: PodId, pod: &Pod) {
        pod.own.iter().for_each(|a| self.claim_for_pod(*a, id));
        pod.of_node.iter().for_each(|a| self.claim_for_node(*a, pod.node));
    }

    /// Takes the old claims of a pod away that it does not make any more.
    fn unclaim_but(&mut self, id: PodId, old: &Pod, next: &Pod) {
        for address in old.own.iter().filter(|a| !next.own.contains(a)) {
            self.unclaim_for_pod(*address, id);
        }
        old.of_node.iter().for_each(|a| self.unclaim_for_node(*a, old.node));
    }

    /// Everything that a pod uses has one user less.
    fn release_pod(&mut self, pod: Pod) {
        pod.identity.into_iter().for_each(|i| self.release_identity(i));
        self.nodes.release(&mut self.symbols, pod.node);
        self.symbols.release(pod.namespace);
    }
}

fn sorted(addresses: &[IpAddr]) -> Box<[Addr]> {
    let mut addresses: Vec<Addr> = addresses.iter().map(|a| (*a).into()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses.into()
}
