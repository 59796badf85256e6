//! One worker's count per rule, in chunks that double in size and never move.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::bump;
use crate::RuleId;

/// Rules in the first chunk, a power of two. Chunk `k` has this many times 2ᵏ, so that 23 chunks hold every `u32`.
const FIRST: u64 = 1024;
const CHUNKS: usize = 23;

/// Sixteen counters on two cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Lines([AtomicU64; 16]);

/// Counts by rule. Room is made by [`RuleCounters::reserve`] (any thread), counts are written by one thread.
#[derive(Debug, Default)]
pub(super) struct RuleCounters {
    chunks: [OnceLock<Box<[Lines]>>; CHUNKS],
}

/// The chunk of a rule, and its place in there.
#[inline]
fn place(rule: RuleId) -> (usize, usize) {
    let number = u64::from(rule.0) + FIRST;
    let chunk = number.ilog2() - FIRST.ilog2();
    (chunk as usize, (number - (FIRST << chunk)) as usize)
}

impl RuleCounters {
    pub(super) fn reserve(&self, last: RuleId) {
        for (k, chunk) in self.chunks[..=place(last).0].iter().enumerate() {
            chunk.get_or_init(|| (0..(FIRST << k) / 16).map(|_| Lines::default()).collect());
        }
    }

    #[inline]
    fn counter(&self, rule: RuleId) -> Option<&AtomicU64> {
        let (chunk, index) = place(rule);
        self.chunks.get(chunk)?.get()?.get(index / 16).map(|lines| &lines.0[index % 16])
    }

    /// Adds `by`; false if there is no room for this rule.
    #[inline]
    pub(super) fn count(&self, rule: RuleId, by: u64) -> bool {
        self.counter(rule).map(|counter| bump(counter, by)).is_some()
    }

    pub(super) fn get(&self, rule: RuleId) -> u64 {
        self.counter(rule).map_or(0, |counter| counter.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_a_place_and_no_two_the_same() {
        let mut expected = (0, 0);
        for number in 0..100_000 {
            assert_eq!(place(RuleId(number)), expected);
            expected.1 += 1;
            if expected.1 == (FIRST as usize) << expected.0 {
                expected = (expected.0 + 1, 0);
            }
        }
        let (chunk, index) = place(RuleId(u32::MAX));
        assert!(chunk < CHUNKS && index < (FIRST as usize) << chunk);
    }

    #[test]
    fn counts_stay_where_they_are_when_room_is_made() {
        let counters = RuleCounters::default();
        counters.reserve(RuleId(0));
        assert!(counters.count(RuleId(1023), 1));
        assert!(!counters.count(RuleId(1024), 1));
        let before = std::ptr::from_ref(counters.counter(RuleId(1023)).unwrap());
        counters.reserve(RuleId(50_000));
        counters.reserve(RuleId(3));
        assert!(
            counters.count(RuleId(1023), 1) && counters.count(RuleId(1024), 1) && counters.count(RuleId(50_000), 1)
        );
        assert_eq!(std::ptr::from_ref(counters.counter(RuleId(1023)).unwrap()), before);
        assert_eq!([1023, 1024, 50_000, 49_999].map(|n| counters.get(RuleId(n))), [2, 1, 1, 0]);
    }

    #[test]
    fn room_is_made_while_the_writer_counts() {
        let counters = RuleCounters::default();
        counters.reserve(RuleId(0));
        std::thread::scope(|scope| {
            scope.spawn(|| (0..20).for_each(|k| counters.reserve(RuleId(k * 10_000))));
            scope.spawn(|| (0..100_000).for_each(|n| assert!(counters.count(RuleId(n % 1024), 1))));
        });
        assert_eq!((0..1024).map(|n| counters.get(RuleId(n))).sum::<u64>(), 100_000);
    }
}
