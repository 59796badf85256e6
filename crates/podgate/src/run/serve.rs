//! Starting the data plane: queues, workers, and the thread that tells of denies.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};
use podgate_engine::{Direction, Verdict};
use podgate_netfilter::{MmsgQueue, NfqQueue, ProgramSettings, Queue, QueueSettings};

use super::control::{Control, lock};
use super::settings::{Receiver, RunArgs};
use crate::telemetry::events::{self, Deny, Events, Limit};
use crate::worker::{HoldSettings, RECORDS, Record, Records, Shared, Workers, end_process};

/// Binds the queues and starts a worker for each. The first snapshot must be published: an earlier agent's rules may
/// be there, and send packets at once.
pub(super) fn start(args: &RunArgs, settings: &ProgramSettings, control: &mut Control) -> Result<Events> {
    let queues = settings.queues.clone().map(|number| bind(args, number)).collect::<Result<Vec<_>>>()?;
    let records = Arc::new(Records::new(RECORDS));
    let shared = Shared {
        marks: settings.marks,
        hold: HoldSettings::default(),
        counters: Arc::clone(&control.counters),
        records: Arc::clone(&records),
        loose: AtomicBool::new(true),
    };
    let reader = |worker| control.publication.reader(worker);
    let workers = Workers::start(queues, reader, Arc::new(shared), end_process).context("starting the workers")?;
    control.workers = Some(workers);

    let index = Arc::clone(&control.index);
    let name = move |address: IpAddr| lock(&index).pod_at(address);
    let next = move || records.pop().map(deny);
    events::start(Limit::default(), Arc::clone(&control.publication), Arc::clone(&control.state), next, name)
        .context("starting the events thread")
}

fn bind(args: &RunArgs, number: u16) -> Result<Box<dyn Queue>> {
    let settings = QueueSettings { length: args.queue_length, fail_open: args.fail_open, ..QueueSettings::new(number) };
    Ok(match args.receiver {
        Receiver::Mmsg => Box::new(MmsgQueue::bind(&settings)?),
        Receiver::Nfq => Box::new(NfqQueue::bind(&settings)?),
    })
}

/// What is told of a record: the end that denied; the source's egress where both did, as it is judged first.
fn deny(record: Record) -> Deny {
    let Record { flow, judgement, .. } = record;
    let (direction, decision) = match judgement.egress.verdict() {
        Verdict::Drop => (Direction::Egress, judgement.egress),
        Verdict::Accept => (Direction::Ingress, judgement.ingress),
    };
    Deny {
        source: flow.source,
        destination: flow.destination,
        protocol: flow.protocol,
        port: flow.port,
        direction,
        rule: decision.rule(),
    }
}
