//! Whether packets are lost in the queues, again and again: [`overload`].

use std::time::{Duration, Instant};

use podgate_engine::{Counter, Counters};
use podgate_netfilter::queue::QueueStats;
use podgate_netfilter::queue_stats;

use super::super::kernel::Kernel;

/// Looks that find packets lost, after a first one, until there are shares: a burst that overflowed a queue once is over
/// by then. Workers ask for one each time that they answered a whole queue without catching up.
const LOSING: u32 = 2;
/// Looks that are further apart have nothing to do with each other.
const APART: Duration = Duration::from_secs(1);

/// The queues at one moment.
#[derive(Debug, Clone)]
pub(super) struct Queues {
    at: Instant,
    lost: u64,
    nearly_full: bool,
    /// Packets that each worker has received.
    received: Vec<u64>,
}

impl Queues {
    pub(super) fn read(length: u32, kernel: &Kernel, counters: &Counters) -> std::io::Result<Self> {
        let queues = kernel.queues();
        let own: Vec<QueueStats> = queue_stats()?.into_iter().filter(|q| queues.contains(&q.number)).collect();
        let received = (0..queues.len()).map(|worker| counters.of_worker(worker, Counter::Packets));
        Ok(Queues {
            at: Instant::now(),
            lost: own.iter().map(|q| q.queue_dropped + q.user_dropped).sum(),
            nearly_full: own.iter().any(|q| u64::from(q.depth) * 4 >= u64::from(length) * 3),
            received: received.collect(),
        })
    }

    pub(super) fn losing_since(&self, before: &Queues) -> bool {
        self.lost > before.lost || self.nearly_full
    }

    /// Packets per second of the busiest worker.
    fn rate_since(&self, before: &Queues) -> u32 {
        let most = self.received.iter().zip(&before.received).map(|(now, then)| now.saturating_sub(*then)).max();
        let seconds = self.at.duration_since(before.at).as_secs_f64();
        // A float that is too large, or none, becomes the largest or smallest number there is.
        (most.unwrap_or(0) as f64 / seconds) as u32
    }
}

/// Looks that belong together.
#[derive(Debug)]
pub(super) struct Looks {
    first: Queues,
    pub(super) latest: Queues,
    /// How many in a row found packets lost.
    losing: u32,
}

impl Looks {
    pub(super) fn begin(now: Queues) -> Self {
        Looks { first: now.clone(), latest: now, losing: 0 }
    }
}

/// The rate to begin with, if packets are lost again and again. `looks` are those before, and after it this one too.
pub(super) fn overload(looks: &mut Option<Looks>, now: Queues) -> Option<u32> {
    let Some(mut before) = looks.take().filter(|looks| now.at.duration_since(looks.latest.at) < APART) else {
        *looks = Some(Looks::begin(now));
        return None;
    };
    before.losing = if now.losing_since(&before.latest) { before.losing + 1 } else { 0 };
    if before.losing >= LOSING {
        return Some(now.rate_since(&before.first));
    }
    before.latest = now;
    *looks = Some(before);
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queues(begun: Instant, milliseconds: u64, lost: u64, received: u64) -> Queues {
        let at = begun + Duration::from_millis(milliseconds);
        Queues { at, lost, nearly_full: false, received: vec![0, received] }
    }

    #[test]
    fn a_burst_that_overflows_a_queue_once_is_no_overload() {
        let (mut looks, begun) = (None, Instant::now());
        for (milliseconds, lost) in [(0, 0), (30, 500), (60, 500), (90, 500), (2000, 900), (2030, 1000), (2060, 1000)] {
            assert_eq!(overload(&mut looks, queues(begun, milliseconds, lost, 0)), None, "{milliseconds}");
        }
    }

    #[test]
    fn losing_again_and_again_is_overload_and_what_was_judged_meanwhile_is_the_measure() {
        let (mut looks, begun) = (None, Instant::now());
        assert_eq!(overload(&mut looks, queues(begun, 0, 7, 1000)), None);
        assert_eq!(overload(&mut looks, queues(begun, 50, 8, 5000)), None);
        assert_eq!(overload(&mut looks, queues(begun, 100, 9, 9000)), Some(80_000));
    }

    #[test]
    fn a_busy_queue_that_loses_nothing_is_no_overload_however_long() {
        let (mut looks, begun) = (None, Instant::now());
        for n in 0..100 {
            assert_eq!(overload(&mut looks, queues(begun, n * 30, 7, n)), None);
        }
    }

    #[test]
    fn a_full_queue_that_counts_no_loss_is_overload_too() {
        let (mut looks, begun) = (None, Instant::now());
        let full = |milliseconds| Queues { nearly_full: true, ..queues(begun, milliseconds, 0, milliseconds * 10) };
        let rates = [0, 50, 100].map(|milliseconds| overload(&mut looks, full(milliseconds)));
        assert_eq!(rates, [None, None, Some(10_000)]);
    }
}
