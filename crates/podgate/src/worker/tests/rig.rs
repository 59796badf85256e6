//! A queue that follows a script, and a judge that knows a handful of addresses.

use crate::cache::Offers;
use crate::reject::Rejects;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use podgate_engine::{Addr, Cause, Counter, Counters, Decision, Flow, Generation, Judgement, NodeOrigin, Port, RuleId};
use podgate_netfilter::queue::{Fate, Packet, Queue, Received, Waker};
use podgate_netfilter::{Marks, Way};

use crate::worker::keeper::Keeper;
use crate::worker::run::Worker;
use crate::worker::{Crowd, Gate, HoldSettings, Judge, OnUnknown, Pulse, Record, Records, Rules, Shared};

/// The hook at which packets are judged: `NF_INET_POST_ROUTING`.
pub(super) const POSTROUTING: u8 = 4;
/// A mark of somebody else's that each test packet has.
pub(super) const FOREIGN: u32 = 0x4000;
/// The mark of an accept that is remembered.
pub(super) const REMEMBERED: Fate = Fate::Accept { mark: FOREIGN | 7 << 10 };
/// The mark of any other accept.
pub(super) const PASSED: Fate = Fate::Accept { mark: FOREIGN };

/// What is held in tests: long, and by default more than any test has.
pub(super) const HOLD: HoldSettings =
    HoldSettings { time: Duration::from_secs(3600), packets: 256, per_source: 16, past: OnUnknown::Deny, queue: 77 };
/// The fate of what a worker leaves to the keeper.
pub(super) const PASSED_ON: Fate = Fate::Queue { number: 77 };

/// Accepts connections to ports 80 and 40080, from anybody to anybody; [`UNKNOWN`] is unknown until generation 2; node addresses
/// (10.0.0.x) may open anything, where it is really theirs.
#[derive(Debug, Clone)]
pub(super) struct Port80(pub(super) Generation);

/// An address that no pod has in generation 1.
pub(super) const UNKNOWN: &str = "10.1.0.66";
/// How more of such begin.
pub(super) const NOBODYS: &str = "10.1.6";
/// How addresses begin of which each is a pod's of another node from generation 2 on; these may go to port 443.
pub(super) const ELSEWHERE: &str = "10.2.0.";
/// The rule that accepts port 80.
pub(super) const ACCEPTS: RuleId = RuleId(3);
/// The rule that denies the rest.
pub(super) const DENIES: RuleId = RuleId(5000);

impl Judge for Port80 {
    fn judge(&self, flow: &Flow, origin: NodeOrigin) -> Judgement {
        let is_nobodys = |text: String| text == UNKNOWN || text.starts_with(NOBODYS);
        let unknown = |address: Addr| is_nobodys(address.to_string()) && self.0 < Generation(2);
        let node = flow.source.to_string().starts_with("10.0.0.") && origin == NodeOrigin::Address;
        let ingress = match flow.port {
            _ if node => Cause::OwnNode,
            Port::Number(443) if flow.source.to_string().starts_with(ELSEWHERE) && self.0 >= Generation(2) => {
                Cause::Accepted(ACCEPTS)
            }
            Port::Number(80 | 40080) => Cause::Accepted(ACCEPTS),
            _ => Cause::Denied(DENIES),
        };
        Judgement {
            egress: Decision { cause: if unknown(flow.source) { Cause::Unknown } else { Cause::Open } },
            ingress: Decision { cause: if unknown(flow.destination) { Cause::Unknown } else { ingress } },
        }
    }

    fn generation(&self) -> Generation {
        self.0
    }

    fn is_missing_peer(&self, address: Addr) -> bool {
        address.to_string().starts_with(ELSEWHERE) && self.0 < Generation(2)
    }
}

/// The version in force, which a test may raise.
#[derive(Debug, Clone)]
pub(super) struct Versions(pub(super) Arc<AtomicU64>);

impl Versions {
    pub(super) fn first() -> Self {
        Versions(Arc::new(AtomicU64::new(1)))
    }
}

impl Rules for Versions {
    type Judge = Port80;

    fn batch<T>(&mut self, work: impl FnOnce(&Port80) -> T) -> T {
        work(&Port80(Generation(self.0.load(Ordering::SeqCst))))
    }
}

/// What happens next at the scripted queue.
pub(super) enum Step {
    /// These packets come.
    Packets(Vec<Queued>),
    /// Somebody else does this; the worker is woken.
    Meanwhile(Box<dyn FnOnce() + Send>),
    /// The queue counts this many messages that it cannot use; the worker is woken.
    Unusable(u64),
    /// The time is up.
    TimedOut,
    /// The queue breaks.
    Broken,
}

/// A packet of the script.
#[derive(Debug, Clone)]
pub(super) struct Queued {
    pub(super) way: Option<Way>,
    pub(super) hook: u8,
    pub(super) bytes: Vec<u8>,
}

/// A packet on its way through postrouting.
pub(super) fn queued(way: Way, packet: &podgate_sandbox::Packet) -> Queued {
    Queued { way: Some(way), hook: POSTROUTING, bytes: packet.bytes() }
}

/// `address:port`.
pub(super) fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

/// What was seen at the scripted queue.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// The last fate of each packet, by number from 1 in the order of the script.
    pub(super) fates: HashMap<u32, Fate>,
    /// The timeouts that the worker waited with.
    pub(super) waits: Vec<Option<Duration>>,
}

