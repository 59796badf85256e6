//! The naive reference evaluator: what a flow's verdict is, straight from the API text, as slow as it likes.
//!
//! It shares no code with the compiler: the property tests compare the two.

use std::net::IpAddr;

use podgate_api::Direction;

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
    /// The destination port; `None` for protocols without ports.
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
    let _ = (world, flow, direction);
    todo!()
}
