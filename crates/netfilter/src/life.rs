//! Whether another agent lives: it listens on an abstract unix socket, which belongs to the network namespace and goes
//! with the process, however it ends.
//!
//! Whoever wants to know connects, and the kernel hangs the connection up at the end. Nothing is ever said on it. The
//! name is told in our table ([`crate::Owner`]), so only who may program the kernel decides whose life is watched.
//!
//! Every process of the network namespace may connect. So connections are taken as they come, and those of other users
//! hung up at once: none of them fills the backlog for long. A watch that finds it full, or is hung up, looks again:
//! only a name that nobody listens at is a life that is over. Or one that another user listens at: names are for everybody to
//! see, and to take when an agent is gone.

mod listener;

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

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
/// Watchers at once; there is one for each agent that stands by.
const WATCHERS: usize = 64;
/// The pause, in milliseconds, before what failed for want of room is tried again.
const PAUSE: u16 = 100;

/// This process' life, for others to watch. It ends when this is dropped, or with the process.
#[derive(Debug)]
pub struct Life {
    name: String,
    door: Arc<Door>,
    ended: Waker,
    keeper: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Door {
    listener: UnixListener,
    watchers: Mutex<Vec<UnixStream>>,
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
                Ok(listener) => return Self::at(name, listener).map_err(failed),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries < TRIES => {}
                Err(error) => return Err(failed(error)),
            }
        }
    }

    fn at(name: String, listener: UnixListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let door = Arc::new(Door { listener, watchers: Mutex::default() });
        let ended = Waker::new()?;
        let (kept, end) = (Arc::clone(&door), ended.clone());
        let keeper = std::thread::Builder::new().name("life".to_owned()).spawn(move || kept.keep(&end))?;
        Ok(Self { name, door, ended, keeper: Some(keeper) })
    }

    /// Its name, for [`Vigil::keep`].
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether another process of this user, or root's, watches now.
    pub fn is_watched(&mut self) -> bool {
        // What cannot be accepted now is told by the thread that waits for it.
        let _ = self.door.admit();
        let mut watchers = self.door.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        watchers.retain(|stream| !hung_up(stream));
        !watchers.is_empty()
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.ended.wake();
        if let Some(keeper) = self.keeper.take() {
            // A panic in there has been told by the panic handler.
            let _ = keeper.join();
        }
    }
}

impl Door {
    /// Takes connections as they come, until the end.
    fn keep(&self, ended: &Waker) {
        let mut timeout = PollTimeout::NONE;
        loop {
            let room = timeout.is_none();
            let mut fds =
                [PollFd::new(ended.as_fd(), PollFlags::POLLIN), PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
            // Without room the connection that waits is no news.
            let fds = if room { &mut fds[..] } else { &mut fds[..1] };
            match poll(fds, timeout) {
                Ok(_) if ended.take() => return,
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => {
                    tracing::error!(%error, "other agents can no longer tell whether this one lives");
                    return;
                }
            }
            timeout = if self.admit().is_ok() { PollTimeout::NONE } else { PollTimeout::from(PAUSE) };
        }
    }

    /// Takes the connections there are. Those of strangers are hung up, and so are those past the bound.
    fn admit(&self) -> io::Result<()> {
        let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if !peer_is_ours(&stream) {
                continue;
            }
            if watchers.len() >= WATCHERS {
                watchers.retain(|stream| !hung_up(stream));
            }
            if watchers.len() < WATCHERS {
                watchers.push(stream);
            }
        }
    }
}

/// Whether the other end is this user's or root's. Of who connected that is who listened, as he was then (unix(7)).
fn peer_is_ours(stream: &impl AsFd) -> bool {
    getsockopt(stream, PeerCredentials).is_ok_and(|peer| is_ours(peer.uid()))
}

fn is_ours(uid: u32) -> bool {
    uid == 0 || uid == geteuid().as_raw()
}

/// A watch on another agent's life.
#[derive(Debug)]
pub struct Vigil {
    name: String,
    /// None as long as there is no room for one more.
    stream: Option<OwnedFd>,
}

/// What is found at a name.
enum Found {
    /// Somebody lives there.
    Life(OwnedFd),
    /// Somebody lives there, and has no room.
    Crowd,
    /// Nobody, or no agent.
    Nothing,
}

impl Vigil {
    /// Watches the life of that name from now on; `None` if it is over.
    pub fn keep(name: &str) -> Result<Option<Self>, Error> {
        if name.is_empty() {
            return Ok(None);
        }
        let stream = match look(name)? {
            Found::Life(stream) => Some(stream),
            Found::Crowd => None,
            Found::Nothing => return Ok(None),
        };
        Ok(Some(Self { name: name.to_owned(), stream }))
    }

    /// Waits until the other's life is over (true) or `waker` was used.
    pub fn is_over(&self, waker: &Waker) -> Result<bool, Error> {
        let failed = |error: Errno| Error::io("watch another agent", error.into());
        let mut again;
        let mut stream = self.stream.as_ref();
        loop {
            let woken = PollFd::new(waker.as_fd(), PollFlags::POLLIN);
            let ended = match stream {
                Some(stream) => {
                    let mut fds = [woken, PollFd::new(stream.as_fd(), PollFlags::POLLHUP)];
                    match poll(&mut fds, PollTimeout::NONE) {
                        Ok(_) => fds[1].any().unwrap_or(true),
                        Err(Errno::EINTR) => false,
                        Err(error) => return Err(failed(error)),
                    }
                }
                None => match poll(&mut [woken], PollTimeout::from(PAUSE)) {
                    Ok(found) => found == 0,
                    Err(Errno::EINTR) => false,
                    Err(error) => return Err(failed(error)),
                },
            };
            if ended {
                // Hung up by one that lives, it looks again after the pause, so that the two do not keep each other busy.
                let paused = stream.is_none();
                again = match look(&self.name)? {
                    Found::Nothing => return Ok(true),
                    Found::Life(stream) if paused => Some(stream),
                    Found::Life(_) | Found::Crowd => None,
                };
                stream = again.as_ref();
            } else if waker.take() {
                return Ok(false);
            }
        }
    }
}

fn look(name: &str) -> Result<Found, Error> {
    let failed = |error: Errno| Error::io(format!("watch the agent {name}"), error.into());
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let stream = socket(AddressFamily::Unix, SockType::Stream, flags, None).map_err(failed)?;
    let address = UnixAddr::new_abstract(name.as_bytes()).map_err(failed)?;
    match connect(stream.as_raw_fd(), &address) {
        Ok(()) if peer_is_ours(&stream) => Ok(Found::Life(stream)),
        Ok(()) => Ok(Found::Nothing),
        Err(Errno::EAGAIN) => Ok(match listener::user(name) {
            Ok(Some(uid)) if !is_ours(uid) => Found::Nothing,
            Ok(_) => Found::Crowd,
            Err(error) => {
                tracing::debug!(%error, name, "whose it is cannot be told: it is taken for an agent's");
                Found::Crowd
            }
        }),
        Err(Errno::ECONNREFUSED | Errno::ENOENT) => Ok(Found::Nothing),
        Err(error) => Err(failed(error)),
    }
}

fn hung_up(stream: &UnixStream) -> bool {
    let mut fds = [PollFd::new(stream.as_fd(), PollFlags::POLLHUP)];
    poll(&mut fds, PollTimeout::ZERO).is_err() || fds[0].any().unwrap_or(true)
}

#[cfg(test)]
mod tests;
