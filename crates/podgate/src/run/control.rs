//! The control loop: what the sources tell goes in, snapshots and kernel state come out, in the order that never lets
//! through what it should not.
//!
//! ```text
//!   changes ─▶ index ─▶ build ─▶ tighten the kernel ─▶ publish ─▶ wait until every worker uses it
//!                                 ─▶ relax the kernel ─▶ judge touched connections again ─▶ telemetry
//! ```
//!
//! One thread, so that no two changes ever interleave. It waits for messages only. Not here: how the kernel's state
//! follows ([`kernel`](super::kernel)), who sends the messages ([`inputs`]).

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::Result;
use podgate_api::{Change, ObjectKey};
use podgate_engine::{Counters, Publication, RuleId, Snapshot};
use podgate_netfilter::{Error, Links, owner};
use podgate_policy::{Build, Index};
use podgate_watch::saved::Recorder;
use podgate_watch::{Event, Freshness};
use tokio::sync::mpsc;

use super::boot::{Boot, BootMode};
use super::inputs::{self, End, Input};
use super::kernel::Kernel;
use super::news::News;
use super::owner::Notice;
use super::plane::Plane;
use super::revoke::{Judged, Revoker};
use super::share::Sharing;
use crate::cache::Cache;
use crate::telemetry;
use crate::worker::{Pulse, Workers};

/// The index, shared with whoever wants to know which pod has an address.
pub(crate) type SharedIndex = Arc<Mutex<Index>>;

/// Locks the index. A panic elsewhere does not make it unusable: the process ends by it in a release build.
pub(crate) fn lock(index: &Mutex<Index>) -> MutexGuard<'_, Index> {
    index.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Everything the loop moves.
pub(crate) struct Control {
    pub(crate) revoker: Revoker,
    pub(crate) index: SharedIndex,
    pub(crate) publication: Arc<Publication>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) state: Arc<telemetry::State>,
    /// None until there is something to judge by.
    pub(crate) workers: Option<Workers>,
    pub(crate) inputs: mpsc::Receiver<Input>,
    pub(crate) news: News,
    pub(crate) boot: Boot,
    /// The index holds changes that are not in force, as half a world must not be.
    pub(crate) put_off: bool,
    /// Where the node's links lead.
    pub(crate) links: Links,
    /// This node, where a cluster is followed.
    pub(crate) own_node: Option<ObjectKey>,
    /// What the kernel repeats.
    pub(crate) cache: Arc<Cache>,
    /// Whether this process has been running all along.
    pub(crate) pulse: Arc<Pulse>,
    /// Denials too, once the start-up period is over.
    pub(crate) cache_drops: bool,
    /// Whoever speaks to this loop has one.
    pub(crate) sender: mpsc::Sender<Input>,
    /// Keeps the world on disk.
    pub(crate) recorder: Option<Recorder>,
    /// Shares of the queue, under overload.
    pub(crate) sharing: Sharing,
}

/// What came in since the last build.
#[derive(Default)]
pub(crate) struct Pending {
    /// Something in the world changed.
    pub(crate) dirty: bool,
    /// When each change was noticed.
    pub(crate) noticed: Vec<Instant>,
    /// The source has told all it knew at the start.
    synced: bool,
    /// Connections are judged again whatever the build says of them.
    judge_all: bool,
}

impl Control {
    /// Enforces each change until told to stop; gives the reason. What an earlier agent saved is in force from the
    /// start on, else what [`Boot`] says until the source has told all.
    pub(crate) fn follow(&mut self, plane: &mut Plane<'_>) -> Result<End> {
        if self.boot.is_restored() {
            self.enforce(plane, Pending { judge_all: true, ..Pending::default() })?;
        }
        self.bridge_start(plane)?;
        while let Some(first) = self.inputs.blocking_recv() {
            let mut pending = Pending::default();
            let mut next = Some(first);
            // Whatever is there already goes into the same build, but not all that ever comes: a source that never
            // pauses must not put enforcement off.
            let mut room = inputs::TOGETHER;
            while let Some(input) = next {
                match input {
                    Input::Source(event) => self.take_event(event, &mut pending),
                    Input::RoutesGone(addresses) => self.forget(&addresses, &mut pending),
                    Input::RoutesBack(addresses) => self.recall(&addresses, &mut pending),
                    Input::Links(links) => self.take_links(links, plane),
                    Input::RulesetChanged(guard) => self.undo_others(guard, plane),
                    Input::OthersChanged { collides } => self.take_others(collides),
                    Input::LookAtOthers => self.look_at_others(plane),
                    Input::Collisions(found) => self.tell_collisions(found),
                    Input::Offered(offers) => self.take_offers(&offers, plane),
                    Input::Judged(judged) => self.take_judged(judged, plane),
                    Input::Ownership(notice) => self.take_notice(notice, plane),
                    Input::Crowd => self.take_crowd(plane),
                    Input::ShareDue => self.take_share_due(plane),
                    Input::TryAgain => self.try_again(plane),
                    Input::LooseOver => self.be_strict(),
                    Input::Stop(end) => return Ok(end),
                }
                room -= 1;
                next = if room > 0 { self.inputs.try_recv().ok() } else { None };
            }
            pending.dirty |= std::mem::take(&mut self.put_off);
            if pending.synced {
                self.first_world(plane, pending)?;
            } else if !self.boot.enforces() {
                self.put_off = pending.dirty;
                self.bridge_start(plane)?;
            } else if pending.dirty {
                self.enforce(plane, pending)?;
            }
        }
        Ok(End::Failed("the source ended"))
    }

