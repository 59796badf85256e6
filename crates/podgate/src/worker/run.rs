//! [`Worker`]: the loop of one thread; [`Desk`]: what an answer does, for workers and the keeper alike.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use podgate_engine::{Counter, Direction, Flow, Generation, Judgement, Port, Verdict, WorkerCounters};
use podgate_netfilter::Way;
use podgate_netfilter::queue::{Fate, Packet, Queue, Received};

use super::crowd::FullBatches;
use super::gate::{End, Gate};
use super::hold::{Bound, OnUnknown};
use super::question::{Answer, Judge, Question, Whom};
use super::record::{self, Record};
use super::{Rules, Shared};
use crate::cache::WorkerOffers;
use crate::reject::Rejects;

/// Batches that are still answered after a stop. With 64 packets each, a whole queue of the default length.
pub(super) const LAST_BATCHES: usize = 64;

/// One worker: a queue and what its packets are judged by.
pub(super) struct Worker<R> {
    queue: Box<dyn Queue>,
    rules: R,
    desk: Desk,
    full: FullBatches,
    stop: Arc<AtomicBool>,
}

/// What a packet's answer touches.
pub(super) struct Desk {
    index: usize,
    shared: Arc<Shared>,
    offers: WorkerOffers,
    /// What the queue had counted when it was last asked.
    malformed: u64,
    tally: Tally,
}

/// Packets of a batch, added to the counters at its end.
#[derive(Default)]
struct Tally {
    packets: u64,
    accepted: u64,
    dropped: u64,
}

impl<R: Rules> Worker<R> {
    pub(super) fn new(
        index: usize,
        queue: Box<dyn Queue>,
        rules: R,
        shared: Arc<Shared>,
        stop: Arc<AtomicBool>,
    ) -> Self {
        Self { queue, rules, desk: Desk::new(index, shared), full: FullBatches::default(), stop }
    }

    /// Answers packets until told to stop. An error is the queue's, and final.
    pub(super) fn run(&mut self) -> io::Result<()> {
        while self.turn()? {}
        self.finish()
    }

    /// Waits for one thing and does it. False: told to stop.
    pub(super) fn turn(&mut self) -> io::Result<bool> {
        match self.queue.receive(None)? {
            Received::Packets(packets) => {
                self.batch()?;
                self.full.batch(packets, &self.desk.shared.crowd);
            }
            Received::Woken if self.stop.load(Ordering::Acquire) => return Ok(false),
            Received::Woken | Received::TimedOut => {}
        }
        self.desk.unusable(self.queue.malformed());
        Ok(true)
    }

    /// Answers a batch. Its time is taken by one pair of clock readings (some 120 ns, below 3 % of the 4,400 ns that a
    /// single packet takes with the kernel's part), not by one a packet.
    fn batch(&mut self) -> io::Result<()> {
        let Self { queue, rules, desk, .. } = self;
        let start = Instant::now();
        if !desk.is_sure(start) {
            queue.answer(&mut |_| {
                desk.tally.packets += 1;
                desk.void()
            })?;
            self.desk.settle_counts();
            return Ok(());
        }
        let loose = desk.is_loose();
        rules.batch(|judge| queue.answer(&mut |packet| desk.fate(judge, packet, loose, start)))?;
        let took = start.elapsed().as_nanos() as u64;
        self.desk.settle(took);
        Ok(())
    }

    /// Answers what is in hand and what waits in the queue, as far as it does not go on for ever.
    fn finish(&mut self) -> io::Result<()> {
        for _ in 0..LAST_BATCHES {
            match self.queue.receive(Some(Duration::ZERO))? {
                Received::Packets(_) => self.batch()?,
                Received::Woken => {}
                Received::TimedOut => break,
            }
        }
        Ok(())
    }
}

impl Desk {
    pub(super) fn new(index: usize, shared: Arc<Shared>) -> Self {
        let offers = shared.offers.worker(index);
        Self { index, shared, offers, malformed: 0, tally: Tally::default() }
    }

    pub(super) fn counters(&self) -> &WorkerCounters {
        self.shared.counters.worker(self.index)
    }

    /// Of whom the keeper takes nothing more for the moment.
    pub(super) fn gate(&self) -> &Gate {
        &self.shared.hold_gate
    }

    /// Whether what was received is this agent's to judge.
    pub(super) fn is_sure(&self, now: Instant) -> bool {
        self.shared.pulse.is_sure(now)
    }

    /// Another agent has the rules, and this one lives on beside it.
    pub(super) fn stands_by(&self) -> bool {
        self.shared.pulse.stands_by()
    }

    /// What becomes of a packet that is not.
    pub(super) fn void(&mut self) -> Fate {
        self.tally.dropped += 1;
        Fate::Drop
    }

    /// The start-up period lasts.
    pub(super) fn is_loose(&self) -> bool {
        self.shared.loose.load(Ordering::Relaxed)
    }

    /// Another agent has the rules.
    pub(super) fn is_handed_over(&self) -> bool {
        self.shared.handed_over.load(Ordering::Relaxed)
    }

    /// What to ask about a packet, or the fate of one that cannot be asked about.
    #[inline]
    pub(super) fn question(&mut self, packet: &Packet<'_>, loose: bool) -> Result<(Way, Question), Fate> {
        let Some(way) = self.shared.marks.way(packet.mark) else {
            self.counters().count(Counter::Unmarked);
            self.tally.dropped += 1;
            return Err(Fate::Drop);
        };
        match Question::new(way, packet, loose) {
            Ok(question) => Ok((way, question)),
            Err(error) => {
                self.counters().unreadable(error);
                self.tally.dropped += 1;
                Err(Fate::Drop)
            }
        }
    }

