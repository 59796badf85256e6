//! The last known world, kept on disk, so that a start while the API server is away enforces at once.
//!
//! ```text
//!   source ── Change ──▶ Recorder::record ── encoded, bounded ──▶ writer thread ──▶ spool, then journal
//!                                                                   └─ when it has grown ──▶ snapshot, empty journal
//!   start  ── load ──▶ World::read ── Change ──▶ index
//! ```
//!
//! What is on disk is always a world that was in force as a whole, if an old one: until the source has told all it
//! knows ([`Recorder::synced`]) its changes are only put aside (in a file without a name), because half a world (pods
//! whose policies are missing) must never be enforced. From then on each batch is in the journal whole, or not at all.
//!
//! A batch is given to the kernel at once, so that the end of this process loses nothing that was recorded, and is made
//! durable within [`Settings::durable_within`]: a machine that crashes starts its pods anew anyway, and what it finds
//! is a world that was true a second before.
//!
//! Memory does not grow with the world: objects are streamed from file to file. Only when the disk is stuck, what is to
//! be written is kept, the last state of each object, within [`Settings::memory`]; see [`Recorder`].
//!
//! Here: the `frame` (checksums, version), the `record`, the files in a directory (`store`), the `merge` of
//! snapshot and journal, the `recorder` and its `writer` thread, what is done `anew` after that. Not here: what a world means, and when a restored
//! one is enforced.

mod anew;
mod frame;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod merge;
mod record;
mod recorder;
mod store;
#[cfg(test)]
mod tests;
mod writer;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

pub use frame::FORMAT_VERSION;
pub use merge::World;
pub use recorder::{Recorder, Status, Teller};

/// Where a world is kept, and how.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The directory; nothing else may be in it. It is made, with its parents, if need be.
    pub directory: PathBuf,
    /// Whose world it is: cluster and node. A world of another identity is never restored.
    pub identity: String,
    /// Within this time of being recorded a change survives a crash of the machine. It costs one flush of the disk's
    /// cache in this time while there are changes.
    pub durable_within: Duration,
    /// How long after a failure the disk is tried again the first time; then twice as long each time, up to 16 times.
    pub retry_after: Duration,
    /// At most this many bytes wait for a disk that does not take them.
    pub memory: usize,
    /// The journal is taken into a new snapshot when it is larger than the snapshot, and larger than this many bytes.
    pub journal: u64,
}

impl Settings {
    /// The usual settings: durable within a second, as that is one flush a second at most and less than anybody needs
    /// to start a machine; tried again after a second; 32 MiB of memory, which is about 100,000 pods; a journal of at
    /// least 4 MiB, which is read in a few milliseconds.
    pub fn new(directory: impl Into<PathBuf>, identity: impl Into<String>) -> Self {
        Settings {
            directory: directory.into(),
            identity: identity.into(),
            durable_within: Duration::from_secs(1),
            retry_after: Duration::from_secs(1),
            memory: 32 << 20,
            journal: 4 << 20,
        }
    }
}

/// What an earlier process left.
#[derive(Debug, Clone, Default)]
pub struct Loaded {
    /// The world; None if there is none that can be used.
    pub world: Option<World>,
    /// What is wrong with the files, and what was done about it.
    pub problems: Vec<String>,
}

/// Why a world could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory can't be used.
    #[error("cannot use the state directory {}: {source}; give one on a disk that can be written to", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file can't be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What was checked when loaded can't be read any more.
    #[error("the saved world can no longer be read: {0}")]
    Unreadable(String),
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Error::Unreadable(error.to_string())
    }
}

/// Reads what is there. Never fails: what is damaged, foreign or of another version is told in
/// [`Loaded::problems`] and not used; a journal that ends in the middle of a batch counts up to the batch before.
/// The objects stay on disk ([`World::read`]), even while another process replaces the files.
pub fn load(settings: &Settings) -> Loaded {
    store::load(settings)
}
