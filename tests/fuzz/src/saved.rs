//! Snapshot and journal as they may be found on a disk: they are a world, or there is a reason why not. A world that is
//! found can be indexed, compacted, and found again.
//!
//! The checksums are put right first, unless the first byte says otherwise: no fuzzer guesses a CRC32.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use podgate_api::{Change, Object, ObjectKey};
use podgate_policy::{Index, Locality};
use podgate_watch::saved::{self, Settings};

/// Of the saved worlds in the corpus.
pub const IDENTITY: &str = "cluster/node";

/// What divides the two files in an input.
pub const DIVIDER: &[u8] = b"\n%%JOURNAL%%\n";

/// Two files.
pub fn run(data: &[u8]) {
    let Some((how, files)) = data.split_first() else { return };
    let at = files.windows(DIVIDER.len()).position(|part| part == DIVIDER);
    let (snapshot, journal) = at.map_or((files, None), |at| (&files[..at], Some(&files[at + DIVIDER.len()..])));
    let directory = directory();
    let settings = Settings::new(directory.path(), IDENTITY);
    for (name, bytes) in [("snapshot", Some(snapshot)), ("journal", journal)] {
        let Some(bytes) = bytes else { continue };
        let mut bytes = bytes.to_vec();
        if how % 4 != 0 {
            put_right(&mut bytes);
        }
        fs::write(directory.path().join(name), bytes).expect("room for a small file");
    }
    let loaded = saved::load(&settings);
    let Some(world) = &loaded.world else {
        assert!(!loaded.problems.is_empty() || snapshot.is_empty() || at.is_none(), "no world and no reason");
        return;
    };
    let Ok(changes) = world.changes() else { return };
    let found = model(&changes);
    let mut index = Index::new(Locality::All);
    changes.into_iter().for_each(|change| index.apply(change));
    index.build();
    // A key that is there twice in the snapshot is nothing that podgate writes.
    if saved::fuzzing::compact(&settings, world).is_ok() {
        let again = saved::load(&settings);
        assert_eq!(again.problems, Vec::<String>::new());
        let again = again.world.expect("what was just written").changes().expect("what was just written");
        assert_eq!(model(&again), found);
    }
}

fn model(changes: &[Change]) -> BTreeMap<ObjectKey, Object> {
    let mut model = BTreeMap::new();
    for change in changes {
        match change {
            Change::Apply(object) => _ = model.insert(object.key(), object.clone()),
            Change::Delete(key) => panic!("{key} is in the world as one that is gone"),
        }
    }
    model
}

/// In memory where there is such a place.
fn directory() -> tempfile::TempDir {
    let memory = PathBuf::from("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("a directory for two small files")
}

/// Gives each frame the checksum of what it has (crates/watch/src/saved/frame.rs says where).
pub fn put_right(file: &mut [u8]) {
    let mut at = 12;
    while let Some(head) = file.get(at..at + 8) {
        let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let Some(body) = (at + 8).checked_add(length).and_then(|end| file.get(at + 8..end)) else { return };
        let mut sum = crc32fast::Hasher::new();
        sum.update(&file[at..at + 4]);
        sum.update(body);
        let sum = sum.finalize().to_le_bytes();
        file[at + 4..at + 8].copy_from_slice(&sum);
        at += 8 + length;
    }
}
