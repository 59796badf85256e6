//! Listening on a TCP address that another agent may share.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

use super::Error;

/// Connections that may wait to be accepted.
const WAITING: i32 = 128;

/// Listens on `address`, together with any other agent of the same user; refused where something else has it.
pub(super) fn tcp(address: SocketAddr) -> Result<TcpListener, Error> {
    open(address).map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => Error::InUse(address),
        io::ErrorKind::AddrNotAvailable => Error::NotHere(address),
        _ => Error::Listen { address, source },
    })
}

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of an agent that ended linger a minute; they must not keep its successor away.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(WAITING)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}
