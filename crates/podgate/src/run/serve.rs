//! Starting the data plane: queues, workers, and the thread that tells of denies.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, anyhow};
use podgate_engine::{Direction, Verdict};
use podgate_netfilter::{MmsgQueue, NfqQueue, ProgramSettings, Queue, QueueError, QueueSettings};

use super::control::{Control, lock};
use super::inputs::Input;
use super::settings::{Receiver, RunArgs};
use crate::cache::Offers;
use crate::reject::{self, Rejects};
use crate::telemetry::events::{self, Deny, Events, Limit};
use crate::worker::{Gate, RECORDS, Record, Records, Rejecting, Shared, Workers, end_process};

/// From one range of queues to the next that is tried: as many as there can be workers, so that ranges of agents with
/// the same base never overlap.
const STRIDE: u16 = 64;
/// Ranges that are tried. At an upgrade two agents run at once; more do only while something is wrong.
const SLOTS: u16 = 4;
/// From a base to the queue in which the agent with the first range holds packets: past all ranges.
const HOLD: u16 = SLOTS * STRIDE;
/// Likewise for denied packets that are answered.
const REJECT: u16 = HOLD + SLOTS;
/// From a base to the last queue that an agent may have.
pub(super) const HIGHEST_QUEUE: u16 = REJECT + SLOTS - 1;

/// What an agent has bound.
struct Bound {
    queues: Vec<Box<dyn Queue>>,
    /// The queue in which packets of unknown addresses are held, and its number.
    hold: (Box<dyn Queue>, u16),
    /// The queue of denied packets that are answered, with `--on-deny reject`.
    reject: Option<(Box<dyn Queue>, u16)>,
}

/// Binds the queues and starts a worker for each. The first snapshot must be published: an earlier agent's rules may
/// be there, and send packets at once. `settings` are told which queues it became: another agent may have the first. The
/// number is that of the hold queue.
pub(super) fn start(args: &RunArgs, settings: &mut ProgramSettings, control: &mut Control) -> Result<(Events, u16)> {
    let Bound { queues, hold: (hold, number), reject } = bind_range(args, settings)?;
    let records = Arc::new(Records::new(RECORDS));
    let offers = Offers::new(if args.cache > 0 { queues.len() } else { 0 }, !args.reject.rejects());
    let rejects = reject.as_ref().map(|(_, queue)| Rejects { queue: *queue, gate: Gate::new() });
    let rejecting = match reject {
        Some((queue, _)) => {
            Some(Rejecting { queue, out: reject::sockets(&settings.marks)?, rates: args.reject.rates() })
        }
        None => None,
    };
    let shared = Shared {
        marks: settings.marks,
        hold: args.hold.settings(number),
        hold_gate: Gate::new(),
        rejects,
        counters: Arc::clone(&control.counters),
        records: Arc::clone(&records),
        offers: Arc::clone(&offers),
        loose: AtomicBool::new(true),
        handed_over: AtomicBool::new(false),
        crowd: control.sharing.crowd(),
        pulse: Arc::clone(&control.pulse),
    };
    let reader = |worker| control.publication.reader(worker);
    let workers = Workers::start(queues, hold, rejecting, reader, Arc::new(shared), end_process)
        .context("starting the workers")?;
    control.workers = Some(workers);
    let owner = || podgate_netfilter::owner().map(|owner| owner.map(|owner| owner.agent));
    control.pulse.start(owner).context("starting the pulse thread")?;
    if args.cache > 0 {
        let cache = Arc::clone(&control.cache);
        let busy = move || !cache.ledger().is_empty();
        offers.collect(control.sender.clone(), Input::Offered, busy).context("starting the offers thread")?;
    }

    let index = Arc::clone(&control.index);
    let name = move |address: IpAddr| lock(&index).pod_at(address);
    let next = move || records.pop().map(deny);
    let (publication, state) = (Arc::clone(&control.publication), Arc::clone(&control.state));
    let events = events::start(Limit::default(), publication, state, next, name);
    Ok((events.context("starting the events thread")?, number))
}

/// Binds the first range that nobody has. In ascending order, so that of two agents that start at once the one that gets
/// a range's first queue gets them all.
fn bind_range(args: &RunArgs, settings: &mut ProgramSettings) -> Result<Bound> {
    let wanted = settings.queues.clone();
    let mut taken = None;
    for slot in 0..SLOTS {
        // There is room up to the highest of them: `RunArgs::queue_range` has seen to it.
        let (first, last) = (wanted.start() + slot * STRIDE, wanted.end() + slot * STRIDE);
        let (hold, reject) = (wanted.start() + HOLD + slot, wanted.start() + REJECT + slot);
        let all = || -> Result<Bound, QueueError> {
            let settings = |number| QueueSettings { length: args.queue_length, ..QueueSettings::new(number) };
            let queues = (first..=last).map(|number| bind(args, settings(number))).collect::<Result<_, _>>()?;
            let length = args.hold.queue_length();
            let hold = (bind(args, QueueSettings { length, ..QueueSettings::new(hold) })?, hold);
            let wanted = args.reject.rejects().then(|| reject::queue(reject));
            let reject =
                wanted.map(|settings| bind_closed(args, &settings).map(|queue| (queue, reject))).transpose()?;
            Ok(Bound { queues, hold, reject })
        };
        match all() {
            Ok(bound) => {
                if slot > 0 {
                    tracing::info!(first, last, "other queues than --queue-base says: those are in use");
                }
                settings.queues = first..=last;
                return Ok(bound);
            }
            Err(error @ QueueError::InUse { .. }) => drop(taken.get_or_insert(error)),
            Err(error) => return Err(error.into()),
        }
    }
    let all = format!("all {SLOTS} ranges of queues from --queue-base on are in use");
    Err(taken.map_or_else(|| anyhow!("there are no ranges"), Into::into)).context(all)
}

fn bind(args: &RunArgs, settings: QueueSettings) -> Result<Box<dyn Queue>, QueueError> {
    bind_closed(args, &QueueSettings { fail_open: args.fail_open, ..settings })
}

/// Binds a queue that drops when it is full, whatever the setting: what waits in it is denied already.
fn bind_closed(args: &RunArgs, settings: &QueueSettings) -> Result<Box<dyn Queue>, QueueError> {
    let (queue, tells): (Box<dyn Queue>, bool) = match args.receiver {
        Receiver::Mmsg => {
            let queue = MmsgQueue::bind(settings)?;
            let tells = queue.tells_connections();
            (Box::new(queue), tells)
        }
        Receiver::Nfq => (Box::new(NfqQueue::bind(settings)?), false),
    };
    if settings.connections && !tells {
        tracing::warn!(
            "this kernel does not tell whom clients of Services asked (CONFIG_NETFILTER_NETLINK_GLUE_CT is off, or \
             --receiver is nfq): a new connection to a Service that is denied gets no answer, as with --on-deny drop"
        );
    }
    Ok(queue)
}

/// What is told of a record: the end that denied; the source's egress where both did, as it is judged first.
fn deny(record: Record) -> Deny {
    let Record { flow, judgement, generation, .. } = record;
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
        generation,
    }
}
