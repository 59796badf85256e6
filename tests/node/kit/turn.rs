//! Whose turn it is: tests that flood run alone.

use std::cell::Cell;
use std::fs::File;

use nix::fcntl::{Flock, FlockArg};

/// A test's turn. Received packets wait in queues of a processor, not of a namespace: who floods takes them from all.
pub(crate) struct Turn(#[expect(dead_code, reason = "held, not read")] Flock<File>);

thread_local! {
    static ALONE: Cell<bool> = const { Cell::new(false) };
}

impl Turn {
    /// For a test that floods: no other one runs meanwhile, in this process or another.
    pub(crate) fn alone() -> Self {
        ALONE.set(true);
        Self::take(FlockArg::LockExclusive)
    }

    /// None: this thread is alone.
    pub(super) fn beside_others() -> Option<Self> {
        (!ALONE.get()).then(|| Self::take(FlockArg::LockShared))
    }

    /// By a lock on a directory that is everywhere, which leaves nothing behind.
    fn take(lock: FlockArg) -> Self {
        let place = File::open(std::env::temp_dir()).expect("a directory");
        Turn(Flock::lock(place, lock).map_err(|(_, errno)| errno).expect("a lock"))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        ALONE.set(false);
    }
}
