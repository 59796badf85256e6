//! Counters of the packet path: written by index on the packet path, read by name at scrape.
//!
//! ```text
//!   Counters (shared) ── worker(i) ──▶ WorkerCounters, written by worker i alone
//!                                      ├ scalars  one per Counter
//!                                      ├ causes   direction × Settled (what no rule decided)
//!                                      ├ errors   one per ParseError
//!                                      ├ latency  fixed buckets
//!                                      └ rules    one per RuleId, in chunks that never move
//!            ├─ repeated() ──▶ another set, for what the kernel repeated without asking
//!            ├─ earlier, what numbers counted for rules that had them before
//!            └─ reserve(rule), begin_anew(rules), sums ─▶ publisher, scrape
//! ```
//!
//! One writer for each counter, so that an increment is a relaxed load and a relaxed store: no locked instruction, no
//! cache line that two workers write. A scrape may miss increments of the last moment; it never sees one twice.
//! Not here: names and labels (`podgate`'s telemetry).

mod latency;
mod rules;

use std::sync::atomic::{AtomicU64, Ordering};

pub use latency::{LATENCY_BOUNDS, Latency};

use crate::packet::ParseError;
use crate::{Cause, Direction, RuleId};
use latency::LatencyCounters;
use rules::RuleCounters;

/// What is counted per packet, besides rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Counter {
    /// Packets received from the queue.
    Packets,
    /// Packets answered with accept.
    Accepted,
    /// Packets answered with drop.
    Dropped,
    /// Packets whose ports are not to be seen (a later fragment, a cut header).
    PortsUnseen,
    /// Accepted in the start-up period only because the opposite orientation is allowed.
    Midstream,
    /// Judged statelessly, because conntrack does not track them.
    Untracked,
    /// ICMP errors judged by the packet inside.
    Related,
    /// Denied because their mark does not say how they came up: somebody else's rule sent them.
    Unmarked,
    /// Held because an address of theirs was unknown.
    Held,
    /// Held, and still unknown at the deadline: denied.
    HoldExpired,
    /// Not held because the hold table was full: denied.
    HoldFull,
    /// Records lost because the ring was full.
    RecordsLost,
    /// Verdicts of a rule that no room was reserved for.
    RulesUncounted,
    /// Messages of the queue that could not be used: malformed, or a refused verdict (the packet was gone).
    Malformed,
    /// Passed on to the keeper, as an address was unknown: answered there.
    PassedOn,
    /// Not held because its source had its share of the hold table: denied.
    HoldSource,
    /// Not held because its unknown destination had its share of the hold table: denied.
    HoldDestination,
    /// Past a bound of the hold table or at its deadline, and let through, as a setting says.
    HoldAllowed,
    /// Resets sent because a TCP segment was denied.
    RejectReset,
    /// ICMP errors sent because a packet was denied.
    RejectIcmp,
    /// ICMPv6 errors sent because a packet was denied.
    RejectIcmpv6,
    /// Denied packets not answered because of the rate of all answers.
    RejectRate,
    /// Denied packets not answered because of the rate of answers to one address.
    RejectSource,
    /// Denied packets not answered because nothing may answer such a packet.
    RejectNever,
    /// Answers that could not be sent.
    RejectFailed,
}

impl Counter {
    /// Every counter.
    pub const ALL: [Counter; 25] = [
        Counter::Packets,
        Counter::Accepted,
        Counter::Dropped,
        Counter::PortsUnseen,
        Counter::Midstream,
        Counter::Untracked,
        Counter::Related,
        Counter::Unmarked,
        Counter::Held,
        Counter::HoldExpired,
        Counter::HoldFull,
        Counter::RecordsLost,
        Counter::RulesUncounted,
        Counter::Malformed,
        Counter::PassedOn,
        Counter::HoldSource,
        Counter::HoldDestination,
        Counter::HoldAllowed,
        Counter::RejectReset,
        Counter::RejectIcmp,
        Counter::RejectIcmpv6,
        Counter::RejectRate,
        Counter::RejectSource,
        Counter::RejectNever,
        Counter::RejectFailed,
    ];
}

/// A [`Cause`] that is no rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Settled {
    /// [`Cause::Open`].
    Open,
    /// [`Cause::OwnNode`].
    OwnNode,
    /// [`Cause::Itself`].
    Itself,
    /// [`Cause::Unknown`].
    Unknown,
}

impl Settled {
    /// Every kind.
    pub const ALL: [Settled; 4] = [Settled::Open, Settled::OwnNode, Settled::Itself, Settled::Unknown];

    /// The kind as metrics say it.
    pub fn as_str(self) -> &'static str {
        match self {
            Settled::Open => "open",
            Settled::OwnNode => "own_node",
            Settled::Itself => "itself",
            Settled::Unknown => "unknown",
        }
    }
}

