//! [`Gate`]: tells the workers of whom nothing more is taken for the moment, without a lock and in fixed memory.
//!
//! What is bounded is bounded by the thread that does it (the keeper's table, the rejecter's rates). Here it says so to
//! those who would pass more on to it, so that a flood costs one verdict a packet and not two.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use podgate_engine::Addr;

/// Addresses that may be told at once. Each has one place; of two that meet there the later is told.
const PLACES: usize = 1024;
/// The lower bits of a place are a time in milliseconds (34 years of them), the others know the address again.
const TIME: u64 = (1 << 40) - 1;

/// Which end of a flow an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum End {
    Source,
    Destination,
}

/// What is closed, and until when.
#[derive(Debug)]
pub(crate) struct Gate {
    begin: Instant,
    hasher: RandomState,
    all: AtomicU64,
    elsewhere: AtomicU64,
    places: Box<[AtomicU64]>,
}

impl Gate {
    /// Everything is open.
    pub(crate) fn new() -> Self {
        let places = (0..PLACES).map(|_| AtomicU64::new(0)).collect();
        let [all, elsewhere] = [0, 0].map(AtomicU64::new);
        Self { begin: Instant::now(), hasher: RandomState::new(), all, elsewhere, places }
    }

    /// Whether it is closed to everybody.
    #[inline]
    pub(crate) fn is_closed(&self, now: Instant) -> bool {
        self.time(now) < self.all.load(Ordering::Relaxed)
    }

    /// Whether it is closed to pods of other nodes.
    #[inline]
    pub(crate) fn is_closed_elsewhere(&self, now: Instant) -> bool {
        self.time(now) < self.elsewhere.load(Ordering::Relaxed)
    }

    /// Whether it is closed to this address. By chance it may be (2⁻³⁴ for each that is told) because of another one.
    #[inline]
    pub(crate) fn is_closed_to(&self, end: End, address: Addr, now: Instant) -> bool {
        let (place, mark) = self.place(end, address);
        let told = place.load(Ordering::Relaxed);
        told & !TIME == mark && self.time(now) < told & TIME
    }

    pub(crate) fn close(&self, until: Instant) {
        self.all.store(self.time(until), Ordering::Relaxed);
    }

    pub(crate) fn close_elsewhere(&self, until: Instant) {
        self.elsewhere.store(self.time(until), Ordering::Relaxed);
    }

    pub(crate) fn close_to(&self, end: End, address: Addr, until: Instant) {
        let (place, mark) = self.place(end, address);
        place.store(mark | self.time(until), Ordering::Relaxed);
    }

    /// Opens it to all whom it was closed to.
    pub(crate) fn open(&self) {
        self.all.store(0, Ordering::Relaxed);
        self.elsewhere.store(0, Ordering::Relaxed);
        self.places.iter().for_each(|place| place.store(0, Ordering::Relaxed));
    }

    fn place(&self, end: End, address: Addr) -> (&AtomicU64, u64) {
        let hash = self.hasher.hash_one((end, address));
        (&self.places[hash as usize % PLACES], hash & !TIME)
    }

    fn time(&self, at: Instant) -> u64 {
        (at.saturating_duration_since(self.begin).as_millis() as u64).min(TIME)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn address(text: &str) -> Addr {
        text.parse::<std::net::IpAddr>().unwrap().into()
    }

    #[test]
    fn it_is_closed_to_whom_it_was_closed_until_then_and_to_nobody_else() {
        let gate = Gate::new();
        let (now, one) = (Instant::now(), address("10.1.0.5"));
        let until = now + Duration::from_secs(10);
        gate.close_to(End::Source, one, until);
        assert!(gate.is_closed_to(End::Source, one, now));
        assert!(!gate.is_closed_to(End::Source, one, until + Duration::from_millis(1)));
        assert!(!gate.is_closed_to(End::Destination, one, now));
        let others = (0..=255).map(|last| address(&format!("fd00::{last:x}")));
        assert!(others.into_iter().all(|other| !gate.is_closed_to(End::Source, other, now)));
        assert!(!gate.is_closed(now));
        gate.close(until);
        assert!(gate.is_closed(now) && !gate.is_closed(until + Duration::from_millis(1)));
        assert!(!gate.is_closed_elsewhere(now));
        gate.close_elsewhere(until);
        assert!(gate.is_closed_elsewhere(now) && !gate.is_closed_elsewhere(until + Duration::from_millis(1)));
        gate.open();
        assert!(!gate.is_closed_elsewhere(now));
        assert!(!gate.is_closed(now) && !gate.is_closed_to(End::Source, one, now));
    }
}
