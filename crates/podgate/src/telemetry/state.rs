//! [`State`]: what the agent knows of itself, in atomics that anyone may set and a scrape reads.
//!
//! Not here: what the data plane counts ([`data_plane`](super::data_plane), [`rules`](super::rules)): that is read
//! where it is kept.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use podgate_engine::Generation;
use podgate_policy::Warning;
use podgate_watch::{FreshState, Freshness, Problem};
use prometheus::core::{Collector, Desc};
use prometheus::proto::{MetricFamily, MetricType};
use prometheus::{Encoder, Histogram, HistogramOpts, IntCounter, IntGauge, Registry, TextEncoder};

use super::conntrack::Conntrack;
use super::facts::{Facts, duration, failing_seconds};
use super::family::{Family, describe};
use super::forged::Forged;
use super::process::Process;
use super::readiness::Readiness;
use super::share::{Shares, Told, named};

/// Upper bounds, in seconds, of the time from change to enforcement: fine around the goal (15 ms, 50 ms), coarse to
/// where an API server or a busy machine is the cause.
const ENFORCEMENT_BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// The agent's own state. Fields are set by whoever has the news; every name is one of a metric, see its help.
pub(crate) struct State {
    /// Ready or not, and which generation is in force.
    pub(crate) readiness: Readiness,
    /// Pods known, local or not.
    pub(crate) pods: IntGauge,
    /// Namespaces known.
    pub(crate) namespaces: IntGauge,
    /// Policies in force, of every kind.
    pub(crate) policies: IntGauge,
    /// 1 if the kernel's rules are this agent's.
    pub(crate) owner: IntGauge,
    /// Established connections whose permission was taken back.
    pub(crate) revoked_connections: IntCounter,
    /// Established connections that were looked at for that.
    pub(crate) rejudged_connections: IntCounter,
    /// Local addresses whose route or link went away.
    pub(crate) addresses_gone: IntCounter,
    /// nftables transactions committed.
    pub(crate) kernel_transactions: IntCounter,
    /// nftables transactions and other kernel requests that failed.
    pub(crate) kernel_errors: IntCounter,
    /// Times the kernel program had to be put back after somebody else changed it.
    pub(crate) kernel_repairs: IntCounter,
    /// Denies that were not logged because of the rate limit.
    pub(crate) deny_events_suppressed: IntCounter,
    /// Shares of the queue, under overload.
    pub(crate) shares: Arc<Shares>,
    facts: Mutex<Facts>,
    enforcement: Histogram,
    registry: Registry,
    /// Asked by `podgate status`; None until the agent is put together.
    status: Mutex<Option<TellStatus>>,
    /// Asked by /healthz; empty until the data plane is there.
    liveness: Mutex<Option<Liveness>>,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("readiness", &self.readiness).finish_non_exhaustive()
    }
}

/// Says what is wrong with the workers: one line each, nothing if all are well. Must not block.
type Liveness = Box<dyn Fn() -> Vec<String> + Send>;

/// Tells the agent's status as JSON. May block for a moment.
type TellStatus = Arc<dyn Fn() -> String + Send + Sync>;

impl State {
    /// A fresh agent's: not ready, everything 0.
    pub(crate) fn new() -> Arc<Self> {
        let enforcement = HistogramOpts::new(
            "podgate_enforcement_duration_seconds",
            "Time from when the source noticed a change until it was enforced: in every worker and in kernel state.",
        )
        .buckets(ENFORCEMENT_BUCKETS.to_vec());
        let state = Arc::new(State {
            readiness: Readiness::new(),
            pods: gauge("podgate_pods", "Pods known, of all nodes."),
            namespaces: gauge("podgate_namespaces", "Namespaces known."),
            policies: gauge(
                "podgate_policies",
                "Policies in force, of every kind: not an old one without the annotation.",
            ),
            owner: gauge(
                "podgate_owner",
                "1 if the kernel's rules are this agent's; 0 if it stands by because another agent on this node owns them.",
            ),
            revoked_connections: counter(
                "podgate_revoked_connections_total",
                "Established connections that a change forbade and that were cut.",
            ),
            rejudged_connections: counter(
                "podgate_rejudged_connections_total",
                "Established connections that were judged again because a change touched one of their ends.",
            ),
            addresses_gone: counter(
                "podgate_addresses_gone_total",
                "Local pod addresses forgotten because their route or link went away before the pod did.",
            ),
            kernel_transactions: counter("podgate_kernel_transactions_total", "nftables transactions committed."),
            kernel_errors: counter("podgate_kernel_errors_total", "Kernel requests that failed; the log says why."),
            kernel_repairs: counter(
                "podgate_kernel_repairs_total",
                "Times the kernel program was put back after something else on the node changed it.",
            ),
            deny_events_suppressed: counter(
                "podgate_deny_events_suppressed_total",
                "Denies that were not logged because of the log's rate limit; rule counters have them all.",
            ),
            shares: Arc::default(),
            facts: Mutex::default(),
            enforcement: Histogram::with_opts(enforcement).expect("buckets rise and the name is a metric's"),
            registry: Registry::new(),
            status: Mutex::new(None),
            liveness: Mutex::new(None),
        });
        state.register_own();
        state
    }

