//! Rules by number, and what a verdict says.

use std::sync::Arc;

/// The version of the world a snapshot stands for; grows by one at each publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Generation(pub u64);

/// The direction of traffic, seen from the subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// To the subject.
    Ingress,
    /// From the subject.
    Egress,
}

/// Where a rule stands in the order of evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tier {
    /// Before NetworkPolicy.
    Admin,
    /// NetworkPolicy.
    NetworkPolicy,
    /// After NetworkPolicy.
    Baseline,
}

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// The connection is allowed.
    Accept,
    /// The connection is denied.
    Deny,
    /// The rest of the tier is skipped; never the cause of a verdict.
    Pass,
}

/// What happens to a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It goes on.
    Accept,
    /// It goes nowhere.
    Drop,
}

/// A rule's number: its place in the rule book and in each worker's counters. It is the rule's for as long as there is a
/// snapshot with that rule; later it may be another's, whose counts begin at zero ([`RuleInfo::since`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleId(pub u32);

/// What a rule's number stands for; read at scrape and by explain, never on the packet path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleInfo {
    /// `tier/namespace/policy/direction/index-or-name`, the name that stands in metrics, explain and events.
    pub name: Arc<str>,
    /// The tier.
    pub tier: Tier,
    /// The policy's namespace; empty for cluster-scoped policies.
    pub namespace: Arc<str>,
    /// The policy's name.
    pub policy: Arc<str>,
    /// The direction.
    pub direction: Direction,
    /// What it does.
    pub action: Action,
    /// It is no rule that somebody wrote, but the deny that isolation implies.
    pub default_deny: bool,
    /// The first generation in which the number stands for this rule. What a verdict of an earlier one names by that number
    /// was another rule.
    pub since: Generation,
}

/// Why a direction of a flow was decided as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// No policy is about this end in this direction (or it is no local pod): accepted.
    Open,
    /// Traffic between a pod and its own node: accepted.
    OwnNode,
    /// A pod's traffic with itself: accepted.
    Itself,
    /// This rule accepted it.
    Accepted(RuleId),
    /// This rule (or the default deny of isolation) denied it.
    Denied(RuleId),
    /// The address is in this node's pod ranges, but no pod is known to have it: denied until one is.
    Unknown,
}

/// The decision for one direction of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Decision {
    /// Why; the verdict follows from it.
    pub cause: Cause,
}

/// The decisions for both ends of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Judgement {
    /// Egress of the source.
    pub egress: Decision,
    /// Ingress of the destination.
    pub ingress: Decision,
}

impl Decision {
    /// The verdict.
    #[inline]
    pub fn verdict(self) -> Verdict {
        match self.cause {
            Cause::Denied(_) | Cause::Unknown => Verdict::Drop,
            Cause::Open | Cause::OwnNode | Cause::Itself | Cause::Accepted(_) => Verdict::Accept,
        }
    }

    /// The rule that decided, if one did.
    #[inline]
    pub fn rule(self) -> Option<RuleId> {
        match self.cause {
            Cause::Accepted(rule) | Cause::Denied(rule) => Some(rule),
            Cause::Open | Cause::OwnNode | Cause::Itself | Cause::Unknown => None,
        }
    }
}

impl Judgement {
    /// Both ends must allow.
    #[inline]
    pub fn verdict(self) -> Verdict {
        match (self.egress.verdict(), self.ingress.verdict()) {
            (Verdict::Accept, Verdict::Accept) => Verdict::Accept,
            _ => Verdict::Drop,
        }
    }
}

impl Direction {
    /// `ingress` or `egress`.
    pub fn as_str(self) -> &'static str {
        match self {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        }
    }
}

impl Tier {
    /// The tier as rule names and metrics say it.
    pub fn as_str(self) -> &'static str {
        match self {
            Tier::Admin => "admin",
            Tier::NetworkPolicy => "networkpolicy",
            Tier::Baseline => "baseline",
        }
    }
}

impl Action {
    /// The action as metrics say it.
    pub fn as_str(self) -> &'static str {
        match self {
            Action::Accept => "accept",
            Action::Deny => "deny",
            Action::Pass => "pass",
        }
    }
}
