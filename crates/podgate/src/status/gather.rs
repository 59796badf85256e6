//! [`Gather`]: the agent's side of `podgate status`: brings together what its parts know.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Instant, SystemTime};

use podgate_engine::{Counter, Counters, Publication, Tier};
use podgate_netfilter::queue::queue_stats;
use podgate_watch::{FreshState, saved};

use super::report::{
    Cached, Counts, Divert, FailMode, Held, Listed, Over, Overload, Problem, Queue, QueueBy, Report, Saved, Source,
    SourceState, Tiers, Warning,
};
use crate::cache::{Cache, CacheFacts};
use crate::run::SharedIndex;
use crate::telemetry::State;
use crate::telemetry::facts::Facts;
use crate::telemetry::process::{REVISION, VERSION, kernel};

/// What does not change while the agent lives.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The node's name.
    pub(crate) node: Option<String>,
    /// What nobody answers passes.
    pub(crate) fail_open: bool,
    /// The kernel has nft_queue.
    pub(crate) native_queue: bool,
}

/// Where everything is to be asked.
pub(crate) struct Gather {
    pub(crate) settings: Settings,
    /// Weak, as the state holds this.
    pub(crate) state: Weak<State>,
    pub(crate) index: SharedIndex,
    pub(crate) publication: Arc<Publication>,
    pub(crate) counters: Arc<Counters>,
    /// Where the world is kept on disk, and who tells how that goes.
    saved: Option<(PathBuf, saved::Teller)>,
    /// What the kernel repeats.
    cache: Option<Arc<Cache>>,
    started: (SystemTime, Instant),
}

impl Gather {
    /// The clock of the uptime starts here.
    pub(crate) fn new(
        settings: Settings,
        state: Weak<State>,
        index: SharedIndex,
        publication: Arc<Publication>,
        counters: Arc<Counters>,
    ) -> Self {
        let started = (SystemTime::now(), Instant::now());
        Gather { settings, state, index, publication, counters, saved: None, cache: None, started }
    }

    /// The world is kept in this directory.
    pub(crate) fn saved(&mut self, place: PathBuf, teller: saved::Teller) {
        self.saved = Some((place, teller));
    }

    /// The kernel repeats verdicts.
    pub(crate) fn cache(&mut self, cache: Arc<Cache>) {
        self.cache = Some(cache);
    }

    /// The status now, as JSON. Takes the index' lock for as long as it takes to count pods.
    pub(crate) fn json(&self) -> String {
        // Strings, numbers and lists: there is nothing in it that could fail to be JSON.
        let report = self.state.upgrade().map(|state| self.report(&state));
        report.and_then(|report| serde_json::to_string(&report).ok()).unwrap_or_default()
    }

    fn report(&self, state: &State) -> Report {
        let readiness = state.readiness.now();
        let troubles = state.troubles();
        let counts = self.counts();
        let facts = state.facts();
        Report {
            ready: readiness.is_ready(),
            reasons: readiness.reasons(),
            live: troubles.is_empty(),
            troubles,
            node: self.settings.node.clone(),
            version: VERSION.to_owned(),
            revision: REVISION.to_owned(),
            kernel: kernel(),
            pid: std::process::id(),
            started: moment(self.started.0),
            uptime_seconds: self.started.1.elapsed().as_secs(),
            generation: readiness.generation().map(|g| g.0),
            in_force_since: facts.in_force_since.map(moment),
            restored_from: facts.restored.map(moment),
            sources: sources(&facts),
            counts,
            divert: self.divert(&facts, state),
            queues: self.queues(&facts),
            overload: overload(state),
            cache: self.cache.as_deref().and_then(cached),
            held: self.held(),
            saved: self.saved.as_ref().map(|(place, teller)| told_of(place, teller.status())),
            problems: Listed::new(&facts.problems, |p| Problem {
                place: p.place.clone(),
                object: p.object.as_ref().map(ToString::to_string),
                message: p.message.clone(),
            }),
            warnings: Listed::new(&facts.warnings, |w| Warning {
                object: w.object.to_string(),
                message: w.message.clone(),
            }),
        }
    }

    fn counts(&self) -> Counts {
        let world = crate::run::lock(&self.index).counts();
        let of = |tier| world.policies.get(&tier).copied().unwrap_or_default();
        Counts {
            pods: world.pods,
            local_pods: world.local_pods,
            namespaces: world.namespaces,
            nodes: world.nodes,
            rules: self.publication.current().rules().count(),
            policies: Tiers {
                admin: of(Tier::Admin),
                networkpolicy: of(Tier::NetworkPolicy),
                baseline: of(Tier::Baseline),
            },
        }
    }

