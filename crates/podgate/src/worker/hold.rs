//! [`Holds`]: packets that wait for an address to become known, bounded in time, number, bytes, and per address.
//!
//! Not here: who asks about them again ([`keeper`](super::keeper)).

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use podgate_engine::{Addr, Counter};

use super::gate::End;
use super::question::{Question, Whom};

/// What is held may be so long altogether, since a segmentation-offloaded packet may have 64 KiB: 16 MiB, which is four
/// full-sized packets for each that may be held by default.
const BYTES: u64 = 16 << 20;

/// How much may be held, how long, and what comes then. The defaults and their reasons are the settings'.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HoldSettings {
    /// Until then the pod must be known.
    pub(crate) time: Duration,
    /// Packets held at once.
    pub(crate) packets: usize,
    /// Of these from one source address, and to one unknown address.
    pub(crate) per_source: usize,
    /// What becomes of a packet past a bound.
    pub(crate) past: OnUnknown,
    /// The queue in which they are held.
    pub(crate) queue: u16,
}

/// What becomes of a packet whose address stays unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum OnUnknown {
    /// It is denied.
    Deny,
    /// It passes, unless the other end's policies deny it. Its connection is not remembered.
    Allow,
}

/// Why a packet is not held, or no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bound {
    /// Its time was up.
    Time,
    /// The table was full.
    Table,
    /// Its source had its share of it.
    Source,
    /// Its destination, which nobody knows, had its share.
    Destination,
}

impl Bound {
    pub(super) fn counter(self) -> Counter {
        match self {
            Bound::Time => Counter::HoldExpired,
            Bound::Table => Counter::HoldFull,
            Bound::Source => Counter::HoldSource,
            Bound::Destination => Counter::HoldDestination,
        }
    }
}

/// A held packet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    pub(super) id: u32,
    pub(super) mark: u32,
    pub(super) length: u32,
    pub(super) question: Question,
    /// Whose address is unknown.
    pub(super) whom: Whom,
    pub(super) since: Instant,
}

impl Held {
    /// The addresses that have a share of the table by it.
    fn ends(&self) -> impl Iterator<Item = (End, Addr)> + use<> {
        let flow = *self.question.flow();
        let destination = self.whom.destination.then_some((End::Destination, flow.destination));
        std::iter::once((End::Source, flow.source)).chain(destination)
    }
}

/// An address' share.
#[derive(Debug, Clone, Copy)]
struct Share {
    packets: usize,
    /// Since when it has had one.
    since: Instant,
}

/// Packets and their bytes.
#[derive(Debug, Clone, Copy, Default)]
struct Amount {
    packets: usize,
    bytes: u64,
}

impl Amount {
    fn add(&mut self, held: &Held) {
        self.packets += 1;
        self.bytes += u64::from(held.length);
    }

    fn take(&mut self, held: &Held) {
        self.packets -= 1;
        self.bytes -= u64::from(held.length);
    }
}

/// The held packets, oldest first.
#[derive(Debug)]
pub(super) struct Holds {
    settings: HoldSettings,
    packets: VecDeque<Held>,
    bytes: u64,
    /// Of these, those that wait for a pod of another node.
    elsewhere: Amount,
    /// As many as there are packets, or twice that.
    shares: HashMap<(End, Addr), Share>,
}

impl Holds {
    pub(super) fn new(settings: HoldSettings) -> Self {
        Self { settings, packets: VecDeque::new(), bytes: 0, elsewhere: Amount::default(), shares: HashMap::new() }
    }

    /// What keeps this packet from being held, and until when that is so, as far as is known.
    pub(super) fn bound(&self, held: &Held) -> Option<(Bound, Instant)> {
        // They wait for milliseconds, and whoever forges such sources is to leave room for this node's pods.
        let Amount { packets, bytes } = self.elsewhere;
        let half = packets >= self.settings.packets / 2 || bytes + u64::from(held.length) > BYTES / 2;
        if held.whom.elsewhere && half {
            return Some((Bound::Table, held.since + self.settings.time / 8));
        }
        if self.packets.len() >= self.settings.packets || self.bytes + u64::from(held.length) > BYTES {
            return Some((Bound::Table, self.deadline().unwrap_or(held.since + self.settings.time)));
        }
        held.ends().find_map(|(end, address)| {
            let share = self.shares.get(&(end, address)).filter(|s| s.packets >= self.share(end))?;
            let bound = if end == End::Source { Bound::Source } else { Bound::Destination };
            // Those that came after its first may have been there for a while; the rest is soon enough.
            let least = held.since + self.settings.time / 8;
            Some((bound, (share.since + self.settings.time).max(least)))
        })
    }

    /// What one address may have: as the setting says; a destination less where room grows scarce, so that a scan of this
    /// node's range (a /24 has 254) in the names of others leaves some to a new pod.
    fn share(&self, end: End) -> usize {
        let full = |quarters: usize| {
            self.packets.len() * 4 >= self.settings.packets * quarters || self.bytes * 4 >= BYTES * quarters as u64
        };
        match self.settings.per_source {
            most if end == End::Source => most,
            _ if full(3) => 1,
            most if full(2) => most.div_ceil(8),
            most => most,
        }
    }

    /// Holds a packet that nothing keeps from it, no older than those before.
    pub(super) fn push(&mut self, held: Held) {
        for end in held.ends() {
            let share = self.shares.entry(end).or_insert(Share { packets: 0, since: held.since });
            share.packets += 1;
        }
        self.bytes += u64::from(held.length);
        if held.whom.elsewhere {
            self.elsewhere.add(&held);
        }
        self.packets.push_back(held);
    }

    /// When the oldest packet's time is up.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.packets.front().map(|held| held.since + self.settings.time)
    }

    /// Takes the oldest packet out if its time is up.
    pub(super) fn pop_expired(&mut self, now: Instant) -> Option<Held> {
        if self.deadline()? > now {
            return None;
        }
        self.pop()
    }

    /// Takes the oldest packet out.
    pub(super) fn pop(&mut self) -> Option<Held> {
        let held = self.packets.pop_front()?;
        release(&mut self.shares, &mut self.bytes, &mut self.elsewhere, &held);
        Some(held)
    }

    /// Keeps those packets, in order, for which `keep` says so.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&Held) -> bool) {
        let Self { packets, bytes, elsewhere, shares, .. } = self;
        packets.retain(|held| {
            let keep = keep(held);
            if !keep {
                release(shares, bytes, elsewhere, held);
            }
            keep
        });
    }

    pub(super) fn len(&self) -> usize {
        self.packets.len()
    }
}

fn release(shares: &mut HashMap<(End, Addr), Share>, bytes: &mut u64, elsewhere: &mut Amount, held: &Held) {
    if held.whom.elsewhere {
        elsewhere.take(held);
    }
    *bytes -= u64::from(held.length);
    for end in held.ends() {
        if let Some(share) = shares.get_mut(&end) {
            share.packets -= 1;
            if share.packets == 0 {
                shares.remove(&end);
            }
        }
    }
}
