//! One-way UDP: as many datagrams as a raw socket can send, each a flow of its own, counted where they arrive.
//!
//! They are counted by the receiving interface, so that no receiving thread takes processor time from what is
//! measured; a socket that nobody reads keeps the kernel from answering each with an ICMP error.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::Result;
use podgate_sandbox::{Netns, Packet, Pod};

use super::{BATCH, Sender, raw_socket};

/// Destination ports: with the source ports, more flows than are sent in a measurement.
pub(crate) const PORTS: [u16; 4] = [9001, 9002, 9003, 9004];
/// Source ports per destination port; with four times as many flows, conntrack's table (262,144 entries by default)
/// holds those of one measurement.
const SOURCES: std::ops::Range<u16> = 10_000..60_000;
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

/// Binds the sockets that nobody reads, until they are dropped.
pub(crate) fn sink(server: &Netns) -> io::Result<Vec<UdpSocket>> {
    PORTS.iter().map(|port| server.run(|| UdpSocket::bind(("0.0.0.0", *port)))).collect()
}

/// Sends for a time, or until every flow was used once.
pub(crate) fn run(client: &Pod, server: &Pod, during: Duration) -> Result<Sent> {
    let (from, to) = (client.v4(), server.v4());
    let packets: Vec<Vec<u8>> = PORTS
        .iter()
        .flat_map(|port| SOURCES.map(|source| (source, *port)))
        .map(|(source, port)| {
            Packet::udp(SocketAddr::new(from, source), SocketAddr::new(to, port), b"podgate!").bytes()
        })
        .collect();
    let socket = raw_socket(client.netns())?;
    let send = || -> io::Result<u64> {
        let mut sender = Sender::new(socket, to)?;
        let (start, mut sent) = (Instant::now(), 0);
        for batch in packets.chunks(BATCH) {
            if start.elapsed() >= during {
                break;
            }
            sent += sender.send(batch)?;
        }
        Ok(sent)
    };

    server.netns().run(|| {
        let before = received()?;
        let start = Instant::now();
        let sender =
            std::thread::scope(|scope| scope.spawn(send).join().map_err(|_| io::Error::other("the sender panicked")));
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

/// Packets that came in by the interfaces of the calling thread's namespace (proc(5): net/dev).
fn received() -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/thread-self/net/dev")?;
    let interfaces = text.lines().filter_map(|line| line.split_once(':')).filter(|(name, _)| name.trim() != "lo");
    Ok(interfaces.filter_map(|(_, figures)| figures.split_whitespace().nth(1)?.parse::<u64>().ok()).sum())
}