/// The counters of all workers.
#[derive(Debug)]
pub struct Counters {
    workers: Box<[WorkerCounters]>,
    /// What was judged once and repeated by the kernel.
    repeated: WorkerCounters,
    /// What the numbers had counted when they became the rules' that have them now. Counts only ever grow, so that each has
    /// one writer.
    earlier: RuleCounters,
}

/// One worker's counters. Only that worker writes; anybody may read. Two cache lines of alignment, because
/// processors fetch lines in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct WorkerCounters {
    scalars: [AtomicU64; Counter::ALL.len()],
    causes: [[AtomicU64; Settled::ALL.len()]; 2],
    errors: [AtomicU64; ParseError::ALL.len()],
    latency: LatencyCounters,
    rules: RuleCounters,
}

/// An increment by the only writer.
#[inline]
fn bump(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
}

#[inline]
fn side(direction: Direction) -> usize {
    match direction {
        Direction::Ingress => 0,
        Direction::Egress => 1,
    }
}

impl Counters {
    /// Counters for this many workers, all zero.
    pub fn new(workers: usize) -> Self {
        let workers = (0..workers).map(|_| WorkerCounters::default()).collect();
        Self { workers, repeated: WorkerCounters::default(), earlier: RuleCounters::default() }
    }

    /// The counters of verdicts that the kernel repeated. One thread at a time may write, which is the caller's to see to.
    pub fn repeated(&self) -> &WorkerCounters {
        &self.repeated
    }

    /// The counters that worker `index` writes.
    ///
    /// # Panics
    /// If there are not that many workers.
    pub fn worker(&self, index: usize) -> &WorkerCounters {
        &self.workers[index]
    }

    /// Makes room for all rules up to `last` at every worker. The publisher calls it **before** a snapshot with new
    /// numbers is published, so that workers neither allocate nor lock.
    pub fn reserve(&self, last: RuleId) {
        self.all().map(|w| &w.rules).chain([&self.earlier]).for_each(|rules| rules.reserve(last));
    }

    /// From now on these numbers count for other rules than before, from zero. The publisher calls it **before** a snapshot
    /// is published in which they are those rules', and **after** the last one has gone in which they were the earlier
    /// ones': whoever counted by that, or reads counts by it, is done.
    pub fn begin_anew(&self, rules: &[RuleId]) {
        for rule in rules {
            self.earlier.count(*rule, self.rule(*rule));
        }
    }

    /// How many verdicts this rule decided.
    pub fn rule(&self, rule: RuleId) -> u64 {
        self.sum(|w| w.rules.get(rule)).wrapping_sub(self.earlier.get(rule))
    }

    /// One counter over all workers.
    pub fn get(&self, counter: Counter) -> u64 {
        self.sum(|w| w.scalars[counter as usize].load(Ordering::Relaxed))
    }

    /// One counter of one worker.
    ///
    /// # Panics
    /// If there are not that many workers.
    pub fn of_worker(&self, index: usize, counter: Counter) -> u64 {
        self.workers[index].scalars[counter as usize].load(Ordering::Relaxed)
    }

    /// Decisions in `direction` that no rule made, by kind.
    pub fn settled(&self, direction: Direction, kind: Settled) -> u64 {
        self.sum(|w| w.causes[side(direction)][kind as usize].load(Ordering::Relaxed))
    }

    /// Packets that could not be read, by kind.
    pub fn parse_errors(&self, kind: ParseError) -> u64 {
        self.sum(|w| w.errors[kind.index()].load(Ordering::Relaxed))
    }

    /// The verdict latency over all workers.
    pub fn latency(&self) -> Latency {
        let mut all = Latency::default();
        self.all().for_each(|w| w.latency.add_to(&mut all));
        all
    }

    fn sum(&self, read: impl Fn(&WorkerCounters) -> u64) -> u64 {
        self.all().map(read).fold(0, u64::wrapping_add)
    }

    fn all(&self) -> impl Iterator<Item = &WorkerCounters> {
        self.workers.iter().chain([&self.repeated])
    }
}

impl WorkerCounters {
    /// Adds one.
    #[inline]
    pub fn count(&self, counter: Counter) {
        self.add(counter, 1);
    }

    /// Adds many.
    #[inline]
    pub fn add(&self, counter: Counter, by: u64) {
        bump(&self.scalars[counter as usize], by);
    }

    /// Counts what decided one direction of a packet.
    #[inline]
    pub fn decided(&self, direction: Direction, cause: Cause) {
        self.decided_times(direction, cause, 1);
    }

