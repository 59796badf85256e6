//! [`DataPlane`]: what the packet path counted, read at scrape.
//!
//! The packet path writes counters by number and knows no name; here they get their names and labels, once a scrape.
//! Not here: which rules there are and the bound on their series ([`rules`]).

use std::io;
use std::sync::Arc;

use podgate_engine::counters::{LATENCY_BOUNDS, Settled};
use podgate_engine::packet::ParseError;
use podgate_engine::{Counter, Counters, Direction, Publication};
use podgate_netfilter::queue::QueueStats;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{MetricFamily, MetricType};

use super::cache;
use super::family::{Family, Name, describe};
use super::rules::{self, RuleSeries};
use crate::cache::Cache;

const PACKETS: Name = ("podgate_packets_total", "Packets that came up from the queues, by what became of them.");
const UNMATCHED: Name = (
    "podgate_unmatched_verdicts_total",
    "Decisions about a direction that no rule made: nothing is about that end (open), a pod and its own node, a pod and \
     itself, or an address of the pod ranges that no pod is known to have (unknown: denied).",
);
const ERRORS: Name = ("podgate_parse_errors_total", "Packets whose header could not be read; they were dropped.");
const DURATION: Name = (
    "podgate_verdict_duration_seconds",
    "Time from when a packet was read until its verdict was with the kernel; not of held ones.",
);
const HOLD_DENIED: Name = (
    "podgate_hold_denied_packets_total",
    "Packets of unknown addresses that were denied: still unknown at the deadline (expired), the table was full (full), or \
     their source (source) or unknown destination (destination) had its share of it.",
);
const REJECTS: Name = (
    "podgate_rejects_sent_total",
    "Resets and errors sent to who was denied (--on-deny reject); of a connection that was cut, one to each end.",
);
const UNREJECTED: Name = (
    "podgate_rejects_suppressed_total",
    "Answers to denied packets that were not sent: the rate of all (rate) or of one address (source) is used up, nothing may \
     answer such a packet (unanswerable), or it could not be sent (failed).",
);
const WAITING: Name =
    ("podgate_hold_waiting_packets", "Packets of unknown addresses that are held now, and those on their way there.");
const DEPTH: Name = ("podgate_queue_depth", "Packets that wait in the queue now.");
const DROPPED: Name = (
    "podgate_queue_dropped_total",
    "Packets that the kernel could not queue: the queue was full (full), or the socket's buffer (socket).",
);

/// Counters that are one number.
const SINGLE: [(Counter, Name); 10] = [
    (
        Counter::PortsUnseen,
        ("podgate_ports_unseen_packets_total", "Packets without visible ports: later fragments, cut headers."),
    ),
    (
        Counter::Midstream,
        (
            "podgate_startup_loose_accepts_total",
            "Packets of connections older than the agent, accepted in the start-up period only because the opposite \
             orientation is allowed.",
        ),
    ),
    (
        Counter::Untracked,
        ("podgate_untracked_packets_total", "Packets judged on their own because conntrack does not track them."),
    ),
    (Counter::Related, ("podgate_related_packets_total", "ICMP errors judged by the packet inside them.")),
    (
        Counter::Unmarked,
        (
            "podgate_unmarked_packets_total",
            "Packets denied because they came up by a rule that is not podgate's; should be 0.",
        ),
    ),
    (
        Counter::Held,
        ("podgate_held_packets_total", "Packets held for a moment because the pod of an address was not known yet."),
    ),
    (
        Counter::HoldAllowed,
        (
            "podgate_hold_allowed_packets_total",
            "Packets of unknown addresses that were let through, past a bound or at the deadline, as --on-unknown says.",
        ),
    ),
    (
        Counter::RecordsLost,
        (
            "podgate_deny_events_dropped_total",
            "Denies without an event because their ring was full; rule counters have them all.",
        ),
    ),
    (
        Counter::RulesUncounted,
        ("podgate_uncounted_verdicts_total", "Verdicts of rules that had no counter yet; should be 0."),
    ),
    (
        Counter::Malformed,
        (
            "podgate_queue_unusable_messages_total",
            "Messages of the kernel's queues that could not be used: malformed ones, and refused verdicts because the \
             packet was gone.",
        ),
    ),
];

/// Reads the statistics of this network namespace's queues.
pub(crate) type ReadQueues = fn() -> io::Result<Vec<QueueStats>>;

/// Collects what the packet path counted.
pub(crate) struct DataPlane {
    publication: Arc<Publication>,
    counters: Arc<Counters>,
    cache: Arc<Cache>,
    queues: ReadQueues,
    own_queues: std::ops::RangeInclusive<u16>,
    hold: u16,
    rules: RuleSeries,
    descriptions: Vec<Desc>,
}

