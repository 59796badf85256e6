//! Overload: while more comes up than the workers can judge, each pod has a share of the queue, so that one that floods,
//! or is flooded, does not starve the rest.
//!
//! ```text
//!   worker: full batches without a break ──▶ look at the queues ──▶ packets are lost, again and again
//!                                                                      └▶ watch: see in the kernel whose they are
//!   every quarter of a second, while packets are lost or there are shares
//!       watching, and they are of several pods ──────────▶ shares: half of what a worker can judge
//!       packets are still lost ──────────────────────────▶ half of it
//!       none is, but pods have more than their share ────▶ after a while, half as much again
//!       one pod is alone for a while ────────────────────▶ watch
//!       no pod has more for five seconds, none is lost ──▶ no shares
//! ```
//!
//! One pod that is alone has no share: nobody else would be the better for it. To watch is to have shares that nobody can
//! use up, so that the kernel notes who sends.
//!
//! The aim is the largest share with which nothing is lost in the queues: who asks for less gets what it asks for, and
//! all others the same, up to what the workers can do. Nobody knows that number, as it depends on who asks; so it is
//! found by halving, which is quick, and by trying more, which is slow: after [`PATIENCE`], and twice as long each time
//! that this was too much, as it costs the others packets.
//!
//! An agent that ends leaves a share as it is: without an agent nothing is judged anyway. The next one begins without.
//!
//! Losing packets is the test, and not that the workers are busy, as a share takes from a pod what might have been
//! judged: many clients that each wait for their answers can keep a worker busy for ever and lose nothing. Where packets
//! pass when a queue is full (`--fail-open`) the kernel counts no loss; there, and anywhere, a queue that is nearly
//! full at the moment of a look is as good.
//!
//! Here: when there are shares, how large they are, who had more. The rules are `podgate_netfilter::Program`'s, and
//! whose a packet is; what is told of it `telemetry::share`'s.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::sync::Arc;
use std::thread::Thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::ValueEnum;
use podgate_engine::{Counter, Counters};
use podgate_netfilter::queue::QueueStats;
use podgate_netfilter::{Error, Excess, Share, queue_stats};
use tokio::sync::mpsc::Sender;

use super::control::{Control, lock};
use super::inputs::{self, Input};
use super::kernel::Kernel;
use super::plane::Plane;
use crate::telemetry::Shares;
use crate::telemetry::share::named;
use crate::worker::Crowd;

/// Whether there are shares under overload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ShareMode {
    /// Under overload.
    Auto,
    /// Never: a full queue drops (or passes, with --fail-open) whatever comes.
    Off,
}

/// From one look to the next while there are shares.
const TICK: Duration = Duration::from_millis(250);
/// Looks that find packets lost, after a first one, until there are shares: a burst that overflowed a queue once is over
/// by then. Workers ask for one each time that they answered a whole queue without catching up.
const LOSING: u32 = 2;
/// Looks that are further apart have nothing to do with each other.
const APART: Duration = Duration::from_secs(1);
/// No pod gets less than so many packets a second, each of which begins a connection as a rule.
const LEAST: u32 = 100;
/// What no pod can send in a second, for watching.
const WATCH: u32 = 1_000_000_000;
/// Before more is tried, or nobody else is thought to be there.
const PATIENCE: Duration = Duration::from_secs(4);
/// Before it is tried once more where it was too much again and again.
const LONGEST_PATIENCE: Duration = Duration::from_secs(64);
/// Shares end when no pod had more for so long.
const QUIET: Duration = Duration::from_secs(5);

/// What a look at queues and shares finds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Seen {
    /// Packets were lost since the look before, or nearly are.
    losing: bool,
    /// Pods had more than their share since then.
    excess: bool,
    /// Packets came from (or to) one pod at most, since the share was changed.
    alone: bool,
}

/// What is to be done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Keep,
    /// This many packets a second.
    Limit(u32),
    End,
}

/// How large a share is.
#[derive(Debug)]
struct Regulator {
    /// [`WATCH`], or a share.
    limit: u32,
    /// The first share.
    first: u32,
    changed: Instant,
    /// The latest change, whose effect is not to be seen in the look after it: the queues were full.
    fresh: bool,
    /// Nothing was lost since then.
    calm_since: Instant,
    /// No pod had more since then.
    quiet_since: Instant,
    patience: Duration,
    /// The latest change was a try.
    tried: bool,
}

