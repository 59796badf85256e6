//! [`World`]: the objects as they are, for the reference evaluator and for explain. The agent keeps an
//! [`Index`](crate::Index) instead, which is compact.

use std::collections::BTreeMap;

use podgate_api::{Change, Kind, Namespace, Node, Object, ObjectKey, Pod, PolicySpec};

/// Every object, by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct World {
    /// Namespaces by name.
    pub namespaces: BTreeMap<String, Namespace>,
    /// Nodes by name.
    pub nodes: BTreeMap<String, Node>,
    /// Pods by namespace and name.
    pub pods: BTreeMap<(String, String), Pod>,
    /// Policies of every kind.
    pub policies: BTreeMap<ObjectKey, PolicySpec>,
}

impl World {
    /// Takes one change in.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Apply(Object::Namespace(n)) => drop(self.namespaces.insert(n.name.clone(), n)),
            Change::Apply(Object::Node(n)) => drop(self.nodes.insert(n.name.clone(), n)),
            Change::Apply(Object::Pod(p)) => drop(self.pods.insert((p.namespace.clone(), p.name.clone()), p)),
            Change::Apply(Object::Policy(p)) => drop(self.policies.insert(p.key.clone(), p)),
            Change::Delete(key) => match key.kind {
                Kind::Namespace => drop(self.namespaces.remove(&key.name)),
                Kind::Node => drop(self.nodes.remove(&key.name)),
                Kind::Pod => drop(self.pods.remove(&(key.namespace, key.name))),
                Kind::NetworkPolicy
                | Kind::LegacyNetworkPolicy
                | Kind::ClusterNetworkPolicy
                | Kind::AdminNetworkPolicy
                | Kind::BaselineAdminNetworkPolicy => drop(self.policies.remove(&key)),
            },
        }
    }
}

impl FromIterator<Object> for World {
    fn from_iter<T: IntoIterator<Item = Object>>(objects: T) -> Self {
        let mut world = World::default();
        objects.into_iter().for_each(|o| world.apply(Change::Apply(o)));
        world
    }
}
