//! [`Revoker`]: judges established connections again, in a thread of its own: a look through 100,000 of them takes some
//! 100 ms, and the control loop has more urgent things to do.
//!
//! Until it has looked, the addresses that a change touched are rechecked in the kernel
//! ([`Kernel::tighten`](super::kernel::Kernel::tighten)): what is forbidden is cut already. So a look can wait for the
//! changes that come next, and where pods never stop changing this takes a tenth of a core, not all that there is.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use podgate_engine::{Addr, Flow, NodeOrigin, Port, Snapshot, Verdict, protocol};
use podgate_netfilter::conntrack::{self, Revoked, Tracked};
use podgate_netfilter::{Error, Marks, Orientation};
use tokio::sync::mpsc::Sender;

use super::inputs::Input;

/// After a look there is none for so many times as long as it took, unless it is urgent.
const REST: u32 = 9;
/// Nor is there for longer: meanwhile packets of connections that a change touched are judged one by one.
const LONGEST_REST: Duration = Duration::from_secs(1);

/// Who judges connections again. Its thread ends when this is dropped.
pub(crate) struct Revoker {
    jobs: mpsc::Sender<Job>,
    asked: Asked,
}

/// How often a look was asked for, up to some moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Asked(u64);

/// A snapshot that is in use by every worker, and the number of the change that it is of.
struct Job {
    snapshot: Arc<Snapshot>,
    number: u64,
    asked: Asked,
    urgent: bool,
}

/// What came of a look.
#[derive(Debug)]
pub(crate) struct Judged {
    /// The newest change that it knew of.
    pub(crate) number: u64,
    /// It began after whatever had been asked for until then.
    pub(crate) asked: Asked,
    pub(crate) result: Result<Revoked, Error>,
}

impl Revoker {
    /// Starts the thread; what comes of each look goes to `inputs`.
    pub(crate) fn start(marks: Marks, inputs: Sender<Input>) -> io::Result<Self> {
        let (jobs, waiting) = mpsc::channel();
        let work = move || work(marks, &waiting, &inputs);
        std::thread::Builder::new().name("revoker".to_owned()).spawn(work)?;
        Ok(Self::new(jobs))
    }

    fn new(jobs: mpsc::Sender<Job>) -> Self {
        Self { jobs, asked: Asked(0) }
    }

    /// Takes our label off each connection that this snapshot would not accept: its next packet comes up. One look is
    /// under way at a time; what is asked meanwhile is one more. `urgent`: nothing else keeps back what is forbidden.
    pub(crate) fn judge_again(&mut self, snapshot: Arc<Snapshot>, number: u64, urgent: bool) {
        self.asked.0 += 1;
        // Without its thread the process is ending.
        let _ = self.jobs.send(Job { snapshot, number, asked: self.asked, urgent });
    }

    /// How often a look was asked for by now.
    pub(crate) fn asked(&self) -> Asked {
        self.asked
    }
}

fn work(marks: Marks, jobs: &Receiver<Job>, inputs: &Sender<Input>) {
    let mut rested = Instant::now();
    while let Some(job) = next(jobs, rested) {
        let begin = Instant::now();
        let result = conntrack::revoke(&marks, &mut |tracked| is_accepted(&job.snapshot, tracked));
        rested = Instant::now() + (begin.elapsed() * REST).min(LONGEST_REST);
        if inputs.blocking_send(Input::Judged(Judged { number: job.number, asked: job.asked, result })).is_err() {
            return;
        }
    }
}

/// The newest of all that is asked until there has been enough rest, or something is urgent. None: nobody asks any more.
fn next(jobs: &Receiver<Job>, rested: Instant) -> Option<Job> {
    let mut job = jobs.recv().ok()?;
    loop {
        let rest = if job.urgent { Duration::ZERO } else { rested.saturating_duration_since(Instant::now()) };
        match jobs.recv_timeout(rest) {
            Ok(newer) => job = Job { urgent: job.urgent || newer.urgent, ..newer },
            Err(RecvTimeoutError::Timeout) => return Some(job),
            Err(RecvTimeoutError::Disconnected) => return None,
        }
    }
}

