//! What one queue takes: UDP packets a second that are read, accepted and sent on, by each receiver in turn.
//!
//! Two pods on a routed host, podgate's own kernel program, one queue, a judge that accepts everything and remembers
//! nothing, a sender that sends as fast as it can. The sender and the kernel's work up to the queue share the machine
//! with the receiver, as they do on a node.
//!
//! `cargo run --release -p podgate-bench --bin queues [ROUNDS]` (root; 2 s of load a round, in its own namespaces)

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use podgate_bench::{machine, stats};
use podgate_netfilter::{
    Fate, Marks, MmsgQueue, NfqQueue, Program, ProgramSettings, Queue, QueueSettings, Received, Update, queue_stats,
};
use podgate_sandbox::{Host, HostOptions, Pod, PodOptions};

const NUMBER: u16 = 9840;
const PORT: u16 = 7000;
/// How long each receiver is under load, each round.
const LOAD: Duration = Duration::from_secs(1);

type Bind = fn() -> Result<Box<dyn Queue>>;

const RECEIVERS: [(&str, Bind); 2] = [
    ("mmsg", || Ok(Box::new(MmsgQueue::bind(&QueueSettings::new(NUMBER))?))),
    ("nfq", || Ok(Box::new(NfqQueue::bind(&QueueSettings::new(NUMBER))?))),
];

/// One receiver's second.
struct Second {
    /// Packets judged a second.
    judged: f64,
    /// The share of packets that found no room.
    lost: f64,
    /// Processor time of the receiver's thread a packet, in nanoseconds: reading, verdict, and sending the packet on.
    /// Steadier than the rate on a busy machine.
    time: f64,
}

fn main() -> Result<()> {
    let rounds = std::env::args().nth(1).map_or(Ok(15), |n| n.parse()).context("ROUNDS must be a number")?;
    let host = Host::new(HostOptions::numbered("bench", 1))?;
    let (client, server) = (host.pod(PodOptions::new("client"))?, host.pod(PodOptions::new("server"))?);
    host.netns().run(|| -> Result<()> {
        let settings = ProgramSettings { queues: NUMBER..=NUMBER, ..ProgramSettings::default() };
        let ranges = host.pod_ranges();
        Ok(Program::install(settings)?.replace(&Update { ranges: Some(ranges), ..Update::default() })?)
    })?;
    let mut seconds: [Vec<Second>; 2] = Default::default();
    for round in 0..rounds {
        // Who goes first alternates, so that a machine that tires or warms up favours nobody.
        for turn in 0..2 {
            let side = (round + turn) % 2;
            // In the host's namespace, on a thread of its own: its processor time is the receiver's.
            seconds[side].push(host.netns().run(|| measure(&client, &server, RECEIVERS[side].1))?);
        }
    }
    println!("{}", machine::describe());
    println!("{rounds} alternated pairs, {} s each side; medians", LOAD.as_secs());
    let all = |side: usize, of: fn(&Second) -> f64| seconds[side].iter().map(of).collect::<Vec<_>>();
    for (side, (name, _)) in RECEIVERS.iter().enumerate() {
        let median = |of: fn(&Second) -> f64| stats::median(&all(side, of));
        let (judged, lost, time) = (median(|s| s.judged), median(|s| s.lost), median(|s| s.time));
        println!("{name:>5}: {judged:8.0} packets judged/s, {:4.1} % lost, {time:6.0} ns a packet", lost * 100.0);
    }
    println!("packets judged/s, mmsg / nfq: {}", stats::ratio(&all(0, |s| s.judged), &all(1, |s| s.judged)));
    println!("time a packet,    mmsg / nfq: {}", stats::ratio(&all(0, |s| s.time), &all(1, |s| s.time)));
    Ok(())
}

/// Load from `client` to `server` for a while, answered by one receiver.
fn measure(client: &Pod, server: &Pod, bind: Bind) -> Result<Second> {
    let sink = server.netns().run(|| UdpSocket::bind((server.v4(), PORT)))?;
    let source = client.netns().run(|| UdpSocket::bind((client.v4(), 0)))?;
    source.connect((server.v4(), PORT))?;
    let mut queue = bind()?;
    let (stop, start) = (Arc::new(AtomicBool::new(false)), Arc::new(Barrier::new(2)));
    let sender = thread::spawn({
        let (stop, start) = (stop.clone(), start.clone());
        move || {
            start.wait();
            while !stop.load(Ordering::Relaxed) {
                // Refused while the socket's share of the queue is full: the next one may be taken.
                let _ = source.send(&[0; 64]);
            }
        }
    });
    let marks = Marks::default();
    let mut judged = 0u64;
    start.wait();
    let (begin, worked) = (Instant::now(), processor_time()?);
    while begin.elapsed() < LOAD {
        if let Received::Packets(_) = queue.receive(Some(LOAD))? {
            queue.answer(&mut |packet| {
                judged += 1;
                Fate::Accept { mark: marks.pass(packet.mark) }
            })?;
        }
    }
    let (took, worked) = (begin.elapsed(), processor_time()? - worked);
    let counts = queue_stats()?;
    stop.store(true, Ordering::Relaxed);
    let lost = counts.iter().find(|q| q.number == NUMBER).map_or(0, |q| q.queue_dropped + q.user_dropped);
    // The sender may wait for room that only verdicts make.
    drop(queue);
    sender.join().map_err(|_| anyhow::anyhow!("the sender panicked"))?;
    drop(sink);
    let judged = judged.max(1) as f64;
    let lost = lost as f64;
    Ok(Second { judged: judged / took.as_secs_f64(), lost: lost / (lost + judged), time: worked / judged })
}

/// Nanoseconds that this thread has run, from `/proc/thread-self/schedstat`.
fn processor_time() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    text.split(' ').next().and_then(|n| n.parse().ok()).context("schedstat has no running time")
}