    /// `generation` is in force: workers use it and the kernel state stands for it. `noticed` are the moments at which
    /// the source noticed the changes in it, one time from change to enforcement each.
    pub(crate) fn enforced(&self, generation: Generation, noticed: impl IntoIterator<Item = Instant>) {
        noticed.into_iter().for_each(|at| self.enforcement.observe(at.elapsed().as_secs_f64()));
        self.facts().in_force_since = Some(SystemTime::now());
        self.readiness.in_force(generation);
    }

    /// What is known in words. Not for long: a scrape waits for it.
    pub(crate) fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the operator should know besides the readiness: one line each.
    pub(crate) fn remarks(&self, now: SystemTime) -> Vec<String> {
        let mut remarks = self.facts().remarks(now);
        if let Some((share, over)) = self.shares.now() {
            let time = duration(share.since.elapsed());
            let (limit, over) = (share.limit, named(&over));
            remarks.push(format!(
                "overload: for {time} each pod has had a share of the queue, now {limit} packets a second; over it: {over}"
            ));
        }
        remarks
    }

    /// How fresh each resource of the source is now. A resource that fails after it was live keeps the agent ready: the
    /// last known world is enforced, and `/readyz` and the status say so.
    pub(crate) fn freshness(&self, all: Vec<Freshness>) {
        self.facts().freshness = all;
    }

    /// Everything that is wrong at the source now.
    pub(crate) fn set_problems(&self, problems: Vec<Problem>) {
        self.facts().problems = problems;
    }

    /// Everything that is valid but hardly meant, now.
    pub(crate) fn set_warnings(&self, warnings: Vec<Warning>) {
        self.facts().warnings = warnings;
    }

    /// The world in force is the one that was saved at this time; None: it is the source's.
    pub(crate) fn restored(&self, saved: Option<SystemTime>) {
        self.facts().restored = saved;
    }

    /// From now on `podgate status` is answered with what this tells, as JSON.
    pub(crate) fn answer_status(&self, tell: impl Fn() -> String + Send + Sync + 'static) {
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(tell));
    }

    /// The status as JSON, once there is somebody to tell it. May block for a moment.
    pub(crate) fn status(&self) -> Option<String> {
        let tell = self.status.lock().unwrap_or_else(PoisonError::into_inner).clone();
        tell.map(|tell| tell())
    }

    /// Adds something that is read at each scrape.
    ///
    /// # Panics
    ///
    /// If it tells a metric that is told already: the agent would be wired up wrongly.
    pub(crate) fn register(&self, collector: impl Collector + 'static) {
        self.registry.register(Box::new(collector)).expect("each metric is registered once");
    }

    /// From now on /healthz asks this. Before, there is nothing that could be dead.
    pub(crate) fn watch_over(&self, liveness: impl Fn() -> Vec<String> + Send + 'static) {
        *self.liveness.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(liveness));
    }

    /// What is wrong with the workers; empty if nothing is.
    pub(crate) fn troubles(&self) -> Vec<String> {
        let liveness = self.liveness.lock().unwrap_or_else(PoisonError::into_inner);
        liveness.as_ref().map_or_else(Vec::new, |ask| ask())
    }

    /// Everything in the Prometheus text format (version 0.0.4).
    pub(crate) fn metrics(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }

    fn register_own(self: &Arc<Self>) {
        for gauge in [&self.pods, &self.namespaces, &self.policies, &self.owner] {
            self.register(gauge.clone());
        }
        for counter in [
            &self.revoked_connections,
            &self.rejudged_connections,
            &self.addresses_gone,
            &self.kernel_transactions,
            &self.kernel_errors,
            &self.kernel_repairs,
            &self.deny_events_suppressed,
        ] {
            self.register(counter.clone());
        }
        self.register(self.enforcement.clone());
        self.register(Process::new());
        self.register(Conntrack::new());
        self.register(Forged::new());
        self.register(Told::new(Arc::clone(&self.shares)));
        let names = [GENERATION, READY, UP, FAILING, RESTORED, PROBLEMS, WARNINGS, COLLISIONS];
        self.register(InForce { state: Arc::downgrade(self), descriptions: describe(&names) });
    }
}

const GENERATION: super::family::Name = (
    "podgate_generation",
    "The generation of the world that is in force; grows by one with each build. 0: none is in force yet.",
);
const READY: super::family::Name = ("podgate_ready", "1 if the world is enforced; /readyz says why it is not.");

