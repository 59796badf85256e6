//! One-way UDP: as many datagrams as a raw socket can send, each a flow of its own, counted where they arrive.
//!
//! They are counted by the receiving interface, so that no receiving thread takes processor time from what is
//! measured; a socket that nobody reads keeps the kernel from answering each with an ICMP error.

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, sendmmsg};
use podgate_sandbox::{Netns, Packet, Pod};
use socket2::{Domain, Protocol, Socket, Type};

/// Destination ports: with the source ports, more flows than are sent in a measurement.
pub(crate) const PORTS: [u16; 4] = [9001, 9002, 9003, 9004];
/// Source ports per destination port; with four times as many flows, conntrack's table (262,144 entries by default)
/// holds those of one measurement.
const SOURCES: std::ops::Range<u16> = 10_000..60_000;
/// Datagrams per system call.
const BATCH: usize = 64;
/// How long nothing must arrive for the path to count as empty.
const QUIET: Duration = Duration::from_millis(100);
/// How long emptying may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What came of a measurement.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sent {
    /// Datagrams sent.
    pub(crate) sent: u64,
    /// Those that arrived.
    pub(crate) arrived: u64,
    /// Those that arrived, per second from the first sent to the last arrived.
    pub(crate) per_second: f64,
}

/// Binds the sockets that nobody reads, until the process ends.
pub(crate) fn sink(server: &Netns) -> io::Result<Vec<UdpSocket>> {
    PORTS.iter().map(|port| server.run(|| UdpSocket::bind(("0.0.0.0", *port)))).collect()
}

/// Sends for a time, or until every flow was used once.
pub(crate) fn run(client: &Pod, server: &Pod, during: Duration) -> Result<Sent> {
    let (IpAddr::V4(from), IpAddr::V4(to)) = (client.v4(), server.v4()) else {
        bail!("the pods have no IPv4 addresses");
    };
    let packets: Vec<Vec<u8>> = PORTS
        .iter()
        .flat_map(|port| SOURCES.map(|source| (source, *port)))
        .map(|(source, port)| {
            let (from, to) = (SocketAddr::new(from.into(), source), SocketAddr::new(to.into(), port));
            Packet::udp(from, to, b"podgate!").bytes()
        })
        .collect();
    let socket = client.netns().run(|| Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))))?;
    socket.set_header_included_v4(true).context("a raw socket that takes whole packets")?;
    let address = Some(SockaddrIn::from(SocketAddrV4::new(to, 0)));

    server.netns().run(|| {
        let before = received()?;
        let start = Instant::now();
        let sender = std::thread::scope(|scope| {
            let sender = scope.spawn(|| send(&socket, &packets, address, during));
            sender.join().map_err(|_| io::Error::other("the sender panicked"))
        });
        let sent = sender??;
        // Wait until the path is empty: what still waits in a queue was sent in the measurement.
        let (mut arrived, mut last) = (received()? - before, Instant::now());
        let mut end = last;
        while last.elapsed() < QUIET {
            std::thread::sleep(Duration::from_millis(1));
            let now = received()? - before;
            if now != arrived {
                (arrived, last) = (now, Instant::now());
                end = last;
            }
            anyhow::ensure!(start.elapsed() < during + PATIENCE, "the path did not become empty");
        }
        Ok(Sent { sent, arrived, per_second: arrived as f64 / end.duration_since(start).as_secs_f64() })
    })
}

fn send(socket: &Socket, packets: &[Vec<u8>], to: Option<SockaddrIn>, during: Duration) -> io::Result<u64> {
    let mut headers = MultiHeaders::preallocate(BATCH, None);
    let (start, mut sent) = (Instant::now(), 0);
    for batch in packets.chunks(BATCH) {
        if start.elapsed() >= during {
            break;
        }
        let slices: Vec<[IoSlice<'_>; 1]> = batch.iter().map(|p| [IoSlice::new(p)]).collect();
        let addresses = vec![to; batch.len()];
        let done = sendmmsg(socket.as_raw_fd(), &mut headers, &slices, &addresses, [], MsgFlags::empty())?;
        sent += done.count() as u64;
    }
    Ok(sent)
}

/// Packets that came in by the interfaces of the calling thread's namespace (proc(5): net/dev).
fn received() -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/thread-self/net/dev")?;
    let interfaces = text.lines().filter_map(|line| line.split_once(':')).filter(|(name, _)| name.trim() != "lo");
    Ok(interfaces.filter_map(|(_, figures)| figures.split_whitespace().nth(1)?.parse::<u64>().ok()).sum())
}
