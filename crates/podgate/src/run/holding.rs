//! Settings of what is done with packets of pods that are not known yet.

use std::time::Duration;

use clap::Args;

use crate::worker::{HoldSettings, OnUnknown};

/// Bounds of what is held, and what comes past them.
#[derive(Debug, Clone, Args)]
pub(crate) struct HoldArgs {
    /// How long a packet waits for the pod of its address to become known, in milliseconds. A kubelet tells a new pod's
    /// address a second or two after the pod's first packet may be on its way; a resolver gives up after 5 s, and a
    /// TCP client has sent three SYNs by then.
    #[arg(long, env = "PODGATE_HOLD_TIME", value_name = "MILLISECONDS", default_value_t = 5000, value_parser = clap::value_parser!(u64).range(..=60_000))]
    pub(crate) hold_time: u64,

    /// Packets that may wait so at once, in a queue of their own. A change asks about each of them again: 4096 are below
    /// a millisecond of that, and at most 16 MiB of packets. Half of them may be of new pods of other nodes, which policies
    /// deny as long as their labels are not known here.
    #[arg(long, env = "PODGATE_HOLD_PACKETS", value_name = "PACKETS", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(..=65_536))]
    pub(crate) hold_packets: u32,

    /// Of these from one source, and to one unknown address: a scan of addresses that nobody has leaves room for others'
    /// new pods. 32 are the connections and questions that a pod may begin with. To an address it is an eighth of that while half of
    /// the room is taken, and one while three quarters are: then not even a scan of a whole /24 from forged sources takes all.
    #[arg(long, env = "PODGATE_HOLD_PER_SOURCE", value_name = "PACKETS", default_value_t = 32)]
    pub(crate) hold_per_source: u32,

    /// What becomes of a packet past these bounds. The default is to deny, as an address that nobody is known to have
    /// may be a pod that policies are about. What is allowed is not remembered, and what the other end's policies deny
    /// is denied all the same.
    #[arg(long, env = "PODGATE_ON_UNKNOWN", value_enum, default_value_t = OnUnknown::Deny)]
    pub(crate) on_unknown: OnUnknown,
}

impl HoldArgs {
    /// The settings, for the queue in which packets are held.
    pub(crate) fn settings(&self, queue: u16) -> HoldSettings {
        HoldSettings {
            time: self.time(),
            packets: self.hold_packets as usize,
            per_source: self.hold_per_source as usize,
            past: self.on_unknown,
            queue,
        }
    }

    /// How long a packet waits at most.
    pub(crate) fn time(&self) -> Duration {
        Duration::from_millis(self.hold_time)
    }

    /// How long the kernel's queue must be: what is held, and what has come and was not looked at yet.
    pub(crate) fn queue_length(&self) -> u32 {
        self.hold_packets + 1024
    }
}
