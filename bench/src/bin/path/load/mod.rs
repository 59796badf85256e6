//! What is sent between a client and a server, and what came of it.
//!
//! ```text
//!   connections ── connect, request, reset        established ── one stream of bytes, or bytes there and back
//!   datagrams ── one-way UDP, each its own flow   flood ── what a policy forbids, as fast as may be
//! ```
//!
//! Here too: [`Sender`], whole packets by a raw socket. Not here: what judges them.

pub(crate) mod connections;
pub(crate) mod datagrams;
pub(crate) mod established;
pub(crate) mod flood;

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddrV4};
use std::os::fd::AsRawFd;

use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, sendmmsg};
use podgate_bench::stats::quantile;
use podgate_sandbox::Netns;
use socket2::{Domain, Protocol, Socket, Type};

/// Packets per system call.
const BATCH: usize = 64;

/// How long connections or exchanges took, in microseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Latency {
    pub(crate) median: f64,
    pub(crate) p99: f64,
}

impl Latency {
    /// Of durations in nanoseconds.
    fn of(nanoseconds: &[u32]) -> Self {
        let microseconds: Vec<f64> = nanoseconds.iter().map(|n| f64::from(*n) / 1e3).collect();
        Latency { median: quantile(&microseconds, 0.5), p99: quantile(&microseconds, 0.99) }
    }
}

/// A raw socket that takes whole IPv4 packets; it belongs to the namespace wherever it is used.
fn raw_socket(netns: &Netns) -> io::Result<Socket> {
    let socket = netns.run(|| Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))))?;
    socket.set_header_included_v4(true)?;
    Ok(socket)
}

/// Sends whole packets by a raw socket.
struct Sender {
    socket: Socket,
    headers: MultiHeaders<SockaddrIn>,
    to: Option<SockaddrIn>,
}

impl Sender {
    /// All packets go to the same host, whatever is in them.
    fn new(socket: Socket, to: IpAddr) -> io::Result<Self> {
        let IpAddr::V4(to) = to else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "an IPv4 address is needed"));
        };
        let to = Some(SockaddrIn::from(SocketAddrV4::new(to, 0)));
        Ok(Sender { socket, headers: MultiHeaders::preallocate(BATCH, None), to })
    }

    /// At most [`BATCH`] packets; returns how many were sent.
    fn send(&mut self, packets: &[Vec<u8>]) -> io::Result<u64> {
        let slices: Vec<[IoSlice<'_>; 1]> = packets.iter().map(|p| [IoSlice::new(p)]).collect();
        let addresses = vec![self.to; packets.len()];
        let fd = self.socket.as_raw_fd();
        let done = sendmmsg(fd, &mut self.headers, &slices, &addresses, [], MsgFlags::empty())?;
        Ok(done.count() as u64)
    }
}
