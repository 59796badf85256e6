//! `podgate run`: the agent.
//!
//! ```text
//!   inputs (source, routes, ruleset, signals, clock) ──▶ control ──▶ Publication ──▶ workers
//!                                                          └──────▶ kernel (nftables)
//!   settings: flags and environment          telemetry: HTTP from the first moment, so that a slow start can be asked why
//! ```
//!
//! Here: putting the parts together, in the order that leaves no gap at the start and says what it leaves at the end.

mod boot;
mod cache;
mod collisions;
mod control;
mod descriptors;
mod holding;
mod inputs;
mod kernel;
mod listen;
mod news;
mod owner;
mod peers;
mod plane;
mod rejecting;
mod revoke;
mod serve;
mod settings;
mod share;
mod source;

use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use podgate_engine::{Counters, Publication, Snapshot};
use podgate_policy::Index;
use tokio::sync::mpsc;

use self::boot::{Boot, BootMode};
use self::control::Control;
pub(crate) use self::control::{SharedIndex, lock};
use self::inputs::End;
use self::kernel::{Kernel, Left};
use self::news::News;
use self::plane::Plane;
use self::revoke::Revoker;
use self::settings::OnExit;
pub(crate) use self::settings::RunArgs;
use self::share::Sharing;
use crate::cache::{Cache, Limits};
use crate::reject;
use crate::status::{self, Gather};
use crate::telemetry;

/// Runs the agent until a signal ends it.
pub(crate) fn main(args: &RunArgs) -> Result<ExitCode> {
    telemetry::logging::init(&args.log, args.log_format)?;
    let settings = args.program()?;
    descriptors::raise();
    if args.reject.rejects() {
        // Not needed yet, but if they are not permitted, that is to be known before anything is changed.
        drop(reject::sockets(&settings.marks)?);
    }
    // One clear line for each thing that is missing, before anything is changed.
    let features = podgate_netfilter::probe()?;
    let (major, minor) = features.release;
    let queue = if features.native_queue { "nft_queue" } else { "compat target NFQUEUE" };
    tracing::info!(version = env!("CARGO_PKG_VERSION"), kernel = %format_args!("{major}.{minor}"), queue, "starting");

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let _entered = runtime.enter();
    let source = args.source.source()?;
    let (followed, own_node) = (source.name(), source.own_node());
    let state = telemetry::State::new();
    let http = telemetry::http::serve(&args.listen.settings(), Arc::clone(&state))?;
    if let Some(warning) = args.listen.warning() {
        tracing::warn!("{warning}");
    }
    match http.address() {
        Some(address) => tracing::info!(%address, "listening"),
        None => tracing::info!("not listening: --http is off"),
    }

    let (sender, inputs) = mpsc::channel(inputs::WAITING);
    inputs::signals(sender.clone())?;
    inputs::routes(sender.clone())?;
    let queues = settings.queues.clone();
    // One for each worker, and one for the keeper; the rejecter judges nothing.
    let readers = queues.len() + 1;
    let counters = Arc::new(Counters::new(readers + 1));
    let publication = Publication::new(Arc::new(Snapshot::empty()), readers);
    let guarded = || {
        let mut index = Index::new(args.source.locality());
        index.guard_pod_ranges(args.pod_cidrs.clone());
        index
    };
    let mut index = guarded();
    let mut restored = source.restore(&mut index, guarded);
    let index = Arc::new(Mutex::new(index));
    source.follow(&mut restored, sender.clone());
    let mut boot = match args.boot() {
        BootMode::Closed => Boot::new(BootMode::Closed, guarded()),
        BootMode::Open => Boot::new(BootMode::Open, Index::new(args.source.locality())),
    };
    if restored.saved.is_some() {
        boot.restored();
        state.restored(restored.saved);
    }
    let asked = status::Settings {
        node: args.source.node().map(str::to_owned),
        fail_open: settings.fail_open,
        native_queue: features.native_queue,
    };
    let (known, snapshots, counted) = (Arc::clone(&index), Arc::clone(&publication), Arc::clone(&counters));
    let mut gather = Gather::new(asked, Arc::downgrade(&state), known, snapshots, counted);
    if let (Some(place), Some(recorder)) = (restored.place.take(), &restored.recorder) {
        gather.saved(place, recorder.teller());
        state.register(telemetry::Saving::new(recorder.teller()));
    }
    let cache = Cache::new(Limits::of(args.cache as usize), Arc::clone(&counters));
    gather.cache(Arc::clone(&cache));
    state.answer_status(move || gather.json());
    let mut control = Control {
        revoker: Revoker::start(settings.marks, sender.clone())?,
        index,
        publication: Arc::clone(&publication),
        counters: Arc::clone(&counters),
        state: Arc::clone(&state),
        workers: None,
        inputs,
        news: News::default(),
        boot,
        put_off: false,
        links: podgate_netfilter::Links::default(),
        own_node,
        cache,
        pulse: crate::worker::Pulse::new(),
        cache_drops: !args.reject.rejects(),
        sender: sender.clone(),
        recorder: restored.recorder.take(),
        sharing: Sharing::start(args.share, args.queue_length, Arc::clone(&state.shares), sender.clone())?,
    };
    let mut plane = Plane::new(args, settings, sender, followed);
    let ending = control.follow(&mut plane)?;
    let (End::Asked(why) | End::Failed(why)) = ending;
    tracing::info!(why, "ending");
    // A failure is no wish to open the node, whatever becomes of its rules when it is asked to end.
    let handed_over = match ending {
        End::Asked(_) => end(args, plane.kernel.take())?,
        End::Failed(_) => false,
    };
    if let Some(workers) = control.workers.take() {
        workers.stop(handed_over);
    }
    drop(plane);
    if let Some(recorder) = control.recorder.take() {
        recorder.stop();
    }
    http.stop();
    runtime.shutdown_background();
    match ending {
        End::Asked(_) => Ok(ExitCode::SUCCESS),
        End::Failed(why) => anyhow::bail!("{why}: the agent is to be started again; its rules stay"),
    }
}

/// Leaves the kernel as the setting says. The rules go first: a packet that comes while the workers end is not lost.
/// True: another agent has them.
fn end(args: &RunArgs, kernel: Option<Kernel>) -> Result<bool> {
    let Some(kernel) = kernel else {
        tracing::info!("nothing was enforced yet: what stood before stays");
        return Ok(false);
    };
    let remove = args.on_exit() == OnExit::Remove;
    let left = kernel.leave(remove).context("leaving the kernel's rules")?;
    match left {
        Left::Others => tracing::info!("the rules are another agent's: they stay as they are"),
        Left::Kept if args.fail_open => tracing::info!(
            "the rules stay: what needs a verdict passes until an agent is back (podgate cleanup takes everything away)"
        ),
        Left::Kept => tracing::info!(
            "the rules stay: accepted connections go on, what needs a verdict is dropped until an agent is back \
             (podgate cleanup takes everything away)"
        ),
        Left::Removed(gone) => {
            tracing::info!(connections = gone.connections, "the rules are gone: nothing is filtered any more");
        }
    }
    Ok(left == Left::Others)
}