const UP: super::family::Name = (
    "podgate_source_up",
    "1 while each change of the resource is told as it happens, else 0. No series where the API server does not have it.",
);
const FAILING: super::family::Name = (
    "podgate_source_failing_seconds",
    "How long the resource could not be followed; 0 while it can. What was known before stays in force meanwhile.",
);
const RESTORED: super::family::Name = (
    "podgate_restored_world",
    "1 while the world in force is the one that was on disk at the start, as the source has not told all it knows yet.",
);
const PROBLEMS: super::family::Name = (
    "podgate_source_problems",
    "Objects or files at the source that could not be used as they are; the log and `podgate status` say which.",
);
const WARNINGS: super::family::Name = (
    "podgate_policy_warnings",
    "Things in the world that are valid but hardly meant, such as a policy without effect; `podgate status` says which.",
);
const COLLISIONS: super::family::Name = (
    "podgate_mark_collisions",
    "Chains of other tables that use bits of podgate's packet mark, connection mark or label; the log says which.",
);

/// Tells the readiness and the facts; a weak link, as the registry that holds this is a part of the state.
struct InForce {
    state: std::sync::Weak<State>,
    descriptions: Vec<Desc>,
}

impl Collector for InForce {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Some(state) = self.state.upgrade() else { return Vec::new() };
        let status = state.readiness.now();
        let single = |name, value| {
            let mut family = Family::new(name, MetricType::GAUGE);
            family.push(&[], value);
            family.finish()
        };
        let truth = |is: bool| f64::from(u8::from(is));
        let (mut up, mut failing) = (Family::new(UP, MetricType::GAUGE), Family::new(FAILING, MetricType::GAUGE));
        let facts = state.facts();
        for Freshness { resource, state } in facts.freshness.iter().filter(|one| one.state != FreshState::Absent) {
            up.push(&[("resource", resource)], truth(*state == FreshState::Live));
            failing.push(&[("resource", resource)], failing_seconds(state));
        }
        vec![
            single(GENERATION, status.generation().map_or(0, |g| g.0) as f64),
            single(READY, truth(status.is_ready())),
            up.finish(),
            failing.finish(),
            single(RESTORED, truth(facts.restored.is_some())),
            single(PROBLEMS, facts.problems.len() as f64),
            single(WARNINGS, facts.warnings.len() as f64),
            single(COLLISIONS, facts.collisions.len() as f64),
        ]
    }
}

fn gauge(name: &str, help: &str) -> IntGauge {
    IntGauge::new(name, help).expect("metric names and help texts are well-formed constants")
}

fn counter(name: &str, help: &str) -> IntCounter {
    IntCounter::new(name, help).expect("metric names and help texts are well-formed constants")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(state: &State) -> String {
        String::from_utf8(state.metrics().unwrap()).unwrap()
    }

    #[test]
    fn what_is_set_is_told() {
        let state = State::new();
        state.pods.set(7);
        state.revoked_connections.inc_by(3);
        let text = text(&state);
        assert!(text.contains("\npodgate_pods 7\n"), "{text}");
        assert!(text.contains("\npodgate_revoked_connections_total 3\n"), "{text}");
        assert!(text.contains("\npodgate_ready 0\n"), "{text}");
    }

    #[test]
    fn each_change_that_is_enforced_counts_once_in_the_histogram() {
        let state = State::new();
        let now = Instant::now();
        state.enforced(Generation(4), [now, now]);
        let text = text(&state);
        assert!(text.contains("\npodgate_generation 4\n"), "{text}");
        assert!(text.contains("\npodgate_enforcement_duration_seconds_count 2\n"), "{text}");
    }

    #[test]
    fn each_resource_tells_whether_it_is_followed_but_one_that_is_not_there() {
        let state = State::new();
        let since = podgate_watch::Since::ago(std::time::Duration::from_secs(90));
        let states = [
            ("pods", FreshState::Live),
            ("nodes", FreshState::Failing { since, why: "forbidden".to_owned() }),
            ("namespaces", FreshState::Listing),
            ("adminnetworkpolicies", FreshState::Absent),
        ];
        state.freshness(states.map(|(name, state)| Freshness { resource: name.to_owned(), state }).into());
        let text = text(&state);
        for line in [
            "podgate_source_up{resource=\"pods\"} 1",
            "podgate_source_up{resource=\"nodes\"} 0",
            "podgate_source_up{resource=\"namespaces\"} 0",
            "podgate_source_failing_seconds{resource=\"pods\"} 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("adminnetworkpolicies"), "{text}");
        let failing = text.lines().find_map(|l| l.strip_prefix("podgate_source_failing_seconds{resource=\"nodes\"} "));
        assert!(failing.unwrap().parse::<f64>().unwrap() >= 90.0, "{text}");
    }

    #[test]
    fn a_restored_world_is_told_until_the_source_has_told() {
        let state = State::new();
        state.restored(Some(SystemTime::now()));
        assert!(text(&state).contains("\npodgate_restored_world 1\n"));
        state.restored(None);
        assert!(text(&state).contains("\npodgate_restored_world 0\n"));
    }

    #[test]
    fn without_a_data_plane_nothing_is_wrong_and_with_one_it_is_asked() {
        let state = State::new();
        assert!(state.troubles().is_empty());
        state.watch_over(|| vec!["worker 1 has ended".to_owned()]);
        assert_eq!(state.troubles(), ["worker 1 has ended"]);
    }
}
