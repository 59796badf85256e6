//! What a worker tells about a denied packet, through a bounded ring.

use crossbeam_queue::ArrayQueue;
use podgate_engine::{Counter, Flow, Generation, Judgement, WorkerCounters};

/// One denied packet, of fixed size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    /// The flow that was judged: turned round where the packet was a reply.
    pub(crate) flow: Flow,
    /// The decisions for both ends, with their rules' numbers.
    pub(crate) judgement: Judgement,
    /// The snapshot that decided.
    pub(crate) generation: Generation,
    /// The packet's whole length in bytes.
    pub(crate) length: u32,
}

/// The ring between workers and whoever tells the records.
pub(crate) type Records = ArrayQueue<Record>;

/// Records that the ring holds: at 50 ms between looks, 80,000 a second (and 400 KiB).
pub(crate) const RECORDS: usize = 4096;

/// Puts a record into the ring; a full one loses it and counts, never waits.
#[inline]
pub(super) fn put(records: &Records, counters: &WorkerCounters, record: Record) {
    if records.push(record).is_err() {
        counters.count(Counter::RecordsLost);
    }
}