impl Regulator {
    /// Begins by watching; the first share is half of what the busiest worker could judge in a second.
    fn new(rate: u32, now: Instant) -> Self {
        let first = (rate / 2).max(LEAST);
        Regulator {
            limit: WATCH,
            first,
            changed: now,
            fresh: true,
            calm_since: now,
            quiet_since: now,
            patience: PATIENCE,
            tried: false,
        }
    }

    fn look(&mut self, seen: Seen, now: Instant) -> Act {
        if seen.excess {
            self.quiet_since = now;
        }
        if std::mem::take(&mut self.fresh) {
            self.calm_since = now;
            return Act::Keep;
        }
        if self.limit == WATCH {
            return self.watch(seen, now);
        }
        if seen.alone && now.duration_since(self.changed) >= PATIENCE {
            return self.change(WATCH, now);
        }
        if seen.losing {
            self.calm_since = now;
            if std::mem::take(&mut self.tried) {
                self.patience = (self.patience * 2).min(LONGEST_PATIENCE);
            }
            return self.change((self.limit / 2).max(LEAST), now);
        }
        if now.duration_since(self.quiet_since) >= QUIET {
            return Act::End;
        }
        if seen.excess && now.duration_since(self.calm_since) >= self.patience {
            self.tried = true;
            return self.change(self.limit.saturating_add(self.limit / 2), now);
        }
        Act::Keep
    }

    fn watch(&mut self, seen: Seen, now: Instant) -> Act {
        if seen.losing {
            self.quiet_since = now;
            return if seen.alone { Act::Keep } else { self.change(self.first, now) };
        }
        if now.duration_since(self.quiet_since) >= QUIET { Act::End } else { Act::Keep }
    }

    fn change(&mut self, limit: u32, now: Instant) -> Act {
        if limit == self.limit {
            return Act::Keep;
        }
        (self.limit, self.changed) = (limit, now);
        self.fresh = true;
        Act::Limit(limit)
    }
}

/// A rate with the burst that goes with it: a tenth of a second, or a client that opens a pool of connections at once.
fn share(rate: u32) -> Share {
    Share { rate, burst: (rate / 10).max(128) }
}

/// The queues at one moment.
#[derive(Debug, Clone)]
struct Queues {
    at: Instant,
    lost: u64,
    nearly_full: bool,
    /// Packets that each worker has received.
    received: Vec<u64>,
}

impl Queues {
    fn read(length: u32, kernel: &Kernel, counters: &Counters) -> std::io::Result<Self> {
        let queues = kernel.queues();
        let own: Vec<QueueStats> = queue_stats()?.into_iter().filter(|q| queues.contains(&q.number)).collect();
        let received = (0..queues.len()).map(|worker| counters.of_worker(worker, Counter::Packets));
        Ok(Queues {
            at: Instant::now(),
            lost: own.iter().map(|q| q.queue_dropped + q.user_dropped).sum(),
            nearly_full: own.iter().any(|q| u64::from(q.depth) * 4 >= u64::from(length) * 3),
            received: received.collect(),
        })
    }

    fn losing_since(&self, before: &Queues) -> bool {
        self.lost > before.lost || self.nearly_full
    }

    /// Packets per second of the busiest worker.
    fn rate_since(&self, before: &Queues) -> u32 {
        let most = self.received.iter().zip(&before.received).map(|(now, then)| now.saturating_sub(*then)).max();
        let seconds = self.at.duration_since(before.at).as_secs_f64();
        // A float that is too large, or none, becomes the largest or smallest number there is.
        (most.unwrap_or(0) as f64 / seconds) as u32
    }
}

/// Looks that belong together.
#[derive(Debug)]
struct Looks {
    first: Queues,
    latest: Queues,
    /// How many in a row found packets lost.
    losing: u32,
}

impl Looks {
    fn begin(now: Queues) -> Self {
        Looks { first: now.clone(), latest: now, losing: 0 }
    }
}

/// What the control loop knows of overload.
pub(crate) struct Sharing {
    /// Whom workers tell that they cannot keep up; None: nobody.
    told_by: Option<Thread>,
    inputs: Sender<Input>,
    told: Arc<Shares>,
    /// Packets that may wait in one queue.
    length: u32,
    looks: Option<Looks>,
    regulator: Option<Regulator>,
    /// What each address had over the share in force.
    counted: HashMap<IpAddr, u64>,
    /// This kernel can't.
    impossible: bool,
}

impl Sharing {
    /// There are no shares yet. `length`: packets that may wait in one queue.
    pub(crate) fn start(mode: ShareMode, length: u32, told: Arc<Shares>, inputs: Sender<Input>) -> Result<Self> {
        let told_by = match mode {
            ShareMode::Auto => Some(inputs::crowds(inputs.clone())?),
            ShareMode::Off => None,
        };
        Ok(Self::new(told_by, length, told, inputs))
    }

