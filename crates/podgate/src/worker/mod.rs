//! The verdict workers: one thread for each queue, and the keeper, which holds packets of unknown addresses.
//!
//! ```text
//!   Queue::receive ─▶ one snapshot a batch ─▶ Question (what to ask, by the way the packet came) ─▶ Answer
//!                                                                          │ counters, Record
//!                                                                          ▼
//!                                     Queue::answer: accept (remembered or not), drop, pass on to the hold queue
//!   Keeper ◀── the hold queue: asked about again at each publication (Waker), denied at the deadline ◀── Workers
//!     └── Gate: of whom it takes nothing more for the moment ──▶ workers
//!   Rejecter (crate::reject) ◀── the reject queue, with --on-deny reject: denied packets ◀── Workers, Keeper
//! ```
//!
//! Nothing on a worker's path allocates, locks or logs. A worker that fails ends the process: its queue then drops (or,
//! set to fail open, passes) what comes, and the node's supervisor sees it.
//!
//! Not here: sockets (`podgate-netfilter`), verdicts (`podgate-engine`), who publishes.

mod crowd;
mod gate;
mod hold;
mod keeper;
mod pulse;
mod question;
mod record;
mod run;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use crate::cache::Offers;
use crate::reject::{Out, Rates, Rejecter, Rejects};
use podgate_engine::{Counters, Reader, Snapshot};
use podgate_netfilter::Marks;
use podgate_netfilter::queue::{Queue, Waker};

pub(crate) use crowd::Crowd;
pub(crate) use gate::{End, Gate};
pub(crate) use hold::{HoldSettings, OnUnknown};
use keeper::Keeper;
pub(crate) use pulse::Pulse;
pub(crate) use question::Judge;
pub(crate) use record::{RECORDS, Record, Records};
use run::Worker;

/// Where a worker gets what decides from, one version for each batch.
pub(crate) trait Rules: Send + 'static {
    /// What decides.
    type Judge: Judge;
    /// Runs one batch with the version that is current at its start.
    fn batch<T>(&mut self, work: impl FnOnce(&Self::Judge) -> T) -> T;
}

impl Rules for Reader {
    type Judge = Snapshot;

    #[inline]
    fn batch<T>(&mut self, work: impl FnOnce(&Snapshot) -> T) -> T {
        Reader::batch(self, work)
    }
}

/// What all workers share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Our mark bits.
    pub(crate) marks: Marks,
    /// Bounds of what is held.
    pub(crate) hold: HoldSettings,
    /// Of whom nothing more is held for the moment.
    pub(crate) hold_gate: Gate,
    /// With `--on-deny reject`.
    pub(crate) rejects: Option<Rejects>,
    /// One counter set per worker, one for the keeper, and one for the rejecter.
    pub(crate) counters: Arc<Counters>,
    /// Denies go here.
    pub(crate) records: Arc<Records>,
    /// What the kernel could repeat goes here.
    pub(crate) offers: Arc<Offers>,
    /// The start-up period lasts: connections may be met mid-stream, from either side. See [`Workers::be_strict`].
    pub(crate) loose: AtomicBool,
    /// Another agent has the rules: what is held at the end goes through them once more, and so to that agent.
    pub(crate) handed_over: AtomicBool,
    /// Whom to tell that packets come faster than they are answered.
    pub(crate) crowd: Crowd,
    /// Whether what waits is this agent's to judge.
    pub(crate) pulse: Arc<Pulse>,
}

/// Called when a worker fails, with its number and why. It must end the process; [`end_process`] does.
pub(crate) type Failed = fn(usize, &str);

/// The running workers.
#[derive(Debug)]
pub(crate) struct Workers {
    shared: Arc<Shared>,
    workers: Crew,
    /// Ends after them: until then they may pass packets on to it.
    keeper: Crew,
    /// Ends last, likewise. Empty without `--on-deny reject`.
    rejecter: Crew,
}

/// What the rejecter works with.
pub(crate) struct Rejecting {
    /// The queue that [`Shared::rejects`] names.
    pub(crate) queue: Box<dyn Queue>,
    /// What answers leave by.
    pub(crate) out: Box<dyn Out>,
    /// How often.
    pub(crate) rates: Rates,
}

