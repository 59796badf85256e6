//! What a source of truth tells.

use std::time::{Duration, Instant, SystemTime};

use podgate_api::{Change, ObjectKey};

/// One message from a source; every source speaks this, so that all share one path.
#[derive(Debug)]
pub enum Event {
    /// The world changed.
    Changes {
        /// The steps, to be taken together.
        changes: Vec<Change>,
        /// When the source first noticed: the beginning of "time from change to enforcement".
        noticed: Instant,
    },
    /// All that was there at the start has been told.
    Synced,
    /// All that is there has been told once more, since a world of this number was wanted
    /// ([`Recorder::wanted`](crate::saved::Recorder::wanted)); nothing new is known by that.
    Retold {
        /// The world's number.
        world: u64,
        /// Objects that were not told again: what was told of them before stays in force, as they can't be read now.
        kept: Vec<ObjectKey>,
    },
    /// The full list of what is wrong at the source now (empty: all well again).
    Problems(Vec<Problem>),
    /// How fresh each resource of the source is now: the full list, told whenever one of them changes.
    Freshness(Vec<Freshness>),
}

/// Something at the source that could not be used.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Where: `file:line`, or the API resource.
    pub place: String,
    /// The object, where that much is known.
    pub object: Option<ObjectKey>,
    /// What is wrong, what is in force instead, and what to do.
    pub message: String,
}

/// How fresh what is known of one resource is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Freshness {
    /// The resource, as a person would name it: `pods`, `networkpolicies.networking.k8s.io`, `manifests DIR`.
    pub resource: String,
    /// Its state.
    pub state: FreshState,
}

/// The state of one resource of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FreshState {
    /// It is being read from its beginning; what was known before stays in force meanwhile.
    Listing,
    /// It is known, and each change of it is told as it happens.
    Live,
    /// The API server does not have this kind of object.
    Absent,
    /// It can't be read; what was known before stays in force.
    Failing {
        /// Since when.
        since: Since,
        /// Why, and what to do.
        why: String,
    },
    /// It is known only as it was saved on disk by an earlier run.
    Restored {
        /// When it was saved.
        saved: SystemTime,
    },
}

/// Since when something is so: for how long is told by a clock that nobody sets, when by the one that people read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Since {
    at: Instant,
    stamp: SystemTime,
}

impl Since {
    /// Since now.
    pub fn now() -> Self {
        Since { at: Instant::now(), stamp: SystemTime::now() }
    }

    /// For so long already; as long as the machine runs at most.
    pub fn ago(span: Duration) -> Self {
        let Since { at, stamp } = Self::now();
        Since { at: at.checked_sub(span).unwrap_or(at), stamp: stamp.checked_sub(span).unwrap_or(stamp) }
    }

    /// For how long.
    pub fn elapsed(&self) -> Duration {
        self.at.elapsed()
    }

    /// When it began, by the wall clock of that moment.
    pub fn stamp(&self) -> SystemTime {
        self.stamp
    }
}
