//! [`Rejecter`]: the thread that answers denied packets.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use podgate_engine::{Counter, WorkerCounters};
use podgate_netfilter::queue::{Fate, Packet, Queue, Received};

use super::answer::{Answer, Silence, answers, as_sent};
use super::build;
use super::limit::{Limits, Rates, UsedUp};
use super::send::Out;
use crate::worker::{End, Shared};

/// Bytes of a denied packet that are copied: as many as an answer may repeat.
pub(super) const COPY: u32 = build::ABOUT_V6 as u32;
/// Packets that may wait for an answer. Past it they are dropped unanswered, as they would be a moment later.
pub(super) const LENGTH: u32 = 1024;

/// Once a rate is used up, workers pass nothing more on for so long: an eighth of what may be sent in a second is there
/// again by then.
const REST: Duration = Duration::from_millis(125);

/// The reject queue, and what answers leave by.
pub(crate) struct Rejecter {
    queue: Box<dyn Queue>,
    desk: Desk,
    stop: Arc<AtomicBool>,
}

struct Desk {
    index: usize,
    out: Box<dyn Out>,
    limits: Limits,
    shared: Arc<Shared>,
}

impl Rejecter {
    /// It counts as the worker of that index.
    pub(crate) fn new(
        index: usize,
        (queue, out): (Box<dyn Queue>, Box<dyn Out>),
        rates: Rates,
        shared: Arc<Shared>,
        stop: Arc<AtomicBool>,
    ) -> Self {
        let limits = Limits::new(rates, Instant::now());
        Self { queue, desk: Desk { index, out, limits, shared }, stop }
    }

    /// Answers packets until told to stop. An error is the queue's, and final.
    pub(crate) fn run(&mut self) -> io::Result<()> {
        loop {
            match self.queue.receive(None)? {
                Received::Packets(_) => {
                    let Self { queue, desk, .. } = self;
                    let now = Instant::now();
                    queue.answer(&mut |packet| {
                        desk.answer(packet, now);
                        Fate::Drop
                    })?;
                }
                // What still waits is dropped with the queue, which is its verdict.
                Received::Woken if self.stop.load(Ordering::Acquire) => return Ok(()),
                Received::Woken | Received::TimedOut => {}
            }
        }
    }
}

impl Desk {
    fn counters(&self) -> &WorkerCounters {
        self.shared.counters.worker(self.index)
    }

    fn answer(&mut self, packet: &Packet<'_>, now: Instant) {
        let way = self.shared.marks.way(packet.mark);
        let Packet { payload, length, sent_to, .. } = *packet;
        let found = way.ok_or(Silence).and_then(|way| Ok((way, answers(way, payload, length, sent_to)?)));
        let Ok((way, (back, forth))) = found else {
            self.counters().count(Counter::RejectNever);
            return;
        };
        // The sender's first: where addresses are translated, conntrack must still take its reset for an answer.
        for answer in std::iter::once(back).chain(forth) {
            self.send(&answer, &as_sent(way, payload, sent_to), now);
        }
    }

    fn send(&mut self, answer: &Answer, about: &[u8], now: Instant) {
        let to = answer.to();
        if let Err(used_up) = self.limits.take(to, now) {
            let gate = self.shared.rejects.as_ref().map(|rejects| &rejects.gate);
            match used_up {
                UsedUp::All => {
                    self.counters().count(Counter::RejectRate);
                    gate.inspect(|gate| gate.close(now + REST));
                }
                UsedUp::One => {
                    self.counters().count(Counter::RejectSource);
                    gate.inspect(|gate| gate.close_to(End::Source, to.into(), now + REST));
                }
            }
            return;
        }
        let (built, counter) = match answer {
            Answer::Reset(reset) => (Ok(build::reset(reset)), Counter::RejectReset),
            Answer::Prohibited(to) => {
                let from = self.out.source_towards(*to);
                let counter = if to.is_ipv4() { Counter::RejectIcmp } else { Counter::RejectIcmpv6 };
                (from.map(|from| build::prohibited(from, *to, about)), counter)
            }
        };
        let sent = built.and_then(|built| match built {
            Some(bytes) => self.out.send(to, &bytes),
            None => Err(io::ErrorKind::InvalidData.into()),
        });
        self.counters().count(if sent.is_ok() { counter } else { Counter::RejectFailed });
    }
}
