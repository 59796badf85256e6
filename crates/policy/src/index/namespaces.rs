//! Namespaces, and which namespace selectors select them.

use rustc_hash::FxHashSet;

use super::interner::{Interner, entry};
use super::labels::{LabelSet, Requirements, Sym, Symbols, release_labels};

/// A namespace's number.
pub(crate) type NamespaceId = u32;
/// A namespace selector's number.
pub(crate) type ScopeId = u32;

/// A namespace, with or without an object of its own.
#[derive(Debug, Default)]
pub(crate) struct Namespace {
    /// Its labels; without an object, the one that every namespace has.
    pub(crate) labels: LabelSet,
    /// There is a Namespace object.
    pub(crate) exists: bool,
    /// Its annotation isolates its pods.
    pub(crate) annotated: bool,
    /// Identities in it.
    pub(crate) identities: FxHashSet<u32>,
    /// Namespace selectors that select it.
    pub(crate) scopes: Vec<ScopeId>,
}

/// All namespaces that something is in or about.
#[derive(Debug, Default)]
pub(crate) struct Namespaces {
    names: Interner<Sym>,
    slots: Vec<Namespace>,
    scopes: Interner<Requirements>,
    members: Vec<FxHashSet<NamespaceId>>,
    /// How many have an object.
    objects: usize,
}

impl Namespaces {
    /// The namespace of that name, with one user more.
    pub(crate) fn acquire(&mut self, symbols: &mut Symbols, name: &str) -> NamespaceId {
        let sym = symbols.acquire(name).0;
        let (id, new) = self.names.acquire(sym);
        if new {
            *entry(&mut self.slots, id) = Namespace::default();
            self.set_labels(symbols, id, None);
        } else {
            symbols.release(sym);
        }
        id
    }

    /// One user more.
    pub(crate) fn retain(&mut self, id: NamespaceId) {
        self.names.retain(id);
    }

    /// One user less.
    pub(crate) fn release(&mut self, symbols: &mut Symbols, id: NamespaceId) {
        if let Some(name) = self.names.release(id) {
            let namespace = std::mem::take(&mut self.slots[id as usize]);
            for scope in &namespace.scopes {
                self.members[*scope as usize].remove(&id);
            }
            release_labels(symbols, &namespace.labels);
            symbols.release(*name);
        }
    }

    /// The number of the namespace of that name, if anything uses it.
    pub(crate) fn find(&self, symbols: &Symbols, name: &str) -> Option<NamespaceId> {
        self.names.get(&symbols.get(name)?)
    }

    pub(crate) fn get(&self, id: NamespaceId) -> &Namespace {
        &self.slots[id as usize]
    }

    pub(crate) fn get_mut(&mut self, id: NamespaceId) -> &mut Namespace {
        &mut self.slots[id as usize]
    }

    /// The namespace's name.
    pub(crate) fn name(&self, id: NamespaceId) -> Sym {
        **self.names.value(id)
    }

    /// Whether any Namespace object is known: without one, nothing can be said about those that miss.
    pub(crate) fn any_object(&self) -> bool {
        self.objects > 0
    }

    /// Sets the labels of the namespace's object (`None`: there is none) and tells whether other selectors select it
    /// now. Takes the labels' strings over.
    pub(crate) fn set_labels(&mut self, symbols: &mut Symbols, id: NamespaceId, labels: Option<LabelSet>) -> bool {
        let exists = labels.is_some();
        let labels = labels.unwrap_or_else(|| {
            let name = self.name(id);
            symbols.retain(name);
            [(symbols.acquire("kubernetes.io/metadata.name").0, name)].into()
        });
        let namespace = &mut self.slots[id as usize];
        self.objects = self.objects + usize::from(exists) - usize::from(namespace.exists);
        namespace.exists = exists;
        let old = std::mem::replace(&mut namespace.labels, labels);
        release_labels(symbols, &old);
        let now: Vec<ScopeId> = (0..self.members.len() as u32)
            .filter(|s| self.scopes.try_value(*s).is_some_and(|r| r.matches(&namespace.labels)))
            .collect();
        let before = std::mem::replace(&mut namespace.scopes, now.clone());
        for scope in &before {
            self.members[*scope as usize].remove(&id);
        }
        for scope in &now {
            self.members[*scope as usize].insert(id);
        }
        before != now
    }

    /// A namespace selector's number, with one user more. Gives the selector's strings back if it is known already.
    pub(crate) fn acquire_scope(&mut self, symbols: &mut Symbols, selector: Requirements) -> ScopeId {
        let (scope, new) = self.scopes.acquire(selector.clone());
        if !new {
            selector.release(symbols);
            return scope;
        }
        let all = 0..self.slots.len() as u32;
        let selected = all.filter(|id| self.names.try_value(*id).is_some());
        let members: FxHashSet<_> = selected.filter(|id| selector.matches(&self.slots[*id as usize].labels)).collect();
        for id in &members {
            let scopes = &mut self.slots[*id as usize].scopes;
            let at = scopes.partition_point(|s| *s < scope);
            scopes.insert(at, scope);
        }
        *entry(&mut self.members, scope) = members;
        scope
    }

    /// One user of a namespace selector less.
    pub(crate) fn release_scope(&mut self, symbols: &mut Symbols, scope: ScopeId) {
        if let Some(selector) = self.scopes.release(scope) {
            for id in std::mem::take(&mut self.members[scope as usize]) {
                self.slots[id as usize].scopes.retain(|s| *s != scope);
            }
            selector.release(symbols);
        }
    }

    /// The namespaces that a selector selects.
    pub(crate) fn members(&self, scope: ScopeId) -> &FxHashSet<NamespaceId> {
        &self.members[scope as usize]
    }

    /// How many namespaces and selectors there are.
    pub(crate) fn len(&self) -> (usize, usize) {
        (self.names.len(), self.scopes.len())
    }
}
