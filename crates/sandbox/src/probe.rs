//! Many attempts at once: a suite that waits for its denies one after the other would be slow.

use std::fmt;
use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use crate::{Client, DENY_WAIT, Outcome, PATIENCE};

/// What is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeKind {
    /// A TCP connection to a port.
    Tcp(u16),
    /// A datagram to a UDP port, echoed.
    Udp(u16),
    /// An ICMP or ICMPv6 echo.
    Echo,
}

/// One attempt, and what is expected of it.
#[derive(Debug, Clone)]
pub struct Probe {
    /// Who tries.
    pub client: Client,
    /// Where to.
    pub to: IpAddr,
    /// What.
    pub kind: ProbeKind,
    /// Whether it should get through; decides how long to wait.
    pub expect_open: bool,
}

impl Probe {
    /// An attempt that should get through.
    pub fn open(client: Client, to: IpAddr, kind: ProbeKind) -> Self {
        Probe { client, to, kind, expect_open: true }
    }

    /// An attempt that should not.
    pub fn closed(client: Client, to: IpAddr, kind: ProbeKind) -> Self {
        Probe { client, to, kind, expect_open: false }
    }

    /// Tries: up to [`PATIENCE`] where it should get through, [`DENY_WAIT`] where not.
    pub fn run(&self) -> Outcome {
        self.run_for(if self.expect_open { PATIENCE } else { DENY_WAIT })
    }

    /// Tries for at most `timeout`.
    pub fn run_for(&self, timeout: Duration) -> Outcome {
        match self.kind {
            ProbeKind::Tcp(port) => self.client.connect(self.to, port, timeout),
            ProbeKind::Udp(port) => self.client.udp(self.to, port, timeout),
            ProbeKind::Echo => self.client.ping(self.to, timeout),
        }
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {} {}", self.client.netns.name(), self.to, self.kind)
    }
}

impl fmt::Display for ProbeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProbeKind::Tcp(port) => write!(f, "TCP {port}"),
            ProbeKind::Udp(port) => write!(f, "UDP {port}"),
            ProbeKind::Echo => f.write_str("ICMP"),
        }
    }
}

/// Runs all probes at the same time; the outcomes are in their order.
pub fn probe_all(probes: &[Probe]) -> Vec<Outcome> {
    thread::scope(|scope| {
        let running: Vec<_> = probes.iter().map(|p| scope.spawn(|| p.run())).collect();
        let join = |r: thread::ScopedJoinHandle<'_, Outcome>| {
            r.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        running.into_iter().map(join).collect()
    })
}

/// Runs all probes at the same time and says which did not go as expected (nothing: all well).
pub fn unexpected(probes: &[Probe]) -> Vec<String> {
    let outcomes = probe_all(probes);
    let wrong = probes.iter().zip(outcomes).filter(|(probe, outcome)| outcome.is_open() != probe.expect_open);
    wrong
        .map(|(probe, outcome)| {
            format!("{probe}: expected {}, got {outcome}", if probe.expect_open { "open" } else { "closed" })
        })
        .collect()
}
