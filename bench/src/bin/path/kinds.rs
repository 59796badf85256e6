//! [`Kind`]: what can be compared. Not here: what is compared in a run (`plan`), and how it is set up (`sides`).

use std::fmt;

use crate::manifests::Size;

/// What judges on a side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Connection tracking, and nothing else.
    NoPolicy,
    /// Connection tracking, and one rule of the kernel that drops what goes to a closed port.
    KernelRule,
    /// A kernel set that knows what is allowed: what a hit in podgate's cache costs at least.
    KernelSet,
    /// podgate's kernel program and receiver, with an engine that says yes.
    Accept(Acceptor),
    /// The agent.
    Podgate(Agent),
}

/// An engine that says yes to everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Acceptor {
    pub(crate) receiver: Receiver,
    pub(crate) queues: u16,
    /// Each worker stays on a core of its own.
    pub(crate) pinned: bool,
    /// Packets that may wait in a queue; `None`: the default.
    pub(crate) length: Option<u32>,
    /// Bytes of socket buffer; `None`: the default.
    pub(crate) buffer: Option<usize>,
}

/// How packets are received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Receiver {
    /// recvmmsg, verdicts in batches.
    Mmsg,
    /// The `nfq` crate.
    Nfq,
}

/// An agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Agent {
    pub(crate) build: Build,
    pub(crate) size: Size,
    pub(crate) queues: u16,
    pub(crate) cached: bool,
}

/// Which build of podgate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Build {
    /// The one that is measured.
    This,
    /// The one that it is compared with.
    Other,
}

impl Acceptor {
    /// With one's receiver, and defaults.
    pub(crate) fn new(receiver: Receiver, queues: u16) -> Self {
        Acceptor { receiver, queues, pinned: false, length: None, buffer: None }
    }
}

impl Kind {
    /// Whether a forbidden connection is forbidden here.
    pub(crate) fn enforces(self) -> bool {
        !matches!(self, Kind::NoPolicy | Kind::Accept(_))
    }

    /// Whether each new connection is judged in user space.
    pub(crate) fn asks(self) -> bool {
        matches!(self, Kind::Accept(_) | Kind::Podgate(Agent { cached: false, .. }))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::NoPolicy => f.write_str("no policy (conntrack on)"),
            Kind::KernelRule => f.write_str("no policy, one kernel rule that drops"),
            Kind::KernelSet => f.write_str("kernel set"),
            Kind::Accept(acceptor) => write!(f, "accept everything, {acceptor}"),
            Kind::Podgate(agent) => write!(f, "podgate, {agent}"),
        }
    }
}

impl fmt::Display for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.receiver {
            Receiver::Mmsg => "recvmmsg",
            Receiver::Nfq => "nfq crate",
        })?;
        if self.queues > 1 {
            write!(f, ", {} queues", self.queues)?;
        }
        if self.pinned {
            f.write_str(", pinned")?;
        }
        if let Some(length) = self.length {
            write!(f, ", length {length}")?;
        }
        if let Some(buffer) = self.buffer {
            write!(f, ", buffer {} KiB", buffer >> 10)?;
        }
        Ok(())
    }
}

impl fmt::Display for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.build == Build::Other {
            f.write_str("other revision, ")?;
        }
        let cached = if self.cached { "cached" } else { "uncached" };
        write!(f, "{cached}, {} policies", self.size.policies)?;
        if self.queues > 1 {
            write!(f, ", {} queues", self.queues)?;
        }
        Ok(())
    }
}
