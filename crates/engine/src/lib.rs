//! From a packet's header to its verdict.
//!
//! ```text
//!   bytes ── packet ──▶ Flow ── Snapshot::judge ──▶ Judgement { egress, ingress } ──▶ WorkerCounters
//!                               │ endpoints, ranges: address → group (identity) and class of blocks
//!                               │ groups: identity → subject class, and its classes as a peer
//!                               └ (subject class, direction, peer's classes) → port → first rule → Cause
//!   Publication: the current Snapshot, swapped atomically; knows when every worker uses it
//! ```
//!
//! Here: immutable tables and the code that reads them, counters, publication. Nothing on the packet path
//! allocates, locks, logs or touches a string. Not here: Kubernetes, selectors, how the tables are made
//! (`podgate-policy`), sockets (`podgate-netfilter`).
#![forbid(unsafe_code)]

mod addr;
mod class_map;
mod class_masks;
pub mod counters;
mod endpoints;
mod few_rules;
mod flow;
mod many_rules;
pub mod packet;
mod paged;
mod port_names;
mod ports;
mod publish;
mod ranges;
mod rule;
mod rule_table;
mod snapshot;
mod tables;

pub use addr::Addr;
pub use counters::{Counter, Counters, WorkerCounters};
pub use endpoints::{Endpoint, EndpointKind};
pub use flow::{Flow, Port, protocol};
pub use port_names::PortNames;
pub use ports::PortSpan;
pub use publish::{Publication, Reader};
pub use rule::{Action, Cause, Decision, Direction, Generation, Judgement, RuleId, RuleInfo, Tier, Verdict};
pub use rule_table::{DirectionTable, RankedRule, RuleTable, Then};
pub use snapshot::{NodeOrigin, Snapshot};
pub use tables::{Block, Group, Subject, Tables};
