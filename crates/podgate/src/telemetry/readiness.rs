//! [`Readiness`]: whether the world is enforced, and if not, why; and which generation is in force.
//!
//! Not ready at birth: a first snapshot must be in kernel state and the source must have told all it knows. Beyond
//! these two, whoever has a reason takes a [`Hold`]; the reason is gone when the guard is dropped. Waiters are woken
//! by the change itself, nothing polls.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use podgate_engine::Generation;
use tokio::sync::watch;

/// Whether the agent is ready, and what is in force.
#[derive(Debug)]
pub(crate) struct Readiness {
    status: watch::Sender<Status>,
    next_hold: AtomicU64,
}

/// The state at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Status {
    /// The generation that workers use and the kernel state stands for.
    generation: Option<Generation>,
    synced: bool,
    holds: BTreeMap<u64, String>,
}

/// A reason not to be ready, for as long as it lives.
#[derive(Debug)]
#[must_use = "the reason is gone as soon as this is dropped"]
pub(crate) struct Hold {
    status: watch::Sender<Status>,
    key: u64,
}

impl Readiness {
    /// Not ready: nothing is in force.
    pub(crate) fn new() -> Self {
        Self { status: watch::Sender::new(Status::default()), next_hold: AtomicU64::new(0) }
    }

    /// `generation` is in force now: workers use it, and the kernel state stands for it.
    pub(crate) fn in_force(&self, generation: Generation) {
        self.status.send_modify(|s| s.generation = Some(generation));
    }

    /// Everything the source knew at the start is in what is (or will at once be) in force.
    pub(crate) fn synced(&self) {
        self.status.send_if_modified(|s| !std::mem::replace(&mut s.synced, true));
    }

    /// Not ready for this reason (one line that says what to do), until the guard is dropped.
    pub(crate) fn hold(&self, reason: impl Into<String>) -> Hold {
        let key = self.next_hold.fetch_add(1, Ordering::Relaxed);
        let reason = reason.into();
        self.status.send_modify(|s| drop(s.holds.insert(key, reason)));
        Hold { status: self.status.clone(), key }
    }

    /// The state now.
    pub(crate) fn now(&self) -> Status {
        self.status.borrow().clone()
    }

    /// To wait for a state.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// How many are waiting now.
    #[cfg(test)]
    pub(crate) fn receivers(&self) -> usize {
        self.status.receiver_count()
    }
}

impl Status {
    /// Whether the world is enforced.
    pub(crate) fn is_ready(&self) -> bool {
        self.generation.is_some() && self.synced && self.holds.is_empty()
    }

    /// Whether the world is enforced, and at least as new as `generation`.
    pub(crate) fn is_ready_at(&self, generation: Generation) -> bool {
        self.is_ready() && self.generation >= Some(generation)
    }

    /// The generation in force, if one is.
    pub(crate) fn generation(&self) -> Option<Generation> {
        self.generation
    }

    /// Why it is not ready; empty if it is.
    pub(crate) fn reasons(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if !self.synced {
            reasons.push("the source has not told all it knows yet".to_owned());
        }
        if self.generation.is_none() {
            reasons.push("the first snapshot is not in force yet".to_owned());
        }
        reasons.extend(self.holds.values().cloned());
        reasons
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.status.send_modify(|s| drop(s.holds.remove(&self.key)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn not_ready_before_a_snapshot_is_in_force_and_the_source_is_synced() {
        let readiness = Readiness::new();
        assert_eq!(readiness.now().reasons().len(), 2);
        readiness.synced();
        assert!(!readiness.now().is_ready());
        readiness.in_force(Generation(1));
        assert!(readiness.now().is_ready());
        assert!(readiness.now().reasons().is_empty());
    }

    #[test]
    fn a_hold_is_a_reason_until_it_is_dropped() {
        let readiness = Readiness::new();
        readiness.synced();
        readiness.in_force(Generation(3));
        let hold = readiness.hold("br_netfilter is off");
        assert_eq!(readiness.now().reasons(), ["br_netfilter is off"]);
        drop(hold);
        assert!(readiness.now().is_ready_at(Generation(3)));
        assert!(!readiness.now().is_ready_at(Generation(4)));
    }

    #[test]
    fn a_waiter_wakes_with_the_generation_it_waits_for() {
        let readiness = Readiness::new();
        readiness.synced();
        let mut states = readiness.subscribe();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(move || {
                let state = runtime.block_on(states.wait_for(|s| s.is_ready_at(Generation(2)))).unwrap();
                state.generation()
            });
            readiness.in_force(Generation(1));
            readiness.in_force(Generation(2));
            assert_eq!(waiter.join().unwrap(), Some(Generation(2)));
        });
    }
}
