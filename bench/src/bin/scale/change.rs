//! How long a policy's change takes: from before its write request is sent to the first packet judged by it.
//!
//! A client pod sends datagrams to a server pod of the same node, each a flow of its own (so that nothing remembered
//! decides it), some four a millisecond, from shortly before a change until shortly after its effect. The changes go
//! round: a policy that isolates the server is created, changed to let the client in, changed back, deleted.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::socket::{MsgFlags, SockaddrIn, sendto};
use podgate_bench::rng::Rng;
use podgate_sandbox::{Packet, Pod, PodOptions};
use serde_json::{Value, json};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::runtime::Runtime;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::agent::Node;
use crate::api::Api;
use crate::load;

/// The namespace of the two pods.
const NAMESPACE: &str = "probe";
const POLICY: &str = "probe";
const PORT: u16 = 9000;
/// Between two datagrams; a sleep adds some 60 µs to it.
const PACE: Duration = Duration::from_micros(200);
/// From the first datagram to the request: the old verdict has to be seen.
const BEFORE: Duration = Duration::from_millis(5);
/// So long nothing may arrive for a deny to be taken for one, and so long it goes on after an accept.
const AFTER: Duration = Duration::from_millis(30);
/// So many datagrams must have been sent meanwhile, however busy the machine is.
const MISSED: u64 = 20;
/// How long a change may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Source ports are used in turn: none comes again before its flow is forgotten.
const SOURCES: std::ops::Range<u16> = 2_000..62_000;

/// The round of changes, and what each makes of the client's datagrams.
const ROUND: [(&str, bool); 4] =
    [("created: deny", false), ("changed: allow", true), ("changed: deny", false), ("deleted: allow", true)];

/// The two pods, and their traffic.
pub(crate) struct Probe {
    _pods: [Pod; 2],
    wire: Wire,
    arrived: Receiver<(u64, Instant)>,
    sequence: u64,
    events: UnboundedReceiver<Instant>,
}

/// One change.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Change {
    /// Which of the round.
    pub(crate) kind: &'static str,
    /// From before the request was sent to the first datagram judged by it: when the first allowed one arrived, when the
    /// one after the last that passed was sent.
    pub(crate) judged: Duration,
    /// To the API server's answer.
    pub(crate) answered: Duration,
    /// To the event on a watch of ours.
    pub(crate) watched: Duration,
    /// Datagrams that were denied after one that was allowed, or before the last that was: another worker's, or lost.
    pub(crate) stragglers: usize,
}

impl Probe {
    /// Makes the pods on the node and in the API server. The agent knows them soon after.
    pub(crate) fn new(node: &Node, api: &Api, runtime: &Runtime) -> Result<Self> {
        let pod = |name: &str, last: u8| {
            let address = Ipv4Addr::from(u32::from(crate::world::pod_range(0)) + u32::from(last));
            node.host.pod(PodOptions::new(&format!("{NAMESPACE}/{name}")).label("app", name).address(address))
        };
        let (client, server) = (pod("client", 250)?, pod("server", 251)?);
        let events = runtime.block_on(async {
            let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
            load::namespace(api, NAMESPACE, &object).await?;
            for pod in [&client, &server] {
                create(api, node, pod).await?;
            }
            api.arrivals(&load::policies(NAMESPACE)).await
        })?;
        let sink = server.netns().run(|| UdpSocket::bind(("0.0.0.0", PORT)))?;
        let (arrival, arrived) = mpsc::channel();
        std::thread::Builder::new().name("arrivals".to_owned()).spawn(move || {
            let mut data = [0; 64];
            while let Ok(length) = sink.recv(&mut data) {
                let now = Instant::now();
                let Ok(number) = data[..length].try_into().map(u64::from_be_bytes) else { continue };
                if arrival.send((number, now)).is_err() {
                    return;
                }
            }
        })?;
        let wire = Wire::new(&client, &server)?;
        Ok(Probe { _pods: [client, server], wire, arrived, sequence: 0, events })
    }