    /// The source has told all it knew at the start.
    fn first_world(&mut self, plane: &mut Plane<'_>, mut pending: Pending) -> Result<()> {
        if let Some(generation) = self.boot.finish() {
            lock(&self.index).go_on_from(generation);
            // What an earlier agent accepted may be forbidden by now.
            pending.judge_all = true;
            let stands_by = plane.kernel.as_ref().is_some_and(|kernel| !kernel.is_owner());
            self.enforce(plane, pending)?;
            if let Some(kernel) = plane.kernel.as_mut().filter(|_| stands_by) {
                let taken = kernel.replace_other();
                self.judge_if_taken(taken, kernel);
            }
            self.state.restored(None);
            self.state.readiness.synced();
            if let Some(recorder) = &self.recorder {
                recorder.synced();
            }
            plane.tell_first_world(&self.state);
        }
        Ok(())
    }

    /// Enforces what is set for the time until a world is known.
    fn bridge_start(&mut self, plane: &mut Plane<'_>) -> Result<()> {
        let Some(build) = self.boot.build() else { return Ok(()) };
        let (needs_rules, means) = match self.boot.mode() {
            BootMode::Closed => {
                let has_ranges = build.pod_ranges.as_ref().is_some_and(|ranges| !ranges.is_empty());
                (has_ranges, "this node's pod ranges are closed until the source has told it")
            }
            // Those of an agent that is no more enforce what it knew, and nobody answers what they send up.
            BootMode::Open => (owner()?.is_some(), "nothing is enforced until the source has told it (--boot open)"),
        };
        if needs_rules || plane.kernel.is_some() {
            self.bring_into_force(plane, &build, Pending::default())?;
        } else if self.boot.mode() == BootMode::Closed {
            if self.own_node.is_some() {
                tracing::warn!(
                    "no world is known yet, nor where this node's pods are (--pod-cidr): nothing is enforced until the \
                     source has told it"
                );
            }
            return Ok(());
        }
        tracing::warn!("no world is known yet: {means}");
        Ok(())
    }

    /// Makes a build the current snapshot, and waits until every worker uses it.
    pub(crate) fn publish(&self, build: &Build) {
        if let Some(last) = build.snapshot.rules().map(|(id, _)| id).max_by_key(|RuleId(n)| *n) {
            self.counters.reserve(last);
        }
        self.cache.begin_anew(&build.reused);
        self.publication.publish(Arc::clone(&build.snapshot));
        self.workers.iter().for_each(Workers::wake);
        self.publication.wait_until_used(build.snapshot.generation());
    }

    /// What is to be done after a build is in use and the kernel follows it: connections, bridges, telemetry.
    fn settle(&mut self, build: &Build, kernel: &Kernel, pending: Pending) {
        if pending.judge_all || !build.touched.is_empty() || self.news.unjudged.is_some() {
            self.judge_again(&build.snapshot, kernel, pending.judge_all);
        }
        self.watch_bridges(kernel);
        self.look_for_own_node();
        self.tell_warnings();
        self.tell_sizes();
        self.state.facts().diversion = Some(kernel.diversion(self.news.kernel.is_none()));
        self.state.enforced(build.snapshot.generation(), pending.noticed);
        tracing::debug!(generation = build.snapshot.generation().0, "in force");
    }

    fn be_strict(&self) {
        tracing::info!("the start-up period is over: connections are judged in their own orientation only");
        self.workers.iter().for_each(Workers::be_strict);
        if self.cache_drops {
            self.cache.ledger().keep_drops();
        }
    }

