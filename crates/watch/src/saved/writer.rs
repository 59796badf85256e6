//! The writer thread: when which file is written.
//!
//! ```text
//!   put aside ── synced, and nobody else writes ──▶ replace both files ──▶ journal each batch ──▶ replace ...
//!   (spool)                                          (snapshot, empty journal)     when the journal has grown
//! ```
//!
//! Whatever fails is told, and tried again later; what was not written stays in the queue. Where that had to be dropped,
//! a world is asked for anew once there is room, and put aside like the first one. Not here: how a file is
//! written ([`store`](super::store)).

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::anew::Anew;
use super::merge::{Layers, World};
use super::recorder::Shared;
use super::store::Directory;
use super::{Error, Settings, frame, record};

/// How often the lock is tried while another process has it: what a hand-over takes longer by.
const LOCK_EVERY: Duration = Duration::from_millis(250);

/// The longest wait between two tries is this many times the first.
pub(super) const MOST_PATIENCE: u32 = 16;

/// The thread's state.
pub(super) struct Writer {
    pub(super) settings: Settings,
    pub(super) shared: Arc<Shared>,
    directory: Option<Directory>,
    lock: Option<File>,
    /// The world as it lies in files: what was loaded, and the log that is being written as the last.
    pub(super) layers: Layers,
    pub(super) log: Log,
    written: Option<SystemTime>,
    pub(super) anew: Anew,
    /// The journal has bytes that a crash of the machine could lose, since.
    pub(super) volatile: Option<Instant>,
    /// Another process has the lock: when to try again.
    contend_at: Option<Instant>,
    trouble: Option<Trouble>,
}

/// Where batches go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Log {
    /// Nowhere yet.
    None,
    /// The file without a name.
    Spool,
    /// The journal.
    Journal,
    /// The journal, which must be replaced before anything else: it can't be relied on.
    Doubtful,
}

struct Trouble {
    again_at: Instant,
    patience: Duration,
}

/// What the writer was woken for.
struct Work {
    records: Vec<u8>,
    synced: bool,
    begin: bool,
    stop: bool,
}

impl Writer {
    pub(super) fn new(settings: Settings, shared: Arc<Shared>, world: Option<&World>) -> Self {
        Writer {
            settings,
            shared,
            directory: None,
            lock: None,
            layers: world.map(|w| w.layers.clone()).unwrap_or_default(),
            log: Log::None,
            written: world.map(|w| w.saved),
            anew: Anew::default(),
            volatile: None,
            contend_at: None,
            trouble: None,
        }
    }

    /// Works until told to stop.
    pub(super) fn run(mut self) {
        loop {
            let work = self.wait();
            if work.begin {
                self.begin();
            }
            if self.trouble.is_some() && self.has_outgrown() {
                // What waits must not take the room that a disk has at last, and that the new snapshot needs. Should there be
                // none yet, `follow_up` tells.
                let _ = self.replace();
            }
            match self.append(&work.records) {
                Ok(()) => {
                    let result = self.follow_up(work.synced, work.stop);
                    self.tell(Vec::new(), result);
                }
                Err(error) => self.tell(work.records, Err(error)),
            }
            if work.stop {
                break;
            }
        }
        let shared = Arc::clone(&self.shared);
        // Every file is closed: whoever waits for the lock gets it now.
        drop(self);
        shared.tell(|queue| queue.stopped = true);
    }

    /// Waits until there is something to do.
    fn wait(&self) -> Work {
        let mut queue = self.shared.lock();
        loop {
            let now = Instant::now();
            let until = if queue.stop || queue.begin {
                Some(now)
            } else if let Some(trouble) = &self.trouble {
                Some(trouble.again_at)
            } else if queue.status.wants_world {
                Some(self.anew.ask_at.unwrap_or(now))
            } else if !queue.records.is_empty() {
                Some(now)
            } else if self.log == Log::Journal {
                self.volatile.map(|since| since + self.settings.durable_within)
            } else if queue.synced {
                Some(self.contend_at.unwrap_or(now))
            } else {
                None
            };
            let woken = match until {
                Some(until) if until <= now => break,
                Some(until) => {
                    self.shared.wake.wait_timeout(queue, until - now).map_or_else(|e| e.into_inner().0, |w| w.0)
                }
                None => self.shared.wake.wait(queue).unwrap_or_else(PoisonError::into_inner),
            };
            queue = woken;
        }
        Work {
            records: queue.take(self.trouble.is_some()),
            synced: queue.synced,
            begin: std::mem::take(&mut queue.begin),
            stop: queue.stop,
        }
    }

