//! [`Goal`]: what podgate is to reach, as ratios of one run.

use podgate_bench::stats::Estimate;

use crate::kinds::Kind;
use crate::plan::{Measure, Named};
use crate::results::Results;

/// A side's rate is to be at least so much of another's.
pub(crate) struct Goal {
    pub(crate) measure: Measure,
    pub(crate) side: Kind,
    pub(crate) base: Kind,
    pub(crate) least: f64,
}

/// What became of a goal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reached {
    /// The whole interval is at the goal or above.
    Yes,
    /// The median is, the interval reaches below.
    Likely,
    /// The median is below, the interval reaches the goal.
    Unlikely,
    /// The whole interval is below.
    No,
}

impl Goal {
    /// All goals, for so many queues.
    pub(crate) fn all(queues: u16) -> Vec<Goal> {
        let Named { accept, uncached, uncached_large, cached, cached_large } = Named::new(queues);
        let goal = |measure, side, base, least| Goal { measure, side, base, least };
        vec![
            goal(Measure::Connections16, uncached, accept, 0.97),
            goal(Measure::Connections1, uncached, accept, 0.97),
            goal(Measure::Connections16, cached, Kind::KernelSet, 0.98),
            goal(Measure::Connections1, cached, Kind::KernelSet, 0.98),
            goal(Measure::Udp, uncached, accept, 0.95),
            goal(Measure::Connections16, uncached_large, uncached, 0.95),
            goal(Measure::Connections1, uncached_large, uncached, 0.95),
            goal(Measure::Udp, uncached_large, uncached, 0.95),
            goal(Measure::Connections16, cached_large, cached, 0.95),
            goal(Measure::Connections1, cached_large, cached, 0.95),
            goal(Measure::Throughput, uncached, Kind::NoPolicy, 0.99),
            goal(Measure::Throughput, cached, Kind::NoPolicy, 0.99),
            goal(Measure::Exchanges, uncached, Kind::NoPolicy, 0.99),
            goal(Measure::Exchanges, cached, Kind::NoPolicy, 0.99),
            goal(Measure::FloodUdp, cached, Kind::KernelRule, 0.9),
            goal(Measure::FloodSyn, cached, Kind::KernelRule, 0.9),
        ]
    }

    /// What was measured of it, if it was.
    pub(crate) fn measured(&self, results: &Results) -> Option<Estimate> {
        results.ratio(self.measure, self.side, self.base)
    }

    /// What became of it.
    pub(crate) fn reached(&self, measured: Estimate) -> Reached {
        match measured {
            m if m.low >= self.least => Reached::Yes,
            m if m.median >= self.least => Reached::Likely,
            m if m.high >= self.least => Reached::Unlikely,
            _ => Reached::No,
        }
    }
}

impl Reached {
    /// As the report says it.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Reached::Yes => "yes",
            Reached::Likely => "yes, but the interval reaches below",
            Reached::Unlikely => "**no**, but the interval reaches the goal",
            Reached::No => "**no**",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_reached_for_sure_only_with_its_whole_interval() {
        let goal = &Goal::all(1)[0];
        let reached = |low, median, high| goal.reached(Estimate { median, low, high });
        assert_eq!(goal.least, 0.97);
        assert_eq!(reached(0.97, 0.99, 1.0), Reached::Yes);
        assert_eq!(reached(0.96, 0.97, 1.0), Reached::Likely);
        assert_eq!(reached(0.90, 0.96, 0.97), Reached::Unlikely);
        assert_eq!(reached(0.90, 0.95, 0.96), Reached::No);
    }
}
