//! [`Repeats`]: which verdicts a worker gives again and again. A small table of hashes, each in one place: a newcomer
//! takes it from whoever was there, so that it never fills, and what is rare is forgotten.

use std::hash::{BuildHasher, Hash, RandomState};

use rustc_hash::FxSeededState;

/// Places, a power of two; 32 KiB stay in the processor's nearer caches.
const PLACES: usize = 4096;
/// Who has just been told of waits for so many more: meanwhile it is being added, or there is no room for it.
const PAUSE: u64 = 16;
/// The low byte of a place counts down to 1; the rest is the hash.
const COUNT: u64 = 0xff;

/// Verdicts of late.
pub(super) struct Repeats {
    places: Box<[u64]>,
    /// Of its own, so that nobody can tell which verdicts meet in one place.
    hasher: FxSeededState,
}

impl Repeats {
    pub(super) fn new() -> Self {
        let seed = RandomState::new().hash_one(0) as usize;
        Self { places: vec![0; PLACES].into(), hasher: FxSeededState::with_seed(seed) }
    }

    /// Notes one; true if it is time to tell of it: it was seen before.
    #[inline]
    pub(super) fn note(&mut self, verdict: impl Hash) -> bool {
        // Its best bits are the upper ones, and the table is indexed by others than it compares.
        let hash = self.hasher.hash_one(verdict).rotate_left(20);
        let Some(place) = self.places.get_mut(hash as usize % PLACES) else { return false };
        if (*place ^ hash) & !COUNT != 0 || *place & COUNT == 0 {
            *place = hash & !COUNT | 1;
            return false;
        }
        let due = *place & COUNT == 1;
        *place = if due { hash & !COUNT | PAUSE } else { *place - 1 };
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_a_second_time_is_told_then_paused() {
        let mut repeats = Repeats::new();
        assert!(!repeats.note(1u32));
        assert!(repeats.note(1u32));
        let next = (0..100).position(|_| repeats.note(1u32));
        assert_eq!(next, Some(PAUSE as usize - 1));
    }

    #[test]
    fn what_comes_once_is_never_told() {
        let mut repeats = Repeats::new();
        assert_eq!((0..1_000_000u32).filter(|n| repeats.note(n)).count(), 0);
    }

    #[test]
    fn a_few_are_told_among_many_that_come_once() {
        let mut repeats = Repeats::new();
        let mut told = 0;
        for n in 0..100_000u32 {
            repeats.note(n);
            told += u32::from(repeats.note((u64::from(n % 8), "again")));
        }
        assert!(told > 1000, "{told}");
    }
}
