//! Settings of what a denied packet's sender is told.

use clap::{Args, ValueEnum};

use crate::reject::Rates;

/// What becomes of a denied packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnDeny {
    /// It is dropped, and nobody is told: a client waits until its own time is up.
    Drop,
    /// Its sender is told: by a TCP reset (of a connection that was cut, both ends), else by an ICMP error. Needs
    /// CAP_NET_RAW.
    Reject,
}

/// Whether, and how often.
#[derive(Debug, Clone, Args)]
pub(crate) struct RejectArgs {
    /// What becomes of a denied packet. The default tells a stranger nothing, sends nothing that could be aimed at
    /// others, and needs no capability beside NET_ADMIN.
    #[arg(long, env = "PODGATE_ON_DENY", value_enum, default_value_t = OnDeny::Drop)]
    pub(crate) on_deny: OnDeny,

    /// Resets and errors sent in a second, with --on-deny reject; past it denied packets are dropped. The default is
    /// what the kernel allows itself for ICMP (net.ipv4.icmp_msgs_per_sec).
    #[arg(long, env = "PODGATE_REJECT_RATE", value_name = "N", default_value_t = 1000)]
    pub(crate) reject_rate: u32,

    /// Of these to one address: what a client gets that tries again at once, in a loop, and the most that somebody who
    /// forges addresses can have sent to the owner of one.
    #[arg(long, env = "PODGATE_REJECT_PER_SOURCE", value_name = "N", default_value_t = 50)]
    pub(crate) reject_per_source: u32,
}

impl RejectArgs {
    /// Whether anybody is told anything.
    pub(crate) fn rejects(&self) -> bool {
        self.on_deny == OnDeny::Reject
    }

    pub(crate) fn rates(&self) -> Rates {
        Rates { all: self.reject_rate, one: self.reject_per_source }
    }
}