    fn divert(&self, facts: &Facts, state: &State) -> Option<Divert> {
        let diversion = facts.diversion.as_ref()?;
        Some(Divert {
            pod_ranges: diversion.pod_ranges.iter().map(ToString::to_string).collect(),
            isolated_addresses: diversion.isolated,
            open_addresses: diversion.open,
            intact: diversion.intact,
            owner: state.owner.get() == 1,
            repairs: state.kernel_repairs.get(),
            queue_by: if self.settings.native_queue { QueueBy::NftQueue } else { QueueBy::Compat },
            fail_mode: if self.settings.fail_open { FailMode::Open } else { FailMode::Closed },
        })
    }

    fn queues(&self, facts: &Facts) -> Vec<Queue> {
        let all = queue_stats().unwrap_or_else(|error| {
            tracing::warn!(%error, "the queues' statistics cannot be read");
            Vec::new()
        });
        let tell = |(worker, number): (usize, u16)| {
            let stats = all.iter().find(|s| s.number == number);
            Queue {
                queue: number,
                worker,
                bound: stats.is_some(),
                depth: stats.map_or(0, |s| s.depth),
                dropped_full: stats.map_or(0, |s| s.queue_dropped),
                dropped_socket: stats.map_or(0, |s| s.user_dropped),
                accepted: self.counters.of_worker(worker, Counter::Accepted),
                dropped: self.counters.of_worker(worker, Counter::Dropped),
            }
        };
        facts.queues.iter().cloned().flatten().enumerate().map(tell).collect()
    }

    fn held(&self) -> Held {
        let [packets, expired, full] =
            [Counter::Held, Counter::HoldExpired, Counter::HoldFull].map(|c| self.counters.get(c));
        Held { packets, denied: expired + full }
    }
}

fn overload(state: &State) -> Option<Overload> {
    let (now, over) = state.shares.now()?;
    let tell = |(namespace, pod, packets): &(String, String, u64)| Over {
        namespace: namespace.clone(),
        pod: pod.clone(),
        packets: *packets,
    };
    Some(Overload { limit: now.limit, since: moment(now.since.stamp()), pods: Listed::new(&over, tell) })
}

fn cached(cache: &Cache) -> Option<Cached> {
    cache.read();
    let CacheFacts { limit, accepting, dropping, accepted, dropped, refused, .. } = cache.facts();
    (limit > 0).then_some(Cached { limit, accepting, dropping, accepted, dropped, refused })
}

fn told_of(place: &Path, status: saved::Status) -> Saved {
    let lost = status.outdated.then(|| {
        format!("changes are missing in it, {} so far: it is written anew once there is room", status.lost_changes)
    });
    let held = status.held_by_other.then(|| "another agent writes it: this one will when that has ended".to_owned());
    let begun = (!status.saving).then(|| "this agent has not written the whole world yet".to_owned());
    Saved {
        path: place.display().to_string(),
        written: status.last_written.map(moment),
        bytes: status.bytes,
        problem: status.error.or(lost).or(held).or(begun),
    }
}

fn sources(facts: &Facts) -> Vec<Source> {
    let tell = |one: &podgate_watch::Freshness| {
        let (state, since, why) = match &one.state {
            FreshState::Listing => (SourceState::Listing, None, None),
            FreshState::Live => (SourceState::Live, None, None),
            FreshState::Absent => (SourceState::Absent, None, None),
            FreshState::Failing { since, why } => (SourceState::Failing, Some(since.stamp()), Some(why.clone())),
            FreshState::Restored { saved } => (SourceState::Restored, Some(*saved), None),
        };
        Source { resource: one.resource.clone(), state, since: since.map(moment), why }
    };
    facts.freshness.iter().map(tell).collect()
}

/// A time as JSON has it: RFC 3339, UTC, to the second. One that no calendar has (far before or after ours) is told in
/// seconds since 1970.
pub(super) fn moment(time: SystemTime) -> String {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    i64::try_from(seconds)
        .ok()
        .and_then(|s| jiff::Timestamp::from_second(s).ok())
        .map_or_else(|| seconds.to_string(), |t| t.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_keeps_the_world_on_disk_from_being_up_to_date_is_told_the_worst_first() {
        let place = Path::new("/var/lib/podgate/n1");
        let well = saved::Status { saving: true, bytes: 7, ..saved::Status::default() };
        assert_eq!(told_of(place, well.clone()).problem, None);
        let problem = |status| told_of(place, status).problem.unwrap();
        assert!(problem(saved::Status::default()).contains("not written"));
        let held = saved::Status { held_by_other: true, ..saved::Status::default() };
        assert!(problem(held.clone()).contains("another agent"));
        let full = saved::Status { error: Some("no space left".to_owned()), lost_changes: 3, outdated: true, ..held };
        assert_eq!(problem(full), "no space left");
        let lost = saved::Status { lost_changes: 3, outdated: true, ..well };
        assert!(problem(lost.clone()).contains("missing in it, 3"));
        assert_eq!(told_of(place, saved::Status { outdated: false, ..lost }).problem, None, "they are not for ever");
    }

    #[test]
    fn times_are_told_in_utc() {
        assert_eq!(moment(SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(1_500)), "1970-01-01T00:00:01Z");
    }
}
