//! [`Crowd`]: a worker tells that packets come up faster than it can answer them.
//!
//! It knows that without asking the kernel: a batch that fills all buffers means that more may wait, and [`RUN`] of them
//! without a break are a whole queue of the default length in which it never caught up. That happens in a harmless burst
//! too; whether packets are lost is for the one who is told to find out. Telling is one unparked thread each time, and
//! neither allocates nor locks; several before that thread gets to run are one.

use std::thread::Thread;

use podgate_netfilter::queue::BATCH;

/// Full batches in a row.
const RUN: u32 = 64;

/// Who is told.
#[derive(Debug, Default)]
pub(crate) struct Crowd(Option<Thread>);

impl Crowd {
    /// This thread is unparked.
    pub(crate) fn told_to(thread: Option<Thread>) -> Self {
        Crowd(thread)
    }

    fn tell(&self) {
        self.0.iter().for_each(Thread::unpark);
    }
}

/// One worker's count of full batches in a row.
#[derive(Debug, Default)]
pub(super) struct FullBatches(u32);

impl FullBatches {
    /// A batch had so many packets.
    #[inline]
    pub(super) fn batch(&mut self, packets: usize, crowd: &Crowd) {
        self.0 = if packets < BATCH { 0 } else { self.0 + 1 };
        if self.0 == RUN {
            self.0 = 0;
            crowd.tell();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn only_full_batches_in_a_row_are_told() {
        let crowd = Crowd::told_to(Some(thread::current()));
        let mut run = FullBatches::default();
        for _ in 0..10 {
            (1..RUN).for_each(|_| run.batch(BATCH, &crowd));
            run.batch(BATCH - 1, &crowd);
        }
        let told = |wait| {
            let begun = Instant::now();
            thread::park_timeout(wait);
            begun.elapsed() < wait
        };
        assert!(!told(Duration::from_millis(1)));
        (0..RUN).for_each(|_| run.batch(BATCH, &crowd));
        assert!(told(Duration::from_secs(60)));
    }
}
