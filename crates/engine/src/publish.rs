//! [`Publication`]: the current [`Snapshot`], swapped atomically, and when everybody uses it.

use std::sync::Arc;

use crate::{Generation, Snapshot};

/// The current snapshot and its readers (one per worker).
#[derive(Debug)]
pub struct Publication {}

/// One worker's view of a [`Publication`].
#[derive(Debug)]
pub struct Reader {}

impl Publication {
    /// Publishes `first` to `readers` readers (taken with [`Publication::reader`], each once).
    pub fn new(first: Arc<Snapshot>, readers: usize) -> Arc<Self> {
        let _ = (first, readers);
        todo!()
    }

    /// The reader of worker `index`.
    pub fn reader(self: &Arc<Self>, index: usize) -> Reader {
        let _ = index;
        todo!()
    }

    /// The current snapshot (control plane; workers use their [`Reader`]).
    pub fn current(&self) -> Arc<Snapshot> {
        todo!()
    }

    /// Makes `next` the current snapshot. Readers see it with their next batch.
    pub fn publish(&self, next: Arc<Snapshot>) {
        let _ = next;
        todo!()
    }

    /// Returns when no reader works with a snapshot older than `generation` any more. Readers that are between
    /// batches do not count: they will load the current one.
    pub fn wait_until_used(&self, generation: Generation) {
        let _ = generation;
        todo!()
    }
}

impl Reader {
    /// Runs one batch with the snapshot that is current at its start: one atomic load per batch.
    pub fn batch<T>(&mut self, work: impl FnOnce(&Snapshot) -> T) -> T {
        let _ = work;
        todo!()
    }
}