    /// Counts what decided one direction of so many packets.
    #[inline]
    pub fn decided_times(&self, direction: Direction, cause: Cause, packets: u64) {
        let kind = match cause {
            Cause::Accepted(rule) | Cause::Denied(rule) => {
                if !self.rules.count(rule, packets) {
                    self.add(Counter::RulesUncounted, packets);
                }
                return;
            }
            Cause::Open => Settled::Open,
            Cause::OwnNode => Settled::OwnNode,
            Cause::Itself => Settled::Itself,
            Cause::Unknown => Settled::Unknown,
        };
        bump(&self.causes[side(direction)][kind as usize], packets);
    }

    /// Counts a packet that could not be read.
    #[inline]
    pub fn unreadable(&self, error: ParseError) {
        bump(&self.errors[error.index()], 1);
    }

    /// Counts that `packets` packets were answered this many nanoseconds after they were read from the queue.
    #[inline]
    pub fn answered_after(&self, nanoseconds: u64, packets: u64) {
        self.latency.observe(nanoseconds, packets);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_go_over_all_workers() {
        let counters = Counters::new(3);
        counters.worker(0).count(Counter::Packets);
        counters.worker(2).add(Counter::Packets, 41);
        counters.worker(1).unreadable(ParseError::Extensions);
        counters.worker(1).decided(Direction::Egress, Cause::Unknown);
        assert_eq!(counters.get(Counter::Packets), 42);
        assert_eq!(counters.get(Counter::Dropped), 0);
        assert_eq!(counters.parse_errors(ParseError::Extensions), 1);
        assert_eq!(counters.parse_errors(ParseError::Version), 0);
        assert_eq!(counters.settled(Direction::Egress, Settled::Unknown), 1);
        assert_eq!(counters.settled(Direction::Ingress, Settled::Unknown), 0);
    }

    #[test]
    fn a_rule_is_counted_once_there_is_room_for_it() {
        let counters = Counters::new(2);
        counters.worker(0).decided(Direction::Ingress, Cause::Denied(RuleId(7)));
        assert_eq!((counters.rule(RuleId(7)), counters.get(Counter::RulesUncounted)), (0, 1));
        counters.reserve(RuleId(7));
        counters.worker(0).decided(Direction::Ingress, Cause::Denied(RuleId(7)));
        counters.worker(1).decided(Direction::Egress, Cause::Accepted(RuleId(7)));
        assert_eq!((counters.rule(RuleId(7)), counters.rule(RuleId(6))), (2, 0));
        assert_eq!(counters.get(Counter::RulesUncounted), 1);
    }

    #[test]
    fn what_the_kernel_repeated_counts_like_what_workers_judged() {
        let counters = Counters::new(1);
        counters.reserve(RuleId(7));
        counters.worker(0).decided(Direction::Ingress, Cause::Accepted(RuleId(7)));
        counters.repeated().decided_times(Direction::Ingress, Cause::Accepted(RuleId(7)), 40);
        counters.repeated().decided_times(Direction::Egress, Cause::Open, 40);
        assert_eq!(counters.rule(RuleId(7)), 41);
        assert_eq!(counters.settled(Direction::Egress, Settled::Open), 40);
        assert_eq!(counters.get(Counter::Packets), 0);
    }

    #[test]
    fn a_number_that_is_another_rules_counts_from_zero() {
        let counters = Counters::new(2);
        counters.reserve(RuleId(7));
        let count = || {
            counters.worker(0).decided(Direction::Ingress, Cause::Accepted(RuleId(7)));
            counters.worker(1).decided(Direction::Ingress, Cause::Accepted(RuleId(7)));
            counters.repeated().decided_times(Direction::Ingress, Cause::Accepted(RuleId(7)), 40);
            counters.worker(0).decided(Direction::Ingress, Cause::Accepted(RuleId(6)));
        };
        for round in 1..4 {
            count();
            assert_eq!((counters.rule(RuleId(7)), counters.rule(RuleId(6))), (42, round));
            // One that there is no room for has counted nothing.
            counters.begin_anew(&[RuleId(7), RuleId(5000)]);
            assert_eq!(counters.rule(RuleId(7)), 0);
        }
        assert_eq!(counters.rule(RuleId(5000)), 0);
    }

    #[test]
    fn every_counter_has_a_place_of_its_own() {
        for (index, counter) in Counter::ALL.iter().enumerate() {
            assert_eq!(*counter as usize, index);
        }
        for (index, kind) in Settled::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, index);
        }
    }

    #[test]
    fn workers_share_no_cache_line() {
        assert_eq!(size_of::<WorkerCounters>() % 128, 0);
        assert_eq!(align_of::<WorkerCounters>(), 128);
    }
}
