//! [`workers`]: whether each worker gets on with its work, for `/healthz`.
//!
//! A worker that fails ends the process; what is left to notice is one that is stuck. It is taken for stuck when
//! packets wait in its queue and it has answered none for [`PATIENCE`]: a worker without packets has nothing to prove,
//! and a full queue that moves is overload, which no restart mends. Nothing is asked of the worker itself. The keeper is
//! watched likewise; its packets may wait for as long as they are held.

use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use podgate_engine::{Counter, Counters};
use podgate_netfilter::queue::{QueueStats, queue_stats};

/// How long packets may wait without any being answered. Those that are held do so in a queue of their own.
const PATIENCE: Duration = Duration::from_secs(10);

/// What one worker had answered when it was last seen to get on.
#[derive(Debug, Clone, Copy)]
struct Seen {
    answered: u64,
    at: Instant,
}

/// What is wrong with the workers, for [`State::watch_over`](super::State::watch_over): worker `i` has the `i`-th of
/// `queues` and the counters of that index, the keeper has those after them and the queue `hold`, where packets are held
/// for so long. Ask in the network namespace of the queues.
pub(crate) fn workers(
    counters: Arc<Counters>,
    queues: RangeInclusive<u16>,
    (hold, time): (u16, Duration),
) -> impl Fn() -> Vec<String> + Send {
    let answered = move |worker| {
        [Counter::Accepted, Counter::Dropped, Counter::PassedOn]
            .map(|c| counters.of_worker(worker, c))
            .into_iter()
            .fold(0, u64::wrapping_add)
    };
    let queues: Vec<_> = queues.map(|queue| (queue, PATIENCE)).chain([(hold, time + PATIENCE)]).collect();
    let seen = Mutex::new(vec![Seen { answered: 0, at: Instant::now() }; queues.len()]);
    move || {
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        troubles(&queues, &mut seen, Instant::now(), queue_stats(), &answered)
    }
}

fn troubles(
    queues: &[(u16, Duration)],
    seen: &mut [Seen],
    now: Instant,
    stats: io::Result<Vec<QueueStats>>,
    answered: &impl Fn(usize) -> u64,
) -> Vec<String> {
    let stats = match stats {
        Ok(stats) => stats,
        Err(error) => return vec![format!("the queues cannot be looked at: {error}")],
    };
    let mut troubles = Vec::new();
    for ((worker, (queue, patience)), seen) in queues.iter().copied().enumerate().zip(seen) {
        let Some(stats) = stats.iter().find(|s| s.number == queue) else {
            troubles.push(format!("queue {queue} has nobody: its worker has ended"));
            continue;
        };
        let answered = answered(worker);
        if stats.depth == 0 || answered != seen.answered {
            *seen = Seen { answered, at: now };
        }
        let stuck = now.duration_since(seen.at);
        if stuck >= patience {
            troubles.push(format!(
                "worker {worker} is stuck: {} packets wait in queue {queue} and none was answered for {} s",
                stats.depth,
                stuck.as_secs(),
            ));
        }
    }
    troubles
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(number: u16, depth: u32) -> QueueStats {
        QueueStats { number, port: 1, depth, queue_dropped: 0, user_dropped: 0 }
    }

    /// Asks at each of these seconds, with the depth of queue 7 and what its worker answered so far.
    fn asked(states: &[(u64, u32, u64)]) -> Vec<String> {
        let start = Instant::now();
        let mut seen = [Seen { answered: 0, at: start }];
        let mut last = Vec::new();
        for (second, depth, answered) in states {
            let now = start + Duration::from_secs(*second);
            last = troubles(&[(7, PATIENCE)], &mut seen, now, Ok(vec![stats(7, *depth)]), &|_| *answered);
        }
        last
    }

    #[test]
    fn a_worker_without_packets_is_well_however_long() {
        assert!(asked(&[(0, 0, 5), (1000, 0, 5)]).is_empty());
    }

    #[test]
    fn a_full_queue_that_moves_is_no_trouble() {
        assert!(asked(&[(0, 4096, 5), (1000, 4096, 6)]).is_empty());
    }

    #[test]
    fn packets_that_nobody_answers_are() {
        assert!(asked(&[(0, 3, 5), (9, 3, 5)]).is_empty());
        let said = asked(&[(0, 3, 5), (9, 3, 5), (12, 4, 5)]);
        assert_eq!(said, ["worker 0 is stuck: 4 packets wait in queue 7 and none was answered for 12 s"]);
    }

    #[test]
    fn held_packets_may_wait_for_as_long_as_they_are_held() {
        let (start, counters) = (Instant::now(), |_| 5);
        let mut seen = [Seen { answered: 5, at: start }];
        let mut after = |seconds| {
            let now = start + Duration::from_secs(seconds);
            let hold = (7, Duration::from_secs(60) + PATIENCE);
            troubles(&[hold], &mut seen, now, Ok(vec![stats(7, 3)]), &counters).len()
        };
        assert_eq!([after(69), after(70)], [0, 1]);
    }

    #[test]
    fn a_queue_that_nobody_has_is_told() {
        let mut seen = [Seen { answered: 0, at: Instant::now() }];
        let said = troubles(&[(7, PATIENCE)], &mut seen, Instant::now(), Ok(vec![stats(8, 0)]), &|_| 0);
        assert_eq!(said, ["queue 7 has nobody: its worker has ended"]);
    }
}
