//! [`Revoker`]: judges established connections again, in a thread of its own: a look through 100,000 of them takes some
//! 100 ms, and the control loop has more urgent things to do.
//!
//! Until it has looked, the addresses that a change touched are rechecked in the kernel
//! ([`Kernel::tighten`](super::kernel::Kernel::tighten)): what is forbidden is cut already.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};

use podgate_engine::{Flow, NodeOrigin, Port, Snapshot, Verdict, protocol};
use podgate_netfilter::conntrack::{self, Revoked, Tracked};
use podgate_netfilter::{Error, Marks};
use tokio::sync::mpsc::Sender;

use super::inputs::Input;

/// Who judges connections again. Its thread ends when this is dropped.
pub(crate) struct Revoker(mpsc::Sender<Job>);

/// A snapshot that is in use by every worker, and the number of the change that it is of.
struct Job {
    snapshot: Arc<Snapshot>,
    number: u64,
}

/// What came of a look.
#[derive(Debug)]
pub(crate) struct Judged {
    /// The newest change that it knew of.
    pub(crate) number: u64,
    pub(crate) result: Result<Revoked, Error>,
}

impl Revoker {
    /// Starts the thread; what comes of each look goes to `inputs`.
    pub(crate) fn start(marks: Marks, inputs: Sender<Input>) -> io::Result<Self> {
        let (jobs, waiting) = mpsc::channel();
        let work = move || work(marks, &waiting, &inputs);
        std::thread::Builder::new().name("revoker".to_owned()).spawn(work)?;
        Ok(Self(jobs))
    }

    /// Takes our label off each connection that this snapshot would not accept: its next packet comes up. One look is
    /// under way at a time; what is asked meanwhile is one more.
    pub(crate) fn judge_again(&self, snapshot: Arc<Snapshot>, number: u64) {
        // Without its thread the process is ending.
        let _ = self.0.send(Job { snapshot, number });
    }
}

fn work(marks: Marks, jobs: &Receiver<Job>, inputs: &Sender<Input>) {
    while let Ok(mut job) = jobs.recv() {
        while let Ok(newer) = jobs.try_recv() {
            job = newer;
        }
        let result = conntrack::revoke(&marks, &mut |tracked| is_accepted(&job.snapshot, tracked));
        if inputs.blocking_send(Input::Judged(Judged { number: job.number, result })).is_err() {
            return;
        }
    }
}

fn is_accepted(snapshot: &Snapshot, tracked: &Tracked) -> bool {
    let port = match tracked.port {
        Some(port) => Port::Number(port),
        None if protocol::has_ports(tracked.protocol) => Port::Unknown,
        None => Port::None,
    };
    let flow = Flow {
        source: tracked.source.into(),
        destination: tracked.destination.into(),
        protocol: tracked.protocol,
        port,
    };
    snapshot.judge(&flow, NodeOrigin::Forged).verdict() == Verdict::Accept
}
