//! What is valid but hardly meant.

use std::collections::HashMap;

use podgate_api::ObjectKey;
use podgate_engine::Tier;

use super::Index;

/// Something in the world that is valid but hardly meant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Warning {
    /// The object it is about.
    pub object: ObjectKey,
    /// What it is and what to do about it.
    pub message: String,
}

impl Index {
    /// What is valid but hardly meant, sorted.
    pub fn warnings(&self) -> Vec<Warning> {
        let mut warnings: Vec<_> = self.idle_legacy().chain(self.in_missing_namespaces()).collect();
        warnings.extend(self.equal_priorities());
        warnings.extend(self.caveats());
        warnings.sort();
        warnings
    }

    /// Old policies that have no effect: clusters from 1.7 on enforced them.
    fn idle_legacy(&self) -> impl Iterator<Item = Warning> {
        let idle = self.policies.legacy.values().filter(|p| !self.is_annotated(&p.key.namespace));
        idle.map(|p| Warning {
            object: p.key.clone(),
            message: format!(
                "has no effect: an extensions/v1beta1 policy counts only in a namespace with the annotation \
                 net.beta.kubernetes.io/network-policy: '{{\"ingress\":{{\"isolation\":\"DefaultDeny\"}}}}'; annotate \
                 namespace {}, or write the policy as networking.k8s.io/v1",
                p.key.namespace
            ),
        })
    }

    /// Policies in namespaces without an object. Where no Namespace object is known at all, nothing can be said.
    fn in_missing_namespaces(&self) -> impl Iterator<Item = Warning> {
        let known = self.namespaces.any_object();
        let namespaced = self.policies.iter().filter(move |p| known && !p.key.namespace.is_empty());
        let missing = namespaced.filter(|p| !self.namespaces.get(p.namespace).exists);
        missing.map(|p| Warning {
            object: p.key.clone(),
            message: format!(
                "is in namespace {0}, which is not there: create namespace {0} or correct metadata.namespace",
                p.key.namespace
            ),
        })
    }

    /// What of policies is not enforced as it is written.
    fn caveats(&self) -> impl Iterator<Item = Warning> {
        let all = self.policies.iter().flat_map(|p| p.caveats().iter().map(|caveat| (&p.key, caveat)));
        all.map(|(key, caveat)| Warning { object: key.clone(), message: caveat.clone() })
    }

    fn equal_priorities(&self) -> Vec<Warning> {
        let mut seen: HashMap<(Tier, i32), Vec<&ObjectKey>> = HashMap::new();
        for policy in self.policies.iter().filter(|p| p.tier != Tier::NetworkPolicy) {
            seen.entry((policy.tier, policy.priority)).or_default().push(&policy.key);
        }
        let mut warnings = Vec::new();
        for ((tier, priority), mut keys) in seen {
            keys.sort_by_key(|key| (&key.name, key.kind));
            if let [first, others @ ..] = keys.as_slice() {
                warnings.extend(others.iter().map(|key| Warning {
                    object: (*key).clone(),
                    message: format!(
                        "has the same {} priority {priority} as {first}, which goes first by name: their order is \
                         undefined in the API; give them different priorities",
                        tier.as_str()
                    ),
                }));
            }
        }
        warnings
    }
}
