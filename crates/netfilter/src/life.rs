//! Whether another agent lives: it listens on an abstract unix socket, which belongs to the network namespace and goes
//! with the process, however it ends.
//!
//! Whoever wants to know connects, and the kernel hangs the connection up at the end. Nothing is ever said on it. The
//! name is told in our table ([`crate::Owner`]), so only who may program the kernel decides whose life is watched.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, socket, sockopt::PeerCredentials,
};
use nix::unistd::geteuid;

use crate::Error;
use crate::queue::Waker;

/// Names are random: a collision is somebody's doing, and not the next one.
const TRIES: usize = 8;

/// This process' life, for others to watch. It ends when this is dropped, or with the process.
#[derive(Debug)]
pub struct Life {
    name: String,
    listener: UnixListener,
    watchers: Vec<UnixStream>,
}

impl Life {
    /// From now on others can watch.
    pub fn begin() -> Result<Self, Error> {
        let failed = |error| Error::io("open a unix socket that tells other agents of this one's end", error);
        let mut tries = 0;
        loop {
            let name = format!("podgate/agent/{:016x}", RandomState::new().hash_one(std::process::id()));
            let bound = SocketAddr::from_abstract_name(&name).and_then(|address| UnixListener::bind_addr(&address));
            tries += 1;
            match bound {
                Ok(listener) => {
                    listener.set_nonblocking(true).map_err(failed)?;
                    return Ok(Self { name, listener, watchers: Vec::new() });
                }
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries < TRIES => {}
                Err(error) => return Err(failed(error)),
            }
        }
    }

    /// Its name, for [`Vigil::keep`].
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether another process of this user watches now.
    pub fn is_watched(&mut self) -> bool {
        while let Ok((stream, _)) = self.listener.accept() {
            let ours = getsockopt(&stream, PeerCredentials).is_ok_and(|peer| peer.uid() == geteuid().as_raw());
            self.watchers.extend(ours.then_some(stream));
        }
        self.watchers.retain(|stream| !hung_up(stream));
        !self.watchers.is_empty()
    }
}

/// A watch on another agent's life.
#[derive(Debug)]
pub struct Vigil(OwnedFd);

impl Vigil {
    /// Watches the life of that name from now on; `None` if it is over.
    pub fn keep(name: &str) -> Result<Option<Self>, Error> {
        if name.is_empty() {
            return Ok(None);
        }
        let failed = |error: Errno| Error::io(format!("watch the agent {name}"), error.into());
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let stream = socket(AddressFamily::Unix, SockType::Stream, flags, None).map_err(failed)?;
        let address = UnixAddr::new_abstract(name.as_bytes()).map_err(failed)?;
        match connect(stream.as_raw_fd(), &address) {
            Ok(()) => Ok(Some(Self(stream))),
            Err(Errno::ECONNREFUSED | Errno::ENOENT) => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    /// Waits until the other's life is over (true) or `waker` was used.
    pub fn is_over(&self, waker: &Waker) -> Result<bool, Error> {
        loop {
            let mut fds =
                [PollFd::new(waker.as_fd(), PollFlags::POLLIN), PollFd::new(self.0.as_fd(), PollFlags::POLLHUP)];
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) if fds[1].any().unwrap_or(true) => return Ok(true),
                Ok(_) if waker.take() => return Ok(false),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(Error::io("watch another agent", error.into())),
            }
        }
    }
}

fn hung_up(stream: &UnixStream) -> bool {
    let mut fds = [PollFd::new(stream.as_fd(), PollFlags::POLLHUP)];
    poll(&mut fds, PollTimeout::ZERO).is_err() || fds[0].any().unwrap_or(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_ends_with_the_life() {
        let life = Life::begin().unwrap();
        let vigil = Vigil::keep(life.name()).unwrap().expect("it lives");
        let waker = Waker::new().unwrap();
        waker.wake();
        assert!(!vigil.is_over(&waker).unwrap());
        let name = life.name().to_owned();
        let watching = std::thread::spawn(move || vigil.is_over(&Waker::new().unwrap()).unwrap());
        drop(life);
        assert!(watching.join().unwrap());
        assert!(Vigil::keep(&name).unwrap().is_none());
        assert!(Vigil::keep("").unwrap().is_none());
    }

    #[test]
    fn it_is_known_whether_anybody_watches() {
        let mut life = Life::begin().unwrap();
        assert!(!life.is_watched());
        let vigil = Vigil::keep(life.name()).unwrap().expect("it lives");
        assert!(life.is_watched());
        assert!(life.is_watched());
        drop(vigil);
        assert!(!life.is_watched());
    }

    #[test]
    fn a_watch_ends_with_a_life_that_has_looked_who_watches() {
        let mut life = Life::begin().unwrap();
        let vigil = Vigil::keep(life.name()).unwrap().expect("it lives");
        assert!(life.is_watched());
        drop(life);
        assert!(vigil.is_over(&Waker::new().unwrap()).unwrap());
    }
}
