//! [`Side`]: a node with a client and a server, and what judges the packets between them.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use podgate_sandbox::{DENY_WAIT, Host, Outcome, Pod, PodOptions};

use crate::accept::AcceptAll;
use crate::agent::Podgate;
use crate::kernel;
use crate::kinds::{Build, Kind};
use crate::load::flood::{self, Flood};
use crate::load::{connections, datagrams, established};
use crate::manifests::{self, BULK, FORBIDDEN, TCP};
use crate::tracking;

/// How long packets may wait for a verdict.
const PATIENCE: Duration = Duration::from_secs(10);
/// Conntrack entries that may be left from before: of what happens meanwhile.
const LEFT: u64 = 500;
/// A short measurement, to see that a side is what it says.
const GLANCE: Duration = Duration::from_millis(200);

/// Where things are.
pub(crate) struct Places {
    /// The podgate that is measured.
    pub(crate) podgate: PathBuf,
    /// The one that it is compared with.
    pub(crate) other: Option<PathBuf>,
    /// For manifests; its contents are nobody else's.
    pub(crate) scratch: PathBuf,
}

/// A node that takes part.
pub(crate) struct Side {
    pub(crate) kind: Kind,
    pub(crate) client: Pod,
    pub(crate) server: Pod,
    /// A pod that no policy selects.
    pub(crate) flooder: Pod,
    host: Host,
    judge: Judge,
    _sink: Vec<UdpSocket>,
}

/// What judges.
enum Judge {
    Kernel,
    Accept(Box<AcceptAll>),
    Podgate(Podgate),
}

impl Side {
    /// Sets a side up, and makes sure that it is what it says.
    pub(crate) fn start(kind: Kind, places: &Places) -> Result<Self> {
        let host = Host::single("bench")?;
        let client = host.pod(PodOptions::new("bench/client").label("app", "client"))?;
        let server = host.pod(PodOptions::new("bench/server").label("app", "server"))?;
        let flooder = host.pod(PodOptions::new("bench/flooder").label("app", "flooder"))?;
        flood::reach_sources(&host, &flooder)?;
        connections::serve(server.netns(), TCP)?;
        connections::serve(server.netns(), FORBIDDEN)?;
        established::swallow(server.netns(), BULK)?;
        let sink = datagrams::sink(server.netns())?;
        let judge = match kind {
            Kind::NoPolicy => kernel::track(host.netns()).map(|()| Judge::Kernel)?,
            Kind::KernelRule => kernel::drop_forbidden(host.netns(), server.v4()).map(|()| Judge::Kernel)?,
            Kind::KernelSet => kernel::set(host.netns(), client.v4(), server.v4()).map(|()| Judge::Kernel)?,
            Kind::Accept(acceptor) => Judge::Accept(Box::new(AcceptAll::start(&host, acceptor)?)),
            Kind::Podgate(agent) => {
                let directory = tempfile::tempdir_in(&places.scratch)?;
                manifests::write(directory.path(), &host, &[&client, &server, &flooder], agent.size)?;
                let binary = match agent.build {
                    Build::This => &places.podgate,
                    Build::Other => places.other.as_ref().context("there is no other build")?,
                };
                // They stay until the run ends, as the agent follows them.
                Judge::Podgate(Podgate::start(&host, binary, &directory.keep(), agent)?)
            }
        };
        let side = Side { kind, client, server, flooder, host, judge, _sink: sink };
        side.check()?;
        side.forget()?;
        Ok(side)
    }

    /// Where connections go.
    pub(crate) fn server_address(&self) -> SocketAddr {
        SocketAddr::new(self.server.v4(), TCP)
    }

    /// Packets that were given a verdict in user space so far.
    pub(crate) fn judged(&self) -> Result<u64> {
        match &self.judge {
            Judge::Kernel => Ok(0),
            Judge::Accept(accept) => Ok(accept.judged()),
            Judge::Podgate(podgate) => podgate.judged(),
        }
    }

