//! A client that keeps connecting: when does the first connection come about, when the first one no more. Attempts
//! overlap, so that a slow moment of the machine is not taken for an answer.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{Client, DENY_WAIT};

/// An attempt that has not come about yet.
struct Attempt {
    socket: Socket,
    begun: Instant,
}

impl Client {
    /// Connects anew at each interval, until a connection comes about: the moment of that. `None`: not within `limit`.
    ///
    /// # Errors
    /// What the sockets say.
    pub fn first_open(
        &self,
        address: IpAddr,
        port: u16,
        interval: Duration,
        limit: Duration,
    ) -> io::Result<Option<Instant>> {
        self.netns.run(|| {
            let (to, end) = (SocketAddr::new(address, port), Instant::now() + limit);
            let mut waiting = VecDeque::new();
            while Instant::now() < end {
                // Its SYN was dropped; that a later one gets through is another attempt's business.
                while waiting.front().is_some_and(|a: &Attempt| a.begun.elapsed() > DENY_WAIT) {
                    waiting.pop_front();
                }
                waiting.push_back(attempt(to)?);
                if settle(&mut waiting, interval)?.open {
                    return Ok(Some(Instant::now()));
                }
            }
            Ok(None)
        })
    }

    /// Connects anew at each interval (or at once after a connection came about), until an attempt is refused or does
    /// not come about within [`DENY_WAIT`]: the moment at which it began. `None`: not within `limit`.
    ///
    /// # Errors
    /// What the sockets say.
    pub fn first_closed(
        &self,
        address: IpAddr,
        port: u16,
        interval: Duration,
        limit: Duration,
    ) -> io::Result<Option<Instant>> {
        self.netns.run(|| {
            let (to, end) = (SocketAddr::new(address, port), Instant::now() + limit);
            let mut waiting = VecDeque::new();
            while Instant::now() < end {
                if let Some(first) = waiting.front().filter(|a: &&Attempt| a.begun.elapsed() > DENY_WAIT) {
                    return Ok(Some(first.begun));
                }
                waiting.push_back(attempt(to)?);
                if let Some(begun) = settle(&mut waiting, interval)?.failed {
                    return Ok(Some(begun));
                }
            }
            Ok(None)
        })
    }
}

/// Sends a SYN from the calling thread's namespace.
fn attempt(to: SocketAddr) -> io::Result<Attempt> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    // With a reset at the end no port is taken for a minute.
    socket.set_linger(Some(Duration::ZERO))?;
    let begun = Instant::now();
    match socket.connect(&to.into()) {
        Ok(()) => {}
        Err(e) if e.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(e) => return Err(e),
    }
    Ok(Attempt { socket, begun })
}

/// What became of attempts.
#[derive(Default)]
struct Settled {
    open: bool,
    /// When the first attempt that failed was begun.
    failed: Option<Instant>,
}

/// Takes attempts that came to an end out, for at least `time`; returns early with a connection.
fn settle(waiting: &mut VecDeque<Attempt>, time: Duration) -> io::Result<Settled> {
    let end = Instant::now() + time;
    let mut settled = Settled::default();
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        let mut fds: Vec<_> = waiting.iter().map(|a| PollFd::new(a.socket.as_fd(), PollFlags::POLLOUT)).collect();
        poll(&mut fds, timeout)?;
        let ready = |f: &PollFd<'_>| f.any().unwrap_or(true).then(|| f.as_fd().as_raw_fd());
        let ready: Vec<i32> = fds.iter().filter_map(ready).collect();
        waiting.retain(|attempt| {
            if !ready.contains(&attempt.socket.as_raw_fd()) {
                return true;
            }
            match attempt.socket.take_error() {
                Ok(None) => settled.open = true,
                _ => settled.failed = settled.failed.or(Some(attempt.begun)),
            }
            false
        });
        if settled.open || left.is_zero() {
            return Ok(settled);
        }
    }
}
