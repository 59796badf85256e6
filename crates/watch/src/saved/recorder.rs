//! [`Recorder`]: takes in changes, without ever waiting for a disk, and tells how their saving goes.

use std::fmt;
use std::io;
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use podgate_api::{Change, ObjectKey};
use tokio::sync::watch;

use super::merge::LastRecords;
use super::writer::Writer;
use super::{Loaded, Settings, record};

/// Writes changes to disk, in a thread of its own.
///
/// When the disk does not take them (full, stuck, read-only, gone), they are kept in memory, the last state of each
/// object only, and written when it does again. When they are more than [`Settings::memory`], what is on disk stays as
/// it is, a true but old world, and further changes are dropped, as [`Status::wants_world`] says. As soon as there is
/// room for a world again, one is asked for ([`wanted`](Recorder::wanted)): what is recorded from then on counts, and
/// replaces the files once [`retold`](Recorder::retold) says that it is whole.
///
/// While another process writes in the same directory (the agent that is being replaced), changes wait in a file of
/// their own until that one has ended.
pub struct Recorder {
    shared: Arc<Shared>,
    stop_within: Duration,
}

/// Tells how a recorder's saving goes, wherever that one is.
#[derive(Clone)]
pub struct Teller(Arc<Shared>);

impl Teller {
    /// How saving goes now.
    pub fn status(&self) -> Status {
        self.0.lock().status()
    }
}

/// How saving goes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    /// This process has written a whole world, and writes each change.
    pub saving: bool,
    /// Another process writes in the directory.
    pub held_by_other: bool,
    /// Size of snapshot and journal, bytes.
    pub bytes: u64,
    /// When a change was last written.
    pub last_written: Option<SystemTime>,
    /// Why changes can't be written now; they wait in memory.
    pub error: Option<String>,
    /// Bytes that wait in memory.
    pub waiting_bytes: usize,
    /// Changes that were dropped, as memory was full; they are not in what is on disk.
    pub lost_changes: u64,
    /// Changes were lost, and there is no room yet for a world told anew: nothing is recorded.
    pub wants_world: bool,
    /// Changes are missing in what is on disk: it is a world of before.
    pub outdated: bool,
    /// How often the journal was taken into a new snapshot.
    pub compactions: u64,
}

pub(super) struct Shared {
    queue: Mutex<Queue>,
    /// There is something for the writer.
    pub(super) wake: Condvar,
    /// The status is new.
    told: Condvar,
    /// The number of the world that is to be told: 0 at first, one more each time that it must be told anew.
    wanted: watch::Sender<u64>,
}

/// What goes from the recorder to the writer, and back.
#[derive(Default)]
pub(super) struct Queue {
    /// Records, one after the other.
    pub(super) records: Vec<u8>,
    /// Bytes the writer has taken and not written yet.
    pub(super) in_hand: usize,
    /// All of the world has been recorded.
    pub(super) synced: bool,
    /// What was loaded is void.
    pub(super) begin: bool,
    /// Which telling of the world is being recorded.
    pub(super) world: u64,
    /// Objects that this telling did not show and that are still as an earlier one left them.
    pub(super) kept: Vec<ObjectKey>,
    pub(super) stop: bool,
    pub(super) stopped: bool,
    pub(super) status: Status,
    limit: usize,
    /// How long the records were after each key's last one alone was kept.
    coalesced: usize,
    in_hand_coalesced: usize,
}