    /// Processor time of what judges in user space so far, in nanoseconds: that of all its threads, with what the
    /// kernel does on their behalf (a packet that is accepted goes on its way in the thread that says so).
    pub(crate) fn worked(&self) -> Result<u64> {
        match &self.judge {
            Judge::Kernel => Ok(0),
            Judge::Accept(accept) => {
                accept.tasks().iter().map(|task| running(Path::new(&format!("/proc/self/task/{task}")))).sum()
            }
            Judge::Podgate(podgate) => {
                let tasks = fs::read_dir(format!("/proc/{}/task", podgate.id())).context("podgate has ended")?;
                tasks.flatten().map(|task| running(&task.path())).sum()
            }
        }
    }

    /// The revision of the podgate here, where there is one.
    pub(crate) fn revision(&self) -> Option<String> {
        match &self.judge {
            Judge::Podgate(podgate) => podgate.revision().ok(),
            _ => None,
        }
    }

    /// Conntrack's entries on this side go, and with them what is known about connections. Those of packets that wait for
    /// a verdict go with these: that is waited for.
    pub(crate) fn forget(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            tracking::forget(self.host.netns()).context("emptying conntrack's table")?;
            let left = self.host.netns().read_sysctl("net.netfilter.nf_conntrack_count")?;
            let count: u64 = left.parse().with_context(|| format!("conntrack has {left} entries"))?;
            if count < LEFT {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "conntrack still has {count} entries");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// A connection must come about, and be judged where something judges; a forbidden one must not, and a flood must
    /// arrive where nothing is forbidden, and only there.
    fn check(&self) -> Result<()> {
        // What is in a cache after the first is not in it before.
        connections::run(self.client.netns(), self.server_address(), 1, GLANCE)?;
        let before = self.judged()?;
        let made = connections::run(self.client.netns(), self.server_address(), 1, GLANCE)?;
        ensure!(made.failed == 0 && made.made > 0, "{} of {} connections failed", made.failed, made.failed + made.made);
        let judged = self.judged()? - before;
        // The last batch may not be counted yet; and what is remembered may be forgotten once in a while.
        let right = if self.kind.asks() { judged > 0 && judged + 64 >= made.made } else { judged * 2 < made.made };
        ensure!(right, "{judged} packets were judged for {} connections", made.made);
        established::exchanges(self.client.netns(), self.server_address(), 1, GLANCE / 10)?;

        let forbidden = self.client.client().connect(self.server.v4(), FORBIDDEN, DENY_WAIT);
        let expected = if self.kind.enforces() { Outcome::Timeout } else { Outcome::Open };
        ensure!(forbidden == expected, "a connection to a forbidden port is {forbidden}, expected: {expected}");
        for kind in [flood::Kind::Udp, flood::Kind::Syn] {
            let before = flood::arrived(self.server.netns())?;
            let flood = Flood::start(kind, &self.flooder, self.server.v4())?;
            std::thread::sleep(GLANCE / 10);
            let sent = flood.end()?;
            // What waits for a verdict may still arrive.
            self.forget()?;
            let deadline = Instant::now() + PATIENCE;
            let arrived = loop {
                let arrived = flood::arrived(self.server.netns())? - before;
                if arrived > 0 || self.kind.enforces() || Instant::now() > deadline {
                    break arrived;
                }
                std::thread::sleep(Duration::from_millis(5));
            };
            ensure!(
                (arrived == 0) == self.kind.enforces(),
                "of a flood of {sent} packets ({kind:?}) {arrived} arrived"
            );
        }
        Ok(())
    }
}

/// How long a task has run, in nanoseconds (proc(5): schedstat). A thread that ends meanwhile counts as nothing.
fn running(task: &Path) -> Result<u64> {
    let Ok(text) = fs::read_to_string(task.join("schedstat")) else { return Ok(0) };
    text.split(' ').next().and_then(|n| n.parse().ok()).context("schedstat has no running time")
}