    /// Makes so many changes and times them. Ends with the policy deleted.
    pub(crate) fn run(&mut self, api: &Api, runtime: &Runtime, changes: usize) -> Result<Vec<Change>> {
        let mut rng = Rng::new(changes as u64);
        self.await_open()?;
        let mut all = Vec::new();
        for at in 0..changes.next_multiple_of(ROUND.len()) {
            // Changes come at any time of whatever goes on periodically.
            std::thread::sleep(Duration::from_millis(40 + rng.below(60) as u64));
            let (kind, allow) = ROUND[at % ROUND.len()];
            all.push(self.change(api, runtime, at, kind, allow).with_context(|| format!("change {at} ({kind})"))?);
        }
        Ok(all)
    }

    /// The client reaches the server: the agent knows that both are pods that nothing isolates.
    fn await_open(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.wire.send(self.sequence)?;
            self.sequence += 1;
            match self.arrived.recv_timeout(Duration::from_millis(20)) {
                Ok(_) => return Ok(()),
                Err(_) => ensure!(Instant::now() < deadline, "the client does not reach the server without a policy"),
            }
        }
    }

    fn change(&mut self, api: &Api, runtime: &Runtime, at: usize, kind: &'static str, allow: bool) -> Result<Change> {
        while self.arrived.try_recv().is_ok() {}
        while self.events.try_recv().is_ok() {}
        let first = self.sequence;
        let traffic = Traffic { wire: &self.wire, first, sent: AtomicU64::new(0), stop: AtomicBool::new(false) };
        let (sent, (begin, answered, arrivals)) = std::thread::scope(|scope| {
            let sender = scope.spawn(|| traffic.send());
            let outcome = (|| {
                std::thread::sleep(BEFORE);
                let begin = Instant::now();
                runtime.block_on(request(api, at))?;
                let answered = begin.elapsed();
                Ok::<_, anyhow::Error>((begin, answered, await_verdict(&self.arrived, &traffic, begin, allow)?))
            })();
            traffic.stop.store(true, Ordering::Release);
            let sent = sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            Ok::<_, anyhow::Error>((sent?, outcome?))
        })?;
        self.sequence = first + sent.len() as u64;
        let mut arrived = vec![None; sent.len()];
        arrivals.into_iter().chain(self.arrived.try_iter()).for_each(|(number, when)| {
            if let Some(slot) = number.checked_sub(first).and_then(|n| arrived.get_mut(n as usize)) {
                *slot = Some(when);
            }
        });
        // A denied one may have been lost before the change: the first judged anew is the one after the last that passed.
        let new = match allow {
            true => arrived.iter().position(Option::is_some),
            false => Some(arrived.iter().rposition(Option::is_some).map_or(0, |last| last + 1)),
        };
        let new = new.filter(|new| *new < sent.len()).context("no datagram met the change")?;
        // One that was sent before the request can have been judged after it: threads are not always run at once.
        let judged = arrived[new].unwrap_or(sent[new].max(begin));
        ensure!(judged >= begin, "a datagram passed before it was allowed");
        let stragglers = match allow {
            // The last few may be on their way still.
            true => arrived[new..sent.len().saturating_sub(8).max(new)].iter().filter(|a| a.is_none()).count(),
            false => arrived[..new].iter().filter(|a| a.is_none()).count(),
        };
        let watched = self.events.try_recv().map_or(Duration::ZERO, |when| when.saturating_duration_since(begin));
        Ok(Change { kind, judged: judged - begin, answered, watched, stragglers })
    }
}