impl Recorder {
    /// Starts the writer. What is recorded goes on from the world that was loaded; it replaces the files once
    /// [`synced`](Recorder::synced) is called and no other process writes there. A directory that can't be written to
    /// is no error, but told in the [`Status`], and tried again.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start(settings: &Settings, loaded: &Loaded) -> io::Result<Recorder> {
        let queue = Queue { limit: settings.memory, ..Queue::default() };
        let (wake, told, wanted) = (Condvar::new(), Condvar::new(), watch::Sender::new(0));
        let shared = Arc::new(Shared { queue: Mutex::new(queue), wake, told, wanted });
        let writer = Writer::new(settings.clone(), Arc::clone(&shared), loaded.world.as_ref());
        thread::Builder::new().name("saved-world".to_owned()).spawn(move || writer.run())?;
        Ok(Recorder { shared, stop_within: Duration::from_secs(5) })
    }

    /// Takes in changes that are in force. They are written together: a world with some of them and without the others
    /// is never restored. Costs about a microsecond a change and never waits for the disk.
    pub fn record(&self, changes: &[Change]) {
        if changes.is_empty() {
            return;
        }
        let mut queue = self.shared.lock();
        if queue.status.wants_world {
            queue.status.lost_changes += changes.len() as u64;
            return;
        }
        let was_empty = queue.records.is_empty();
        let taken = changes.iter().try_for_each(|change| record::push(&mut queue.records, change));
        if taken.is_err() || !queue.fits() {
            queue.lose();
        }
        let is_lost = queue.status.wants_world;
        drop(queue);
        if was_empty || is_lost {
            self.shared.wake.notify_one();
        }
    }

    /// The source has told all it knew: what was loaded, with what was recorded since, is a whole world. Has no effect
    /// once another one is [`wanted`](Recorder::wanted).
    pub fn synced(&self) {
        self.retold(0, &[]);
    }

    /// The number of the world that is to be told. Whenever it goes up, changes were lost and there is room again: every
    /// object is to be recorded anew after that, and then [`retold`](Recorder::retold) called.
    pub fn wanted(&self) -> watch::Receiver<u64> {
        self.shared.wanted.subscribe()
    }

    /// All of the world of that number was recorded, but for the objects of `kept`: they are as they were in the world that
    /// is on disk. Has no effect if another world is wanted by now.
    pub fn retold(&self, world: u64, kept: &[ObjectKey]) {
        let mut queue = self.shared.lock();
        if queue.status.wants_world || queue.world != world {
            return;
        }
        queue.synced = true;
        queue.kept = kept.to_vec();
        drop(queue);
        self.shared.wake.notify_one();
    }

    /// What was loaded is void, as it can't be read: the whole world is to be recorded, and then [`synced`](Recorder::synced)
    /// called. Until then the old files stay on disk.
    pub fn begin_world(&self) {
        let mut queue = self.shared.lock();
        queue.records = Vec::new();
        queue.begin = true;
        drop(queue);
        self.shared.wake.notify_one();
    }

    /// How saving goes now.
    pub fn status(&self) -> Status {
        self.shared.lock().status()
    }

    /// Somebody who tells that to others.
    pub fn teller(&self) -> Teller {
        Teller(Arc::clone(&self.shared))
    }

    /// Waits until the status is such; false if it was not within the time.
    pub fn wait_until(&self, within: Duration, mut such: impl FnMut(&Status) -> bool) -> bool {
        self.shared.wait(within, |queue| such(&queue.status()))
    }

    /// Writes what waits, makes it durable, and ends. A disk that is stuck is waited for 5 s at most. True if all that
    /// was recorded is on disk.
    pub fn stop(self) -> bool {
        self.shared.lock().stop = true;
        self.shared.wake.notify_one();
        self.shared.wait(self.stop_within, |queue| queue.stopped);
        let queue = self.shared.lock();
        let status = queue.status();
        queue.stopped && status.saving && !status.outdated && status.waiting_bytes == 0 && status.error.is_none()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.wake.notify_one();
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("status", &self.status()).finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what the other side sees, and tells that it is new.
    pub(super) fn tell<T>(&self, change: impl FnOnce(&mut Queue) -> T) -> T {
        let told = change(&mut self.lock());
        self.told.notify_all();
        told
    }

    /// There is room again after changes were lost: a world is to be told anew.
    pub(super) fn want_world(&self) {
        let world = self.tell(|queue| {
            queue.status.wants_world = false;
            queue.records = Vec::new();
            queue.world += 1;
            queue.world
        });
        self.wanted.send_replace(world);
    }

    fn wait(&self, within: Duration, mut such: impl FnMut(&Queue) -> bool) -> bool {
        let deadline = Instant::now() + within;
        let mut queue = self.lock();
        while !such(&queue) {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return false };
            queue = self.told.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

impl Queue {
    fn status(&self) -> Status {
        Status { waiting_bytes: self.records.len() + self.in_hand, ..self.status.clone() }
    }

    /// Gives the writer what waits; `last` only: the last state of each object. What it can't write takes room as long as it
    /// tries.
    pub(super) fn take(&mut self, last: bool) -> Vec<u8> {
        if last && self.records.len() > self.coalesced {
            self.coalesce();
        }
        self.in_hand = self.records.len();
        self.in_hand_coalesced = mem::take(&mut self.coalesced);
        mem::take(&mut self.records)
    }

    /// Takes back what the writer could not write, before what came since.
    pub(super) fn put_back(&mut self, mut records: Vec<u8>) {
        self.in_hand = 0;
        if self.begin || self.status.wants_world {
            return;
        }
        records.append(&mut self.records);
        self.records = records;
        self.coalesced = self.in_hand_coalesced;
        // What waits must not grow with time: the disk may never have the room for it.
        if self.records.len() > 2 * self.coalesced {
            self.coalesce();
        }
        if !self.fits() {
            self.lose();
        }
    }

    /// Whether there is room for what waits; if need be, room is made.
    fn fits(&mut self) -> bool {
        let room = self.limit.saturating_sub(self.in_hand);
        // Not for each record anew: only when as much again as half the room has come.
        if self.records.len() > room && self.records.len() > self.coalesced + room / 2 {
            self.coalesce();
        }
        self.records.len() <= room
    }

    fn coalesce(&mut self) {
        self.records = coalesce(&self.records);
        self.coalesced = self.records.len();
    }

    fn lose(&mut self) {
        tracing::error!(
            bytes = self.records.len(),
            "the disk does not take the last known world, and no more is kept: what is on disk stays as it is until there \
             is room for a new one"
        );
        each(&self.records, |_, _| self.status.lost_changes += 1);
        self.records = Vec::new();
        self.coalesced = 0;
        self.synced = false;
        self.kept = Vec::new();
        self.status.wants_world = true;
        self.status.outdated = true;
    }
}

/// Calls `with` with each record and its number.
fn each(records: &[u8], mut with: impl FnMut(&record::Record<'_>, u32)) {
    let (mut rest, mut number) = (records, 0);
    while let Ok((record, after)) = record::split(rest) {
        with(&record, number);
        (rest, number) = (after, number + 1);
    }
}

/// The last record of each key, in order.
fn coalesce(records: &[u8]) -> Vec<u8> {
    let mut last = LastRecords::default();
    each(records, |record, number| last.note(record.key, number));
    let mut kept = Vec::new();
    each(records, |record, number| {
        if last.is_last(record.key, number) {
            kept.extend_from_slice(record.raw);
        }
    });
    kept
}
