//! A flood of packets that no policy allows: to a closed port of the server, at a bounded rate.
//!
//! It comes before all else (real-time scheduling), as packets from a wire do: a sender that shares the processor with
//! those whom it floods would send the less the more they do, and so every side would have another flood.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use nix::unistd::{Pid, gettid};
use podgate_bench::rng::Rng;
use podgate_sandbox::{Host, Netns, Packet, Pod};

use super::{BATCH, Sender, raw_socket};
use crate::manifests::CLOSED;

/// Packets a second that are offered; what the sender cannot do, it does not.
pub(crate) const RATE: f64 = 200_000.0;
/// Different packets.
const PACKETS: usize = 1 << 15;

/// What it is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// UDP of one pod that gives its own address, from many ports.
    Udp,
    /// SYNs from addresses all over 198.18.0.0/15 (RFC 2544: for benchmarks), which nobody has.
    Syn,
}

/// Makes the host reach [`Kind::Syn`]'s sources over the pod's link, as if it forwarded what others send: what a pod forges is
/// dropped at its link, and how little that costs is not what is measured.
pub(crate) fn reach_sources(host: &Host, flooder: &Pod) -> Result<()> {
    let script = format!("ip route add 198.18.0.0/15 $(ip -o route get {} | grep -o 'dev [^ ]*')", flooder.v4());
    let mut command = Command::new("sh");
    command.args(["-c", &script]);
    let output = host.netns().run(move || command.output()).context("starting sh")?;
    ensure!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// A flood that goes on until it is ended or dropped.
pub(crate) struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Flood {
    /// Begins.
    pub(crate) fn start(kind: Kind, from: &Pod, to: IpAddr) -> Result<Self> {
        let packets = packets(kind, from.v4(), to);
        let socket = raw_socket(from.netns())?;
        let (stop, sent) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (stopped, count) = (stop.clone(), sent.clone());
        let pour = move || -> Result<()> {
            come_first(gettid())?;
            let mut sender = Sender::new(socket, to)?;
            let start = Instant::now();
            for batch in packets.chunks(BATCH).cycle() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let sent = count.load(Ordering::Relaxed) + sender.send(batch)?;
                count.store(sent, Ordering::Relaxed);
                let due = Duration::from_secs_f64(sent as f64 / RATE);
                if let Some(early) = due.checked_sub(start.elapsed()) {
                    std::thread::sleep(early);
                }
            }
            Ok(())
        };
        let thread = std::thread::Builder::new().name("flood".to_owned()).spawn(pour)?;
        Ok(Flood { stop, sent, thread: Some(thread) })
    }

    /// Packets sent so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Ends it; returns how many packets were sent.
    pub(crate) fn end(mut self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread
                .join()
                .map_err(|_| anyhow!("the flood's thread panicked"))?
                .context("the flood could not be sent")?;
        }
        Ok(self.sent())
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Its failure is told by `end`; here another one is on its way already.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Lets a thread run before all that is not real-time (`chrt` of util-linux: first in, first out).
fn come_first(thread: Pid) -> Result<()> {
    let mut chrt = Command::new("chrt");
    chrt.args(["--fifo", "--pid", "1"]).arg(thread.to_string()).stdin(Stdio::null());
    let ended = chrt.status().context("chrt (Debian: apt-get install util-linux)")?;
    ensure!(ended.success(), "chrt cannot make the flood's thread a real-time one: {ended}");
    Ok(())
}

/// Packets of such floods that came to the server so far: datagrams for which there was no port, and resets that it
/// sent (RFC 4113: udpNoPorts, RFC 4022: tcpOutRsts). Clients' connections are reset by clients.
pub(crate) fn arrived(server: &Netns) -> Result<u64> {
    let text = server.run(|| fs::read_to_string("/proc/thread-self/net/snmp"))?;
    let value = |protocol: &str, name: &str| -> Option<u64> {
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(protocol));
        let (names, values) = (lines.next()?, lines.next()?);
        let at = names.split_whitespace().position(|n| n == name)?;
        values.split_whitespace().nth(at)?.parse().ok()
    };
    let sum = value("Udp:", "NoPorts").zip(value("Tcp:", "OutRsts")).map(|(ports, resets)| ports + resets);
    sum.context("/proc/net/snmp has no NoPorts or OutRsts")
}

fn packets(kind: Kind, from: IpAddr, to: IpAddr) -> Vec<Vec<u8>> {
    let (mut rng, to) = (Rng::new(5), SocketAddr::new(to, CLOSED));
    let packet = |_| {
        let port = 1024 + rng.below(64_512) as u16;
        let stranger = Ipv4Addr::from_bits(Ipv4Addr::new(198, 18, 0, 0).to_bits() + rng.below(1 << 17) as u32);
        match kind {
            Kind::Udp => Packet::udp(SocketAddr::new(from, port), to, b"podgate!").bytes(),
            Kind::Syn => Packet::syn(SocketAddr::new(stranger.into(), port), to).bytes(),
        }
    };
    (0..PACKETS).map(packet).collect()
}
