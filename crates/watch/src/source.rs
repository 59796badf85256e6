//! What a source of truth tells.

use std::time::Instant;

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
    /// The full list of what is wrong at the source now (empty: all well again).
    Problems(Vec<Problem>),
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
