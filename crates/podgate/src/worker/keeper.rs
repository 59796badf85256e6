//! [`Keeper`]: the thread that holds packets of unknown addresses, in a queue of its own.
//!
//! ```text
//!   worker ── Fate::Queue ──▶ the hold queue ──▶ Keeper ── judged again at each publication ──▶ accept, drop
//!      ▲                                          │    └── past a bound, or at the deadline ──▶ deny (or allow)
//!      └───────────── Gate: whose share is full ──┘
//! ```
//!
//! Why not in the worker's queue: the kernel looks for a packet's verdict from the oldest waiting packet on, so each
//! held packet would make every later verdict a step longer, and no two of them could share a message.
//!
//! Not here: the table and its bounds ([`hold`](super::hold)), what an answer does ([`Desk`]).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use podgate_engine::{Counter, Generation};
use podgate_netfilter::queue::{Fate, Packet, Queue, Received};

use super::gate::End;
use super::hold::{Bound, Held, Holds};
use super::question::{Answer, Judge};
use super::run::{Desk, LAST_BATCHES};
use super::{Rules, Shared};

/// The hold queue and what waits in it.
pub(super) struct Keeper<R> {
    queue: Box<dyn Queue>,
    rules: R,
    desk: Desk,
    table: Table,
    stop: Arc<AtomicBool>,
}

struct Table {
    holds: Holds,
    /// The snapshot that held packets were last asked about with.
    asked_with: Generation,
    /// Not after a stop: nobody would answer them.
    may_hold: bool,
}

impl<R: Rules> Keeper<R> {
    pub(super) fn new(
        index: usize,
        queue: Box<dyn Queue>,
        rules: R,
        shared: Arc<Shared>,
        stop: Arc<AtomicBool>,
    ) -> Self {
        let table = Table { holds: Holds::new(shared.hold), asked_with: Generation(0), may_hold: true };
        Self { queue, rules, desk: Desk::new(index, shared), table, stop }
    }

    /// Holds packets until told to stop. An error is the queue's, and final.
    pub(super) fn run(&mut self) -> io::Result<()> {
        while self.turn()? {}
        self.finish()
    }

    /// Waits for one thing and does it. False: told to stop.
    fn turn(&mut self) -> io::Result<bool> {
        let timeout = self.table.holds.deadline().map(|at| at.saturating_duration_since(Instant::now()));
        match self.queue.receive(timeout)? {
            Received::Packets(_) => self.batch()?,
            Received::Woken if self.stop.load(Ordering::Acquire) => return Ok(false),
            Received::Woken | Received::TimedOut => {}
        }
        self.desk.unusable(self.queue.malformed());
        if self.desk.stands_by() {
            self.pass_on()?;
        }
        self.ask_again()?;
        self.expire(Instant::now())?;
        Ok(true)
    }

    /// Has what is held come up once more, at the agent that has the rules now: this one may not know what that one enforces.
    fn pass_on(&mut self) -> io::Result<()> {
        while let Some(held) = self.table.holds.pop() {
            self.queue.answer_held(held.id, Fate::Repeat)?;
        }
        Ok(())
    }

    fn batch(&mut self) -> io::Result<()> {
        let Self { queue, rules, desk, table, .. } = self;
        let now = Instant::now();
        let loose = desk.is_loose();
        if desk.is_sure(now) {
            rules.batch(|judge| queue.answer(&mut |packet| table.fate(desk, judge, packet, loose, now)))?;
        } else {
            queue.answer(&mut |_| desk.void())?;
        }
        self.desk.settle_counts();
        Ok(())
    }

    /// Asks about held packets again, if there is a snapshot that they were not asked about with.
    fn ask_again(&mut self) -> io::Result<()> {
        let Self { queue, rules, desk, table, .. } = self;
        if table.holds.len() == 0 {
            return Ok(());
        }
        if !desk.is_sure(Instant::now()) {
            while let Some(held) = table.holds.pop() {
                queue.answer_held(held.id, desk.void())?;
            }
            desk.gate().open();
            self.desk.settle_counts();
            return Ok(());
        }
        let mut failed = None;
        rules.batch(|judge| {
            if judge.generation() == table.asked_with {
                return;
            }
            table.asked_with = judge.generation();
            let before = table.holds.len();
            // Answered before the next version can be in use everywhere: no accept by an older one comes after it.
            table.holds.retain(|held| {
                let answer = held.question.ask(judge);
                if matches!(answer, Answer::Unknown { .. }) {
                    return true;
                }
                let fate = desk.effect(answer, held.mark, held.length, judge.generation());
                failed = queue.answer_held(held.id, fate).err().or(failed.take());
                false
            });
            if table.holds.len() < before {
                desk.gate().open();
            }
        });
        self.desk.settle_counts();
        failed.map_or(Ok(()), Err)
    }

