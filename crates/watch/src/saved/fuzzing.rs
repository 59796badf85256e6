//! Entry points for the fuzz targets (`tests/fuzz`): records and files of a saved world. Only with the feature `fuzzing`.

use std::io;
use std::time::SystemTime;

use podgate_api::Change;

use super::frame::{self, Header, Role};
use super::record;
use super::store::Directory;
use super::{Error, Settings, World};

/// A file as it would be written: a snapshot, or a journal with one batch for each list of changes.
pub fn file(journal: bool, generation: u64, identity: &str, batches: &[Vec<Change>]) -> io::Result<Vec<u8>> {
    let role = if journal { Role::Journal } else { Role::Snapshot };
    let mut out = frame::prologue(&Header { role, generation, identity: identity.to_owned() })?;
    for batch in batches {
        let mut records = Vec::new();
        for change in batch {
            record::push(&mut records, change).map_err(io::Error::other)?;
        }
        frame::push(&mut out, &records, true, SystemTime::UNIX_EPOCH)?;
    }
    Ok(out)
}

/// The change as it is read back once it was written.
pub fn through(change: &Change) -> Option<Change> {
    let mut bytes = Vec::new();
    record::push(&mut bytes, change).ok()?;
    let (record, rest) = record::split(&bytes).ok()?;
    assert!(rest.is_empty() && record.raw == bytes);
    record.change().ok()
}

/// Takes snapshot and journal into a new snapshot, as an agent does when the journal has grown.
pub fn compact(settings: &Settings, world: &World) -> Result<(), Error> {
    let replaced = Directory::open(settings)?.replace(&world.layers, world.saved);
    replaced.map(drop).map_err(|failed| failed.error)
}