    /// What was there before is void; the files stay as they are until there is a world to replace them by.
    fn begin(&mut self) {
        self.layers = Layers::default();
        self.log = Log::None;
        self.volatile = None;
        self.trouble = None;
    }

    /// What is to be done besides appending.
    fn follow_up(&mut self, synced: bool, stop: bool) -> Result<(), Error> {
        if self.log == Log::Journal {
            self.make_durable(stop)?;
        }
        if !stop && self.shared.lock().status.wants_world {
            return self.ask_for_world();
        }
        match self.log {
            Log::Journal if self.has_outgrown() => self.replace()?,
            Log::Journal => {}
            Log::None | Log::Spool | Log::Doubtful if synced => {
                if self.has_lock()? {
                    self.take_over()?;
                    self.replace()?;
                }
            }
            Log::Spool if self.log_bytes() > 4 * self.settings.journal.max(self.snapshot_bytes()) => self.fold()?,
            Log::None | Log::Spool | Log::Doubtful => {}
        }
        Ok(())
    }

    /// Appends the records as one batch, or leaves the log as it was.
    pub(super) fn append(&mut self, records: &[u8]) -> Result<(), Error> {
        if records.is_empty() {
            return Ok(());
        }
        if self.log == Log::None {
            let spool = self.directory()?.spool()?;
            self.layers.logs.push(spool);
            self.log = Log::Spool;
        }
        let now = SystemTime::now();
        let path = self.settings.directory.join(if self.log == Log::Spool { "spool" } else { "journal" });
        let Some(log) = self.layers.logs.last_mut() else { return Ok(()) };
        let mut end = log.end;
        let done = frames(records, now, |frame| {
            log.file.write_all_at(frame, end)?;
            end += frame.len() as u64;
            Ok(())
        });
        if let Err(source) = done {
            // A reader would stop there anyway. Should this fail too, the next batch is written over it.
            let _ = log.file.set_len(log.end);
            return Err(Error::Write { path, source });
        }
        log.end = end;
        self.written = Some(now);
        if self.log == Log::Journal {
            self.volatile.get_or_insert_with(Instant::now);
        }
        Ok(())
    }

    fn make_durable(&mut self, at_once: bool) -> Result<(), Error> {
        let Some(since) = self.volatile else { return Ok(()) };
        let Some(log) = self.layers.logs.last() else { return Ok(()) };
        if !at_once && since.elapsed() < self.settings.durable_within {
            return Ok(());
        }
        let done = log.file.sync_data().and_then(|()| match log.file.metadata()?.nlink() {
            0 => Err(ErrorKind::NotFound.into()),
            _ => Ok(()),
        });
        self.volatile = None;
        done.map_err(|source| {
            // The kernel forgets what it could not write, and a removed file is nobody's: only writing all anew helps.
            self.log = Log::Doubtful;
            Error::Write { path: self.settings.directory.join("journal"), source }
        })
    }

    /// Makes a new snapshot of all there is, and an empty journal.
    fn replace(&mut self) -> Result<(), Error> {
        let compaction = self.log == Log::Journal;
        // The first world of this process was true just now; a compaction makes nothing newer.
        let written = self.written.filter(|_| compaction).unwrap_or_else(SystemTime::now);
        let layers = self.layers.clone();
        match self.directory()?.replace(&layers, written) {
            Ok(layers) => {
                self.layers = layers;
                self.log = Log::Journal;
                self.written = Some(written);
                self.volatile = None;
                if !compaction {
                    self.anew.is_written();
                    self.shared.tell(|queue| queue.status.outdated = queue.status.wants_world);
                }
                if compaction {
                    self.shared.tell(|queue| queue.status.compactions += 1);
                }
                Ok(())
            }
            Err(failed) => {
                if failed.half && self.log == Log::Journal {
                    self.log = Log::Doubtful;
                }
                Err(failed.error)
            }
        }
    }

