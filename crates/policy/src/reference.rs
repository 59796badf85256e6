//! The naive reference evaluator: what a flow's verdict is, straight from the API text, as slow as it likes.
//!
//! ```text
//!   judge ── endpoint: whose address is it, which node is its own      endpoint.rs
//!         ── selection: which policies are about a pod, in what order  selection.rs
//!         ── matching: does a rule match, and if not, why not          matching.rs, mismatch.rs
//! ```
//!
//! It shares no code with the compiler: the property tests compare the two. Its small functions are public, so that
//! `explain` can say why something does or does not match. Sources: the comments of `k8s.io/api/networking/v1`
//! (NetworkPolicySpec, NetworkPolicyPeer, NetworkPolicyPort, IPBlock) and of `sigs.k8s.io/network-policy-api`.

mod endpoint;
mod matching;
mod mismatch;
mod selection;

use std::fmt;
use std::net::IpAddr;

use podgate_api::{Action, Direction, Pod, PolicySpec, Tier};
use podgate_engine::{Port, protocol};

pub use endpoint::{is_live, is_own_node, namespace_labels, node_addresses, nodes_at, owner, subject};
pub use matching::{peer_matches, port_matches, rule_matches};
pub use mismatch::{LabelMismatch, Mismatch, PeerMismatch, PodCondition, PortMismatch};
pub use selection::{annotation_isolates, in_force, isolating, policies_selecting, selects};

use crate::World;

/// A flow asked about: a new connection between two addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// The opener's address.
    pub source: IpAddr,
    /// The address it is opened to.
    pub destination: IpAddr,
    /// The IANA protocol number.
    pub protocol: u8,
    /// The destination port; `None` for protocols without ports. A `None` for a protocol that has ports stands for a
    /// packet that does not show them ([`Port::Unknown`]).
    pub port: Option<u16>,
}

/// Why a direction was decided as it was, rules by their full name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// No policy is about this end in this direction, or it is no pod.
    Open,
    /// Between a pod and its own node.
    OwnNode,
    /// A pod with itself.
    Itself,
    /// Accepted by this rule.
    Accepted(String),
    /// Denied by this rule or default deny.
    Denied(String),
}

/// What one direction of a flow comes to, every pod being a subject.
pub fn judge(world: &World, flow: &Flow, direction: Direction) -> Cause {
    let Some(pod) = subject(world, flow, direction) else { return Cause::Open };
    let other = flow.other_end(direction);
    if owner(world, other).is_some_and(|o| (&o.namespace, &o.name) == (&pod.namespace, &pod.name)) {
        return Cause::Itself;
    }
    let own_node = is_own_node(world, pod, other);
    // Nothing stops a node from reaching its pods (kubelet probes). The other way, only cluster tiers can say no.
    if own_node && direction == Direction::Ingress {
        return Cause::OwnNode;
    }
    let policies = policies_selecting(world, pod, direction);
    if let Some(cause) = first_match(world, &policies, Tier::Admin, flow, direction) {
        return cause;
    }
    if let Some(default_deny) = isolation(world, pod, direction) {
        if own_node {
            return Cause::OwnNode;
        }
        return any_match(world, &policies, flow, direction).unwrap_or(Cause::Denied(default_deny));
    }
    if let Some(cause) = first_match(world, &policies, Tier::Baseline, flow, direction) {
        return cause;
    }
    if own_node { Cause::OwnNode } else { Cause::Open }
}

/// What one direction comes to where a pod reaches itself by way of a Service that chose it: a flow as the node sees it,
/// from the pod to the pod. Cluster tiers are about that (NetworkPolicy leaves it undefined, and does not deny it here);
/// what a pod sends to its own address is not, and never leaves it.
pub fn judge_hairpin(world: &World, flow: &Flow, direction: Direction) -> Cause {
    let Some(pod) = subject(world, flow, direction) else { return Cause::Open };
    let policies = policies_selecting(world, pod, direction);
    let admin = first_match(world, &policies, Tier::Admin, flow, direction);
    let isolated = isolation(world, pod, direction).is_some();
    let baseline = || first_match(world, &policies, Tier::Baseline, flow, direction).filter(|_| !isolated);
    admin.or_else(baseline).unwrap_or(Cause::Itself)
}