    fn new(told_by: Option<Thread>, length: u32, told: Arc<Shares>, inputs: Sender<Input>) -> Self {
        let (looks, regulator, counted) = (None, None, HashMap::new());
        Sharing { told_by, inputs, told, length, looks, regulator, counted, impossible: false }
    }

    /// What workers tell.
    pub(crate) fn crowd(&self) -> Crowd {
        Crowd::told_to(self.told_by.clone())
    }

    /// The rate to begin with, if packets are lost again and again.
    fn is_overloaded(&mut self, now: Queues) -> Option<u32> {
        let looks = self.looks.take().filter(|looks| now.at.duration_since(looks.latest.at) < APART);
        let Some(mut looks) = looks else {
            self.looks = Some(Looks::begin(now));
            return None;
        };
        looks.losing = if now.losing_since(&looks.latest) { looks.losing + 1 } else { 0 };
        if looks.losing >= LOSING {
            return Some(now.rate_since(&looks.first));
        }
        looks.latest = now;
        self.looks = Some(looks);
        None
    }

    /// What the elements count now, of which some is counted already.
    fn count(&mut self, excess: Vec<Excess>, pod: impl Fn(IpAddr) -> Option<String>) -> bool {
        let mut counted = HashMap::with_capacity(excess.len());
        let mut more = false;
        for Excess { pod: address, packets } in excess {
            let before = self.counted.get(&address).copied().filter(|before| *before <= packets).unwrap_or(0);
            if packets > before {
                self.told.count(pod(address).as_deref(), packets - before);
                more = true;
            }
            counted.insert(address, packets);
        }
        self.counted = counted;
        more
    }

    fn later(&self) {
        inputs::later(TICK, Input::ShareDue, &self.inputs);
    }
}

impl Control {
    /// Workers cannot keep up.
    pub(super) fn take_crowd(&mut self, plane: &mut Plane<'_>) {
        let Some(kernel) = plane.kernel.as_mut().filter(|kernel| kernel.is_owner()) else { return };
        if self.sharing.regulator.is_some() || self.sharing.impossible {
            return;
        }
        let Some(queues) = self.look_at_queues(kernel) else { return };
        let Some(rate) = self.sharing.is_overloaded(queues) else { return };
        let regulator = Regulator::new(rate, Instant::now());
        tracing::warn!(
            judged = rate,
            "overload: more comes up than the `judged` packets a second of a worker, and is lost"
        );
        self.sharing.counted.clear();
        if self.limit(kernel, Some(regulator.limit)) {
            self.sharing.regulator = Some(regulator);
            self.sharing.looks = self.look_at_queues(kernel).map(Looks::begin);
            self.sharing.later();
        }
    }

    /// Time to look whether the shares are right.
    pub(super) fn take_share_due(&mut self, plane: &mut Plane<'_>) {
        let Some(mut regulator) = self.sharing.regulator.take() else { return };
        let Some(kernel) = plane.kernel.as_mut().filter(|kernel| kernel.is_owner()) else {
            return self.tell_no_share();
        };
        let (alone, excess) = match kernel.excess() {
            Ok(excess) => (excess.len() < 2, self.count_excess(excess)),
            Err(error) => {
                tracing::warn!(%error, "the pods' shares cannot be read");
                (false, true)
            }
        };
        let Some(queues) = self.look_at_queues(kernel) else { return self.end_shares(kernel) };
        let losing = self.sharing.looks.as_ref().is_none_or(|looks| queues.losing_since(&looks.latest));
        self.sharing.looks = Some(Looks::begin(queues));
        let seen = Seen { losing, excess, alone };
        match regulator.look(seen, Instant::now()) {
            Act::Keep => {}
            Act::Limit(limit) => {
                match limit {
                    WATCH => tracing::info!("overload: one pod is alone, and has no share"),
                    _ => tracing::warn!(
                        share = limit,
                        lost = seen.losing,
                        "overload: until it is over each pod may have `share` packets a second judged"
                    ),
                }
                if !self.limit(kernel, Some(limit)) {
                    return;
                }
            }
            Act::End => return self.end_shares(kernel),
        }
        self.sharing.regulator = Some(regulator);
        self.sharing.later();
    }

    fn end_shares(&mut self, kernel: &mut Kernel) {
        if self.limit(kernel, None) {
            let over = named(&self.sharing.told.lately());
            tracing::info!(over, "the overload is over: pods have no shares any more");
        }
        self.sharing.looks = None;
    }