/// Whether the connection is still permitted the way round, or both, that it was accepted.
fn is_accepted(snapshot: &Snapshot, tracked: &Tracked) -> bool {
    let port = |port: Option<u16>| match port {
        Some(port) => Port::Number(port),
        None if protocol::has_ports(tracked.protocol) => Port::Unknown,
        None => Port::None,
    };
    let [source, destination] = [tracked.source, tracked.destination].map(Addr::from);
    let flow = Flow { source, destination, protocol: tracked.protocol, port: port(tracked.port) };
    let turned = || Flow { source: destination, destination: source, port: port(tracked.source_port), ..flow };
    let permitted = |flow: &Flow, origin| snapshot.judge(flow, origin).verdict() == Verdict::Accept;
    match tracked.orientation {
        Orientation::AsMet => permitted(&flow, NodeOrigin::Forged),
        Orientation::Turned => permitted(&turned(), NodeOrigin::Address),
        Orientation::Both => permitted(&flow, NodeOrigin::Forged) && permitted(&turned(), NodeOrigin::Address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A revoker without its thread, and what it is asked.
    fn revoker() -> (Revoker, Receiver<Job>) {
        let (jobs, waiting) = mpsc::channel();
        (Revoker::new(jobs), waiting)
    }

    fn ask(revoker: &mut Revoker, number: u64, urgent: bool) {
        revoker.judge_again(Arc::new(Snapshot::empty()), number, urgent);
    }

    #[test]
    fn what_is_asked_meanwhile_is_one_look_by_the_newest() {
        let (mut revoker, jobs) = revoker();
        (1..=3).for_each(|number| ask(&mut revoker, number, false));
        let look = next(&jobs, Instant::now()).unwrap();
        assert_eq!((look.number, look.asked), (3, revoker.asked()));
        assert!(jobs.try_recv().is_err());
        // What is asked for after it began is not seen by it.
        ask(&mut revoker, 4, true);
        assert!(look.asked < revoker.asked());
    }

    #[test]
    fn an_urgent_look_needs_no_rest_whatever_is_asked_after_it() {
        let (mut revoker, jobs) = revoker();
        ask(&mut revoker, 1, true);
        ask(&mut revoker, 2, false);
        let never = Instant::now() + Duration::from_secs(3600);
        assert_eq!(next(&jobs, never).map(|job| (job.number, job.urgent)), Some((2, true)));
    }

    #[test]
    fn a_look_that_is_not_urgent_waits_for_the_rest() {
        let (mut revoker, jobs) = revoker();
        ask(&mut revoker, 1, false);
        let rested = Instant::now() + Duration::from_millis(30);
        assert_eq!(next(&jobs, rested).map(|job| job.number), Some(1));
        assert!(Instant::now() >= rested);
    }

    #[test]
    fn the_end_of_the_agent_ends_a_rest() {
        let (mut revoker, jobs) = revoker();
        ask(&mut revoker, 1, false);
        drop(revoker);
        assert!(next(&jobs, Instant::now() + Duration::from_secs(3600)).is_none());
    }

    #[test]
    fn a_connection_is_judged_the_way_round_that_it_was_accepted() {
        use podgate_api::Change;
        let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: shop}\nstatus: {phase: Running, podIP: 10.1.0.2}\n---\n\
            apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: shop}\n\
            spec: {podSelector: {}, ingress: [{ports: [{port: 80}]}]}\n";
        let mut index = podgate_policy::Index::new(podgate_policy::Locality::All);
        let parsed = podgate_api::manifest::parse("text", text);
        assert!(parsed.errors.is_empty(), "{:?}", parsed.errors);
        for located in parsed.objects {
            index.apply(Change::Apply(located.object));
        }
        let snapshot = index.build().snapshot;
        let [pod, other] = ["10.1.0.2", "203.0.113.9"].map(|ip| ip.parse::<std::net::IpAddr>().unwrap());
        let accepted = |source, (source_port, port), orientation| {
            let destination = if source == pod { other } else { pod };
            let (port, source_port) = (Some(port), Some(source_port));
            is_accepted(&snapshot, &Tracked { source, destination, protocol: 6, port, source_port, orientation })
        };
        use Orientation::{AsMet, Both, Turned};
        // Of the pod, from the pod's port 80 or another one: it may begin what it likes.
        assert_eq!([AsMet, Turned, Both].map(|way| accepted(pod, (80, 40000), way)), [true, true, true]);
        assert_eq!([AsMet, Turned, Both].map(|way| accepted(pod, (81, 40000), way)), [true, false, false]);
        assert_eq!([AsMet, Turned, Both].map(|way| accepted(other, (40000, 81), way)), [false, true, false]);
    }
}
