//! Metrics of the world on disk, read from its writer at each scrape.

use podgate_watch::saved::Teller;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{MetricFamily, MetricType};

use super::family::{Family, Name, describe};

const UP: Name = (
    "podgate_saved_world_up",
    "1 while each change is written to disk; 0: a start without the API server would know less, podgate status says why.",
);
const LOST: Name = (
    "podgate_saved_world_lost_changes_total",
    "Changes that are not in the world on disk, as the disk took none for too long.",
);
const BYTES: Name = ("podgate_saved_world_bytes", "Size of the world on disk.");

/// Tells how saving goes.
pub(crate) struct Saving {
    teller: Teller,
    descriptions: Vec<Desc>,
}

impl Saving {
    /// Of this writer.
    pub(crate) fn new(teller: Teller) -> Self {
        Saving { teller, descriptions: describe(&[UP, LOST, BYTES]) }
    }
}

impl Collector for Saving {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let status = self.teller.status();
        let up = status.saving && status.error.is_none() && !status.outdated;
        let one = |name, kind, value| {
            let mut family = Family::new(name, kind);
            family.push(&[], value);
            family.finish()
        };
        vec![
            one(UP, MetricType::GAUGE, f64::from(u8::from(up))),
            one(LOST, MetricType::COUNTER, status.lost_changes as f64),
            one(BYTES, MetricType::GAUGE, status.bytes as f64),
        ]
    }
}
