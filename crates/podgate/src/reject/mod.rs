//! `--on-deny reject`: who is denied is told so, by a TCP reset or an ICMP error.
//!
//! ```text
//!   worker, keeper ── Fate::Queue ──▶ the reject queue ──▶ Rejecter ── answer, build ──▶ raw socket, with our mark
//!      ▲                                                     │    └── the packet itself: drop
//!      └──────────── Gate: who is told nothing more ── Limits┘
//! ```
//!
//! The packet is denied by then, and counted: whatever happens to it on this way, it goes nowhere. The way is a queue of
//! the kernel's, so that a worker neither copies nor wakes anything for it; a full one drops, which is the verdict.
//!
//! What is sent carries the mark of what the node itself sends, and so is neither judged nor remembered: no connection
//! is let in again by its own reset. nftables cannot do this: `reject` is not allowed in postrouting, where the real ends
//! of a connection are seen.
//!
//! Of a *new* connection to a Service's address only the pod behind it is seen, and the client does not know that one. Whom
//! it asked is told by kernels with `CONFIG_NETFILTER_NETLINK_GLUE_CT` (distributions have it); on others such a client
//! gets no answer that it would take for one, as with drop.

mod answer;
mod build;
mod limit;
mod rejecter;
mod send;
#[cfg(test)]
mod tests;

use anyhow::{Context, Result};
use podgate_netfilter::{Marks, QueueSettings};

pub(crate) use limit::Rates;
pub(crate) use rejecter::Rejecter;
pub(crate) use send::Out;
use send::RawSockets;

use crate::worker::Gate;

/// What workers know of it.
#[derive(Debug)]
pub(crate) struct Rejects {
    /// The queue that leads to the rejecter.
    pub(crate) queue: u16,
    /// Who is told nothing more for the moment.
    pub(crate) gate: Gate,
}

/// What the reject queue is bound with.
pub(crate) fn queue(number: u16) -> QueueSettings {
    let (copy_range, length) = (rejecter::COPY, rejecter::LENGTH);
    QueueSettings { copy_range, length, connections: true, ..QueueSettings::new(number) }
}

/// What answers leave by.
pub(crate) fn sockets(marks: &Marks) -> Result<Box<dyn Out>> {
    let sockets = RawSockets::open(marks.node()).context(
        "--on-deny reject sends packets by raw sockets, which needs CAP_NET_RAW beside CAP_NET_ADMIN: add NET_RAW to the \
         container's capabilities, or use --on-deny drop",
    )?;
    Ok(Box::new(sockets))
}
