//! Which policies are about a pod, and in what order they speak. Their rules are not looked into here.

use podgate_api::{Direction, Kind, LabelSelector, Labels, NamespaceMatch, Pod, PolicySpec, Tier};

use super::mismatch::{LabelMismatch, PodCondition};
use super::{is_live, namespace_labels};
use crate::World;

/// Whether namespace and labels of a pod match, or everything that does not. `own` is the policy's namespace.
pub(super) fn pod_matches(
    world: &World,
    pod: &Pod,
    own: &str,
    namespaces: &NamespaceMatch,
    pods: &LabelSelector,
) -> Result<(), Vec<PodCondition>> {
    let mut failed = Vec::new();
    match namespaces {
        NamespaceMatch::Own if pod.namespace == own => {}
        NamespaceMatch::Own => {
            failed.push(PodCondition::Namespace { wanted: own.to_owned(), found: pod.namespace.clone() });
        }
        NamespaceMatch::Labels(selector) => {
            let labels = namespace_labels(world, &pod.namespace);
            failed.extend(label_mismatches(selector, &labels).into_iter().map(PodCondition::NamespaceLabel));
        }
    }
    failed.extend(label_mismatches(pods, &pod.labels).into_iter().map(PodCondition::PodLabel));
    if failed.is_empty() { Ok(()) } else { Err(failed) }
}

pub(super) fn label_mismatches(selector: &LabelSelector, labels: &Labels) -> Vec<LabelMismatch> {
    let failed = selector.requirements.iter().filter(|r| !r.matches(labels));
    failed.map(|r| LabelMismatch { requirement: r.clone(), found: labels.get(&r.key).cloned() }).collect()
}

/// Whether the policy selects the pod as its subject, or what stands against it. (That a hostNetwork or finished pod
/// is no subject at all is told by [`is_live`].)
pub fn selects(world: &World, policy: &PolicySpec, pod: &Pod) -> Result<(), Vec<PodCondition>> {
    pod_matches(world, pod, &policy.key.namespace, &policy.subject.namespaces, &policy.subject.pods)
}

/// Whether the policy has an effect at all: an `extensions/v1beta1` policy only in an annotated namespace.
pub fn in_force(world: &World, policy: &PolicySpec) -> bool {
    policy.key.kind != Kind::LegacyNetworkPolicy || annotated(world, &policy.key.namespace)
}

fn annotated(world: &World, namespace: &str) -> bool {
    world.namespaces.get(namespace).is_some_and(|n| n.ingress_default_deny)
}

/// Whether the annotation of the pod's namespace isolates it in this direction.
pub fn annotation_isolates(world: &World, pod: &Pod, direction: Direction) -> bool {
    direction == Direction::Ingress && is_live(pod) && annotated(world, &pod.namespace)
}

/// The policies with a say in the pod's traffic of this direction, in the order in which they speak: the Admin tier by
/// (priority, name), NetworkPolicies by (namespace, name; v1 before v1beta1), the Baseline tier by (priority, name).
/// A cluster policy without rules for the direction has no say; a v1 NetworkPolicy has one if it isolates; a v1beta1
/// one if its namespace is annotated (ingress only).
pub fn policies_selecting<'w>(world: &'w World, pod: &Pod, direction: Direction) -> Vec<&'w PolicySpec> {
    let mut policies: Vec<&PolicySpec> = world
        .policies
        .values()
        .filter(|policy| is_live(pod) && speaks(policy, direction) && in_force(world, policy))
        .filter(|policy| selects(world, policy, pod).is_ok())
        .collect();
    policies.sort_by_key(|p| {
        let priority = if p.tier == Tier::NetworkPolicy { 0 } else { p.priority };
        (p.tier, priority, &p.key.namespace, &p.key.name, p.key.kind)
    });
    policies
}

fn speaks(policy: &PolicySpec, direction: Direction) -> bool {
    match (policy.tier, policy.key.kind) {
        (Tier::Admin | Tier::Baseline, _) => !policy.rules(direction).is_empty(),
        (Tier::NetworkPolicy, Kind::LegacyNetworkPolicy) => direction == Direction::Ingress,
        (Tier::NetworkPolicy, _) => policy.isolates(direction),
    }
}

/// The v1 NetworkPolicies that isolate the pod in this direction, by (namespace, name). v1beta1 ones never isolate: the
/// annotation does.
pub fn isolating<'w>(world: &'w World, pod: &Pod, direction: Direction) -> Vec<&'w PolicySpec> {
    let mut policies = policies_selecting(world, pod, direction);
    policies.retain(|p| p.tier == Tier::NetworkPolicy && p.key.kind != Kind::LegacyNetworkPolicy);
    policies
}
