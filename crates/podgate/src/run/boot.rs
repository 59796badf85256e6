//! What is enforced before the source has told all it knows: the last known world, else the pod ranges closed.
//!
//! Half a world must never be enforced: a pod whose policies are not listed yet would be open. So what the first lists
//! tell is taken into the index and built only when they are complete. Until then, in this order: the world that an
//! earlier agent saved; else, as soon as this node's pod ranges are known, nothing but replies, remembered connections
//! and the node's own traffic passes ([`BootMode::Closed`]); or everything does ([`BootMode::Open`]).

use std::time::SystemTime;

use clap::ValueEnum;
use podgate_api::{Change, Kind, Object};
use podgate_engine::Generation;
use podgate_policy::{Build, Index};
use podgate_watch::{FreshState, Freshness};

/// What is done with pods' traffic while no world is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BootMode {
    /// As if every pod was isolated and nothing allowed.
    Closed,
    /// It passes.
    Open,
}

/// How far the start has come.
#[derive(Debug)]
pub(crate) struct Boot {
    phase: Phase,
    mode: BootMode,
    /// This node's pod ranges and nothing else, or not even these where the start is open; None once there is a world.
    ranges: Option<Index>,
    dirty: bool,
    generation: Generation,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No world is known.
    Unknown,
    /// A saved world is in force. `alone`: the API server is away, so there is no saying when another comes.
    Restored { alone: bool },
    /// The source has told all it knew.
    Over,
}

impl Boot {
    /// A start without any knowledge. `ranges` is an empty index with this node's name and, if it is to be closed, the
    /// ranges that are set.
    pub(crate) fn new(mode: BootMode, ranges: Index) -> Self {
        Boot { phase: Phase::Unknown, mode, ranges: Some(ranges), dirty: true, generation: Generation(0) }
    }

    /// What is done until a world is known.
    pub(crate) fn mode(&self) -> BootMode {
        self.mode
    }

    /// A saved world is in force.
    pub(crate) fn restored(&mut self) {
        self.phase = Phase::Restored { alone: false };
        self.ranges = None;
    }

    /// Whether a saved world is in force.
    pub(crate) fn is_restored(&self) -> bool {
        matches!(self.phase, Phase::Restored { .. })
    }

    /// Whether the source has told all it knew.
    pub(crate) fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// Whether a world is in force, be it a saved one: closed ranges are none to judge established connections by.
    pub(crate) fn has_world(&self) -> bool {
        self.phase != Phase::Unknown
    }

    /// Whether changes are to be enforced as they come.
    pub(crate) fn enforces(&self) -> bool {
        matches!(self.phase, Phase::Over | Phase::Restored { alone: true })
    }

    /// The source has told all it knew. True if that is news; then the generation that the index must go on from.
    pub(crate) fn finish(&mut self) -> Option<Generation> {
        if self.phase == Phase::Over {
            return None;
        }
        self.phase = Phase::Over;
        self.ranges = None;
        Some(self.generation)
    }

    /// Takes in what tells this node's pod ranges.
    pub(crate) fn note(&mut self, changes: &[Change]) {
        let Some(ranges) = self.ranges.as_mut().filter(|_| self.mode == BootMode::Closed) else { return };
        for change in changes {
            let is_node = match change {
                Change::Apply(object) => matches!(object, Object::Node(_)),
                Change::Delete(key) => key.kind == Kind::Node,
            };
            if is_node {
                ranges.apply(change.clone());
                self.dirty = true;
            }
        }
    }

    /// How fresh the source is. While it fails, the saved world is all there is, and what little comes is enforced.
    pub(crate) fn note_freshness(&mut self, all: &[Freshness]) {
        if let Phase::Restored { alone } = &mut self.phase {
            *alone = all.iter().any(|one| matches!(one.state, FreshState::Failing { .. }));
        }
    }

    /// Whether a saved world is in force and the source cannot be asked for a newer one.
    pub(crate) fn is_alone(&self) -> bool {
        self.phase == Phase::Restored { alone: true }
    }

    /// What is to be enforced until a world is known, if that is new.
    pub(crate) fn build(&mut self) -> Option<Build> {
        let ranges = self.ranges.as_mut().filter(|_| std::mem::take(&mut self.dirty))?;
        let build = ranges.build();
        self.generation = build.snapshot.generation();
        Some(build)
    }
}

/// A moment for a log line: UTC, to the second.
pub(crate) fn moment(at: SystemTime) -> String {
    jiff::Timestamp::try_from(at).map_or_else(|_| "at an unknown time".to_owned(), |t| format!("{t:.0}"))
}

#[cfg(test)]
mod tests {
    use podgate_policy::Locality;

    use super::*;

    fn freshness(state: FreshState) -> [Freshness; 1] {
        [Freshness { resource: "pods".to_owned(), state }]
    }

    fn failing() -> FreshState {
        FreshState::Failing { since: podgate_watch::Since::now(), why: String::new() }
    }

    #[test]
    fn nothing_is_enforced_as_it_comes_before_all_is_told() {
        let mut boot = Boot::new(BootMode::Open, Index::new(Locality::All));
        boot.note_freshness(&freshness(failing()));
        assert!(!boot.enforces());
        boot.finish();
        assert!(boot.enforces());
        assert!(boot.finish().is_none(), "only once");
    }

    #[test]
    fn an_open_start_closes_no_range_whatever_the_source_tells_of_this_node() {
        let pod_cidrs = vec!["10.1.0.0/24".parse().unwrap()];
        let node = podgate_api::Node { name: "n".to_owned(), pod_cidrs, ..Default::default() };
        let told = [Change::Apply(Object::Node(node))];
        for (mode, closed) in [(BootMode::Open, false), (BootMode::Closed, true)] {
            let mut index = Index::new(Locality::Node("n".to_owned()));
            index.guard_pod_ranges(Vec::new());
            let mut boot = Boot::new(mode, index);
            let ranges = |build: Option<Build>| build.and_then(|build| build.pod_ranges).unwrap_or_default();
            assert!(ranges(boot.build()).is_empty());
            boot.note(&told);
            assert_eq!(!ranges(boot.build()).is_empty(), closed, "{mode:?}");
        }
    }

    #[test]
    fn beside_a_saved_world_what_comes_counts_while_the_source_fails_and_only_then() {
        let mut boot = Boot::new(BootMode::Closed, Index::new(Locality::All));
        boot.restored();
        assert!(!boot.enforces() && boot.build().is_none());
        boot.note_freshness(&freshness(failing()));
        assert!(boot.enforces() && boot.is_alone());
        boot.note_freshness(&freshness(FreshState::Listing));
        assert!(!boot.enforces() && !boot.is_alone());
    }
}