    /// Brings a spool that has grown too long down to the world's size.
    fn fold(&mut self) -> Result<(), Error> {
        let written = self.written.unwrap_or_else(SystemTime::now);
        let layers = self.layers.clone();
        let directory = self.directory()?;
        let (snapshot, spool) = (directory.fold(&layers, written)?, directory.spool()?);
        self.layers = Layers { snapshot: Some(snapshot), logs: vec![spool] };
        Ok(())
    }

    fn has_lock(&mut self) -> Result<bool, Error> {
        if self.lock.is_none() {
            self.lock = self.directory()?.lock()?;
            let held_by_other = self.lock.is_none();
            self.contend_at = held_by_other.then(|| Instant::now() + LOCK_EVERY);
            self.shared.tell(|queue| queue.status.held_by_other = held_by_other);
        }
        Ok(self.lock.is_some())
    }

    pub(super) fn directory(&mut self) -> Result<&Directory, Error> {
        let directory = match self.directory.take() {
            Some(directory) => directory,
            None => Directory::open(&self.settings)?,
        };
        Ok(self.directory.insert(directory))
    }

    /// The journal has, and is to be taken into a new snapshot.
    fn has_outgrown(&self) -> bool {
        self.log == Log::Journal && self.log_bytes() > self.settings.journal.max(self.snapshot_bytes())
    }

    fn log_bytes(&self) -> u64 {
        self.layers.logs.last().map_or(0, |log| log.end)
    }

    fn snapshot_bytes(&self) -> u64 {
        self.layers.snapshot.as_ref().map_or(0, |snapshot| snapshot.end)
    }

    /// Tells how it went, gives back what could not be written, and remembers to try again.
    fn tell(&mut self, left: Vec<u8>, result: Result<(), Error>) {
        let error = result.err();
        match &error {
            Some(error) => {
                let first = self.settings.retry_after;
                let patience = self.trouble.as_ref().map_or(first, |t| (t.patience * 2).min(first * MOST_PATIENCE));
                if self.trouble.is_none() {
                    tracing::warn!(%error, "the last known world cannot be saved now; trying again");
                }
                // It may have been removed: it is opened, and made, anew.
                self.directory = None;
                self.trouble = Some(Trouble { again_at: Instant::now() + patience, patience });
            }
            None if self.trouble.is_some() => {
                tracing::info!("the last known world can be saved again");
                self.trouble = None;
            }
            None => {}
        }
        let saving = matches!(self.log, Log::Journal | Log::Doubtful);
        let bytes = if saving { self.snapshot_bytes() + self.log_bytes() } else { 0 };
        let last_written = self.written;
        self.shared.tell(|queue| {
            queue.in_hand = 0;
            if !left.is_empty() {
                queue.put_back(left);
            }
            queue.status.saving = saving;
            queue.status.bytes = bytes;
            queue.status.last_written = last_written;
            queue.status.error = error.map(|e| e.to_string());
        });
    }
}

/// Calls `write` with the frames of a batch, one after the other.
fn frames(records: &[u8], now: SystemTime, mut write: impl FnMut(&[u8]) -> std::io::Result<()>) -> std::io::Result<()> {
    let mut buffer = Vec::new();
    let mut rest = records;
    while !rest.is_empty() {
        let mut length = 0;
        while let Ok((record, _)) = record::split(&rest[length..]) {
            if length > 0 && length + record.raw.len() > frame::FRAME_BYTES {
                break;
            }
            length += record.raw.len();
        }
        if length == 0 {
            return Err(std::io::Error::other("a record is not whole"));
        }
        let (records, after) = rest.split_at(length);
        buffer.clear();
        frame::push(&mut buffer, records, after.is_empty(), now)?;
        write(&buffer)?;
        rest = after;
    }
    Ok(())
}