/// The scripted queue. At the end of the script it stops the worker.
pub(super) struct Script {
    steps: VecDeque<Step>,
    batch: Vec<Queued>,
    next: u32,
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    waker: Waker,
    malformed: u64,
}

impl Queue for Script {
    fn receive(&mut self, timeout: Option<Duration>) -> io::Result<Received> {
        self.seen.lock().unwrap().waits.push(timeout);
        match self.steps.pop_front() {
            Some(Step::Packets(packets)) => {
                self.batch = packets;
                Ok(Received::Packets(self.batch.len()))
            }
            Some(Step::Meanwhile(act)) => {
                act();
                Ok(Received::Woken)
            }
            Some(Step::Unusable(messages)) => {
                self.malformed += messages;
                Ok(Received::Woken)
            }
            Some(Step::TimedOut) => Ok(Received::TimedOut),
            Some(Step::Broken) => Err(io::Error::other("the queue broke")),
            None if self.stop.swap(true, Ordering::SeqCst) => Ok(Received::TimedOut),
            None => Ok(Received::Woken),
        }
    }

    fn answer(&mut self, judge: &mut dyn FnMut(&Packet<'_>) -> Fate) -> io::Result<()> {
        for queued in self.batch.drain(..) {
            self.next += 1;
            let fate = judge(&packet(self.next, &queued));
            self.seen.lock().unwrap().fates.insert(self.next, fate);
        }
        Ok(())
    }

    fn answer_held(&mut self, id: u32, fate: Fate) -> io::Result<()> {
        let before = self.seen.lock().unwrap().fates.insert(id, fate);
        assert_eq!(before, Some(Fate::Hold), "packet {id} was answered already");
        Ok(())
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn malformed(&self) -> u64 {
        self.malformed
    }
}

/// As it comes up, with its way in the mark and somebody else's bit beside it.
pub(super) fn packet(id: u32, queued: &Queued) -> Packet<'_> {
    let way = match queued.way {
        None => 0,
        Some(Way::MetMidstream) => 0b1110,
        Some(way) => 1 + Way::ALL.iter().position(|w| *w == way).unwrap() as u32,
    };
    Packet {
        id,
        mark: FOREIGN | way << 10,
        hook: queued.hook,
        family: 2,
        input: 0,
        output: 2,
        payload: &queued.bytes[..queued.bytes.len().min(128)],
        length: queued.bytes.len() as u32,
        sent_to: None,
    }
}

/// What a worker shares in tests: strict unless told otherwise.
pub(super) fn shared(hold: HoldSettings, loose: bool) -> Arc<Shared> {
    shared_with(hold, loose, None)
}

/// The same, where denied packets are answered.
pub(super) fn shared_with(hold: HoldSettings, loose: bool, rejects: Option<Rejects>) -> Arc<Shared> {
    let counters = Counters::new(4);
    counters.reserve(DENIES);
    Arc::new(Shared {
        offers: Offers::new(0, true),
        marks: Marks::default(),
        hold,
        hold_gate: Gate::new(),
        rejects,
        counters: Arc::new(counters),
        records: Arc::new(Records::new(8)),
        loose: AtomicBool::new(loose),
        handed_over: AtomicBool::new(false),
        crowd: Crowd::default(),
        pulse: Pulse::new(),
    })
}

/// What came of a script.
pub(super) struct Outcome {
    pub(super) seen: Seen,
    pub(super) shared: Arc<Shared>,
    pub(super) ended: io::Result<()>,
}

impl Outcome {
    /// The fates, in the order of the script.
    pub(super) fn fates(&self) -> Vec<Fate> {
        (1..=self.seen.fates.len() as u32).map(|id| self.seen.fates[&id]).collect()
    }

    pub(super) fn count(&self, counter: Counter) -> u64 {
        self.shared.counters.get(counter)
    }

    pub(super) fn records(&self) -> Vec<Record> {
        std::iter::from_fn(|| self.shared.records.pop()).collect()
    }
}

/// Runs a worker over a script, to its end.
pub(super) fn play(shared: Arc<Shared>, versions: Versions, steps: Vec<Step>) -> Outcome {
    run(shared.clone(), steps, |queue, stop| Worker::new(0, queue, versions, shared, stop).run())
}

/// Runs the keeper over a script of packets that were passed on, to its end.
pub(super) fn keep(shared: Arc<Shared>, versions: Versions, steps: Vec<Step>) -> Outcome {
    run(shared.clone(), steps, |queue, stop| Keeper::new(1, queue, versions, shared, stop).run())
}

fn run(
    shared: Arc<Shared>,
    steps: Vec<Step>,
    work: impl FnOnce(Box<dyn Queue>, Arc<AtomicBool>) -> io::Result<()>,
) -> Outcome {
    let (seen, stop) = (Arc::<Mutex<Seen>>::default(), Arc::<AtomicBool>::default());
    let queue = Script {
        steps: steps.into(),
        batch: Vec::new(),
        next: 0,
        seen: seen.clone(),
        stop: stop.clone(),
        waker: Waker::new().unwrap(),
        malformed: 0,
    };
    let ended = work(Box::new(queue), stop);
    let seen = Arc::into_inner(seen).unwrap().into_inner().unwrap();
    Outcome { seen, shared, ended }
}

/// One strict batch with the first version.
pub(super) fn judge(packets: Vec<Queued>) -> Outcome {
    play(shared(HOLD, false), Versions::first(), vec![Step::Packets(packets)])
}
