//! Identities: pods that are alike in namespace, labels and named ports, and what selects them.

use std::sync::Arc;

use podgate_engine::{Addr, Group};
use rustc_hash::FxHashSet;

use super::Index;
use super::classifier::{ProfileId, TermId};
use super::interner::{Interner, entry};
use super::labels::{LabelSet, acquire_labels, release_labels};
use super::namespaces::NamespaceId;
use super::selectors::{LabelIndex, PodSelector, SelectorId, give_back, selects};
use super::subjects::SubjectId;

/// An identity's number. Its group in the engine's tables is one more.
pub(crate) type IdentityId = u32;

/// What makes pods alike.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct IdentityKey {
    pub(crate) namespace: NamespaceId,
    pub(crate) labels: LabelSet,
    pub(crate) ports: u32,
}

/// What is known of an identity.
#[derive(Debug, Default)]
pub(crate) struct Identity {
    /// Subject selectors that select it, sorted.
    pub(crate) subject_of: Arc<[SelectorId]>,
    /// Peer selectors that select it, sorted.
    pub(crate) peer_of: Arc<[TermId]>,
    /// Its pods that have addresses; without any it is removed at the end of a build.
    pub(crate) pods: u32,
    /// The addresses that local pods of it own.
    pub(crate) local: Vec<Addr>,
    /// As of the last build.
    pub(crate) profile: ProfileId,
    pub(crate) subject: SubjectId,
    pub(crate) group: Option<Group>,
}

/// All identities.
#[derive(Debug, Default)]
pub(crate) struct Identities {
    keys: Interner<IdentityKey>,
    slots: Vec<Identity>,
    labels: LabelIndex,
    /// Those that a build has to look at.
    pub(crate) dirty: FxHashSet<IdentityId>,
}

impl Identities {
    pub(crate) fn get(&self, id: IdentityId) -> &Identity {
        &self.slots[id as usize]
    }

    pub(crate) fn get_mut(&mut self, id: IdentityId) -> &mut Identity {
        &mut self.slots[id as usize]
    }

    pub(crate) fn key(&self, id: IdentityId) -> &Arc<IdentityKey> {
        self.keys.value(id)
    }

    /// Every identity.
    pub(crate) fn ids(&self) -> impl Iterator<Item = IdentityId> {
        (0..self.slots.len() as u32).filter(|id| self.keys.try_value(*id).is_some())
    }

    /// How many identities and labels there are.
    pub(crate) fn len(&self) -> (usize, usize) {
        (self.keys.len(), self.labels.len())
    }
}

impl Index {
    /// The identity of a pod, with one pod more.
    pub(super) fn acquire_identity(&mut self, pod: &podgate_api::Pod) -> IdentityId {
        let namespace = self.namespaces.acquire(&mut self.symbols, &pod.namespace);
        let labels = acquire_labels(&mut self.symbols, &pod.labels);
        let ports = self.port_sets.acquire(&mut self.symbols, &mut self.tables, &pod.ports);
        let key = IdentityKey { namespace, labels, ports };
        let known = self.identities.keys.get(&key);
        let id = match known {
            Some(id) => {
                self.release_key(&key);
                id
            }
            None => self.new_identity(key),
        };
        self.identities.get_mut(id).pods += 1;
        id
    }

    fn new_identity(&mut self, key: IdentityKey) -> IdentityId {
        let subject_of = self.subject_selectors.selecting(&self.namespaces, key.namespace, &key.labels);
        let peer_of = self.peer_selectors.selecting(&self.namespaces, key.namespace, &key.labels);
        let (id, _) = self.identities.keys.acquire(key);
        let key = self.identities.keys.value(id).clone();
        let fresh = Identity { subject_of: subject_of.into(), peer_of: peer_of.into(), ..Identity::default() };
        *entry(&mut self.identities.slots, id) = fresh;
        self.identities.labels.insert(id, &key.labels);
        self.namespaces.get_mut(key.namespace).identities.insert(id);
        self.identities.dirty.insert(id);
        id
    }

    /// One pod less.
    pub(super) fn release_identity(&mut self, id: IdentityId) {
        let identity = self.identities.get_mut(id);
        identity.pods -= 1;
        if identity.pods == 0 {
            self.identities.dirty.insert(id);
        }
    }

