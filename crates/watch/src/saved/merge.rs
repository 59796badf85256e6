//! [`World`]: a saved world as it lies in files, and walking through it object by object.
//!
//! A snapshot holds each object once; what comes after it lies in logs, where the last record of a key is the one that
//! counts. Walking takes memory by the number of keys in the logs, not by the world's size: the snapshot is streamed.

use std::collections::HashMap;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::SystemTime;

use podgate_api::Change;

use super::Error;
use super::frame::{Frames, Unsound};
use super::record::{self, Record};

/// A part of a file that holds whole frames.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    /// The file. It stays readable when it has been replaced or removed.
    pub(super) file: Arc<File>,
    /// Where the frames begin.
    pub(super) start: u64,
    /// Where they end.
    pub(super) end: u64,
}

/// A saved world: each object in the last state that was written. Cheap to clone: the objects stay on disk.
#[derive(Debug, Clone)]
pub struct World {
    pub(super) saved: SystemTime,
    pub(super) layers: Layers,
}

/// What a world lies in.
#[derive(Debug, Clone, Default)]
pub(super) struct Layers {
    /// Each object once.
    pub(super) snapshot: Option<Layer>,
    /// What changed since, in order.
    pub(super) logs: Vec<Layer>,
}

impl World {
    /// When it was last written: what happened later is not in it.
    pub fn saved(&self) -> SystemTime {
        self.saved
    }

    /// Calls `each` with every object of the world as a [`Change::Apply`]. Objects come in no particular order.
    ///
    /// # Errors
    /// If a file can't be read to its end any more. What came until then is not a world and must not be used.
    pub fn read(&self, mut each: impl FnMut(Change)) -> Result<(), Error> {
        self.layers.walk(|record| {
            each(record.change().map_err(|e| Error::Unreadable(e.to_string()))?);
            Ok(())
        })
    }

    /// Every object, at once: for small worlds and tests, as it takes a multiple of the memory that the file has.
    ///
    /// # Errors
    /// As [`World::read`].
    pub fn changes(&self) -> Result<Vec<Change>, Error> {
        let mut changes = Vec::new();
        self.read(|change| changes.push(change))?;
        Ok(changes)
    }
}

impl Layers {
    /// Calls `each` with the last record of every key whose object is there.
    pub(super) fn walk(&self, mut each: impl FnMut(&Record<'_>) -> Result<(), Error>) -> Result<(), Error> {
        let last = self.last_records()?;
        if let Some(snapshot) = &self.snapshot {
            snapshot.each(|record| if last.contains(record.key) { Ok(()) } else { each(record) })?;
        }
        let mut number = 0;
        for layer in &self.logs {
            layer.each(|record| {
                number += 1;
                if record.value.is_some() && last.is_last(record.key, number) { each(record) } else { Ok(()) }
            })?;
        }
        Ok(())
    }

    /// How long its parts are, bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.snapshot.iter().chain(&self.logs).map(|layer| layer.end).sum()
    }

    fn last_records(&self) -> Result<LastRecords, Error> {
        let mut last = LastRecords::default();
        let mut number = 0;
        for layer in &self.logs {
            layer.each(|record| {
                number += 1;
                last.note(record.key, number);
                Ok(())
            })?;
        }
        Ok(last)
    }
}

impl Layer {
    fn each(&self, mut each: impl FnMut(&Record<'_>) -> Result<(), Error>) -> Result<(), Error> {
        let mut frames = Frames::new(&self.file, self.start, self.end);
        let unreadable = |e: Unsound| Error::Unreadable(format!("the saved world {e}"));
        while let Some(frame) = frames.next().map_err(unreadable)? {
            let mut rest = frame.records;
            while !rest.is_empty() {
                let (record, after) = record::split(rest).map_err(|e| Error::Unreadable(e.to_string()))?;
                each(&record)?;
                rest = after;
            }
        }
        Ok(())
    }
}

/// For each key the number of its last record. Keys are held as two hashes of 64 bits with keys of this process: names
/// are up to whoever may create objects, and a collision would make one object hide another.
#[derive(Debug, Default)]
pub(super) struct LastRecords {
    hashers: (RandomState, RandomState),
    numbers: HashMap<(u64, u64), u32>,
}

impl LastRecords {
    fn hash(&self, key: &[u8]) -> (u64, u64) {
        (self.hashers.0.hash_one(key), self.hashers.1.hash_one(key))
    }

    /// The record with this number is the last of its key, until another is noted.
    pub(super) fn note(&mut self, key: &[u8], number: u32) {
        self.numbers.insert(self.hash(key), number);
    }

    /// Whether the record with this number is the last of its key.
    pub(super) fn is_last(&self, key: &[u8], number: u32) -> bool {
        self.numbers.get(&self.hash(key)) == Some(&number)
    }

    fn contains(&self, key: &[u8]) -> bool {
        self.numbers.contains_key(&self.hash(key))
    }
}
