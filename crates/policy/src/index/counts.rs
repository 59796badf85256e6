//! [`Counts`]: the size of the world, for people who ask.

use std::collections::BTreeMap;

use podgate_engine::Tier;

use super::Index;

/// The size of a world.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counts {
    /// Pods, of all nodes.
    pub pods: usize,
    /// Pods that policies can be about here: on this node, live, with an address of their own.
    pub local_pods: usize,
    /// Namespaces that something is in, or that have an object.
    pub namespaces: usize,
    /// Nodes that something is on, or that have an object.
    pub nodes: usize,
    /// Policies in force, by tier; a tier without any is not there.
    pub policies: BTreeMap<Tier, usize>,
}

impl Index {
    /// How large the world is. Walks over all pods and policies: some milliseconds for 100,000 of them.
    pub fn counts(&self) -> Counts {
        let mut policies = BTreeMap::new();
        self.policies.iter().for_each(|policy| *policies.entry(policy.tier).or_default() += 1);
        let local = |pod: &&super::pods::Pod| pod.identity.is_some() && self.nodes.is_local(pod.node);
        Counts {
            pods: self.pods.len(),
            local_pods: self.pods.iter().filter(local).count(),
            // Policies of the cluster tiers have the namespace without a name.
            namespaces: self.namespaces.len().0 - usize::from(self.namespaces.find(&self.symbols, "").is_some()),
            nodes: self.nodes.objects(),
            policies,
        }
    }
}