    fn enforce(&mut self, plane: &mut Plane<'_>, pending: Pending) -> Result<()> {
        let build = lock(&self.index).build();
        self.bring_into_force(plane, &build, pending)
    }

    fn bring_into_force(&mut self, plane: &mut Plane<'_>, build: &Build, pending: Pending) -> Result<()> {
        let Some(kernel) = &mut plane.kernel else {
            // Published before it is installed: from the first diverted packet on, there is somebody to judge it.
            self.publish(build);
            plane.start(self, build)?;
            if let Some(kernel) = &plane.kernel {
                self.settle(build, kernel, pending);
            }
            return Ok(());
        };
        let tightened = kernel.tighten(build);
        self.publish(build);
        let relaxed = tightened.and_then(|()| kernel.relax(build));
        self.state.kernel_transactions.inc();
        match relaxed {
            // It may have had nothing to write, which says nothing about what an earlier failure left.
            Ok(()) if self.news.kernel.is_none() => {}
            Ok(()) => self.mend(kernel),
            Err(error) => self.kernel_failed(&error, kernel),
        }
        self.settle(build, kernel, pending);
        Ok(())
    }

    /// The kernel refused a change: what it holds now is older than the snapshot. Everything is written anew.
    pub(super) fn kernel_failed(&mut self, error: &Error, kernel: &mut Kernel) {
        tracing::error!(%error, "the kernel refused a change: writing everything anew");
        self.state.kernel_errors.inc();
        self.mend(kernel);
        // The table was nobody's: somebody took it away, and this is noticed before the guard tells.
        if matches!(error, Error::NotOwner) {
            self.state.kernel_repairs.inc();
        }
    }

    fn take_links(&mut self, links: Links, plane: &mut Plane<'_>) {
        self.links = links;
        let Some(kernel) = &mut plane.kernel else { return };
        if let Err(error) = kernel.relink(&self.links) {
            self.kernel_failed(&error, kernel);
        }
    }

    fn undo_others(&mut self, guard: u64, plane: &mut Plane<'_>) {
        let Some(kernel) = &mut plane.kernel else { return };
        let undone = kernel.undo_others(guard);
        if matches!(undone, Ok(true)) {
            tracing::warn!("somebody else changed or removed table inet podgate: it is put back");
            self.state.kernel_repairs.inc();
        }
        // What was noticed late tells nothing about now.
        if !matches!(undone, Ok(false)) {
            self.wrote(undone.map(drop), kernel);
        }
    }

    /// The table may have become this agent's: connections that were accepted meanwhile are judged again.
    fn take_notice(&mut self, notice: Notice, plane: &mut Plane<'_>) {
        let Some(kernel) = &mut plane.kernel else { return };
        let taken = kernel.notice(notice);
        self.judge_if_taken(taken, kernel);
    }

    fn judge_if_taken(&mut self, taken: Result<bool, podgate_netfilter::Error>, kernel: &mut Kernel) {
        if matches!(taken, Ok(true)) && self.boot.has_world() {
            let snapshot = self.publication.current();
            self.judge_again(&snapshot, kernel, true);
        }
        self.wrote(taken.map(drop), kernel);
    }

    /// What failed a while ago; nothing, if it has been mended meanwhile.
    fn try_again(&mut self, plane: &mut Plane<'_>) {
        let Some(kernel) = &mut plane.kernel else { return };
        self.news.trying_again = false;
        if self.news.kernel.is_some() {
            self.mend(kernel);
        }
        if self.news.unjudged.is_some() {
            let snapshot = self.publication.current();
            self.judge_again(&snapshot, kernel, true);
        }
    }

    fn mend(&mut self, kernel: &mut Kernel) {
        let result = kernel.mend();
        self.wrote(result, kernel);
    }

    /// Whether the kernel's rules are now what they should be; not ready while they are not.
    fn wrote(&mut self, result: Result<(), podgate_netfilter::Error>, kernel: &Kernel) {
        self.state.facts().diversion = Some(kernel.diversion(result.is_ok()));
        let Err(error) = result else {
            self.news.kernel = None;
            return;
        };
        self.state.kernel_errors.inc();
        if self.news.kernel.is_none() {
            tracing::error!(%error, "cannot write the kernel's rules; trying again every second");
        }
        let reason = format!("the kernel's rules are not as they should be: {error}");
        self.news.kernel = Some(self.state.readiness.hold(reason));
        self.try_again_later(kernel);
    }