/// Collects what arrives until the verdict is clear, and a little longer.
fn await_verdict(
    arrived: &Receiver<(u64, Instant)>,
    traffic: &Traffic<'_>,
    begin: Instant,
    allow: bool,
) -> Result<Vec<(u64, Instant)>> {
    let mut all = Vec::new();
    let mut next = traffic.first;
    let deadline = begin + PATIENCE;
    loop {
        match arrived.recv_timeout(AFTER) {
            Ok(arrival) => {
                next = next.max(arrival.0 + 1);
                all.push(arrival);
            }
            Err(RecvTimeoutError::Timeout) => {
                let sent = traffic.first + traffic.sent.load(Ordering::Acquire);
                if !allow && sent >= next + MISSED {
                    return Ok(all);
                }
            }
            Err(RecvTimeoutError::Disconnected) => bail!("nobody listens any more"),
        }
        let first = all.iter().map(|(_, when)| *when).find(|when| *when >= begin);
        if allow && first.is_some_and(|first| first.elapsed() >= AFTER) {
            return Ok(all);
        }
        ensure!(Instant::now() < deadline, "the change is without effect after {} s", PATIENCE.as_secs());
    }
}

/// The `at`-th request of the round.
async fn request(api: &Api, at: usize) -> Result<()> {
    let all = load::policies(NAMESPACE);
    let one = format!("{all}/{POLICY}");
    let client = json!([{"from": [{"podSelector": {"matchLabels": {"app": "client"}}}], "ports": [{"protocol": "UDP", "port": PORT}]}]);
    match at % ROUND.len() {
        0 => api.create(&all, &policy()).await,
        1 => api.patch(&one, &json!({"spec": {"ingress": client}})).await,
        2 => api.patch(&one, &json!({"spec": {"ingress": []}})).await,
        _ => api.delete(&one).await,
    }
}

fn policy() -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": POLICY, "namespace": NAMESPACE},
        "spec": {"podSelector": {"matchLabels": {"app": "server"}}, "policyTypes": ["Ingress"]},
    })
}

async fn create(api: &Api, node: &Node, pod: &Pod) -> Result<()> {
    let options = pod.options();
    let (name, ip, host) = (&options.name, pod.v4().to_string(), crate::world::node_address(0).to_string());
    let object = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": NAMESPACE, "labels": options.labels},
        "spec": {"nodeName": node.host.name(), "containers": [{"name": "main", "image": "none"}]},
    });
    let all = load::pods(NAMESPACE);
    api.create(&all, &object).await?;
    let status =
        json!({"phase": "Running", "hostIP": host, "hostIPs": [{"ip": host}], "podIP": ip, "podIPs": [{"ip": ip}]});
    api.patch(&format!("{all}/{name}/status"), &json!({"status": status})).await
}

/// Where datagrams come from and go to.
struct Wire {
    socket: Socket,
    from: IpAddr,
    to: Ipv4Addr,
}

impl Wire {
    fn new(client: &Pod, server: &Pod) -> Result<Self> {
        let IpAddr::V4(to) = server.v4() else { bail!("the server has no IPv4 address") };
        let socket = client.netns().run(|| Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))))?;
        socket.set_header_included_v4(true).context("a raw socket that takes whole packets")?;
        Ok(Wire { socket, from: client.v4(), to })
    }

    fn send(&self, number: u64) -> Result<()> {
        let source = SOURCES.start + (number % SOURCES.len() as u64) as u16;
        let (from, to) = (SocketAddr::new(self.from, source), SocketAddr::new(self.to.into(), PORT));
        let bytes = Packet::udp(from, to, &number.to_be_bytes()).bytes();
        let to = SockaddrIn::from(SocketAddrV4::new(self.to, 0));
        sendto(self.socket.as_raw_fd(), &bytes, &to, MsgFlags::empty())?;
        Ok(())
    }
}

/// The datagrams of one change.
struct Traffic<'a> {
    wire: &'a Wire,
    first: u64,
    /// How many were sent.
    sent: AtomicU64,
    stop: AtomicBool,
}

impl Traffic<'_> {
    /// Sends until told to stop; gives when each was sent.
    fn send(&self) -> Result<Vec<Instant>> {
        let mut sent = Vec::with_capacity(4096);
        while !self.stop.load(Ordering::Acquire) {
            sent.push(Instant::now());
            self.wire.send(self.first + sent.len() as u64 - 1)?;
            self.sent.store(sent.len() as u64, Ordering::Release);
            std::thread::sleep(PACE);
        }
        Ok(sent)
    }
}
