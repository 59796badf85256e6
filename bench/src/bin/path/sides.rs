//! [`Side`]: a node with a client and a server, and what judges the packets between them.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use podgate_netfilter::queue::Waker;
use podgate_netfilter::{
    Fate, Marks, MmsgQueue, NfqQueue, Packet, Program, ProgramSettings, Queue, QueueSettings, Received, Update, Way,
};
use podgate_sandbox::{DENY_WAIT, Host, Netns, Outcome, Pod, PodOptions, Process, mortal};

use crate::manifests::{self, FORBIDDEN, Size, TCP};
use crate::{connections, datagrams};

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Connection tracking, and nothing else.
    NoPolicy,
    /// podgate's kernel program and receiver, with an engine that says yes.
    AcceptMmsg,
    /// The same with the `nfq` crate as receiver.
    AcceptNfq,
    /// The agent with this world.
    Podgate(Size),
}

/// The first queue; every side has a network namespace, and so queues, of its own.
const QUEUE: u16 = 100;
/// `NF_INET_LOCAL_IN` (linux/netfilter.h).
const LOCAL_IN: u8 = 1;
/// How long an agent may take to be ready.
const PATIENCE: Duration = Duration::from_secs(30);
/// Conntrack entries that may be left from before when packets are measured.
const LEFT: u64 = 20_000;
const HTTP: &str = "127.0.0.1:9840";

impl Kind {
    /// All, in the order of the report.
    pub(crate) const ALL: [Kind; 5] = [
        Kind::NoPolicy,
        Kind::AcceptMmsg,
        Kind::AcceptNfq,
        Kind::Podgate(Size { policies: 2, pods: 2 }),
        Kind::Podgate(Size { policies: 500, pods: 5_000 }),
    ];

    /// As the report says it.
    pub(crate) fn title(self) -> String {
        match self {
            Kind::NoPolicy => "no policy (conntrack on)".to_owned(),
            Kind::AcceptMmsg => "accept everything, recvmmsg".to_owned(),
            Kind::AcceptNfq => "accept everything, nfq crate".to_owned(),
            Kind::Podgate(size) => format!("podgate, {} policies, {} pods", size.policies, size.pods),
        }
    }
}

/// A node that takes part.
pub(crate) struct Side {
    pub(crate) kind: Kind,
    pub(crate) client: Pod,
    pub(crate) server: Pod,
    host: Host,
    judge: Judge,
    _sink: Vec<UdpSocket>,
}

/// What judges.
enum Judge {
    Nobody,
    Accept(Box<AcceptAll>),
    Podgate { _process: Process, _directory: tempfile::TempDir },
}

impl Side {
    /// Sets a side up, and makes sure that it is what it says.
    pub(crate) fn start(kind: Kind, queues: u16, podgate: &Path) -> Result<Self> {
        let host = Host::single("bench")?;
        let client = host.pod(PodOptions::new("bench/client").label("app", "client"))?;
        let server = host.pod(PodOptions::new("bench/server").label("app", "server"))?;
        connections::serve(server.netns(), TCP)?;
        connections::serve(server.netns(), FORBIDDEN)?;
        let sink = datagrams::sink(server.netns())?;
        // Entries of a measurement are gone before the next of the same side.
        host.netns().sysctl("net.netfilter.nf_conntrack_udp_timeout", "1")?;
        let judge = match kind {
            Kind::NoPolicy => track(host.netns()).map(|()| Judge::Nobody)?,
            Kind::AcceptMmsg => Judge::Accept(Box::new(AcceptAll::start(&host, queues, bind_mmsg)?)),
            Kind::AcceptNfq => Judge::Accept(Box::new(AcceptAll::start(&host, queues, bind_nfq)?)),
            Kind::Podgate(size) => {
                let directory = tempfile::tempdir()?;
                manifests::write(directory.path(), &host, [&client, &server], size)?;
                let process = start_podgate(&host, podgate, directory.path(), queues)?;
                Judge::Podgate { _process: process, _directory: directory }
            }
        };
        let side = Side { kind, client, server, host, judge, _sink: sink };
        side.check()?;
        Ok(side)
    }

    /// Where connections go.
    pub(crate) fn server_address(&self) -> SocketAddr {
        SocketAddr::new(self.server.v4(), TCP)
    }

    /// Packets that were given a verdict in user space so far.
    pub(crate) fn judged(&self) -> Result<u64> {
        match &self.judge {
            Judge::Nobody => Ok(0),
            Judge::Accept(accept) => Ok(accept.judged.load(Ordering::Relaxed)),
            Judge::Podgate { .. } => {
                let text = get(self.host.netns(), "/metrics")?;
                let samples = text.lines().filter(|l| l.starts_with("podgate_packets_total{"));
                Ok(samples.filter_map(|l| l.rsplit_once(' ')?.1.parse::<u64>().ok()).sum())
            }
        }
    }

