//! Workers as threads, on real queues in a network namespace of their own.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use podgate_netfilter::queue::{Fate, MmsgQueue, Packet, Queue, QueueSettings, Received, Waker, queue_stats};
use podgate_sandbox::Netns;

use super::rig::{Versions, shared};
use crate::worker::{HoldSettings, Workers};

#[test]
fn workers_start_are_woken_and_stop_and_their_queues_are_free() {
    let netns = Netns::new("workers").unwrap();
    netns.run(|| {
        let queues = (0..3).map(|n| Box::new(MmsgQueue::bind(&QueueSettings::new(n)).unwrap()) as Box<dyn Queue>);
        let never = |_: usize, why: &str| panic!("{why}");
        let shared = shared(HoldSettings::default(), true);
        let workers = Workers::start(queues.collect(), |_| Versions::first(), shared.clone(), never).unwrap();
        assert_eq!(queue_stats().unwrap().len(), 3);
        workers.wake();
        workers.be_strict();
        assert!(!shared.loose.load(Ordering::Relaxed));
        workers.stop();
    });
}

/// A queue that fails at once, by an error or a panic.
struct Failing {
    panics: bool,
    waker: Waker,
}

impl Queue for Failing {
    fn receive(&mut self, _: Option<Duration>) -> io::Result<Received> {
        assert!(!self.panics, "as asked");
        Err(io::Error::other("the queue broke"))
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
fn a_worker_that_fails_or_panics_is_told() {
    static ERRORS: AtomicUsize = AtomicUsize::new(0);
    static PANICS: AtomicUsize = AtomicUsize::new(0);
    let told = |worker: usize, why: &str| {
        assert_eq!(worker, 0);
        match why {
            "the queue broke" => ERRORS.fetch_add(1, Ordering::SeqCst),
            "it panicked" => PANICS.fetch_add(1, Ordering::SeqCst),
            other => panic!("{other}"),
        };
    };
    for panics in [false, true] {
        let queue = Failing { panics, waker: Waker::new().unwrap() };
        let shared = shared(HoldSettings::default(), false);
        Workers::start(vec![Box::new(queue)], |_| Versions::first(), shared, told).unwrap().stop();
    }
    assert_eq!((ERRORS.load(Ordering::SeqCst), PANICS.load(Ordering::SeqCst)), (1, 1));
}