    /// What becomes of a packet that has just been received.
    #[inline]
    fn fate<J: Judge>(&mut self, judge: &J, packet: &Packet<'_>, loose: bool, now: Instant) -> Fate {
        self.tally.packets += 1;
        let (way, question) = match self.question(packet, loose) {
            Ok(asked) => asked,
            Err(fate) => return fate,
        };
        match way {
            Way::Original | Way::Midstream | Way::MetMidstream | Way::Reply => {}
            Way::Untracked => self.counters().count(Counter::Untracked),
            Way::RelatedOriginal | Way::RelatedReply => self.counters().count(Counter::Related),
        }
        if question.flow().port == Port::Unknown {
            self.counters().count(Counter::PortsUnseen);
        }
        let answer = question.ask(judge);
        if let Answer::Unknown { whom, .. } = &answer {
            match self.bound(&question, *whom, now) {
                Some(bound) => return self.past(bound, answer, packet.mark, packet.length, judge.generation()),
                None => {
                    self.counters().count(Counter::PassedOn);
                    return Fate::Queue { number: self.shared.hold.queue };
                }
            }
        }
        match answer {
            Answer::Accept { midstream: false, .. } if question.is_repeatable() => {
                self.offers.note(question.flow(), Verdict::Accept);
            }
            // While connections are met mid-stream, one that is denied may be accepted the other way round.
            Answer::Deny { .. } if question.is_repeatable() && !loose => {
                self.offers.note(question.flow(), Verdict::Drop);
            }
            _ => {}
        }
        self.effect(answer, packet.mark, packet.length, judge.generation())
    }

    /// What keeps a packet from being held, as the keeper has said.
    fn bound(&self, question: &Question, whom: Whom, now: Instant) -> Option<Bound> {
        let (gate, flow) = (self.gate(), question.flow());
        if gate.is_closed(now) || whom.elsewhere && gate.is_closed_elsewhere(now) {
            Some(Bound::Table)
        } else if gate.is_closed_to(End::Source, flow.source, now) {
            Some(Bound::Source)
        } else if whom.destination && gate.is_closed_to(End::Destination, flow.destination, now) {
            Some(Bound::Destination)
        } else {
            None
        }
    }

    /// Counts a packet of an unknown address that is past a bound, and turns its answer into a verdict.
    pub(super) fn past(
        &mut self,
        bound: Bound,
        answer: Answer,
        mark: u32,
        length: u32,
        generation: Generation,
    ) -> Fate {
        match answer {
            Answer::Unknown { alone: true, .. } if self.shared.hold.past == OnUnknown::Allow => {
                self.tally.accepted += 1;
                self.counters().count(Counter::HoldAllowed);
                Fate::Accept { mark: self.shared.marks.pass(mark) }
            }
            answer => {
                if matches!(answer, Answer::Unknown { .. }) {
                    self.counters().count(bound.counter());
                }
                self.effect(answer, mark, length, generation)
            }
        }
    }

    /// Counts an answer and turns it into a verdict.
    #[inline]
    pub(super) fn effect(&mut self, answer: Answer, mark: u32, length: u32, generation: Generation) -> Fate {
        match answer {
            Answer::Accept { judgement, remember, midstream } => {
                self.tally.accepted += 1;
                if midstream {
                    self.counters().count(Counter::Midstream);
                }
                self.count(&judgement);
                let marks = &self.shared.marks;
                let mark = remember.map_or_else(|| marks.pass(mark), |as_what| marks.remember(mark, as_what));
                Fate::Accept { mark }
            }
            Answer::Deny { flow, judgement } | Answer::Unknown { flow, judgement, .. } => {
                self.tally.dropped += 1;
                self.count(&judgement);
                let record = Record { flow, judgement, generation, length };
                record::put(&self.shared.records, self.counters(), record);
                match &self.shared.rejects {
                    None => Fate::Drop,
                    Some(rejects) => self.refuse(rejects, &flow, mark),
                }
            }
        }
    }

    /// A denied packet goes to the rejecter, as long as that one still answers such.
    fn refuse(&self, rejects: &Rejects, flow: &Flow, mark: u32) -> Fate {
        // The flow was turned round where the packet was an answer.
        let sender = match self.shared.marks.way(mark) {
            Some(Way::Reply) => flow.destination,
            _ => flow.source,
        };
        let now = Instant::now();
        if rejects.gate.is_closed(now) {
            self.counters().count(Counter::RejectRate);
        } else if rejects.gate.is_closed_to(End::Source, sender, now) {
            self.counters().count(Counter::RejectSource);
        } else {
            return Fate::Queue { number: rejects.queue };
        }
        Fate::Drop
    }

    #[inline]
    fn count(&self, judgement: &Judgement) {
        let counters = self.counters();
        counters.decided(Direction::Egress, judgement.egress.cause);
        counters.decided(Direction::Ingress, judgement.ingress.cause);
    }

    /// The queue could not use this many messages so far.
    pub(super) fn unusable(&mut self, malformed: u64) {
        let before = std::mem::replace(&mut self.malformed, malformed);
        if malformed > before {
            self.counters().add(Counter::Malformed, malformed - before);
        }
    }

    /// Adds a batch to the counters: its packets were read together and answered together, `took` nanoseconds later.
    pub(super) fn settle(&mut self, took: u64) {
        self.counters().answered_after(took, self.tally.accepted + self.tally.dropped);
        self.offers.settle();
        self.settle_counts();
    }

    pub(super) fn settle_counts(&mut self) {
        let tally = std::mem::take(&mut self.tally);
        let counters = self.counters();
        counters.add(Counter::Packets, tally.packets);
        counters.add(Counter::Accepted, tally.accepted);
        counters.add(Counter::Dropped, tally.dropped);
    }
}