/// An ordered tier: the first rule that matches decides; nothing, or a Pass, leaves it to the next tier.
fn first_match(
    world: &World,
    policies: &[&PolicySpec],
    tier: Tier,
    flow: &Flow,
    direction: Direction,
) -> Option<Cause> {
    for policy in policies.iter().filter(|p| p.tier == tier) {
        for (index, rule) in policy.rules(direction).iter().enumerate() {
            if rule_matches(world, policy, rule, flow, direction).is_ok() {
                let name = rule_name(policy, direction, index);
                return match rule.action {
                    Action::Accept => Some(Cause::Accepted(name)),
                    Action::Deny => Some(Cause::Denied(name)),
                    Action::Pass => None,
                };
            }
        }
    }
    None
}

/// The NetworkPolicy tier: the union of all rules; the first that accepts gives its name.
fn any_match(world: &World, policies: &[&PolicySpec], flow: &Flow, direction: Direction) -> Option<Cause> {
    for policy in policies.iter().filter(|p| p.tier == Tier::NetworkPolicy) {
        for (index, rule) in policy.rules(direction).iter().enumerate() {
            if rule_matches(world, policy, rule, flow, direction).is_ok() {
                return Some(Cause::Accepted(rule_name(policy, direction, index)));
            }
        }
    }
    None
}

/// The name of the default deny that stands behind the pod's NetworkPolicy rules; `None` where nothing isolates it.
pub fn isolation(world: &World, pod: &Pod, direction: Direction) -> Option<String> {
    let by_policy = isolating(world, pod, direction).first().map(|p| default_deny_name(p, direction));
    by_policy.or_else(|| {
        annotation_isolates(world, pod, direction)
            .then(|| format!("networkpolicy/{}/(annotation)/{}/default-deny", pod.namespace, direction.as_str()))
    })
}

/// `tier/namespace/policy/direction/index-or-name`. The namespace of a cluster-scoped policy is empty.
pub fn rule_name(policy: &PolicySpec, direction: Direction, index: usize) -> String {
    let name = policy.rules(direction).get(index).and_then(|r| r.name.clone()).unwrap_or_else(|| index.to_string());
    let (tier, key) = (policy.tier.as_str(), &policy.key);
    format!("{tier}/{}/{}/{}/{name}", key.namespace, key.name, direction.as_str())
}

/// `networkpolicy/namespace/policy/direction/default-deny`.
pub fn default_deny_name(policy: &PolicySpec, direction: Direction) -> String {
    let (tier, key) = (policy.tier.as_str(), &policy.key);
    format!("{tier}/{}/{}/{}/default-deny", key.namespace, key.name, direction.as_str())
}

impl Flow {
    /// The subject's end: the source for egress, the destination for ingress.
    pub fn subject_end(&self, direction: Direction) -> IpAddr {
        match direction {
            Direction::Ingress => self.destination,
            Direction::Egress => self.source,
        }
    }

    /// The peer's end: the destination for egress, the source for ingress.
    pub fn other_end(&self, direction: Direction) -> IpAddr {
        match direction {
            Direction::Ingress => self.source,
            Direction::Egress => self.destination,
        }
    }

    /// The same flow as the engine takes it.
    pub fn to_engine(&self) -> podgate_engine::Flow {
        let port = match self.port {
            _ if !protocol::has_ports(self.protocol) => Port::None,
            Some(number) => Port::Number(number),
            None => Port::Unknown,
        };
        podgate_engine::Flow {
            source: self.source.into(),
            destination: self.destination.into(),
            protocol: self.protocol,
            port,
        }
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {} protocol {}", self.source, self.destination, self.protocol)?;
        match self.port {
            Some(port) => write!(f, " port {port}"),
            None => Ok(()),
        }
    }
}

impl Cause {
    /// Whether this direction lets the flow pass.
    pub fn allows(&self) -> bool {
        !matches!(self, Cause::Denied(_))
    }

    /// The rule that decided, if one did.
    pub fn rule(&self) -> Option<&str> {
        match self {
            Cause::Accepted(rule) | Cause::Denied(rule) => Some(rule),
            Cause::Open | Cause::OwnNode | Cause::Itself => None,
        }
    }
}