    fn look_at_queues(&self, kernel: &Kernel) -> Option<Queues> {
        let read = Queues::read(self.sharing.length, kernel, &self.counters);
        read.inspect_err(|error| tracing::warn!(%error, "the queues' statistics cannot be read")).ok()
    }

    fn count_excess(&mut self, excess: Vec<Excess>) -> bool {
        let index = Arc::clone(&self.index);
        self.sharing.count(excess, |address| lock(&index).pod_at(address))
    }

    /// False: there are no shares, as the kernel refuses, or the table is another agent's.
    fn limit(&mut self, kernel: &mut Kernel, limit: Option<u32>) -> bool {
        let result = kernel.set_share(limit.map(share));
        self.state.kernel_transactions.inc();
        match result {
            Ok(excess) => {
                self.count_excess(excess);
                // The next share counts anew.
                self.sharing.counted.clear();
                self.sharing.told.set(limit.filter(|limit| *limit != WATCH && kernel.is_owner()));
                kernel.is_owner()
            }
            Err(error) if is_unknown_to_kernel(&error) => {
                self.state.kernel_errors.inc();
                tracing::error!(
                    %error,
                    "this kernel cannot give pods a share of the queue (Linux 5.11 can): a full queue drops whatever comes"
                );
                self.sharing.impossible = true;
                self.tell_no_share();
                false
            }
            Err(error) => {
                self.tell_no_share();
                self.kernel_failed(&error, kernel);
                false
            }
        }
    }

    fn tell_no_share(&mut self) {
        self.sharing.told.set(None);
        self.sharing.looks = None;
    }
}

