//! [`families`]: the verdict cache in metrics. What it does is [`cache`](crate::cache)'s.

use prometheus::proto::{MetricFamily, MetricType};

use super::family::{Family, Name};
use crate::cache::CacheFacts;

const HITS: Name = (
    "podgate_cache_hits_total",
    "Packets that the kernel accepted or dropped by itself, because the same was decided before. Rule counters have them too.",
);
const ENTRIES: Name = ("podgate_cache_entries", "Verdicts that the kernel repeats now.");
const ADDED: Name = ("podgate_cache_added_total", "Verdicts that were given to the kernel to repeat.");
const REFUSED: Name = (
    "podgate_cache_refused_total",
    "Verdicts that came again and again but for which the cache (--cache), or the source's share of it, had no room.",
);

/// The metrics told here.
pub(super) const NAMES: [Name; 4] = [HITS, ENTRIES, ADDED, REFUSED];

pub(super) fn families(facts: &CacheFacts) -> [MetricFamily; 4] {
    let by_verdict = |name, kind, [accept, drop]: [f64; 2]| {
        let mut family = Family::new(name, kind);
        family.push(&[("verdict", "accept")], accept);
        family.push(&[("verdict", "drop")], drop);
        family.finish()
    };
    let single = |name, value| {
        let mut family = Family::new(name, MetricType::COUNTER);
        family.push(&[], value);
        family.finish()
    };
    [
        by_verdict(HITS, MetricType::COUNTER, [facts.accepted as f64, facts.dropped as f64]),
        by_verdict(ENTRIES, MetricType::GAUGE, [facts.accepting as f64, facts.dropping as f64]),
        single(ADDED, facts.added as f64),
        single(REFUSED, facts.refused as f64),
    ]
}
