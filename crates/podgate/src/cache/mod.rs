//! The verdict cache: what has been decided again and again is left to the kernel, which repeats it without asking.
//!
//! ```text
//!   worker ── verdict ──▶ Repeats (seen before?) ──▶ Offers ── bounded ring each ──▶ collector (batches)
//!                                                                                      │ Input::Offered
//!   scrape ◀── Cache::read ◀── Ledger ◀── control loop: judged anew by the snapshot in force, then added
//!                                └── deleted with the change that touches an end, or when its time is up
//! ```
//!
//! Why nothing stale is ever repeated: only the control loop, which is one thread, writes into the kernel's sets. It
//! **judges anew** what it adds, by the snapshot in force, so that it does not matter which one a worker had. And a change
//! deletes the verdicts of all addresses that it is about in the same transaction that tightens the kernel's rules,
//! **before** the snapshot with the change is published. What is offered in between is judged by the new one.
//!
//! What is worth keeping: verdicts that one worker gave twice of late. Bounded in number, also per source address, so
//! that a scan takes its own room only.
//!
//! Rule counters stay exact: the kernel counts each element's packets; they are read when it is deleted, which is before
//! its timeout, and at each scrape. Not here: the sets (`podgate_netfilter`), when the control loop acts (`run::cache`).

mod ledger;
mod offers;
mod repeats;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use podgate_engine::{Counters, Direction, RuleId};
use podgate_netfilter::{CacheEntry, CacheHits, Cached};

pub(crate) use ledger::{Ledger, Limits, Stale};
pub(crate) use offers::{Offer, Offers, WorkerOffers};

/// What is in the kernel, and what it did; shared by the control loop and whoever reads counters.
pub(crate) struct Cache {
    ledger: Mutex<Ledger>,
    counters: Arc<Counters>,
    hits: [AtomicU64; 2],
    added: AtomicU64,
    refused: AtomicU64,
}

/// The cache in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct CacheFacts {
    /// Entries that there may be; 0: nothing is cached.
    pub(crate) limit: usize,
    /// Entries that accept.
    pub(crate) accepting: usize,
    /// Entries that drop.
    pub(crate) dropping: usize,
    /// Packets that were accepted without asking.
    pub(crate) accepted: u64,
    /// Packets that were dropped without asking.
    pub(crate) dropped: u64,
    /// Entries so far.
    pub(crate) added: u64,
    /// Verdicts that there was no room for.
    pub(crate) refused: u64,
}

impl Cache {
    /// An empty one. Packets are added to the counters of what the kernel repeats.
    pub(crate) fn new(limits: Limits, counters: Arc<Counters>) -> Arc<Self> {
        let (ledger, hits) = (Mutex::new(Ledger::new(limits)), Default::default());
        Arc::new(Self { ledger, counters, hits, added: AtomicU64::new(0), refused: AtomicU64::new(0) })
    }

    /// The books. Locked by the control loop while the kernel follows, so that both are always of one mind.
    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes entries that the kernel has deleted out of the books, and counts what they did.
    pub(crate) fn deleted(&self, ledger: &mut Ledger, gone: &[CacheEntry], hits: &[CacheHits]) {
        self.count(ledger, hits, None);
        gone.iter().for_each(|entry| ledger.remove(entry));
    }

    /// Likewise all of them.
    pub(crate) fn emptied(&self, ledger: &mut Ledger, hits: &[CacheHits]) {
        self.count(ledger, hits, None);
        ledger.clear();
    }

    /// These numbers are other rules' in the snapshot that is published next: they count from zero, and nothing is counted
    /// by them any more for the rules that had them before.
    pub(crate) fn begin_anew(&self, rules: &[RuleId]) {
        if rules.is_empty() {
            return;
        }
        // Held meanwhile: what a reader has found out is counted before, or not at all.
        let mut ledger = self.ledger();
        ledger.disown(rules);
        self.counters.begin_anew(rules);
    }

    /// Counts entries that are added, and verdicts that there was no room for.
    pub(crate) fn note(&self, added: usize, refused: usize) {
        self.added.fetch_add(added as u64, Ordering::Relaxed);
        self.refused.fetch_add(refused as u64, Ordering::Relaxed);
    }

    /// Brings the counters up to date with what the kernel repeated so far; what cannot be read comes with a later call.
    pub(crate) fn read(&self) {
        if self.ledger().is_empty() {
            return;
        }
        let asked = Instant::now();
        match podgate_netfilter::cache_hits() {
            Ok(hits) => self.count(&mut self.ledger(), &hits, Some(asked)),
            Err(error) => tracing::warn!(%error, "the verdict cache cannot be read: counters are behind"),
        }
    }

    /// The cache in numbers.
    pub(crate) fn facts(&self) -> CacheFacts {
        let ledger = self.ledger();
        let (accepting, dropping) = ledger.sizes();
        let [accepted, dropped] = [0, 1].map(|i| self.hits[i].load(Ordering::Relaxed));
        let [added, refused] = [&self.added, &self.refused].map(|n| n.load(Ordering::Relaxed));
        CacheFacts { limit: ledger.limit(), accepting, dropping, accepted, dropped, added, refused }
    }

    /// Adds what entries did since the last time. With `asked`, an entry that is younger than that is left out: what was
    /// read may be of an earlier one of the same key.
    fn count(&self, ledger: &mut Ledger, hits: &[CacheHits], asked: Option<Instant>) {
        for CacheHits { entry, packets } in hits {
            let Some((decisions, new)) = ledger.count(entry, *packets, asked) else { continue };
            // The only writer: whoever has the ledger.
            let counters = self.counters.repeated();
            for (direction, decision) in [Direction::Egress, Direction::Ingress].into_iter().zip(decisions) {
                decision.iter().for_each(|decision| counters.decided_times(direction, decision.cause, new));
            }
            self.hits[usize::from(entry.verdict != Cached::Accept)].fetch_add(new, Ordering::Relaxed);
        }
    }
}
