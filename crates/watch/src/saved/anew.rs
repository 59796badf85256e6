//! A world told anew, after changes were lost: when it is asked for, and what of the world before is in it.
//!
//! Not here: what is told ([`Recorder::retold`](super::Recorder::retold)), and when it is written ([`writer`](super::writer)).

use std::collections::HashSet;
use std::time::{Duration, Instant, SystemTime};

use podgate_api::{Change, Kind, Object, ObjectKey, PolicySpec};

use super::Error;
use super::merge::Layers;
use super::record;
use super::writer::{Log, MOST_PATIENCE, Writer};

/// Where no world is known to be on disk, there must be room for this part of what may be in memory: a part, as much of that
/// may be objects that are gone.
const PART_OF_MEMORY: u64 = 8;

/// Bytes that there must be in any case: a page that something else has just left is no room.
const LEAST: u64 = 64 << 10;

/// So often the pause between two askings is doubled: to some 17 minutes in the end.
const DOUBLED: u32 = 6;

/// How far it has come.
#[derive(Debug, Default)]
pub(super) struct Anew {
    /// The world that is on disk, until another one is.
    before: Option<Layers>,
    /// No world is asked for before, as all of it comes from the API server.
    pub(super) ask_at: Option<Instant>,
    /// Askings since the last whole world.
    asked: u32,
}

impl Anew {
    /// A whole world was written.
    pub(super) fn is_written(&mut self) {
        (self.before, self.asked) = (None, 0);
    }

    fn ask(&mut self, pause: Duration) {
        self.ask_at = Some(Instant::now() + pause * 2_u32.pow(self.asked.min(DOUBLED)));
        self.asked += 1;
    }
}

impl Writer {
    /// Asks for a world anew after changes were lost, if there is room for one. What is in the files stays there until it
    /// is whole.
    pub(super) fn ask_for_world(&mut self) -> Result<(), Error> {
        if self.anew.ask_at.is_some_and(|at| Instant::now() < at) {
            return Ok(());
        }
        // Once put aside, and once as a snapshot.
        let world = self.layers.bytes().max(self.settings.memory as u64 / PART_OF_MEMORY).max(LEAST);
        self.directory()?.has_room(2 * world)?;
        tracing::info!("there is room for the last known world again: it is written anew as soon as it is told");
        self.anew.ask(self.settings.retry_after * MOST_PATIENCE);
        let told = std::mem::take(&mut self.layers);
        // If changes were lost while it was told, it is no world.
        self.anew.before.get_or_insert(told);
        self.log = Log::None;
        self.volatile = None;
        self.shared.want_world();
        Ok(())
    }

    /// Takes what a world that was told anew did not show, and that is as it was, from the world before. A NetworkPolicy that
    /// is not there either is closed, as one is that was never understood.
    pub(super) fn take_over(&mut self) -> Result<(), Error> {
        let kept = self.shared.lock().kept.clone();
        let Some(before) = self.anew.before.clone().filter(|_| !kept.is_empty()) else { return Ok(()) };
        let encoded = |key: &ObjectKey| record::key(key).ok();
        let mut keys: HashSet<Vec<u8>> = kept.iter().filter_map(encoded).collect();
        self.layers.walk(|record| {
            keys.remove(record.key);
            Ok(())
        })?;
        let picked = self.directory()?.pick(&before, &keys, SystemTime::now())?;
        before.walk(|record| {
            keys.remove(record.key);
            Ok(())
        })?;
        let mut closed = Vec::new();
        for key in kept.into_iter().filter(|key| encoded(key).is_some_and(|encoded| keys.contains(&encoded))) {
            if matches!(key.kind, Kind::NetworkPolicy | Kind::LegacyNetworkPolicy) {
                // Of this size, it is always taken.
                let _ = record::push(&mut closed, &Change::Apply(Object::Policy(PolicySpec::closed(key))));
            }
        }
        self.append(&closed)?;
        self.layers.logs.insert(0, picked);
        self.shared.lock().kept = Vec::new();
        Ok(())
    }
}
