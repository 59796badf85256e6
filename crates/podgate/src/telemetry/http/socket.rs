//! [`Socket`]: the unix socket at which one agent is asked, and whose its path is.
//!
//! The path belongs to the agent that is ready. A new agent listens at a name beside it first; where nobody answers at
//! the path (there is none, or an agent that was killed left it) it takes it at once, by a rename, so that there is no
//! moment without a socket. Where another agent answers, it takes the path when it is ready itself, or the other
//! answers no more: an agent that never comes that far leaves the other's alone. An agent that ends takes the path away
//! only if it is still its own.
//!
//! So two agents on one host, one after the other, need one path; two containers of an upgrade must not share its
//! directory, as each one's probe asks at the path for its own agent; and agents in several network namespaces of one
//! host each need a path of their own.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Type};

/// Connections that may wait to be accepted.
const WAITING: i32 = 64;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
#[error("--socket {path}: {doing}: {source}", path = path.display())]
pub(crate) struct Error {
    path: PathBuf,
    doing: &'static str,
    source: io::Error,
}

/// A listening socket's name; dropping it takes the name away.
#[derive(Debug)]
pub(crate) struct Socket {
    path: PathBuf,
    /// Where it is as long as another agent has the path.
    beside: Option<PathBuf>,
    /// Device and inode: whether what is at the path is this socket.
    identity: (u64, u64),
}

impl Socket {
    /// Listens at `path`, or beside it as long as another agent answers there. Its directory is made (0700) if need be;
    /// the socket is its owner's alone (0600).
    pub(super) fn bind(path: &Path) -> Result<(Self, UnixListener), Error> {
        let failed = |doing| {
            let path = path.to_owned();
            move |source| Error { path, doing, source }
        };
        let directory = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed("cannot make its directory"))?;
        if fs::symlink_metadata(path).is_ok_and(|found| !found.file_type().is_socket()) {
            return Err(failed("cannot use it")(io::Error::other(
                "something that is no socket is there: give another",
            )));
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let beside = directory.join(format!(".{name}.{}", std::process::id()));
        // Only an agent with this process' number can have left it, and that is gone.
        let _ = fs::remove_file(&beside);
        let (listener, identity) = listen(&beside).map_err(failed("cannot listen"))?;
        let mut socket = Socket { path: path.to_owned(), beside: Some(beside), identity };
        if socket.waits() {
            tracing::info!(path = %path.display(), "another agent answers at --socket: this one will when it is ready");
        } else {
            socket.claim()?;
        }
        Ok((socket, listener))
    }

    /// Whether another agent answers at the path, so that this one has to wait for it.
    pub(super) fn waits(&self) -> bool {
        self.beside.is_some() && UnixStream::connect(&self.path).is_ok()
    }

    /// Takes the path, whoever has it. Nothing happens if it is taken already.
    pub(super) fn claim(&mut self) -> Result<(), Error> {
        let Some(beside) = self.beside.take() else { return Ok(()) };
        fs::rename(&beside, &self.path).map_err(|source| {
            let _ = fs::remove_file(&beside);
            Error { path: self.path.clone(), doing: "cannot take the path", source }
        })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let own = match &self.beside {
            Some(beside) => beside,
            None => &self.path,
        };
        if identity(own).is_ok_and(|found| found == self.identity) {
            // If it cannot be removed, it is a stale one, which the next agent replaces.
            let _ = fs::remove_file(own);
        }
    }
}

/// Nobody can connect before the mode is right: a socket that does not listen yet refuses.
fn listen(path: &Path) -> io::Result<(UnixListener, (u64, u64))> {
    let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    let identity = identity(path)?;
    socket.listen(WAITING)?;
    socket.set_nonblocking(true)?;
    Ok((socket.into(), identity))
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|data| (data.dev(), data.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(path: &Path, listener: &UnixListener) -> bool {
        let Ok(_connection) = UnixStream::connect(path) else { return false };
        // The connection is in the queue of the socket that it was made with before `connect` returns.
        listener.accept().is_ok()
    }

    #[test]
    fn the_directory_is_made_and_only_the_owner_may_ask() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/podgate/agent.sock");
        let (_socket, listener) = Socket::bind(&path).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(path.parent().unwrap()), mode(&path)), (0o700, 0o600));
        assert!(answers(&path, &listener));
    }

    #[test]
    fn the_socket_of_a_dead_agent_is_replaced_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(UnixStream::connect(&path).is_err() && path.exists());
        let (socket, listener) = Socket::bind(&path).unwrap();
        assert!(answers(&path, &listener));
        drop((socket, listener));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "nothing is left");
    }

    #[test]
    fn a_living_agents_path_is_taken_when_the_new_one_claims_it_and_not_taken_away_by_the_old() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.sock");
        // Another process' agent: its name beside the path has another number.
        let old = UnixListener::bind(&path).unwrap();
        old.set_nonblocking(true).unwrap();
        let identity = identity(&path).unwrap();
        let old_socket = Socket { path: path.clone(), beside: None, identity };
        let (mut socket, listener) = Socket::bind(&path).unwrap();
        let _asked_by_bind = old.accept().unwrap();
        assert!(answers(&path, &old));
        socket.claim().unwrap();
        assert!(answers(&path, &listener));
        drop(old_socket);
        assert!(answers(&path, &listener));
    }

    #[test]
    fn an_agent_that_was_never_ready_leaves_the_others_path_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.sock");
        let old = UnixListener::bind(&path).unwrap();
        drop(Socket::bind(&path).unwrap());
        let _asked_by_bind = old.accept().unwrap();
        assert!(answers(&path, &old));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_is_no_socket_is_not_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.sock");
        fs::write(&path, "mine").unwrap();
        let error = Socket::bind(&path).unwrap_err().to_string();
        assert!(error.contains("no socket") && error.contains("--socket"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }
}
