//! Pods as network namespaces, with servers, clients and packets: what the demo shows and the tests stand on.
//!
//! ```text
//!   Host (a node: routes between its links) ── pod ──▶ Pod ── server / client / capture
//!    │  └ bridge ──▶ Bridge ── pod                      │
//!    ├── link ──▶ another Host                          └ Netns: anonymous, gone with the process
//!    └── outside ──▶ Outside (the world beyond, with any addresses)
//!   Client ──▶ Outcome     Probe: many at once     Packet ──▶ Netns::send     Capture ──▶ Captured
//! ```
//!
//! Here: namespaces, links, addresses, routes, and who talks in them. Not here: anything of Kubernetes but two
//! minimal manifests, and anything of podgate: this crate depends on none of the others. Needs root; the namespace
//! of the machine itself is never changed.
#![forbid(unsafe_code)]

mod bridge;
mod client;
mod ending;
mod error;
mod host;
mod netns;
pub mod packet;
mod ping;
mod pod;
mod probe;
mod process;
mod raw;
mod repeat;
mod rtnl;
mod server;

pub use bridge::Bridge;
/// What [`Process::signal`] sends.
pub use nix::sys::signal::Signal;

pub use client::{Client, Connection, DENY_WAIT, Outcome, PATIENCE};
pub use ending::at_end_signals;
pub use error::Error;
pub use host::{Host, HostOptions, Outside};
pub use netns::{Netns, Persisted, remove_persisted};
pub use packet::Packet;
pub use pod::{Pod, PodOptions};
pub use probe::{Probe, ProbeKind, probe_all, unexpected};
pub use process::{Process, mortal};
pub use raw::{Capture, Captured};
pub use server::{Arrival, ArrivalKind, Server};
