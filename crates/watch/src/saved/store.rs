//! The directory a saved world lies in, and its files.
//!
//! ```text
//!   snapshot   each object once            generation N
//!   journal    what changed since          generation N (N-1: the snapshot has taken it in already)
//!   lock       held by the one process that writes
//!   *.new      being written; of no meaning until renamed
//! ```
//!
//! A file is written under another name, made durable, and renamed; the directory is made durable between the two
//! renames, so that a crash anywhere leaves a pair of files that belong together. Not here: when to write what
//! ([`writer`](super::writer)).

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use nix::fcntl::OFlag;

use super::frame::{self, Header, Role, Sound, Unsound};
use super::merge::{Layer, Layers, World};
use super::{Error, Loaded, Settings};

const SNAPSHOT: &str = "snapshot";
const JOURNAL: &str = "journal";
const LOCK: &str = "lock";
const NEW: &str = ".new";

/// Reads the files of a directory.
pub(super) fn load(settings: &Settings) -> Loaded {
    let mut loaded = Loaded::default();
    // Another process may replace both files between the opening of one and of the other.
    for last_try in [false, false, true] {
        loaded = Loaded::default();
        match load_pair(settings, &mut loaded.problems) {
            Ok((_, false)) if !last_try => {}
            Ok((world, _)) => {
                loaded.world = world;
                break;
            }
            Err(problem) => {
                loaded.problems.push(problem);
                break;
            }
        }
    }
    loaded
}

/// The world, and whether the two files belong together.
fn load_pair(settings: &Settings, problems: &mut Vec<String>) -> Result<(Option<World>, bool), String> {
    let path = settings.directory.join(SNAPSHOT);
    let unusable = |e: &Unsound| {
        format!(
            "the saved world is not used: {} {e}; it is replaced as soon as the world is known anew",
            path.display()
        )
    };
    let file = match open(&path) {
        Ok(file) => Arc::new(file),
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok((None, true)),
        Err(e) => return Err(unusable(&e.into())),
    };
    let sound = frame::check(&file, Role::Snapshot, &settings.identity).map_err(|e| unusable(&e))?;
    if let Some(rest) = &sound.rest {
        return Err(unusable(rest));
    }
    let Some(mut saved) = sound.written else { return Err(unusable(&Unsound::Damaged(sound.end))) };
    let generation = sound.header.generation;
    let mut layers = Layers { snapshot: Some(sound.layer(file)), logs: Vec::new() };

    let path = settings.directory.join(JOURNAL);
    let journal = open(&path).map_err(Unsound::from).and_then(|file| {
        let sound = frame::check(&file, Role::Journal, &settings.identity)?;
        Ok((file, sound))
    });
    let mut together = true;
    match journal {
        Ok((file, sound)) if sound.header.generation == generation => {
            saved = sound.written.unwrap_or(saved);
            if let Some(rest) = &sound.rest {
                problems.push(format!(
                    "{} {rest}: what was written after that is lost, the world is taken as it was before",
                    path.display()
                ));
            }
            layers.logs.push(sound.layer(Arc::new(file)));
        }
        Ok((_, sound)) if sound.header.generation < generation => {}
        Ok(_) => {
            together = false;
            problems.push(format!(
                "{} is newer than {SNAPSHOT}: only the snapshot is used, changes since are lost",
                path.display()
            ));
        }
        Err(e) => {
            problems.push(format!("{} {e}: only the snapshot is used, changes since are lost", path.display()));
        }
    }
    Ok((Some(World { saved, layers }), together))
}

/// Opens a file for reading, if it is one: a FIFO would be waited for, and a link leads to what is nobody's here.
fn open(path: &Path) -> io::Result<File> {
    regular(OpenOptions::new().read(true), path)
}

fn regular(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW | OFlag::O_NOCTTY;
    let file = options.custom_flags(flags.bits()).open(path)?;
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    Err(io::Error::new(ErrorKind::InvalidInput, "it is no regular file: remove it"))
}

