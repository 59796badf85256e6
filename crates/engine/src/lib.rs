//! From a packet's header to its verdict.
//!
//! ```text
//!   bytes ── packet ──▶ Flow ── Snapshot::judge ──▶ Judgement { egress, ingress } ──▶ WorkerCounters
//!                               │ endpoints: address → group (identity) or ranges: address → block class
//!                               │ groups / classes → peer class, subject class
//!                               └ (subject class, direction, peer class) → port table → Cause
//!   Publication: the current Snapshot, swapped atomically; knows when every worker uses it
//! ```
//!
//! Here: immutable tables and the code that reads them, counters, publication. Nothing on the packet path
//! allocates, locks, logs or touches a string. Not here: Kubernetes, selectors, how the tables are made
//! (`podgate-policy`), sockets (`podgate-netfilter`).
#![forbid(unsafe_code)]

mod addr;
pub mod counters;
mod endpoints;
mod flow;
pub mod packet;
mod paged;
mod peers;
mod ports;
mod publish;
mod ranges;
mod rule;
mod snapshot;
mod tables;

pub use addr::Addr;
pub use counters::{Counter, Counters, WorkerCounters};
pub use endpoints::{Endpoint, EndpointKind};
pub use flow::{Flow, Port, protocol};
pub use peers::{DirectionTable, PeerTable};
pub use ports::{PortSpan, PortTable};
pub use publish::{Publication, Reader};
pub use rule::{Action, Cause, Decision, Direction, Generation, Judgement, RuleId, RuleInfo, Tier, Verdict};
pub use snapshot::{NodeOrigin, Snapshot};
pub use tables::{Group, Subject, Tables};