impl DataPlane {
    /// The rules of `publication`'s current snapshot with the counts of `counters`, and the statistics of
    /// `own_queues`. At most `rule_series` rules have series of their own
    /// ([`DEFAULT_LIMIT`](rules::DEFAULT_LIMIT)).
    pub(crate) fn new(
        publication: Arc<Publication>,
        counters: Arc<Counters>,
        cache: Arc<Cache>,
        own_queues: std::ops::RangeInclusive<u16>,
        hold: u16,
        rule_series: usize,
    ) -> Self {
        let mut names =
            vec![PACKETS, UNMATCHED, ERRORS, DURATION, HOLD_DENIED, REJECTS, UNREJECTED, WAITING, DEPTH, DROPPED];
        names.extend(SINGLE.map(|(_, name)| name));
        names.extend(rules::NAMES);
        names.extend(cache::NAMES);
        let queues = podgate_netfilter::queue::queue_stats;
        let descriptions = describe(&names);
        Self {
            publication,
            counters,
            cache,
            queues,
            own_queues,
            hold,
            rules: RuleSeries::new(rule_series),
            descriptions,
        }
    }

    fn packets(&self) -> MetricFamily {
        let mut family = Family::new(PACKETS, MetricType::COUNTER);
        family.push(&[("verdict", "accept")], self.counters.get(Counter::Accepted) as f64);
        family.push(&[("verdict", "drop")], self.counters.get(Counter::Dropped) as f64);
        family.finish()
    }

    fn unmatched(&self) -> MetricFamily {
        let mut family = Family::new(UNMATCHED, MetricType::COUNTER);
        for direction in [Direction::Ingress, Direction::Egress] {
            for kind in Settled::ALL {
                let labels = [("direction", direction.as_str()), ("reason", kind.as_str())];
                family.push(&labels, self.counters.settled(direction, kind) as f64);
            }
        }
        family.finish()
    }

    fn errors(&self) -> MetricFamily {
        let mut family = Family::new(ERRORS, MetricType::COUNTER);
        for kind in ParseError::ALL {
            family.push(&[("reason", kind.as_str())], self.counters.parse_errors(kind) as f64);
        }
        family.finish()
    }

    fn duration(&self) -> MetricFamily {
        let latency = self.counters.latency();
        let mut family = Family::new(DURATION, MetricType::HISTOGRAM);
        let bounds = LATENCY_BOUNDS.iter().map(|nanoseconds| *nanoseconds as f64 / 1e9);
        let beyond = latency.buckets[LATENCY_BOUNDS.len()];
        family.push_histogram(bounds.zip(latency.buckets), beyond, latency.sum_nanoseconds as f64 / 1e9);
        family.finish()
    }

    fn hold_denied(&self) -> MetricFamily {
        let reasons = [
            ("expired", Counter::HoldExpired),
            ("full", Counter::HoldFull),
            ("source", Counter::HoldSource),
            ("destination", Counter::HoldDestination),
        ];
        self.by_label(HOLD_DENIED, "reason", &reasons)
    }

    fn rejects(&self) -> [MetricFamily; 2] {
        let kinds =
            [("tcp_reset", Counter::RejectReset), ("icmp", Counter::RejectIcmp), ("icmpv6", Counter::RejectIcmpv6)];
        let reasons = [
            ("rate", Counter::RejectRate),
            ("source", Counter::RejectSource),
            ("unanswerable", Counter::RejectNever),
            ("failed", Counter::RejectFailed),
        ];
        [self.by_label(REJECTS, "kind", &kinds), self.by_label(UNREJECTED, "reason", &reasons)]
    }

    fn by_label(&self, name: Name, label: &str, counters: &[(&str, Counter)]) -> MetricFamily {
        let mut family = Family::new(name, MetricType::COUNTER);
        for (value, counter) in counters {
            family.push(&[(label, value)], self.counters.get(*counter) as f64);
        }
        family.finish()
    }

    /// Nothing for queues that are not ours, and nothing at all where they cannot be read: no figure is better than a
    /// wrong one.
    fn queues(&self) -> [MetricFamily; 3] {
        let mut waiting = Family::new(WAITING, MetricType::GAUGE);
        let mut depth = Family::new(DEPTH, MetricType::GAUGE);
        let mut dropped = Family::new(DROPPED, MetricType::COUNTER);
        let all = (self.queues)().unwrap_or_else(|error| {
            tracing::warn!(%error, "the queues' statistics cannot be read");
            Vec::new()
        });
        for stats in all.iter().filter(|s| s.number == self.hold || self.own_queues.contains(&s.number)) {
            let queue = stats.number.to_string();
            match stats.number == self.hold {
                true => waiting.push(&[], stats.depth as f64),
                false => depth.push(&[("queue", &queue)], stats.depth as f64),
            }
            dropped.push(&[("queue", &queue), ("reason", "full")], stats.queue_dropped as f64);
            dropped.push(&[("queue", &queue), ("reason", "socket")], stats.user_dropped as f64);
        }
        [waiting.finish(), depth.finish(), dropped.finish()]
    }
}

impl Collector for DataPlane {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        // What the kernel repeated until now counts as well.
        self.cache.read();
        let mut families = vec![self.packets(), self.unmatched(), self.errors(), self.duration(), self.hold_denied()];
        for (counter, name) in SINGLE {
            let mut family = Family::new(name, MetricType::COUNTER);
            family.push(&[], self.counters.get(counter) as f64);
            families.push(family.finish());
        }
        families.extend(self.rejects());
        families.extend(self.queues());
        families.extend(cache::families(&self.cache.facts()));
        let snapshot = self.publication.current();
        families.extend(self.rules.collect(snapshot.rules(), |rule| self.counters.rule(rule)));
        families
    }
}
