//! [`Facts`]: what the agent knows of itself that is more than a number, for `podgate status` and `/readyz`.
//!
//! Whoever has the news writes it here ([`State::facts`](super::State::facts)); nothing here is read on the packet path.
//! Not here: numbers (the fields of [`State`](super::State)), whether it is ready ([`readiness`](super::readiness)).

use std::ops::RangeInclusive;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use podgate_policy::Warning;
use podgate_watch::{FreshState, Freshness, Problem};

/// What the agent knows of itself, in words.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    /// When the generation in force came into force.
    pub(crate) in_force_since: Option<SystemTime>,
    /// How fresh each resource of the source is.
    pub(crate) freshness: Vec<Freshness>,
    /// What is wrong at the source.
    pub(crate) problems: Vec<Problem>,
    /// What is valid but hardly meant.
    pub(crate) warnings: Vec<Warning>,
    /// The world in force is the one that was on disk at the start, saved at this time.
    pub(crate) restored: Option<SystemTime>,
    /// The queues, one per worker, in their order; None until they are bound.
    pub(crate) queues: Option<RangeInclusive<u16>>,
    /// What the kernel diverts; None until its program is installed.
    pub(crate) diversion: Option<Diversion>,
    /// Who else on the node uses bits of our marks and labels, in words.
    pub(crate) collisions: Vec<String>,
}

/// What the kernel sends up, and what it lets go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Diversion {
    /// The ranges of this node's pods; empty where they are not known.
    pub(crate) pod_ranges: Vec<IpNet>,
    /// Local pod addresses that some policy is about, in either direction.
    pub(crate) isolated: usize,
    /// Local pod addresses that nothing is about: what they send and get needs no verdict.
    pub(crate) open: usize,
    /// The kernel's rules are what they should be.
    pub(crate) intact: bool,
}

impl Facts {
    /// What the operator should know besides the readiness: one line each.
    pub(crate) fn remarks(&self, now: SystemTime) -> Vec<String> {
        let mut remarks = Vec::new();
        if let Some(saved) = self.restored {
            remarks
                .push(format!("enforcing the world that was saved {} ago, until the source has told", ago(saved, now)));
        }
        for Freshness { resource, state } in &self.freshness {
            if let FreshState::Failing { since, why } = state {
                remarks.push(format!("{resource}: not followed for {}: {why}", duration(since.elapsed())));
            }
        }
        if !self.problems.is_empty() {
            let count = self.problems.len();
            remarks.push(format!("problems at the source: {count}, see `podgate status` or the log"));
        }
        remarks.extend(self.collisions.iter().map(|collision| format!("marks collide: {collision}")));
        remarks
    }
}

/// How long it has failed, in seconds; 0 if it does not.
pub(super) fn failing_seconds(state: &FreshState) -> f64 {
    match state {
        FreshState::Failing { since, .. } => since.elapsed().as_secs_f64(),
        _ => 0.0,
    }
}

fn ago(then: SystemTime, now: SystemTime) -> String {
    duration(now.duration_since(then).unwrap_or_default())
}

/// A span as people say it: its two largest units.
pub(crate) fn duration(span: Duration) -> String {
    let seconds = span.as_secs();
    let units = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")];
    let Some(first) = units.iter().position(|(size, _)| seconds >= *size) else { return "0 s".to_owned() };
    let (size, name) = units[first];
    let mut text = format!("{} {name}", seconds / size);
    if let Some((smaller, name)) = units.get(first + 1).filter(|(smaller, _)| seconds % size >= *smaller) {
        text += &format!(" {} {name}", seconds % size / smaller);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_told_in_their_two_largest_units() {
        let said = [0, 59, 60, 61, 3600, 3661, 90_000, 864_000].map(|s| duration(Duration::from_secs(s)));
        assert_eq!(said, ["0 s", "59 s", "1 min", "1 min 1 s", "1 h", "1 h 1 min", "1 d 1 h", "10 d"]);
    }

    #[test]
    fn a_resource_that_fails_is_remarked_with_why_and_since_when() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let saved = now - Duration::from_secs(65);
        let since = podgate_watch::Since::ago(Duration::from_secs(3605));
        let failing = FreshState::Failing { since, why: "the API server is away".to_owned() };
        let freshness = [("pods", failing), ("nodes", FreshState::Live)]
            .map(|(resource, state)| Freshness { resource: resource.to_owned(), state });
        let facts = Facts { freshness: freshness.into(), restored: Some(saved), ..Facts::default() };
        assert_eq!(
            facts.remarks(now),
            [
                "enforcing the world that was saved 1 min 5 s ago, until the source has told",
                "pods: not followed for 1 h: the API server is away",
            ]
        );
    }
}