/// It does not know the words: trying again is of no use.
fn is_unknown_to_kernel(error: &Error) -> bool {
    let unknown = [ErrorKind::Unsupported, ErrorKind::InvalidInput, ErrorKind::NotFound];
    matches!(error, Error::Refused { source, .. } if unknown.contains(&source.kind()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOSING_NOW: Seen = Seen { losing: true, excess: true, alone: false };
    const OVER: Seen = Seen { losing: false, excess: true, alone: false };
    const QUIET_NOW: Seen = Seen { losing: false, excess: false, alone: false };

    /// A regulator that is looked at every [`TICK`].
    struct Run {
        regulator: Regulator,
        now: Instant,
    }

    impl Run {
        /// Past the watching.
        fn new(rate: u32) -> Self {
            let mut run = Run::watching(rate);
            assert_eq!(run.until(QUIET, |_| LOSING_NOW), Some((Act::Limit(rate / 2), TICK * 2)));
            run
        }

        fn watching(rate: u32) -> Self {
            let now = Instant::now();
            Run { regulator: Regulator::new(rate, now), now }
        }

        /// The first thing that is done within so long, and when.
        fn until(&mut self, longest: Duration, seen: impl Fn(u32) -> Seen) -> Option<(Act, Duration)> {
            let begun = self.now;
            while self.now - begun < longest {
                self.now += TICK;
                let act = self.regulator.look(seen(self.regulator.limit), self.now);
                if act != Act::Keep {
                    return Some((act, self.now - begun));
                }
            }
            None
        }
    }

    #[test]
    fn as_long_as_packets_are_lost_shares_are_halved_to_the_least() {
        let mut run = Run::new(8000);
        for limit in [2000, 1000, 500, 250, 125, LEAST] {
            let (act, took) = run.until(QUIET, |_| LOSING_NOW).unwrap();
            // What was lost right after a change tells nothing.
            assert_eq!((act, took), (Act::Limit(limit), TICK * 2));
        }
        assert_eq!(run.until(QUIET, |_| LOSING_NOW), None);
    }

    #[test]
    fn shares_end_when_nobody_has_more() {
        let mut run = Run::new(8000);
        assert_eq!(run.until(QUIET * 2, |_| QUIET_NOW), Some((Act::End, QUIET)));
    }

    #[test]
    fn one_pod_that_is_alone_has_no_share_until_somebody_else_comes() {
        let alone = Seen { alone: true, ..LOSING_NOW };
        let mut run = Run::watching(8000);
        assert_eq!(run.until(QUIET * 9, |_| alone), None);
        assert_eq!(run.until(QUIET, |_| LOSING_NOW), Some((Act::Limit(4000), TICK)));
        let mut acts = Vec::new();
        while acts.last() != Some(&Act::Limit(WATCH)) {
            acts.push(run.until(QUIET, |_| alone).unwrap().0);
        }
        assert_eq!(run.until(QUIET * 2, |_| QUIET_NOW), Some((Act::End, QUIET)));
    }

    #[test]
    fn more_is_tried_slowly_and_more_slowly_where_it_was_too_much() {
        let mut run = Run::new(8000);
        // So much is lost above 5,000.
        let seen = |limit| if limit > 5000 { LOSING_NOW } else { OVER };
        let mut waits = Vec::new();
        for _ in 0..8 {
            let (act, took) = run.until(LONGEST_PATIENCE * 2, seen).unwrap();
            match act {
                Act::Limit(limit) if limit > 5000 => {
                    waits.push(took);
                    assert_eq!(run.until(QUIET, seen), Some((Act::Limit(limit / 2), TICK * 2)));
                }
                act => assert!(matches!(act, Act::Limit(_)), "{act:?}"),
            }
        }
        assert!(waits.len() >= 3 && waits.windows(2).all(|pair| pair[1] > pair[0]), "{waits:?}");
        for _ in 0..40 {
            run.until(LONGEST_PATIENCE * 2, seen);
        }
        assert!(run.regulator.patience == LONGEST_PATIENCE, "{:?}", run.regulator);
    }

    #[test]
    fn one_busy_pod_that_starves_nobody_gets_what_it_asks_for_in_the_end() {
        let mut run = Run::new(8000);
        let seen = |limit| if limit < 30_000 { OVER } else { QUIET_NOW };
        let mut acts = Vec::new();
        while acts.last() != Some(&Act::End) {
            acts.push(run.until(LONGEST_PATIENCE, seen).unwrap().0);
        }
        assert_eq!(
            acts,
            [6000, 9000, 13_500, 20_250, 30_375].map(Act::Limit).into_iter().chain([Act::End]).collect::<Vec<_>>()
        );
    }

    fn queues(begun: Instant, milliseconds: u64, lost: u64, received: u64) -> Queues {
        let at = begun + Duration::from_millis(milliseconds);
        Queues { at, lost, nearly_full: false, received: vec![0, received] }
    }

    fn sharing() -> Sharing {
        Sharing::new(None, 4096, Arc::default(), tokio::sync::mpsc::channel(1).0)
    }

    #[test]
    fn a_burst_that_overflows_a_queue_once_is_no_overload() {
        let (mut sharing, begun) = (sharing(), Instant::now());
        for (milliseconds, lost) in [(0, 0), (30, 500), (60, 500), (90, 500), (2000, 900), (2030, 1000), (2060, 1000)] {
            assert_eq!(sharing.is_overloaded(queues(begun, milliseconds, lost, 0)), None, "{milliseconds}");
        }
    }

    #[test]
    fn losing_again_and_again_is_overload_and_what_was_judged_meanwhile_is_the_measure() {
        let (mut sharing, begun) = (sharing(), Instant::now());
        assert_eq!(sharing.is_overloaded(queues(begun, 0, 7, 1000)), None);
        assert_eq!(sharing.is_overloaded(queues(begun, 50, 8, 5000)), None);
        assert_eq!(sharing.is_overloaded(queues(begun, 100, 9, 9000)), Some(80_000));
    }

    #[test]
    fn a_busy_queue_that_loses_nothing_is_no_overload_however_long() {
        let (mut sharing, begun) = (sharing(), Instant::now());
        for n in 0..100 {
            assert_eq!(sharing.is_overloaded(queues(begun, n * 30, 7, n)), None);
        }
    }

    #[test]
    fn a_full_queue_that_counts_no_loss_is_overload_too() {
        let (mut sharing, begun) = (sharing(), Instant::now());
        let full = |milliseconds| Queues { nearly_full: true, ..queues(begun, milliseconds, 0, milliseconds * 10) };
        let rates = [0, 50, 100].map(|milliseconds| sharing.is_overloaded(full(milliseconds)));
        assert_eq!(rates, [None, None, Some(10_000)]);
    }

    #[test]
    fn each_packet_over_a_share_is_counted_once() {
        let mut sharing = sharing();
        let address = IpAddr::from([10, 0, 0, 1]);
        let excess = |packets| vec![Excess { pod: address, packets }];
        let name = |_| Some("shop/evil".to_owned());
        sharing.told.set(Some(1));
        assert!(sharing.count(excess(5), name));
        assert!(!sharing.count(excess(5), name));
        assert!(sharing.count(excess(7), name));
        // The element was gone for a while.
        assert!(sharing.count(excess(3), name));
        assert_eq!(sharing.told.lately(), [("shop".to_owned(), "evil".to_owned(), 10)]);
    }
}