/// Threads that end together.
#[derive(Debug, Default)]
struct Crew {
    stop: Arc<AtomicBool>,
    threads: Vec<(Waker, JoinHandle<()>)>,
}

impl Workers {
    /// Starts a thread for each queue; worker `i` has `queues[i]`, the counters of that index, and `rules(i)`. The keeper
    /// has the queue `hold` and the index after theirs, the rejecter the one after that. The queues' sockets belong to the namespace in which they were
    /// bound; the threads to the caller's.
    pub(crate) fn start<R: Rules>(
        queues: Vec<Box<dyn Queue>>,
        hold: Box<dyn Queue>,
        rejecting: Option<Rejecting>,
        mut rules: impl FnMut(usize) -> R,
        shared: Arc<Shared>,
        failed: Failed,
    ) -> io::Result<Self> {
        let mut all = Self {
            shared: shared.clone(),
            workers: Crew::default(),
            keeper: Crew::default(),
            rejecter: Crew::default(),
        };
        let index = queues.len();
        let waker = hold.waker();
        let mut keeper = Keeper::new(index, hold, rules(index), shared.clone(), all.keeper.stop.clone());
        all.keeper.start("keeper".to_owned(), waker, index, failed, move || keeper.run())?;
        if let Some(Rejecting { queue, out, rates }) = rejecting {
            let (index, waker) = (index + 1, queue.waker());
            let mut rejecter = Rejecter::new(index, (queue, out), rates, shared.clone(), all.rejecter.stop.clone());
            all.rejecter.start("rejecter".to_owned(), waker, index, failed, move || rejecter.run())?;
        }
        for (index, queue) in queues.into_iter().enumerate() {
            let waker = queue.waker();
            let mut worker = Worker::new(index, queue, rules(index), shared.clone(), all.workers.stop.clone());
            all.workers.start(format!("worker-{index}"), waker, index, failed, move || worker.run())?;
        }
        Ok(all)
    }

    /// Makes the keeper look at the held packets again: there is a new snapshot. Workers see it with their next batch.
    pub(crate) fn wake(&self) {
        self.keeper.wake();
    }

    /// Ends the start-up period: from now on a packet is judged in its own orientation only.
    pub(crate) fn be_strict(&self) {
        self.shared.loose.store(false, Ordering::Relaxed);
    }

    /// Ends the workers. Packets in hand, those that are held, and those that wait in the queues, are answered before
    /// these are closed. `handed_over`: another agent has the rules, and is to judge what is held.
    pub(crate) fn stop(mut self, handed_over: bool) {
        self.shared.handed_over.store(handed_over, Ordering::Relaxed);
        self.join();
    }

    fn join(&mut self) {
        self.workers.join();
        self.keeper.join();
        self.rejecter.join();
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.join();
    }
}

impl Crew {
    fn start(
        &mut self,
        name: String,
        waker: Waker,
        index: usize,
        failed: Failed,
        mut run: impl FnMut() -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        let work = move || {
            // Told also when the worker panics (where a panic does not end the process by itself).
            let watch = DeathWatch { index, failed };
            let ended = run();
            std::mem::forget(watch);
            if let Err(error) = ended {
                failed(index, &error.to_string());
            }
        };
        self.threads.push((waker, thread::Builder::new().name(name).spawn(work)?));
        Ok(())
    }

    fn wake(&self) {
        self.threads.iter().for_each(|(waker, _)| waker.wake());
    }

    fn join(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.wake();
        for (_, thread) in self.threads.drain(..) {
            // A panic has been told already.
            let _ = thread.join();
        }
    }
}

/// Tells of a worker that panics.
struct DeathWatch {
    index: usize,
    failed: Failed,
}

impl Drop for DeathWatch {
    fn drop(&mut self) {
        (self.failed)(self.index, "it panicked");
    }
}

/// Ends the process because a worker failed: without it its queue is not served, and only a restart mends that.
pub(crate) fn end_process(worker: usize, why: &str) {
    tracing::error!(worker, why, "a verdict worker failed; the agent ends, to be started again");
    // Also where logging is off or buffered.
    eprintln!("podgate: verdict worker {worker} failed: {why}");
    std::process::exit(1);
}
