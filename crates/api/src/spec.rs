//! [`PolicySpec`]: every policy kind in one shape.

use ipnet::IpNet;

use crate::{LabelSelector, ObjectKey};

/// The direction of traffic, seen from the subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Direction {
    /// To the subject.
    Ingress,
    /// From the subject.
    Egress,
}

/// Where a policy stands in the order of evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Tier {
    /// Before NetworkPolicy; ordered by priority.
    Admin,
    /// NetworkPolicy: a union of allowances, final for the pods it isolates.
    NetworkPolicy,
    /// After NetworkPolicy; ordered by priority.
    Baseline,
}

/// What a rule does with a connection it matches. Rules of [`Tier::NetworkPolicy`] always accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Action {
    /// The connection is allowed.
    Accept,
    /// The connection is denied.
    Deny,
    /// The rest of the tier is skipped.
    Pass,
}

/// A transport protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Protocol {
    /// TCP, the default where a manifest says nothing.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// A policy of any kind, validated.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct PolicySpec {
    /// Its key; the kind tells old NetworkPolicies (which need the namespace's annotation) from new ones.
    pub key: ObjectKey,
    /// Its tier.
    pub tier: Tier,
    /// Order among policies of the Admin and Baseline tiers: lower first. 0 for NetworkPolicy, [`PolicySpec::LAST`] for a
    /// BaselineAdminNetworkPolicy.
    pub priority: i32,
    /// The pods it is about.
    pub subject: Subject,
    /// Selected pods accept no ingress but what some rule allows (`policyTypes` has Ingress).
    pub isolates_ingress: bool,
    /// Selected pods have no egress but what some rule allows (`policyTypes` has Egress).
    pub isolates_egress: bool,
    /// Rules for ingress, in their order; empty where `policyTypes` leaves Ingress out.
    pub ingress: Vec<Rule>,
    /// Rules for egress, in their order; empty where `policyTypes` leaves Egress out.
    pub egress: Vec<Rule>,
    /// What of the policy is not enforced as it is written: where, what holds instead, and what to do.
    pub caveats: Vec<String>,
}

/// The pods a policy is about: both must match.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Subject {
    /// The pods' namespace.
    pub namespaces: NamespaceMatch,
    /// The pods' labels.
    pub pods: LabelSelector,
}

/// Which namespaces.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum NamespaceMatch {
    /// The policy's own namespace.
    Own,
    /// Namespaces by label.
    Labels(LabelSelector),
}

/// One rule.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Rule {
    /// Its name, where the kind has one.
    pub name: Option<String>,
    /// What it does.
    pub action: Action,
    /// Whom it is about.
    pub peers: Peers,
    /// Which ports; empty: every port of every protocol, and protocols without ports.
    pub ports: Vec<PortMatch>,
}

/// The other ends of a rule.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Peers {
    /// Anybody, in the cluster or not.
    Any,
    /// Any one of these.
    Of(Vec<Peer>),
}

/// One peer of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Peer {
    /// Pods (never hostNetwork ones): namespace and labels must both match.
    Pods {
        /// Their namespace.
        namespaces: NamespaceMatch,
        /// Their labels.
        pods: LabelSelector,
    },
    /// Addresses, of pods as well.
    Block(IpBlock),
    /// Nodes by their labels: the addresses that their Node objects tell, where no live pod owns them.
    Nodes(LabelSelector),
}

/// An address block without some parts of itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct IpBlock {
    /// The block, host bits masked away.
    pub cidr: IpNet,
    /// Strict parts of the block that do not match this peer (another may match them), masked.
    pub except: Vec<IpNet>,
}

/// One entry of a rule's ports.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum PortMatch {
    /// Ports by number.
    Range {
        /// The protocol.
        protocol: Protocol,
        /// The first port; 0 with `last` 65535: every port of the protocol.
        first: u16,
        /// The last port, inclusive.
        last: u16,
    },
    /// A port by its name on the destination pod.
    Named {
        /// The protocol, which must match the pod's port as well.
        protocol: Protocol,
        /// The name.
        name: String,
    },
}

impl PolicySpec {
    /// The priority after every other.
    pub const LAST: i32 = i32::MAX;

    /// What stands in for a NetworkPolicy that can't be understood: it selects every pod of the key's namespace,
    /// isolates both directions and allows nothing (fail closed).
    ///
    /// Not for policies of the cluster tiers. Reading one closes what can't be understood of it
    /// ([`manifest::Parsed`](crate::manifest::Parsed)); only one whose very subject can't be read is left out, since to
    /// deny the whole cluster would be an outage by a typo. Made of such a key, this policy selects nobody.
    pub fn closed(key: ObjectKey) -> PolicySpec {
        PolicySpec {
            key,
            tier: Tier::NetworkPolicy,
            priority: 0,
            subject: Subject { namespaces: NamespaceMatch::Own, pods: LabelSelector::default() },
            isolates_ingress: true,
            isolates_egress: true,
            ingress: Vec::new(),
            egress: Vec::new(),
            caveats: Vec::new(),
        }
    }

    /// The rules of one direction.
    pub fn rules(&self, direction: Direction) -> &[Rule] {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }

    /// Whether the policy isolates its subjects in this direction.
    pub fn isolates(&self, direction: Direction) -> bool {
        match direction {
            Direction::Ingress => self.isolates_ingress,
            Direction::Egress => self.isolates_egress,
        }
    }
}

impl Direction {
    /// Both directions.
    pub const BOTH: [Direction; 2] = [Direction::Ingress, Direction::Egress];

    /// `ingress` or `egress`, as rule names and metrics say it.
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

impl Protocol {
    /// The IANA protocol number.
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }

    /// The name as in a manifest.
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
        }
    }
}
