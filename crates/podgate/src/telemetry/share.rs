//! [`Shares`]: what is known of overload: the share in force, and which pods had more than theirs.
//!
//! The control loop writes it a few times a second while there is overload; a scrape and the status read it.
//! How large a share is, and when there is one, is `run::share`'s.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use podgate_watch::Since;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{MetricFamily, MetricType};

use super::family::{Family, Name, describe};

const LIMIT: Name = (
    "podgate_overload_shares",
    "While more comes up than can be judged: packets per second that each pod may have judged. 0: no limit.",
);
const DROPPED: Name = (
    "podgate_overload_dropped_packets_total",
    "Packets over a pod's share of an overloaded queue, by the pod whose share it was: dropped, or, with --fail-open, \
     passed unjudged. Without names: of addresses that no pod is known to have, and of pods past the first 1000.",
);

/// Pods with a series of their own; more than a node has.
const MOST: usize = 1000;

/// Overload, as far as it is to be told.
#[derive(Debug, Default)]
pub(crate) struct Shares(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    now: Option<InForce>,
    /// By namespace and name.
    dropped: BTreeMap<(String, String), u64>,
    /// Of them, since the share is in force.
    lately: BTreeMap<(String, String), u64>,
}

/// The share in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InForce {
    /// Packets per second.
    pub(crate) limit: u32,
    /// Since when there are shares.
    pub(crate) since: Since,
}

/// A pod, and how many packets it had over its share.
pub(crate) type Over = (String, String, u64);

impl Shares {
    /// There is a share of so many packets a second from now on, or none.
    pub(crate) fn set(&self, limit: Option<u32>) {
        let mut known = self.lock();
        let since = known.now.map(|now| now.since);
        if since.is_none() {
            known.lately.clear();
        }
        known.now = limit.map(|limit| InForce { limit, since: since.unwrap_or_else(Since::now) });
    }

    /// A pod (`namespace/name`; None: nobody knows which) had so many more packets over its share.
    pub(crate) fn count(&self, pod: Option<&str>, packets: u64) {
        let (namespace, name) = pod.and_then(|pod| pod.split_once('/')).unwrap_or_default();
        let mut key = (namespace.to_owned(), name.to_owned());
        let mut known = self.lock();
        if known.dropped.len() >= MOST && !known.dropped.contains_key(&key) {
            key = Default::default();
        }
        *known.dropped.entry(key.clone()).or_default() += packets;
        *known.lately.entry(key).or_default() += packets;
    }

    /// The share in force, and who had more since there is one, the worst first.
    pub(crate) fn now(&self) -> Option<(InForce, Vec<Over>)> {
        let known = self.lock();
        known.now.map(|now| (now, known.worst()))
    }

    /// Who had more than a share since there was one, the worst first.
    pub(crate) fn lately(&self) -> Vec<Over> {
        self.lock().worst()
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn worst(&self) -> Vec<Over> {
        let mut all: Vec<Over> = self
            .lately
            .iter()
            .map(|((namespace, name), packets)| (namespace.clone(), name.clone(), *packets))
            .collect();
        all.sort_by_key(|(.., packets)| std::cmp::Reverse(*packets));
        all
    }
}

/// The worst few of these, in words.
pub(crate) fn named(over: &[Over]) -> String {
    const FEW: usize = 3;
    let name = |(namespace, name, packets): &Over| match name.is_empty() {
        true => format!("addresses of no known pod ({packets} packets)"),
        false => format!("{namespace}/{name} ({packets} packets)"),
    };
    let mut words: Vec<String> = over.iter().take(FEW).map(name).collect();
    if over.len() > FEW {
        words.push(format!("{} more", over.len() - FEW));
    }
    if words.is_empty() { "nobody".to_owned() } else { words.join(", ") }
}

/// Tells [`Shares`] at a scrape.
pub(super) struct Told {
    shares: std::sync::Arc<Shares>,
    descriptions: Vec<Desc>,
}

impl Told {
    pub(super) fn new(shares: std::sync::Arc<Shares>) -> Self {
        Told { shares, descriptions: describe(&[LIMIT, DROPPED]) }
    }
}

impl Collector for Told {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let (mut limit, mut dropped) =
            (Family::new(LIMIT, MetricType::GAUGE), Family::new(DROPPED, MetricType::COUNTER));
        let known = self.shares.lock();
        limit.push(&[], known.now.map_or(0.0, |now| now.limit.into()));
        for ((namespace, name), packets) in &known.dropped {
            dropped.push(&[("namespace", namespace), ("pod", name)], *packets as f64);
        }
        let mut families = vec![limit.finish()];
        // The registry takes a family without a sample for a mistake.
        if !known.dropped.is_empty() {
            families.push(dropped.finish());
        }
        families
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_stay_when_the_overload_is_over_and_begin_anew_for_the_next() {
        let shares = Shares::default();
        shares.set(Some(100));
        shares.count(Some("shop/evil"), 5);
        shares.count(None, 7);
        shares.set(Some(50));
        let (now, over) = shares.now().unwrap();
        assert_eq!(
            (now.limit, named(&over).as_str()),
            (50, "addresses of no known pod (7 packets), shop/evil (5 packets)")
        );
        shares.set(None);
        assert_eq!((shares.now(), shares.lately().len()), (None, 2));
        shares.set(Some(100));
        assert!(shares.lately().is_empty());
        assert_eq!(shares.lock().dropped.values().sum::<u64>(), 12);
    }

    #[test]
    fn series_are_bounded() {
        let shares = Shares::default();
        (0..2 * MOST).for_each(|n| shares.count(Some(&format!("a/{n}")), 1));
        shares.count(Some("a/0"), 1);
        let known = shares.lock();
        assert_eq!(known.dropped.len(), MOST + 1);
        let at = |namespace: &str, name: &str| known.dropped[&(namespace.to_owned(), name.to_owned())];
        assert_eq!((at("", ""), at("a", "0")), (MOST as u64, 2));
    }
}
