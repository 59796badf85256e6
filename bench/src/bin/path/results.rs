//! [`Results`]: what came of all measurements of a run.

use std::collections::BTreeMap;

use podgate_bench::stats::{Estimate, estimate, ratio};

use crate::kinds::Kind;
use crate::measure::Sample;
use crate::plan::Measure;

/// Samples by measure and side, one a turn.
#[derive(Default)]
pub(crate) struct Results {
    kinds: Vec<Kind>,
    samples: BTreeMap<(Measure, usize), Vec<Sample>>,
}

impl Results {
    /// Of these sides, in the order of the report.
    pub(crate) fn new(kinds: Vec<Kind>) -> Self {
        Results { kinds, samples: BTreeMap::new() }
    }

    /// A side's next turn.
    pub(crate) fn add(&mut self, measure: Measure, kind: Kind, sample: Sample) {
        if let Some(at) = self.kinds.iter().position(|k| *k == kind) {
            self.samples.entry((measure, at)).or_default().push(sample);
        }
    }

    /// What was measured.
    pub(crate) fn measures(&self) -> Vec<Measure> {
        let mut measures: Vec<Measure> = self.samples.keys().map(|(measure, _)| *measure).collect();
        measures.dedup();
        measures
    }

    /// The sides that took part.
    pub(crate) fn sides(&self, measure: Measure) -> impl Iterator<Item = Kind> {
        let of = move |(at, kind): (usize, &Kind)| self.samples.contains_key(&(measure, at)).then_some(*kind);
        self.kinds.iter().enumerate().filter_map(of)
    }

    /// A side's turns.
    pub(crate) fn samples(&self, measure: Measure, kind: Kind) -> Option<&[Sample]> {
        let at = self.kinds.iter().position(|k| *k == kind)?;
        self.samples.get(&(measure, at)).map(Vec::as_slice)
    }

    /// Something of a side, where each of its turns has it.
    pub(crate) fn of(&self, measure: Measure, kind: Kind, what: impl Fn(&Sample) -> Option<f64>) -> Option<Estimate> {
        let values: Option<Vec<f64>> = self.samples(measure, kind)?.iter().map(what).collect();
        values.map(|values| estimate(&values))
    }

    /// How the rates of two sides compare.
    pub(crate) fn ratio(&self, measure: Measure, kind: Kind, base: Kind) -> Option<Estimate> {
        let rates = |kind| Some(self.samples(measure, kind)?.iter().map(|s| s.rate).collect::<Vec<_>>());
        let (side, base) = (rates(kind)?, rates(base)?);
        (side.len() == base.len()).then(|| ratio(&side, &base))
    }
}