    fn try_again_later(&mut self, kernel: &Kernel) {
        if !std::mem::replace(&mut self.news.trying_again, true) {
            kernel.try_again_later();
        }
    }

    fn take_event(&mut self, event: Event, pending: &mut Pending) {
        match event {
            Event::Changes { mut changes, noticed } => {
                changes.retain(|change| !self.takes_own_node_away(change));
                self.boot.note(&changes);
                if let Some(recorder) = &self.recorder {
                    recorder.record(&changes);
                }
                let mut index = lock(&self.index);
                changes.into_iter().for_each(|change| index.apply(change));
                pending.dirty = true;
                pending.noticed.push(noticed);
            }
            Event::Synced => pending.synced = true,
            Event::Retold { world, kept } => {
                if let Some(recorder) = &self.recorder {
                    recorder.retold(world, &kept);
                }
            }
            Event::Problems(problems) => self.tell_problems(problems),
            Event::Freshness(all) => self.take_freshness(all),
        }
    }

    /// The agent runs on its node, so the node is there whatever becomes of its object: without its pod ranges,
    /// addresses that no pod is known to have would be open.
    fn takes_own_node_away(&self, change: &Change) -> bool {
        let own = matches!((change, &self.own_node), (Change::Delete(key), Some(own)) if key == own);
        if own {
            tracing::warn!("this node's object was deleted: what it said stays in force while the agent runs");
        }
        own
    }

    fn take_freshness(&mut self, all: Vec<Freshness>) {
        self.boot.note_freshness(&all);
        if self.boot.is_alone() {
            // As ready as it can be: waiting for an API server that is away would help nobody.
            self.state.readiness.synced();
        }
        self.state.freshness(all);
    }

    fn forget(&mut self, addresses: &[IpAddr], pending: &mut Pending) {
        let mut index = lock(&self.index);
        for address in addresses {
            if let Some(pod) = index.pod_at(*address) {
                tracing::info!(%address, pod, "the address' route went away: nobody's until a pod claims it anew");
                index.forget_address(*address);
                self.state.addresses_gone.inc();
                pending.dirty = true;
            }
        }
        pending.noticed.push(Instant::now());
    }

    fn recall(&mut self, addresses: &[IpAddr], pending: &mut Pending) {
        let mut index = lock(&self.index);
        for address in addresses {
            index.recall_address(*address);
            pending.dirty = true;
            if let Some(pod) = index.pod_at(*address) {
                tracing::info!(%address, pod, "the address' route is back over the same link: it is the pod's again");
            }
        }
    }

    /// Has each remembered connection judged by this snapshot. With `all` not only what a change touched may be
    /// forbidden, which nothing else keeps back: not ready until that is over.
    fn judge_again(&mut self, snapshot: &Arc<Snapshot>, kernel: &Kernel, all: bool) {
        // Its labels are another agent's, and judged by that one.
        if !kernel.is_owner() {
            self.news.unjudged = None;
            return;
        }
        let urgent = all || self.news.unjudged.is_some();
        self.revoker.judge_again(Arc::clone(snapshot), kernel.changes(), urgent);
        if all {
            let reason = "established connections are being judged again";
            let hold = self.news.unjudged.take().map_or_else(|| self.state.readiness.hold(reason), |(hold, _)| hold);
            self.news.unjudged = Some((hold, self.revoker.asked()));
        }
    }

    fn take_judged(&mut self, judged: Judged, plane: &mut Plane<'_>) {
        let Some(kernel) = &mut plane.kernel else { return };
        match judged.result {
            Ok(revoked) => {
                // One that began earlier has not seen what was accepted until then.
                self.news.unjudged.take_if(|(_, since)| judged.asked >= *since);
                self.state.rejudged_connections.inc_by(revoked.looked_at as u64);
                self.state.revoked_connections.inc_by(revoked.taken_back as u64);
                if revoked.taken_back > 0 {
                    tracing::info!(connections = revoked.taken_back, "established connections lost their permission");
                }
                if let Err(error) = kernel.rechecked(judged.number) {
                    self.kernel_failed(&error, kernel);
                }
            }
            Err(error) => {
                self.state.kernel_errors.inc();
                tracing::error!(%error, "cannot judge established connections again; trying again every second");
                let reason = format!("established connections could not be judged again: {error}");
                self.news.unjudged = Some((self.state.readiness.hold(reason), self.revoker.asked()));
                self.try_again_later(kernel);
            }
        }
    }
}