    /// Waits until conntrack has dropped the entries of the measurement before: in a full table, and where flows are
    /// known already, something else would be measured.
    pub(crate) fn await_room(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let count: u64 = self.host.netns().read_sysctl("net.netfilter.nf_conntrack_count")?.parse()?;
            if count < LEFT {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "conntrack still has {count} entries");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// A connection must come about, and be judged where something judges; a forbidden one must not.
    fn check(&self) -> Result<()> {
        let before = self.judged()?;
        let made = connections::run(self.client.netns(), self.server_address(), 1, Duration::from_millis(200))?;
        ensure!(made.failed == 0 && made.made > 0, "{} of {} connections failed", made.failed, made.failed + made.made);
        let judged = self.judged()? - before;
        let expected = !matches!(self.kind, Kind::NoPolicy);
        // The last batch may not be counted yet.
        let enough = judged + 64 >= made.made && judged > 0;
        ensure!(enough == expected, "{judged} packets were judged for {} connections", made.made);
        let forbidden = self.client.client().connect(self.server.v4(), FORBIDDEN, DENY_WAIT);
        let expected = if matches!(self.kind, Kind::Podgate(_)) { Outcome::Timeout } else { Outcome::Open };
        ensure!(forbidden == expected, "a connection to a forbidden port is {forbidden}, expected: {expected}");
        Ok(())
    }
}

/// Turns connection tracking on: it is on in a namespace as soon as a rule asks for it.
fn track(netns: &Netns) -> Result<()> {
    let mut nft = mortal("nft");
    nft.arg(
        "add table inet bench; \
         add chain inet bench watch { type filter hook postrouting priority 98; }; \
         add rule inet bench watch ct state invalid counter",
    );
    let ended = netns.spawn(nft)?.wait(PATIENCE);
    ensure!(ended.is_some_and(|s| s.success()), "nft failed (Debian: apt-get install nftables): {ended:?}");
    Ok(())
}

fn start_podgate(host: &Host, podgate: &Path, manifests: &Path, queues: u16) -> Result<Process> {
    let mut command = mortal(podgate);
    command.args(["run", "--on-exit", "remove", "--log", "warn", "--http", HTTP, "--node", host.name()]);
    command.arg("--manifests").arg(manifests).arg("--queues").arg(queues.to_string());
    command.env("PODGATE_SOCKET", "off").stdin(Stdio::null()).stdout(Stdio::null());
    let process = host.netns().spawn(command)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        // The request waits for the generation by itself, once somebody listens.
        match get(host.netns(), "/readyz?generation=1") {
            Ok(_) => return Ok(process),
            Err(error) if !process.is_running() || Instant::now() > deadline => {
                return Err(error).context("podgate is not ready");
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn get(netns: &Netns, path: &str) -> Result<String> {
    let address: SocketAddr = HTTP.parse()?;
    match netns.client().get(address.ip(), address.port(), path, PATIENCE) {
        Ok((200, body)) => Ok(body),
        Ok((status, body)) => bail!("{path}: {status}: {body}"),
        Err(outcome) => bail!("{path}: {outcome}"),
    }
}

/// Threads that accept everything.
struct AcceptAll {
    judged: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    threads: Vec<(Waker, JoinHandle<()>)>,
    _program: Program,
}

type Bind = fn(&QueueSettings) -> Result<Box<dyn Queue>>;

fn bind_mmsg(settings: &QueueSettings) -> Result<Box<dyn Queue>> {
    Ok(Box::new(MmsgQueue::bind(settings)?))
}

fn bind_nfq(settings: &QueueSettings) -> Result<Box<dyn Queue>> {
    Ok(Box::new(NfqQueue::bind(settings)?))
}

impl AcceptAll {
    fn start(host: &Host, queues: u16, bind: Bind) -> Result<Self> {
        let numbers = QUEUE..=QUEUE + queues - 1;
        let settings = ProgramSettings { queues: numbers.clone(), ..ProgramSettings::default() };
        let marks = settings.marks;
        let (program, bound) = host.netns().run(|| -> Result<_> {
            let bound = numbers.map(|number| bind(&QueueSettings::new(number))).collect::<Result<Vec<_>>>()?;
            let mut program = Program::install(settings)?;
            program.replace(&Update { ranges: Some(host.pod_ranges()), ..Update::default() })?;
            Ok((program, bound))
        })?;
        let (judged, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let start = |queue: Box<dyn Queue>| {
            let (waker, judged, stop) = (queue.waker(), judged.clone(), stop.clone());
            let work = move || accept(queue, marks, &judged, &stop);
            Ok((waker, std::thread::Builder::new().name("accept".to_owned()).spawn(work)?))
        };
        let threads = bound.into_iter().map(start).collect::<Result<_>>()?;
        Ok(AcceptAll { judged, stop, threads, _program: program })
    }
}

impl Drop for AcceptAll {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        for (waker, thread) in self.threads.drain(..) {
            waker.wake();
            // A panic has been told already.
            let _ = thread.join();
        }
    }
}

/// Answers every packet with accept, and asks the kernel to remember what podgate would.
fn accept(mut queue: Box<dyn Queue>, marks: Marks, judged: &AtomicU64, stop: &AtomicBool) {
    let mut fate = |packet: &Packet<'_>| {
        let remember = marks.way(packet.mark) == Some(Way::Original) && packet.hook != LOCAL_IN;
        Fate::Accept { mark: if remember { marks.remember(packet.mark) } else { marks.pass(packet.mark) } }
    };
    while !stop.load(Ordering::Acquire) {
        let received = queue.receive(None);
        let answered = received.and_then(|received| match received {
            Received::Packets(count) => queue.answer(&mut fate).map(|()| count as u64),
            Received::Woken | Received::TimedOut => Ok(0),
        });
        match answered {
            Ok(count) => judged.store(judged.load(Ordering::Relaxed) + count, Ordering::Relaxed),
            Err(error) => panic!("the queue failed: {error}"),
        }
    }
}
