//! [`Publication`]: the current [`Snapshot`], swapped atomically, and when everybody uses it.
//!
//! A worker says which generation it works with while a batch lasts. The publisher keeps every snapshot that a worker
//! may still read, so that it is never a worker that frees one.

use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use crate::{Generation, Snapshot};

/// The current snapshot and its readers (one per worker).
#[derive(Debug)]
pub struct Publication {
    current: ArcSwap<Snapshot>,
    states: Box<[State]>,
    /// Snapshots that are current no more, until no reader can be working with them.
    retired: Mutex<Vec<Arc<Snapshot>>>,
}

/// What a reader works with: [`IDLE`], [`ENTERING`] or a generation + [`FIRST`]. On a cache line (pair) of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct State(AtomicU64);

const IDLE: u64 = 0;
/// The reader is about to load the current snapshot: it may get any.
const ENTERING: u64 = 1;
const FIRST: u64 = 2;

/// One worker's view of a [`Publication`].
#[derive(Debug)]
pub struct Reader {
    publication: Arc<Publication>,
    index: usize,
}

impl Publication {
    /// Publishes `first` to `readers` readers (taken with [`Publication::reader`], each once).
    pub fn new(first: Arc<Snapshot>, readers: usize) -> Arc<Self> {
        let states = (0..readers).map(|_| State::default()).collect();
        Arc::new(Self { current: ArcSwap::new(first), states, retired: Mutex::default() })
    }

    /// The reader of worker `index`.
    ///
    /// # Panics
    /// If there are not that many readers.
    pub fn reader(self: &Arc<Self>, index: usize) -> Reader {
        assert!(index < self.states.len(), "reader {index} of a publication with {} readers", self.states.len());
        Reader { publication: self.clone(), index }
    }

    /// The current snapshot (control plane; workers use their [`Reader`]).
    pub fn current(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Makes `next` the current snapshot. Readers see it with their next batch.
    pub fn publish(&self, next: Arc<Snapshot>) {
        let old = self.current.swap(next);
        // With the fence in `Reader::batch`: either a reader that enters sees the new snapshot, or its state is seen.
        fence(Ordering::SeqCst);
        self.retired.lock().unwrap_or_else(PoisonError::into_inner).push(old);
        self.free_unused();
    }

    /// Returns when no reader works with a snapshot older than `generation` any more. Readers that are between
    /// batches do not count: they will load the current one.
    pub fn wait_until_used(&self, generation: Generation) {
        fence(Ordering::SeqCst);
        for state in &self.states {
            let mut spins = 0u32;
            while state.oldest().is_some_and(|g| g < generation) {
                spins += 1;
                match spins {
                    0..100 => std::hint::spin_loop(),
                    _ => std::thread::yield_now(),
                }
            }
        }
        // Each reader was seen past the older ones, and whoever enters since loads the current one. To look at the
        // states again would keep a snapshot only because some reader is just entering.
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        retired.retain(|snapshot| snapshot.generation() >= generation);
    }

    /// Frees the retired snapshots that no reader works with.
    fn free_unused(&self) {
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = self.states.iter().filter_map(State::oldest).min();
        retired.retain(|snapshot| oldest.is_some_and(|oldest| oldest <= snapshot.generation()));
    }
}

impl State {
    /// The oldest generation that the reader may be working with, if it is in a batch.
    fn oldest(&self) -> Option<Generation> {
        match self.0.load(Ordering::Acquire) {
            IDLE => None,
            ENTERING => Some(Generation(0)),
            state => Some(Generation(state - FIRST)),
        }
    }
}

impl Reader {
    /// Runs one batch with the snapshot that is current at its start: one atomic load per batch.
    #[inline]
    pub fn batch<T>(&mut self, work: impl FnOnce(&Snapshot) -> T) -> T {
        let Some(state) = self.publication.states.get(self.index) else {
            return work(&self.publication.current.load());
        };
        // Dropped last, also when `work` panics: nobody waits for a reader that is gone.
        let _idle = Idle(state);
        state.0.store(ENTERING, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let snapshot = self.publication.current.load();
        state.0.store(snapshot.generation().0 + FIRST, Ordering::Release);
        work(&snapshot)
    }
}

struct Idle<'s>(&'s State);

impl Drop for Idle<'_> {
    fn drop(&mut self) {
        self.0.0.store(IDLE, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tables;
    use std::sync::Barrier;
    use std::sync::atomic::AtomicBool;

    fn snapshot(generation: u64) -> Arc<Snapshot> {
        Arc::new(Snapshot::new(Generation(generation), Tables::new()))
    }

    #[test]
    fn a_batch_sees_what_was_current_at_its_start() {
        let publication = Publication::new(snapshot(1), 1);
        let mut reader = publication.reader(0);
        reader.batch(|s| {
            publication.publish(snapshot(2));
            assert_eq!(s.generation(), Generation(1));
        });
        assert_eq!(reader.batch(|s| s.generation()), Generation(2));
        assert_eq!(publication.current().generation(), Generation(2));
    }

    #[test]
    fn a_snapshot_in_use_is_kept_by_the_publisher_and_freed_by_it_afterwards() {
        let publication = Publication::new(snapshot(1), 2);
        let first = Arc::downgrade(&publication.current());
        let mut reader = publication.reader(1);
        reader.batch(|_| {
            publication.publish(snapshot(2));
            publication.wait_until_used(Generation(1));
            assert_eq!(publication.retired.lock().unwrap().len(), 1);
        });
        assert!(first.upgrade().is_some(), "the reader was not its last owner");
        publication.wait_until_used(Generation(2));
        assert!(first.upgrade().is_none());
    }

    #[test]
    fn a_reader_that_panicked_is_waited_for_no_more() {
        let publication = Publication::new(snapshot(1), 1);
        let mut reader = publication.reader(0);
        std::thread::spawn(move || reader.batch(|_| panic!("on purpose"))).join().unwrap_err();
        publication.publish(snapshot(2));
        publication.wait_until_used(Generation(2));
    }

    #[test]
    fn after_the_wait_no_reader_works_with_anything_older() {
        const READERS: usize = 3;
        let publication = Publication::new(snapshot(0), READERS);
        let in_use: Arc<[AtomicU64; READERS]> = Arc::new(std::array::from_fn(|_| AtomicU64::new(u64::MAX)));
        let (stop, start) = (Arc::new(AtomicBool::new(false)), Arc::new(Barrier::new(READERS + 1)));
        let readers: Vec<_> = (0..READERS)
            .map(|i| {
                let (mut reader, in_use) = (publication.reader(i), in_use.clone());
                let (stop, start) = (stop.clone(), start.clone());
                std::thread::spawn(move || {
                    start.wait();
                    let (mut batches, mut last) = (0u64, 0);
                    while !stop.load(Ordering::SeqCst) {
                        reader.batch(|s| {
                            let generation = s.generation().0;
                            assert!(generation >= last, "never back to an older one");
                            last = generation;
                            in_use[i].store(generation, Ordering::SeqCst);
                            std::hint::black_box(s.tables().group(0));
                            in_use[i].store(u64::MAX, Ordering::SeqCst);
                        });
                        batches += 1;
                        if batches.is_multiple_of(64) {
                            std::thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        start.wait();
        for generation in 1..3000 {
            publication.publish(snapshot(generation));
            publication.wait_until_used(Generation(generation));
            for reader in in_use.iter() {
                assert!(reader.load(Ordering::SeqCst) >= generation);
            }
            assert!(publication.retired.lock().unwrap().is_empty());
        }
        stop.store(true, Ordering::SeqCst);
        readers.into_iter().for_each(|r| r.join().unwrap());
    }
}
