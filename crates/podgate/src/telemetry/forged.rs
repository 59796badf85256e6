//! [`Forged`]: packets that the kernel dropped because their source is not where they came from, read at each scrape.

use prometheus::core::{Collector, Desc};
use prometheus::proto::{MetricFamily, MetricType};

use super::family::{Family, Name, describe};

const FORGED: Name = (
    "podgate_forged_packets_total",
    "Packets that came by a pod's link with a source that is not reached over it, and were dropped (--source-check), since the rules were written last.",
);

/// Of the table that stands, whoever's it is.
pub(crate) struct Forged {
    descriptions: Vec<Desc>,
}

impl Forged {
    pub(crate) fn new() -> Self {
        Forged { descriptions: describe(&[FORGED]) }
    }
}

impl Collector for Forged {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut family = Family::new(FORGED, MetricType::COUNTER);
        match podgate_netfilter::forged() {
            Ok(packets) => family.push(&[], packets as f64),
            Err(error) => tracing::debug!(%error, "the counter of forged packets cannot be read"),
        }
        vec![family.finish()]
    }
}
