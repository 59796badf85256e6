//! [`Pulse`]: whether this process has been running all along. One that stood still (stopped, or its machine asleep) may have
//! been replaced meanwhile, by an agent that enforces another world: then what still waits in its queues is not its to
//! judge any more, and nothing that it says of it may be remembered.
//!
//! A thread beats; whoever finds the last beat too old waits for the next one, before which that thread asks the kernel whose
//! the table is. A newer agent takes it for granted that the one before has said its last after a second
//! (`LAST_VERDICTS` in [`owner`](crate::run)).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

/// How often it beats.
const BEAT: Duration = Duration::from_millis(250);
/// A beat of longer ago says nothing: together with what a batch takes it is less than a second.
const OLD: Duration = Duration::from_millis(750);
/// How long the next beat is waited for; then it is not the process that stands still, and nobody knows.
const PATIENCE: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug)]
pub(crate) struct Pulse {
    begun: Instant,
    /// Nanoseconds from `begun` to the last beat; as late as can be while nobody beats.
    last: AtomicU64,
    /// Another agent took over while this one stood still.
    replaced: AtomicBool,
    /// It was this agent's, and is another's in good order.
    stands_by: AtomicBool,
    /// The name by which the table is this agent's.
    mine: Mutex<Option<String>>,
}

impl Pulse {
    pub(crate) fn new() -> Arc<Self> {
        let (last, replaced, stands_by) = (AtomicU64::new(u64::MAX), AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Self { begun: Instant::now(), last, replaced, stands_by, mine: Mutex::new(None) })
    }

    /// Starts the thread that beats until nobody looks any more. `owner` tells whose the table is, if anybody's.
    pub(crate) fn start<E>(
        self: &Arc<Self>,
        owner: impl Fn() -> Result<Option<String>, E> + Send + 'static,
    ) -> std::io::Result<()> {
        let pulse: Weak<Self> = Arc::downgrade(self);
        let work = move || {
            while let Some(pulse) = pulse.upgrade() {
                pulse.beat(Instant::now(), &owner);
                drop(pulse);
                thread::sleep(BEAT);
            }
        };
        thread::Builder::new().name("pulse".to_owned()).spawn(work).map(drop)
    }

    /// The table is this agent's by that name: what comes up from now on is its to judge.
    pub(crate) fn own(&self, name: &str) {
        *self.mine.lock().unwrap_or_else(PoisonError::into_inner) = Some(name.to_owned());
        self.stands_by.store(false, Ordering::Release);
        self.replaced.store(false, Ordering::Release);
    }

    /// Whether what is held is the other agent's to judge.
    pub(crate) fn stands_by(&self) -> bool {
        self.stands_by.load(Ordering::Acquire)
    }

    /// It is another's, in good order: what still waits for this one is its to judge.
    pub(crate) fn hand_over(&self) {
        self.stands_by.store(true, Ordering::Release);
        *self.mine.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Whether what is received now may be judged.
    #[inline]
    pub(crate) fn is_sure(&self, now: Instant) -> bool {
        if self.is_old(now) {
            return self.wait(now);
        }
        !self.replaced.load(Ordering::Acquire)
    }

    /// As a beat finds it that comes late and finds another's table.
    #[cfg(test)]
    pub(crate) fn is_replaced(&self) {
        self.replaced.store(true, Ordering::Release);
    }

    fn is_old(&self, now: Instant) -> bool {
        let last = Duration::from_nanos(self.last.load(Ordering::Acquire));
        now.saturating_duration_since(self.begun).saturating_sub(last) > OLD
    }

    #[cold]
    fn wait(&self, since: Instant) -> bool {
        while self.is_old(Instant::now()) {
            if since.elapsed() > PATIENCE {
                return false;
            }
            thread::sleep(Duration::from_millis(1));
        }
        !self.replaced.load(Ordering::Acquire)
    }

    fn beat<E>(&self, now: Instant, owner: &impl Fn() -> Result<Option<String>, E>) {
        if self.is_old(now) {
            // It cannot be asked: as good as another's.
            let owner = owner().unwrap_or_else(|_| Some(String::new()));
            let mine = self.mine.lock().unwrap_or_else(PoisonError::into_inner);
            let others = owner.is_some() && *mine != owner;
            if others && !self.replaced.swap(true, Ordering::AcqRel) {
                tracing::warn!("another agent took over while this process stood still: what waits for it is dropped");
            }
        }
        let beaten = now.saturating_duration_since(self.begun).as_nanos() as u64;
        self.last.store(beaten, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned_by(name: &'static str) -> impl Fn() -> Result<Option<String>, ()> {
        move || Ok(Some(name.to_owned()))
    }

    /// How it stands after a time without beats, and then a beat, while the table is that agent's.
    fn after(pulse: &Pulse, seconds: u64, owner: &'static str) -> bool {
        let now = pulse.begun + Duration::from_secs(seconds);
        pulse.beat(now, &owned_by(owner));
        pulse.is_sure(now)
    }

    #[test]
    fn who_stood_still_and_was_replaced_judges_nothing_until_it_is_the_owner_again() {
        let pulse = Pulse::new();
        pulse.own("me");
        assert!(after(&pulse, 0, "me") && after(&pulse, 100, "me"));
        assert!(!after(&pulse, 200, "another"));
        let soon = pulse.begun + Duration::from_secs(200) + BEAT;
        pulse.beat(soon, &owned_by("another"));
        assert!(!pulse.is_sure(soon));
        pulse.own("me");
        assert!(pulse.is_sure(soon));
    }

    #[test]
    fn who_handed_over_answers_what_waits_unless_it_stands_still() {
        let pulse = Pulse::new();
        pulse.own("me");
        pulse.hand_over();
        let soon = pulse.begun + BEAT;
        pulse.beat(soon, &owned_by("another"));
        assert!(pulse.is_sure(soon) && !after(&pulse, 100, "another"));
    }

    #[test]
    fn while_there_is_no_beat_nothing_is_judged() {
        let pulse = Pulse::new();
        pulse.own("me");
        pulse.beat(pulse.begun, &owned_by("me"));
        // The last beat was an hour ago, and the thread has not had its turn yet.
        let now = Instant::now();
        let stopped = Duration::from_secs(3600);
        let begun = pulse.begun.checked_sub(stopped).unwrap();
        let pulse = Arc::new(Pulse { begun, ..Arc::into_inner(pulse).unwrap() });
        assert!(pulse.is_old(now));
        let waits = {
            let pulse = Arc::clone(&pulse);
            thread::spawn(move || pulse.is_sure(now))
        };
        pulse.beat(Instant::now(), &owned_by("another"));
        assert!(!waits.join().unwrap());
        // One that the kernel does not answer is not sure either.
        pulse.own("me");
        pulse.beat(Instant::now() + stopped, &|| Err(()));
        assert!(pulse.replaced.load(Ordering::Acquire));
    }
}
