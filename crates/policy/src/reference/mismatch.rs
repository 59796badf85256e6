//! Why a rule does not match a flow: the conditions that failed, and how they read in a line.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use podgate_api::{Operator, Protocol, Requirement};
use thiserror::Error;

/// Why a rule does not match: no peer does, or no port does, or neither.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// The rule names no peer at all (a newer API's peers, left out): it matches nobody.
    pub no_peers: bool,
    /// What fails in each of the rule's peers, in their order; empty where the peers match.
    pub peers: Vec<PeerMismatch>,
    /// What fails in each of the rule's ports, in their order; empty where the ports match.
    pub ports: Vec<PortMismatch>,
}

/// Why an address is not one peer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PeerMismatch {
    /// Selectors match pods, and the address is no live pod's (hostNetwork pods share their node's).
    #[error("{address} is no pod's address, and selectors match pods only")]
    NoPod {
        /// The address.
        address: IpAddr,
    },
    /// The pod differs in these conditions.
    #[error("pod {pod}: {}", list(conditions))]
    Pod {
        /// `namespace/name` of the address' pod.
        pod: String,
        /// What fails.
        conditions: Vec<PodCondition>,
    },
    /// Node selectors match addresses that Node objects tell, and none tells this one (or it is a live pod's).
    #[error("{address} is no node's address by any Node object")]
    NoNode {
        /// The address.
        address: IpAddr,
    },
    /// The address' node differs in these labels.
    #[error("node {node}: label {}", list(conditions))]
    Node {
        /// The node, the first by name that has the address.
        node: String,
        /// What fails.
        conditions: Vec<LabelMismatch>,
    },
    /// The address is not in the block.
    #[error("{address} is not in {cidr}")]
    OutsideBlock {
        /// The address.
        address: IpAddr,
        /// The block.
        cidr: IpNet,
    },
    /// The address is in a part that the block leaves out.
    #[error("{address} is in {cidr}, but excepted by {except}")]
    InExcept {
        /// The address.
        address: IpAddr,
        /// The block.
        cidr: IpNet,
        /// The part.
        except: IpNet,
    },
}

/// Why a pod is not selected.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PodCondition {
    /// It is in another namespace than the policy.
    #[error("its namespace is {found}, not {wanted}")]
    Namespace {
        /// The policy's namespace.
        wanted: String,
        /// The pod's.
        found: String,
    },
    /// A label of its namespace.
    #[error("namespace label {0}")]
    NamespaceLabel(LabelMismatch),
    /// A label of its own.
    #[error("pod label {0}")]
    PodLabel(LabelMismatch),
}

/// A requirement that is not met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelMismatch {
    /// The requirement.
    pub requirement: Requirement,
    /// The label's value; `None` where there is no such label.
    pub found: Option<String>,
}

/// Why a flow is not to one port of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PortMismatch {
    /// Another protocol.
    #[error("protocol is {}, not {}", protocol_name(*found), wanted.as_str())]
    Protocol {
        /// The rule's.
        wanted: Protocol,
        /// The flow's IANA number.
        found: u8,
    },
    /// The flow's protocol has no ports: only rules without `ports` match it.
    #[error("{} has no ports: only a rule without ports matches it, this is {}", protocol_name(*found), wanted.as_str())]
    NoPorts {
        /// The rule's.
        wanted: Protocol,
        /// The flow's IANA number.
        found: u8,
    },
    /// Another port.
    #[error("port {found} is not {}", range(*first, *last))]
    Number {
        /// The first port of the rule.
        first: u16,
        /// The last, inclusive.
        last: u16,
        /// The flow's.
        found: u16,
    },
    /// The packet does not show its port (a later fragment), and the rule is not about every port.
    #[error("the packet does not show its port, and this is not every port")]
    NotShown,
    /// Names resolve on pods, and the destination is none.
    #[error("port name {name:?} cannot be resolved: {destination} is no pod's address")]
    NameWithoutPod {
        /// The port's name.
        name: String,
        /// The flow's destination.
        destination: IpAddr,
    },
    /// The destination pod has no port by that name and protocol.
    #[error("pod {pod} has no {} port named {name:?}", protocol.as_str())]
    NoSuchName {
        /// The port's name.
        name: String,
        /// The rule's protocol.
        protocol: Protocol,
        /// `namespace/name` of the destination.
        pod: String,
    },
    /// The name stands for another number on the destination pod.
    #[error("port {found} is not {name:?}, which is {} there", list(numbers))]
    NamedNumber {
        /// The port's name.
        name: String,
        /// What it stands for there.
        numbers: Vec<u16>,
        /// The flow's port.
        found: u16,
    },
}

impl std::error::Error for Mismatch {}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        if self.no_peers {
            write!(f, "peer: the rule has none that this version knows")?;
            separator = "; ";
        }
        for (index, peer) in self.peers.iter().enumerate() {
            write!(f, "{separator}peer {index}: {peer}")?;
            separator = "; ";
        }
        for (index, port) in self.ports.iter().enumerate() {
            write!(f, "{separator}port {index}: {port}")?;
            separator = "; ";
        }
        Ok(())
    }
}

impl std::error::Error for LabelMismatch {}

impl fmt::Display for LabelMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Requirement { key, operator, values } = &self.requirement;
        match &self.found {
            Some(found) => write!(f, "{key} is {found:?}, ")?,
            None => write!(f, "{key} is absent, ")?,
        }
        match (operator, values.as_slice()) {
            (Operator::In, [value]) => write!(f, "not {value:?}"),
            (Operator::In, values) => write!(f, "not one of {values:?}"),
            (Operator::NotIn, values) => write!(f, "which is excluded by NotIn {values:?}"),
            (Operator::Exists, _) => write!(f, "but must be there"),
            (Operator::DoesNotExist, _) => write!(f, "but must be absent"),
        }
    }
}

fn list<T: fmt::Display>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

fn range(first: u16, last: u16) -> String {
    if first == last { first.to_string() } else { format!("in {first}-{last}") }
}

fn protocol_name(number: u8) -> String {
    match number {
        1 => "ICMP".to_owned(),
        6 => "TCP".to_owned(),
        17 => "UDP".to_owned(),
        58 => "ICMPv6".to_owned(),
        132 => "SCTP".to_owned(),
        other => format!("protocol {other}"),
    }
}