impl Sound {
    fn layer(&self, file: Arc<File>) -> Layer {
        Layer { file, start: self.start, end: self.end }
    }
}

/// The directory, open for writing.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    handle: File,
    identity: String,
}

/// Why the files could not be replaced.
#[derive(Debug)]
pub(super) struct NotReplaced {
    /// What failed.
    pub(super) error: Error,
    /// The snapshot has been replaced already, so the old journal counts no more.
    pub(super) half: bool,
}

impl Directory {
    /// Opens the directory, and makes it if need be: nobody but its owner may look into it or write.
    pub(super) fn open(settings: &Settings) -> Result<Self, Error> {
        let path = settings.directory.clone();
        let opened = DirBuilder::new().recursive(true).mode(0o700).create(&path).and_then(|()| {
            let handle = File::open(&path)?;
            if handle.metadata()?.permissions().mode() & 0o077 != 0 {
                fs::set_permissions(&path, Permissions::from_mode(0o700))?;
            }
            Ok(handle)
        });
        let handle = opened.map_err(|source| Error::Directory { path: path.clone(), source })?;
        Ok(Directory { path, handle, identity: settings.identity.clone() })
    }

    /// Takes the lock for as long as the file lives; None: another process has it.
    pub(super) fn lock(&self) -> Result<Option<File>, Error> {
        let path = self.path.join(LOCK);
        let file = regular(OpenOptions::new().write(true).create(true).truncate(false).mode(0o600), &path);
        let file = file.map_err(|e| self.failed(LOCK, e))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(self.failed(LOCK, e)),
        }
    }

    /// A file without a name for what can't be put in the journal yet. It goes away with the process.
    pub(super) fn spool(&self) -> Result<Layer, Error> {
        let header = Header { role: Role::Journal, generation: 0, identity: self.identity.clone() };
        self.nameless("spool", |file| {
            let prologue = frame::prologue(&header)?;
            file.write_all(&prologue)?;
            let length = prologue.len() as u64;
            Ok((length, length))
        })
    }

    /// The world in one file without a name.
    pub(super) fn fold(&self, layers: &Layers, written: SystemTime) -> Result<Layer, Error> {
        self.nameless("fold", |file| self.write_snapshot(file, layers, |_| true, 0, written))
    }

    /// The objects of a world with these keys, in one file without a name.
    pub(super) fn pick(&self, layers: &Layers, keys: &HashSet<Vec<u8>>, written: SystemTime) -> Result<Layer, Error> {
        self.nameless("pick", |file| self.write_snapshot(file, layers, |key| keys.contains(key), 0, written))
    }

    /// Whether there is room for so many bytes more: tried, as there is no other way that is right with every quota.
    pub(super) fn has_room(&self, bytes: u64) -> Result<(), Error> {
        let piece = [0x55; 64 << 10];
        self.nameless("room", |file| {
            for at in (0..bytes).step_by(piece.len()) {
                let length = usize::try_from(bytes - at).map_or(piece.len(), |left| left.min(piece.len()));
                file.write_all(&piece[..length])?;
            }
            Ok((0, bytes))
        })
        .map(drop)
    }

    fn nameless(&self, name: &str, write: impl FnOnce(&mut File) -> Result<(u64, u64), Error>) -> Result<Layer, Error> {
        let name = format!("{name}.{}{NEW}", std::process::id());
        let mut file = self.create(&name)?;
        self.remove(&name);
        let (start, end) = write(&mut file)?;
        Ok(Layer { file: Arc::new(file), start, end })
    }

    /// Replaces both files: the snapshot by this world, the journal by an empty one.
    pub(super) fn replace(&self, layers: &Layers, written: SystemTime) -> Result<Layers, NotReplaced> {
        let (snapshot_new, journal_new) = (format!("{SNAPSHOT}{NEW}"), format!("{JOURNAL}{NEW}"));
        let whole = |error| NotReplaced { error, half: false };
        let prepared = self.prepare(layers, written, &snapshot_new, &journal_new).inspect_err(|_| {
            self.remove(&snapshot_new);
            self.remove(&journal_new);
        });
        let replaced = prepared.map_err(whole)?;
        self.rename(&snapshot_new, SNAPSHOT).map_err(whole)?;
        // From here on the journal of before is older than the snapshot, and a reader does not look at it.
        let moved = self.sync().and_then(|()| self.rename(&journal_new, JOURNAL)).and_then(|()| self.sync());
        moved.map_err(|error| NotReplaced { error, half: true })?;
        Ok(replaced)
    }

    fn prepare(&self, layers: &Layers, written: SystemTime, snapshot: &str, journal: &str) -> Result<Layers, Error> {
        let generation = self.generation() + 1;
        let mut file = self.create(snapshot)?;
        let (start, end) = self.write_snapshot(&mut file, layers, |_| true, generation, written)?;
        file.sync_all().map_err(|e| self.failed(snapshot, e))?;
        let new_snapshot = Layer { file: Arc::new(file), start, end };

        let mut file = self.create(journal)?;
        let header = Header { role: Role::Journal, generation, identity: self.identity.clone() };
        let written = frame::prologue(&header).and_then(|bytes| {
            file.write_all(&bytes)?;
            file.sync_all()?;
            Ok(bytes.len() as u64)
        });
        let start = written.map_err(|e| self.failed(journal, e))?;
        let new_journal = Layer { file: Arc::new(file), start, end: start };
        Ok(Layers { snapshot: Some(new_snapshot), logs: vec![new_journal] })
    }

    fn write_snapshot(
        &self,
        file: &mut File,
        layers: &Layers,
        wanted: impl Fn(&[u8]) -> bool,
        generation: u64,
        written: SystemTime,
    ) -> Result<(u64, u64), Error> {
        let failed = |e| self.failed(SNAPSHOT, e);
        let header = Header { role: Role::Snapshot, generation, identity: self.identity.clone() };
        let mut out = frame::prologue(&header).map_err(failed)?;
        let start = out.len() as u64;
        let mut end = 0;
        let mut records = Vec::with_capacity(frame::FRAME_BYTES);
        let mut flush = |out: &mut Vec<u8>, records: &mut Vec<u8>, last: bool| {
            frame::push(out, records, last, written).and_then(|()| file.write_all(out)).map_err(failed)?;
            end += out.len() as u64;
            out.clear();
            records.clear();
            Ok::<(), Error>(())
        };
        layers.walk(|record| {
            if !wanted(record.key) {
                return Ok(());
            }
            if records.len() + record.raw.len() > frame::FRAME_BYTES && !records.is_empty() {
                flush(&mut out, &mut records, false)?;
            }
            records.extend_from_slice(record.raw);
            Ok(())
        })?;
        flush(&mut out, &mut records, true)?;
        Ok((start, end))
    }

    /// The highest generation on disk, whosever it is.
    fn generation(&self) -> u64 {
        let of = |name| {
            let file = open(&self.path.join(name)).ok()?;
            let length = file.metadata().ok()?.len();
            frame::header(&file, length).ok().map(|(header, _)| header.generation)
        };
        of(SNAPSHOT).max(of(JOURNAL)).unwrap_or(0)
    }

    fn create(&self, name: &str) -> Result<File, Error> {
        // What an earlier process left of that name, whatever it is.
        self.remove(name);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        options.open(self.path.join(name)).map_err(|e| self.failed(name, e))
    }

    fn remove(&self, name: &str) {
        // Nothing rests on it: the name has no meaning to a reader, and the next file of that name replaces it.
        let _ = fs::remove_file(self.path.join(name));
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), Error> {
        fs::rename(self.path.join(from), self.path.join(to)).map_err(|e| self.failed(to, e))
    }

    fn sync(&self) -> Result<(), Error> {
        self.handle.sync_all().map_err(|source| Error::Write { path: self.path.clone(), source })
    }

    fn failed(&self, name: &str, source: io::Error) -> Error {
        Error::Write { path: self.path.join(name), source }
    }
}
