//! [`Waker`]: ends a queue's wait from another thread.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// Ends [`super::Queue::receive`]. What was written before [`Waker::wake`] is seen by the thread that is woken.
#[derive(Debug, Clone)]
pub struct Waker(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    event: EventFd,
    /// Set from `wake` until the worker has seen it: the worker looks at this, not at the descriptor, while packets
    /// keep coming.
    pending: AtomicBool,
}

impl Waker {
    /// A waker for a queue of one's own. The error is the kernel's: no descriptor is left.
    pub fn new() -> io::Result<Self> {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self(Arc::new(Inner { event, pending: AtomicBool::new(false) })))
    }

    /// Makes the current or the next [`super::Queue::receive`] return [`super::Received::Woken`], once for any number
    /// of calls before.
    pub fn wake(&self) {
        if !self.0.pending.swap(true, Ordering::AcqRel) {
            // It fails only when the count is at its limit, and then the descriptor is readable already.
            let _ = self.0.event.write(1);
        }
    }

    /// Whether it was used since the last time; takes that back. Only for the queue that waits.
    pub fn take(&self) -> bool {
        if !self.0.pending.load(Ordering::Relaxed) {
            return false;
        }
        // First the descriptor, then the flag: a wake in between finds the flag set and writes nothing, and what it
        // announces is seen after the swap.
        let _ = self.0.event.read();
        self.0.pending.swap(false, Ordering::AcqRel)
    }
}

/// Readable while a wake is pending.
impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.event.as_fd()
    }
}
