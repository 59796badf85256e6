//! Packets that wait for their address to become known: bounded in time, in number, and per source.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use podgate_engine::Addr;

use super::question::Question;

/// How much may be held, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HoldSettings {
    /// Until then the pod must be known. The default, 1 s, covers the time from a pod's first packet to the watch
    /// event with its address; a TCP client has sent its SYN twice by then.
    pub(crate) time: Duration,
    /// Per worker. The default, 256, is bounded by the kernel, which looks for a packet's verdict from the oldest
    /// waiting packet on: each held packet makes every later verdict a step longer.
    pub(crate) packets: usize,
    /// Per source address, so that one pod that scans unknown addresses leaves room for the others. Default 16.
    pub(crate) per_source: usize,
}

impl Default for HoldSettings {
    fn default() -> Self {
        Self { time: Duration::from_secs(1), packets: 256, per_source: 16 }
    }
}

/// A held packet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Held {
    pub(crate) id: u32,
    pub(crate) mark: u32,
    pub(crate) length: u32,
    pub(crate) question: Question,
    pub(crate) since: Instant,
}

/// One worker's held packets, oldest first. Room for all is made at the start.
#[derive(Debug)]
pub(crate) struct Holds {
    settings: HoldSettings,
    packets: VecDeque<Held>,
}

impl Holds {
    pub(crate) fn new(settings: HoldSettings) -> Self {
        Self { settings, packets: VecDeque::with_capacity(settings.packets) }
    }

    /// Whether a packet of this source may still be held.
    pub(crate) fn has_room(&self, source: Addr) -> bool {
        self.packets.len() < self.settings.packets
            && self.packets.iter().filter(|held| held.question.flow().source == source).count()
                < self.settings.per_source
    }

    /// Holds a packet that there is room for, no older than those before.
    pub(crate) fn push(&mut self, held: Held) {
        debug_assert!(self.packets.len() < self.settings.packets);
        self.packets.push_back(held);
    }

    /// When the oldest packet's time is up.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.packets.front().map(|held| held.since + self.settings.time)
    }

    /// When the time of every packet is up.
    pub(crate) fn last_deadline(&self) -> Option<Instant> {
        self.packets.back().map(|held| held.since + self.settings.time)
    }

    /// Takes the oldest packet out if its time is up.
    pub(crate) fn pop_expired(&mut self, now: Instant) -> Option<Held> {
        if self.deadline()? > now {
            return None;
        }
        self.packets.pop_front()
    }

    /// Takes all packets out, with the room they are in; to be put back after [`Holds::retain`].
    pub(crate) fn take(&mut self) -> Self {
        Self { settings: self.settings, packets: std::mem::take(&mut self.packets) }
    }

    /// Keeps those packets, in order, for which `keep` says so.
    pub(crate) fn retain(&mut self, keep: impl FnMut(&Held) -> bool) {
        self.packets.retain(keep);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }
}
