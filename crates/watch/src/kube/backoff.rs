//! How long to wait before something that failed is tried again.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use super::Timing;

/// What an API server may ask for at most by `Retry-After`: nobody's policies wait longer for a mistyped header.
const LONGEST_ASKED: Duration = Duration::from_secs(120);

/// Growing waits, with jitter, so that not all nodes of a cluster come back at the same moment.
#[derive(Debug)]
pub(super) struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    pub(super) fn new(timing: &Timing) -> Self {
        Self { first: timing.first_retry, longest: timing.longest_retry, next: timing.first_retry }
    }

    /// It worked: the next failure is a first one.
    pub(super) fn reset(&mut self) {
        self.next = self.first;
    }

    /// The wait after one more failure; never shorter than what the API server asked for.
    pub(super) fn wait(&mut self, asked: Option<Duration>) -> Duration {
        let wait = jittered(self.next);
        self.next = self.longest.min(self.next * 2);
        // What was asked for is asked of all at once: the jitter goes on top of it.
        asked.map_or(wait, |asked| asked.min(LONGEST_ASKED) + wait)
    }
}

/// Between a half and the whole of a duration.
pub(super) fn jittered(duration: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish() as u32;
    duration.mul_f64(0.5 + f64::from(random) / f64::from(u32::MAX) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_are_bounded_and_begin_anew() {
        let timing = Timing::default();
        let mut backoff = Backoff::new(&timing);
        let waits: Vec<_> = (0..20).map(|_| backoff.wait(None)).collect();
        assert!(waits[0] <= timing.first_retry && waits[0] >= timing.first_retry / 2, "{waits:?}");
        assert!(waits.iter().all(|wait| *wait <= timing.longest_retry), "{waits:?}");
        assert!(waits[19] >= timing.longest_retry / 2, "{waits:?}");
        backoff.reset();
        assert!(backoff.wait(None) <= timing.first_retry);
    }

    #[test]
    fn what_the_server_asks_for_is_kept_to_within_reason() {
        let mut backoff = Backoff::new(&Timing::default());
        assert!(backoff.wait(Some(Duration::from_secs(7))) >= Duration::from_secs(7));
        assert!(backoff.wait(Some(Duration::from_secs(86_400))) <= LONGEST_ASKED * 2);
    }

    #[test]
    fn nodes_do_not_come_back_all_at_once() {
        let waits: std::collections::BTreeSet<_> = (0..50).map(|_| jittered(Duration::from_secs(10))).collect();
        assert!(waits.len() > 40, "{waits:?}");
    }
}
