//! Waking a thread that blocks on one of this crate's sockets, from any other thread: an eventfd polled beside it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Ends the wait it belongs to. Cheap to clone; a wake before the wait begins is not lost.
#[derive(Debug, Clone)]
pub struct Waker {
    event: Arc<OwnedFd>,
}

/// What ended a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wakened {
    Readable,
    Woken,
    TimedOut,
}

impl Waker {
    /// A waker that belongs to no wait yet.
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: eventfd takes no pointers; its result is checked before use.
        let raw = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `raw` was just returned by the kernel as a new descriptor that nothing else owns.
        let event = unsafe { OwnedFd::from_raw_fd(raw) };
        Ok(Self { event: Arc::new(event) })
    }

    /// Ends the current wait, or the next one if none is under way.
    pub fn wake(&self) {
        let one = 1_u64.to_ne_bytes();
        // SAFETY: the pointer and the length are those of `one`, which lives across the call. A failure can only be a
        // full counter, and then the wake is pending already.
        unsafe { libc::write(self.event.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Waits until `other` is readable or has an error, the waker is woken (which consumes the wake), or time is up.
    pub(crate) fn wait(&self, other: BorrowedFd<'_>, timeout: Option<Duration>) -> io::Result<Wakened> {
        let timeout = timeout.map_or(PollTimeout::NONE, |t| PollTimeout::try_from(t).unwrap_or(PollTimeout::MAX));
        loop {
            let mut fds = [PollFd::new(self.event.as_fd(), PollFlags::POLLIN), PollFd::new(other, PollFlags::POLLIN)];
            match poll(&mut fds, timeout) {
                Ok(0) => return Ok(Wakened::TimedOut),
                Ok(_) if fds[0].any().unwrap_or(false) => {
                    self.consume();
                    return Ok(Wakened::Woken);
                }
                Ok(_) => return Ok(Wakened::Readable),
                Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn consume(&self) {
        let mut count = [0_u8; 8];
        // SAFETY: the pointer and the length are those of `count`, which lives across the call; the descriptor does
        // not block, so a wake that another waiter consumed is no harm.
        unsafe { libc::read(self.event.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wake_before_the_wait_is_kept_and_used_once() {
        let (reader, _writer) = std::io::pipe().unwrap();
        let waker = Waker::new().unwrap();
        waker.clone().wake();
        assert_eq!(waker.wait(reader.as_fd(), None).unwrap(), Wakened::Woken);
        assert_eq!(waker.wait(reader.as_fd(), Some(Duration::ZERO)).unwrap(), Wakened::TimedOut);
    }
}
