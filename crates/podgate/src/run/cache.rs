//! The verdict cache as the control loop keeps it: what is added, and what a change takes away. What an entry is, and why
//! it is never stale, is [`cache`](crate::cache)'s.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use podgate_engine::Snapshot;
use podgate_netfilter::{CacheEntry, CacheHits, Error, Forget};
use podgate_policy::Build;

use super::control::Control;
use super::kernel::Kernel;
use super::plane::Plane;
use crate::cache::{Cache, Ledger, Offer, Stale};

impl Stale {
    /// As the kernel is told.
    pub(super) fn order(&self) -> Forget<'_> {
        match self {
            Stale::These(entries) => Forget::These(entries),
            Stale::All => Forget::All,
        }
    }

    pub(super) fn is_nothing(&self) -> bool {
        matches!(self, Stale::These(entries) if entries.is_empty())
    }

    /// Nothing is stale.
    pub(super) fn nothing() -> Self {
        Stale::These(Vec::new())
    }
}

impl Control {
    /// Verdicts that came again and again: the kernel is to repeat them, if they are still the same.
    pub(super) fn take_offers(&mut self, offers: &[Offer], plane: &mut Plane<'_>) {
        let Some(kernel) = &mut plane.kernel else { return };
        let snapshot = self.publication.current();
        if let Err(error) = kernel.repeat(offers, &snapshot) {
            self.kernel_failed(&error, kernel);
        }
    }
}

impl Kernel {
    /// Has the kernel repeat what the offers come to by the snapshot in force, and no longer what has had its time and was
    /// not in use: what was begins anew in the same transaction, so that a flood finds no gap.
    fn repeat(&mut self, offers: &[Offer], snapshot: &Snapshot) -> Result<(), Error> {
        if !self.is_owner() {
            return Ok(());
        }
        let cache = Arc::clone(&self.cache);
        let mut ledger = cache.ledger();
        let now = Instant::now();
        let due = ledger.due(now);
        let (mut new, refused) = match due {
            Stale::These(_) => ledger.admit(offers, snapshot, now),
            Stale::All => (Vec::new(), 0),
        };
        cache.note(new.len(), refused);
        let renewed = ledger.renewable(&due);
        new.extend(&renewed);
        if new.is_empty() && due.is_nothing() {
            return Ok(());
        }
        let Some(program) = &mut self.program else { return Ok(()) };
        match program.remember(&new, due.order()) {
            Ok(()) => {
                let hits = program.take_hits();
                settle(&cache, &mut ledger, &due, &renewed, &hits);
                Ok(())
            }
            Err(Error::NotOwner) => {
                drop(ledger);
                self.lost()
            }
            other => other,
        }
    }

    /// What this build may decide otherwise than the kernel repeats it; `elsewhere`: also of addresses that it does not tell,
    /// as where pods may be is not what it was.
    pub(super) fn stale(&self, build: &Build, elsewhere: bool) -> Stale {
        let ledger = self.cache.ledger();
        match elsewhere || build.pod_ranges.is_some() {
            true if !ledger.is_empty() => Stale::All,
            _ => ledger.about(build.touched.iter().chain(&build.changed), Instant::now()),
        }
    }

    /// The kernel has forgotten this.
    pub(super) fn forgotten(&mut self, stale: &Stale) {
        let hits = self.program.as_mut().map(podgate_netfilter::Program::take_hits).unwrap_or_default();
        settle(&self.cache, &mut self.cache.ledger(), stale, &[], &hits);
    }
}

/// Takes in what the kernel has forgotten; the renewed ones of it are there again.
fn settle(cache: &Cache, ledger: &mut Ledger, stale: &Stale, renewed: &[CacheEntry], hits: &[CacheHits]) {
    match stale {
        Stale::These(forgotten) => {
            let again: HashSet<&CacheEntry> = renewed.iter().collect();
            let gone: Vec<CacheEntry> = forgotten.iter().filter(|entry| !again.contains(entry)).copied().collect();
            cache.deleted(ledger, &gone, hits);
            let now = Instant::now();
            renewed.iter().for_each(|entry| ledger.renew(entry, now));
        }
        Stale::All => cache.emptied(ledger, hits),
    }
}
