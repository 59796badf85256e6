//! The verdict latency histogram.

use std::sync::atomic::{AtomicU64, Ordering};

use super::bump;

/// Upper bounds of the buckets, in nanoseconds, inclusive; one bucket more takes the rest. From one packet judged at
/// once (a few µs, most of it the kernel sending it on) over a full batch (some 100 µs) to held packets (up to 1 s).
pub const LATENCY_BOUNDS: [u64; 16] = [
    1_000,
    2_000,
    5_000,
    10_000,
    20_000,
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    100_000_000,
    1_000_000_000,
    2_000_000_000,
];

/// From when a packet was read from the queue until its verdict was with the kernel, one observation a packet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Latency {
    /// Packets per bucket of [`LATENCY_BOUNDS`] (not cumulative); the last is for everything above.
    pub buckets: [u64; LATENCY_BOUNDS.len() + 1],
    /// All packets' latencies together, in nanoseconds.
    pub sum_nanoseconds: u64,
}

impl Latency {
    /// How many packets.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

#[derive(Debug, Default)]
pub(super) struct LatencyCounters {
    buckets: [AtomicU64; LATENCY_BOUNDS.len() + 1],
    sum: AtomicU64,
}

impl LatencyCounters {
    #[inline]
    pub(super) fn observe(&self, nanoseconds: u64, packets: u64) {
        let bucket = LATENCY_BOUNDS.partition_point(|bound| *bound < nanoseconds);
        bump(&self.buckets[bucket], packets);
        bump(&self.sum, nanoseconds.wrapping_mul(packets));
    }

    pub(super) fn add_to(&self, all: &mut Latency) {
        for (sum, bucket) in all.buckets.iter_mut().zip(&self.buckets) {
            *sum += bucket.load(Ordering::Relaxed);
        }
        all.sum_nanoseconds = all.sum_nanoseconds.wrapping_add(self.sum.load(Ordering::Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket_and_the_rest_to_the_last() {
        let counters = LatencyCounters::default();
        counters.observe(0, 1);
        counters.observe(1_000, 2);
        counters.observe(1_001, 4);
        counters.observe(u64::MAX / 2, 1);
        let mut all = Latency::default();
        counters.add_to(&mut all);
        assert_eq!((all.buckets[0], all.buckets[1], all.buckets[16], all.count()), (3, 4, 1, 8));
        assert_eq!(all.sum_nanoseconds, 2_000 + 4_004 + u64::MAX / 2);
    }

    #[test]
    fn bounds_ascend() {
        assert!(LATENCY_BOUNDS.is_sorted_by(|a, b| a < b));
    }
}