    /// Answers the held packets whose time is up.
    fn expire(&mut self, now: Instant) -> io::Result<()> {
        let Self { queue, rules, desk, table, .. } = self;
        if table.holds.deadline().is_none_or(|deadline| deadline > now) {
            return Ok(());
        }
        let result = rules.batch(|judge| {
            while let Some(held) = table.holds.pop_expired(now) {
                give_up(&mut **queue, desk, judge, &held)?;
            }
            Ok(())
        });
        self.desk.settle_counts();
        result
    }

    /// Answers what is in hand, and what waits in the queue as far as it does not go on for ever. Where another agent
    /// has the rules by now, what is still unknown goes to that one.
    fn finish(&mut self) -> io::Result<()> {
        self.table.may_hold = false;
        self.ask_again()?;
        for _ in 0..LAST_BATCHES {
            match self.queue.receive(Some(Duration::ZERO))? {
                Received::Packets(_) => self.batch()?,
                Received::Woken => {}
                Received::TimedOut => break,
            }
        }
        let Self { queue, rules, desk, table, .. } = self;
        let (held, passed_on) = (table.holds.len(), desk.is_handed_over());
        let result = rules.batch(|judge| {
            while let Some(held) = table.holds.pop() {
                match passed_on {
                    true => queue.answer_held(held.id, Fate::Repeat)?,
                    false => give_up(&mut **queue, desk, judge, &held)?,
                }
            }
            Ok(())
        });
        desk.settle_counts();
        if held > 0 {
            tracing::info!(packets = held, passed_on, "packets of unknown addresses were held, and are answered");
        }
        result
    }
}

/// Answers a packet that is held no longer.
fn give_up<J: Judge>(queue: &mut dyn Queue, desk: &mut Desk, judge: &J, held: &Held) -> io::Result<()> {
    let answer = held.question.ask(judge);
    let fate = desk.past(Bound::Time, answer, held.mark, held.length, judge.generation());
    queue.answer_held(held.id, fate)
}

impl Table {
    /// What becomes of a packet that a worker has passed on. The worker has counted it; a newer snapshot may know it.
    fn fate<J: Judge>(&mut self, desk: &mut Desk, judge: &J, packet: &Packet<'_>, loose: bool, now: Instant) -> Fate {
        let Packet { id, mark, length, .. } = *packet;
        let question = match desk.question(packet, loose) {
            Ok((_, question)) => question,
            Err(fate) => return fate,
        };
        let answer = question.ask(judge);
        let Answer::Unknown { whom, .. } = answer else {
            return desk.effect(answer, mark, length, judge.generation());
        };
        if desk.stands_by() {
            return Fate::Repeat;
        }
        let held = Held { id, mark, length, question, whom, since: now };
        let bound = match self.holds.bound(&held) {
            Some((bound, until)) => {
                let (gate, flow) = (desk.gate(), question.flow());
                match bound {
                    Bound::Table if whom.elsewhere => gate.close_elsewhere(until),
                    Bound::Table => gate.close(until),
                    Bound::Source => gate.close_to(End::Source, flow.source, until),
                    Bound::Destination => gate.close_to(End::Destination, flow.destination, until),
                    Bound::Time => {}
                }
                bound
            }
            None if self.may_hold => {
                desk.counters().count(Counter::Held);
                if self.holds.len() == 0 {
                    self.asked_with = judge.generation();
                }
                self.holds.push(held);
                return Fate::Hold;
            }
            None if desk.is_handed_over() => return Fate::Repeat,
            None => Bound::Time,
        };
        desk.past(bound, answer, mark, length, judge.generation())
    }
}
