//! [`Selectors`]: pod selectors by number, and which of them select given labels, without asking each of them.

use rustc_hash::{FxHashMap, FxHashSet};

use super::interner::Interner;
use super::labels::{Requirements, Sym, Symbols};
use super::namespaces::{NamespaceId, Namespaces, ScopeId};

/// A pod selector's number.
pub(crate) type SelectorId = u32;

/// In which namespaces a selector selects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Scope {
    /// In this one.
    Own(NamespaceId),
    /// In those that a namespace selector selects.
    Labelled(ScopeId),
}

/// Namespace and labels, both must match.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct PodSelector {
    pub(crate) scope: Scope,
    pub(crate) labels: Requirements,
}

/// Where a selector is filed: its scope, and a label.
type File = (Scope, Option<(Sym, Sym)>);

/// Pod selectors by number. Each is filed under its scope and a label that whatever it selects must have, if there
/// is such a label.
#[derive(Debug, Default)]
pub(crate) struct Selectors {
    selectors: Interner<PodSelector>,
    filed: FxHashMap<File, Vec<SelectorId>>,
}

impl Selectors {
    /// A selector's number, with one user more, and whether it is new. Gives the selector's strings and scope back if
    /// it is known already.
    pub(crate) fn acquire(
        &mut self,
        symbols: &mut Symbols,
        namespaces: &mut Namespaces,
        selector: PodSelector,
    ) -> (SelectorId, bool) {
        let (id, new) = self.selectors.acquire(selector.clone());
        if new {
            files(&selector).for_each(|file| self.filed.entry(file).or_default().push(id));
        } else {
            give_back(&selector, symbols, namespaces);
        }
        (id, new)
    }

    /// One user less; the selector, if that was the last. Its strings and scope are to be given back with
    /// [`give_back`], when it has been taken from all that it selects.
    pub(crate) fn release(&mut self, id: SelectorId) -> Option<PodSelector> {
        let selector = self.selectors.release(id)?;
        for file in files(&selector) {
            if let Some(list) = self.filed.get_mut(&file) {
                list.retain(|s| *s != id);
                if list.is_empty() {
                    self.filed.remove(&file);
                }
            }
        }
        Some((*selector).clone())
    }

    /// The selectors, sorted, that select a pod with these labels in this namespace.
    pub(crate) fn selecting(&self, namespaces: &Namespaces, namespace: NamespaceId, labels: &[(Sym, Sym)]) -> Vec<u32> {
        let labelled = namespaces.get(namespace).scopes.iter().map(|s| Scope::Labelled(*s));
        let mut found = Vec::new();
        for scope in labelled.chain([Scope::Own(namespace)]) {
            for label in labels.iter().copied().map(Some).chain([None]) {
                let filed = self.filed.get(&(scope, label)).into_iter().flatten().copied();
                found.extend(filed.filter(|id| self.selectors.value(*id).labels.matches(labels)));
            }
        }
        found.sort_unstable();
        found
    }

    /// How many selectors there are.
    pub(crate) fn len(&self) -> usize {
        self.selectors.len()
    }
}

/// Gives a selector's strings and scope back.
pub(crate) fn give_back(selector: &PodSelector, symbols: &mut Symbols, namespaces: &mut Namespaces) {
    selector.labels.release(symbols);
    if let Scope::Labelled(scope) = selector.scope {
        namespaces.release_scope(symbols, scope);
    }
}

fn files(selector: &PodSelector) -> impl Iterator<Item = File> {
    let labels: Vec<_> = match selector.labels.rarest() {
        Some(requirement) => requirement.values.iter().map(|v| Some((requirement.key, *v))).collect(),
        None => vec![None],
    };
    let scope = selector.scope;
    labels.into_iter().map(move |label| (scope, label))
}

/// Which identities have a label, so that a new selector need not be asked about all of them.
#[derive(Debug, Default)]
pub(crate) struct LabelIndex {
    identities: FxHashMap<(Sym, Sym), FxHashSet<u32>>,
}

impl LabelIndex {
    pub(crate) fn insert(&mut self, identity: u32, labels: &[(Sym, Sym)]) {
        for label in labels {
            self.identities.entry(*label).or_default().insert(identity);
        }
    }

    pub(crate) fn remove(&mut self, identity: u32, labels: &[(Sym, Sym)]) {
        for label in labels {
            if let Some(set) = self.identities.get_mut(label) {
                set.remove(&identity);
                if set.is_empty() {
                    self.identities.remove(label);
                }
            }
        }
    }

    /// The identities that the selector may select: a superset, the smaller of those in its namespaces and those with
    /// the label that it asks for.
    pub(crate) fn candidates(&self, namespaces: &Namespaces, selector: &PodSelector) -> Vec<u32> {
        let by_label: Option<Vec<&FxHashSet<u32>>> = selector.labels.rarest().map(|requirement| {
            requirement.values.iter().filter_map(|v| self.identities.get(&(requirement.key, *v))).collect()
        });
        let by_namespace: Vec<&FxHashSet<u32>> = match selector.scope {
            Scope::Own(namespace) => vec![&namespaces.get(namespace).identities],
            Scope::Labelled(scope) => {
                namespaces.members(scope).iter().map(|n| &namespaces.get(*n).identities).collect()
            }
        };
        let count = |sets: &[&FxHashSet<u32>]| sets.iter().map(|s| s.len()).sum::<usize>();
        let sets = match by_label {
            Some(by_label) if count(&by_label) < count(&by_namespace) => by_label,
            _ => by_namespace,
        };
        sets.into_iter().flatten().copied().collect()
    }

    /// How many labels there are.
    pub(crate) fn len(&self) -> usize {
        self.identities.len()
    }
}

/// Whether the selector selects a pod with these labels in this namespace.
pub(crate) fn selects(
    namespaces: &Namespaces,
    selector: &PodSelector,
    namespace: NamespaceId,
    labels: &[(Sym, Sym)],
) -> bool {
    let in_scope = match selector.scope {
        Scope::Own(own) => own == namespace,
        Scope::Labelled(scope) => namespaces.members(scope).contains(&namespace),
    };
    in_scope && selector.labels.matches(labels)
}
