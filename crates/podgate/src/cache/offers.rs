//! [`Offers`]: verdicts that workers think the kernel could repeat, on their way to the control loop.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};
use std::time::Duration;

use crossbeam_queue::ArrayQueue;
use podgate_engine::{Flow, Port, Verdict};
use tokio::sync::mpsc::Sender;

use super::repeats::Repeats;

/// Offers that wait at each worker; further ones are left out, and come again.
const WAITING: usize = 512;
/// Offers that are added together: a transaction of 256 elements takes some 3 ms.
const TOGETHER: usize = 256;
/// How long they are collected after the first, which goes at once: a flood waits for it. A third of a core at most is spent
/// on adding, whatever anybody does.
const COLLECT: Duration = Duration::from_millis(10);
/// How often entries are looked at whose time may be up.
const LOOK: Duration = Duration::from_secs(1);

/// A verdict to repeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Offer {
    /// What was judged.
    pub(crate) flow: Flow,
    /// It was denied again and again from ever different addresses: worth keeping only if it is whoever the source is.
    pub(crate) whoever: bool,
}

/// All workers' offers.
#[derive(Debug)]
pub(crate) struct Offers {
    rings: Box<[ArrayQueue<Offer>]>,
    /// Something waits, and the collector was told.
    told: AtomicBool,
    collector: OnceLock<Thread>,
    /// Denials too; not where each is to be answered.
    drops: bool,
}

/// One worker's side.
pub(crate) struct WorkerOffers {
    offers: Arc<Offers>,
    worker: usize,
    /// None: nothing is cached.
    repeats: Option<Repeats>,
    offered: bool,
}

impl Offers {
    /// For this many workers; none: nothing is cached. `drops`: denials too.
    pub(crate) fn new(workers: usize, drops: bool) -> Arc<Self> {
        let rings = (0..workers).map(|_| ArrayQueue::new(WAITING)).collect();
        Arc::new(Self { rings, told: AtomicBool::new(false), collector: OnceLock::new(), drops })
    }

    /// The side of worker `index`.
    pub(crate) fn worker(self: &Arc<Self>, index: usize) -> WorkerOffers {
        let repeats = self.rings.get(index).map(|_| Repeats::new());
        WorkerOffers { offers: Arc::clone(self), worker: index, repeats, offered: false }
    }

    /// Starts the thread that hands offers on in batches, and an empty one now and then while `busy` says so. It ends
    /// when nobody takes them any more.
    pub(crate) fn collect<I: Send + 'static>(
        self: &Arc<Self>,
        inputs: Sender<I>,
        input: impl Fn(Vec<Offer>) -> I + Send + 'static,
        busy: impl Fn() -> bool + Send + 'static,
    ) -> std::io::Result<()> {
        let offers = Arc::clone(self);
        let work = move || {
            let _ = offers.collector.set(thread::current());
            loop {
                let batch = offers.wait();
                let some = !batch.is_empty();
                if (some || busy()) && inputs.blocking_send(input(batch)).is_err() {
                    return;
                }
                if some {
                    thread::sleep(COLLECT);
                }
            }
        };
        thread::Builder::new().name("offers".to_owned()).spawn(work)?;
        Ok(())
    }

    /// Waits for offers, or until it is time to look at what is there already.
    fn wait(&self) -> Vec<Offer> {
        if !self.told.load(Ordering::Acquire) {
            thread::park_timeout(LOOK);
        }
        if !self.told.swap(false, Ordering::AcqRel) {
            return Vec::new();
        }
        let batch = self.take();
        if self.rings.iter().any(|ring| !ring.is_empty()) {
            self.told.store(true, Ordering::Release);
        }
        batch
    }

    /// Takes what waits, from all workers in turn, each offer once.
    pub(super) fn take(&self) -> Vec<Offer> {
        let mut seen = HashSet::new();
        while seen.len() < TOGETHER {
            let popped: Vec<Offer> = self.rings.iter().filter_map(ArrayQueue::pop).collect();
            if popped.is_empty() {
                break;
            }
            seen.extend(popped);
        }
        seen.into_iter().collect()
    }
}

impl WorkerOffers {
    /// Notes a verdict that the kernel could repeat: of the packet's own flow, in its connection's original direction.
    #[inline]
    pub(crate) fn note(&mut self, flow: &Flow, verdict: Verdict) {
        let (Some(repeats), Port::Number(port)) = (&mut self.repeats, flow.port) else { return };
        if verdict == Verdict::Drop && !self.offers.drops {
            return;
        }
        if repeats.note((flow.source.bits(), flow.destination.bits(), flow.protocol, port)) {
            self.offer(Offer { flow: *flow, whoever: false });
        } else if verdict == Verdict::Drop && repeats.note((flow.destination.bits(), flow.protocol, port)) {
            self.offer(Offer { flow: *flow, whoever: true });
        }
    }

    /// The end of a batch: whoever collects is told, if there is something.
    #[inline]
    pub(crate) fn settle(&mut self) {
        if std::mem::take(&mut self.offered) && !self.offers.told.swap(true, Ordering::AcqRel) {
            self.offers.collector.get().inspect(|collector| collector.unpark());
        }
    }

    #[cold]
    fn offer(&mut self, offer: Offer) {
        let ring = self.offers.rings.get(self.worker);
        self.offered |= ring.is_some_and(|ring| ring.push(offer).is_ok());
    }
}
