//! Workers as threads, on real queues in a network namespace of their own.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use podgate_netfilter::queue::{Fate, MmsgQueue, Packet, Queue, QueueSettings, Received, Waker, queue_stats};
use podgate_sandbox::Netns;

use super::rig::{HOLD, Versions, shared};
use crate::worker::Workers;

#[test]
fn workers_start_are_woken_and_stop_and_their_queues_are_free() {
    let netns = Netns::new("workers").unwrap();
    netns.run(|| {
        let bind = |n| Box::new(MmsgQueue::bind(&QueueSettings::new(n)).unwrap()) as Box<dyn Queue>;
        let queues = (0..2).map(bind).collect();
        let never = |_: usize, why: &str| panic!("{why}");
        let shared = shared(HOLD, true);
        let workers = Workers::start(queues, bind(2), None, |_| Versions::first(), shared.clone(), never).unwrap();
        assert_eq!(queue_stats().unwrap().len(), 3);
        workers.wake();
        workers.be_strict();
        assert!(!shared.loose.load(Ordering::Relaxed));
        workers.stop(false);
    });
}

/// A queue to which nothing comes, or that fails: by an error or a panic.
struct Failing {
    how: How,
    waker: Waker,
}

#[derive(Clone, Copy, PartialEq)]
enum How {
    NotAtAll,
    ByError,
    ByPanic,
}

impl Queue for Failing {
    fn receive(&mut self, _: Option<Duration>) -> io::Result<Received> {
        assert!(self.how != How::ByPanic, "as asked");
        if self.how == How::ByError {
            return Err(io::Error::other("the queue broke"));
        }
        std::thread::yield_now();
        Ok(if self.waker.take() { Received::Woken } else { Received::TimedOut })
    }

    fn answer(&mut self, _: &mut dyn FnMut(&Packet<'_>) -> Fate) -> io::Result<()> {
        Ok(())
    }

    fn answer_held(&mut self, _: u32, _: Fate) -> io::Result<()> {
        Ok(())
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn malformed(&self) -> u64 {
        0
    }
}

#[test]
fn a_worker_or_a_keeper_that_fails_or_panics_is_told() {
    static ERRORS: [AtomicUsize; 2] = [AtomicUsize::new(0), AtomicUsize::new(0)];
    static PANICS: [AtomicUsize; 2] = [AtomicUsize::new(0), AtomicUsize::new(0)];
    let told = |worker: usize, why: &str| {
        match why {
            "the queue broke" => ERRORS[worker].fetch_add(1, Ordering::SeqCst),
            "it panicked" => PANICS[worker].fetch_add(1, Ordering::SeqCst),
            other => panic!("{other}"),
        };
    };
    for how in [How::ByError, How::ByPanic] {
        // One that works, and the one after it: the worker, or the keeper.
        for (worker, keeper) in [(how, How::NotAtAll), (How::NotAtAll, how)] {
            let queue = |how| Box::new(Failing { how, waker: Waker::new().unwrap() }) as Box<dyn Queue>;
            let shared = shared(HOLD, false);
            let all = Workers::start(vec![queue(worker)], queue(keeper), None, |_| Versions::first(), shared, told);
            all.unwrap().stop(false);
        }
    }
    let counts = |told: &[AtomicUsize; 2]| [told[0].load(Ordering::SeqCst), told[1].load(Ordering::SeqCst)];
    assert_eq!((counts(&ERRORS), counts(&PANICS)), ([1, 1], [1, 1]));
}