    /// Takes an identity without pods away, at the end of a build.
    pub(super) fn remove_identity(&mut self, id: IdentityId) {
        let identity = std::mem::take(self.identities.get_mut(id));
        self.pod_terms.release(identity.profile);
        self.leave_subject(identity.subject, id);
        self.tables.set_group(id + 1, None);
        let Some(key) = self.identities.keys.release(id) else { return };
        self.identities.labels.remove(id, &key.labels);
        self.namespaces.get_mut(key.namespace).identities.remove(&id);
        self.release_key(&key);
    }

    fn release_key(&mut self, key: &IdentityKey) {
        release_labels(&mut self.symbols, &key.labels);
        self.port_sets.release(&mut self.symbols, &mut self.tables, key.ports);
        self.namespaces.release(&mut self.symbols, key.namespace);
    }

    /// Asks all selectors again about the identities of a namespace whose labels changed.
    pub(super) fn select_again(&mut self, namespace: NamespaceId) {
        let ids: Vec<_> = self.namespaces.get(namespace).identities.iter().copied().collect();
        for id in ids {
            let key = self.identities.key(id).clone();
            let subject_of = self.subject_selectors.selecting(&self.namespaces, namespace, &key.labels);
            let peer_of = self.peer_selectors.selecting(&self.namespaces, namespace, &key.labels);
            let identity = self.identities.get_mut(id);
            if *identity.subject_of != *subject_of || *identity.peer_of != *peer_of {
                (identity.subject_of, identity.peer_of) = (subject_of.into(), peer_of.into());
                self.identities.dirty.insert(id);
            }
        }
    }

    pub(super) fn acquire_subject_selector(&mut self, selector: PodSelector) -> SelectorId {
        let (id, new) = self.subject_selectors.acquire(&mut self.symbols, &mut self.namespaces, selector.clone());
        if new {
            self.reselect(&selector, |identity| &mut identity.subject_of, |list, at| list.insert(at, id), id);
        }
        id
    }

    pub(super) fn release_subject_selector(&mut self, id: SelectorId) {
        if let Some(selector) = self.subject_selectors.release(id) {
            self.deselect(&selector, |identity| &mut identity.subject_of, id);
            give_back(&selector, &mut self.symbols, &mut self.namespaces);
        }
    }

    pub(super) fn acquire_peer_selector(&mut self, selector: PodSelector) -> TermId {
        let (id, new) = self.peer_selectors.acquire(&mut self.symbols, &mut self.namespaces, selector.clone());
        if new {
            self.reselect(&selector, |identity| &mut identity.peer_of, |list, at| list.insert(at, id), id);
        }
        id
    }

    pub(super) fn release_peer_selector(&mut self, id: TermId) {
        if let Some(selector) = self.peer_selectors.release(id) {
            self.deselect(&selector, |identity| &mut identity.peer_of, id);
            give_back(&selector, &mut self.symbols, &mut self.namespaces);
        }
    }

    /// Adds a new selector to the lists of the identities that it selects.
    fn reselect(
        &mut self,
        selector: &PodSelector,
        list: impl Fn(&mut Identity) -> &mut Arc<[u32]>,
        insert: impl Fn(&mut Vec<u32>, usize),
        id: u32,
    ) {
        for candidate in self.identities.labels.candidates(&self.namespaces, selector) {
            let key = self.identities.keys.value(candidate);
            if selects(&self.namespaces, selector, key.namespace, &key.labels) {
                self.edit_list(candidate, &list, |list| {
                    if let Err(at) = list.binary_search(&id) {
                        insert(list, at);
                    }
                });
            }
        }
    }

    /// Takes a selector that is no more out of the lists of the identities that it selected.
    fn deselect(&mut self, selector: &PodSelector, list: impl Fn(&mut Identity) -> &mut Arc<[u32]>, id: u32) {
        for candidate in self.identities.labels.candidates(&self.namespaces, selector) {
            let key = self.identities.keys.value(candidate);
            if selects(&self.namespaces, selector, key.namespace, &key.labels) {
                self.edit_list(candidate, &list, |list| list.retain(|s| *s != id));
            }
        }
    }

    fn edit_list(
        &mut self,
        identity: IdentityId,
        list: impl Fn(&mut Identity) -> &mut Arc<[u32]>,
        edit: impl FnOnce(&mut Vec<u32>),
    ) {
        let shared = list(self.identities.get_mut(identity));
        let mut own = shared.to_vec();
        edit(&mut own);
        *shared = own.into();
        self.identities.dirty.insert(identity);
    }
}
