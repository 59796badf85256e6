//! From hints of the watches to events: what to read when, and what to tell.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::files;
use super::store::Store;
use super::watches::{Hint, Watches};
use crate::{Event, FreshState, Freshness, Problem, Since};

/// How long a file may be away before its objects are. Editors (and `git checkout`) save by moving the old file away
/// and writing a new one of the same name: its policies must not be out of force in between. The new file's creation,
/// which follows at once, ends the wait: from then on it is waited for until it is complete.
const GRACE: Duration = Duration::from_millis(10);

/// How long until what could not be read is tried for the first time again; then twice as long each time.
const FIRST_RETRY: Duration = Duration::from_millis(250);
/// … but not longer than this.
const LAST_RETRY: Duration = Duration::from_secs(30);

/// Follows one tree: every [`Follower::step`] takes what has happened and tells what has changed.
#[derive(Debug)]
pub(super) struct Follower {
    watches: Watches,
    store: Store,
    /// Files that were modified and not closed since.
    writing: HashSet<PathBuf>,
    /// Files that went away lately.
    gone: BTreeMap<PathBuf, Gone>,
    /// What could not be read: that it can be again is told by nobody.
    retries: BTreeMap<PathBuf, Retry>,
    /// Files to read.
    unread: BTreeSet<PathBuf>,
    /// All is to be read.
    everything: bool,
    /// When the first of the things to do was noticed.
    noticed: Option<Instant>,
    /// The problems last told.
    told: Vec<Problem>,
    synced: bool,
    /// `manifests DIR`.
    resource: String,
    /// Since when the directory itself can't be read, and why.
    unreadable: Option<(Since, String)>,
    /// The state last told.
    fresh: Option<FreshState>,
}

#[derive(Debug)]
struct Gone {
    deadline: Instant,
    noticed: Instant,
    cookie: u32,
}

#[derive(Debug)]
struct Retry {
    at: Instant,
    delay: Duration,
    /// It is a directory.
    tree: bool,
}

impl Follower {
    /// A follower of a directory that can be read, and the descriptor that is readable when a step is due.
    pub(super) fn new(root: PathBuf) -> io::Result<(Self, OwnedFd)> {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", root.display()));
        std::fs::read_dir(&root).map_err(named)?;
        let resource = format!("manifests {}", root.display());
        let (watches, readable) = Watches::new(root)?;
        let follower = Self {
            watches,
            store: Store::default(),
            writing: HashSet::new(),
            gone: BTreeMap::new(),
            retries: BTreeMap::new(),
            unread: BTreeSet::new(),
            everything: true,
            noticed: Some(Instant::now()),
            told: Vec::new(),
            synced: false,
            resource,
            unreadable: None,
            fresh: None,
        };
        Ok((follower, readable))
    }

    /// Whether another step is due at once.
    pub(super) fn has_more(&self) -> bool {
        self.everything || !self.unread.is_empty()
    }

    /// When a step is due even without an event.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let gone = self.gone.values().map(|gone| gone.deadline);
        gone.chain(self.retries.values().map(|retry| retry.at)).min()
    }

    /// Takes what has happened, reads what may have changed, and tells it.
    pub(super) fn step(&mut self) -> io::Result<Vec<Event>> {
        self.drain()?;
        self.retry();
        if std::mem::take(&mut self.everything) {
            self.rescan();
        }
        self.expire();
        let texts: Vec<_> = (std::mem::take(&mut self.unread).into_iter())
            .filter(|path| !self.writing.contains(path))
            .map(|path| {
                let text = files::read(&path);
                (path, text)
            })
            .collect();
        // A file may have been written anew while it was read: then what was read counts for nothing.
        self.drain()?;
        let noticed = self.noticed.take();
        for (path, text) in texts {
            if self.writing.contains(&path) || self.unread.contains(&path) {
                continue;
            }
            match text {
                Ok(bytes) => {
                    self.retries.remove(&path);
                    self.store.set(&path, files::parse(&path, bytes));
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::IsADirectory) => {
                    self.went(path, 0, noticed.unwrap_or_else(Instant::now));
                }
                Err(error) => self.fail(&path, &error.to_string(), false),
            }
        }
        self.retries.retain(|path, _| self.store.is_troubled(path));
        if self.has_more() {
            self.noticed = noticed;
        }
        Ok(self.tell(noticed))
    }

    fn tell(&mut self, noticed: Option<Instant>) -> Vec<Event> {
        let mut events = Vec::new();
        let begins = self.fresh.is_none();
        events.extend(begins.then(|| self.freshness(FreshState::Listing)));
        let changes = self.store.changes();
        if !changes.is_empty() {
            events.push(Event::Changes { changes, noticed: noticed.unwrap_or_else(Instant::now) });
        }
        let problems = self.store.problems();
        if problems != self.told {
            self.told.clone_from(&problems);
            events.push(Event::Problems(problems));
        }
        if !self.synced && !self.has_more() {
            self.synced = true;
            events.push(Event::Synced);
        }
        let state = match &self.unreadable {
            Some((since, why)) => FreshState::Failing { since: *since, why: why.clone() },
            None if self.synced => FreshState::Live,
            None => FreshState::Listing,
        };
        if self.fresh.as_ref() != Some(&state) {
            events.push(self.freshness(state));
        }
        events
    }

    fn freshness(&mut self, state: FreshState) -> Event {
        self.fresh = Some(state.clone());
        Event::Freshness(vec![Freshness { resource: self.resource.clone(), state }])
    }

    fn drain(&mut self) -> io::Result<()> {
        let hints = self.watches.drain()?;
        let now = Instant::now();
        for hint in hints {
            match hint {
                Hint::Everything => {
                    self.everything = true;
                    self.noticed.get_or_insert(now);
                }
                Hint::Complete(path) => {
                    self.writing.remove(&path);
                    self.gone.remove(&path);
                    self.unread.insert(path);
                    self.noticed.get_or_insert(now);
                }
                Hint::Writing(path) => {
                    self.gone.remove(&path);
                    self.writing.insert(path);
                }
                Hint::Gone(path, cookie) => {
                    self.writing.retain(|file| !file.starts_with(&path));
                    self.unread.retain(|file| !file.starts_with(&path));
                    for file in self.store.below(&path) {
                        self.went(file, cookie, now);
                    }
                }
                Hint::Moved(0) => {}
                Hint::Moved(cookie) => {
                    for gone in self.gone.values_mut().filter(|gone| gone.cookie == cookie) {
                        gone.deadline = gone.noticed;
                    }
                }
                Hint::Attributes(path) => {
                    if self.store.is_troubled(&path) && !self.writing.contains(&path) {
                        if path.is_dir() {
                            self.everything = true;
                        } else {
                            self.unread.insert(path);
                        }
                        self.noticed.get_or_insert(now);
                    }
                }
                Hint::Unreadable(path, error) => self.fail(&path, &error, true),
            }
        }
        Ok(())
    }

    /// A file, or a directory (`tree`), can't be read.
    fn fail(&mut self, path: &Path, error: &str, tree: bool) {
        self.store.fail(path, error);
        let retry = Retry { at: Instant::now() + FIRST_RETRY, delay: FIRST_RETRY, tree };
        self.retries.entry(path.to_owned()).or_insert(retry).tree = tree;
    }

    /// Has read again what could not be read, where it is time for that.
    fn retry(&mut self) {
        let now = Instant::now();
        for (path, retry) in self.retries.iter_mut().filter(|(_, retry)| retry.at <= now) {
            retry.delay = (retry.delay * 2).min(LAST_RETRY);
            retry.at = now + retry.delay;
            if retry.tree {
                self.everything = true;
            } else {
                self.unread.insert(path.clone());
            }
            self.noticed.get_or_insert(now);
        }
    }

    fn went(&mut self, file: PathBuf, cookie: u32, noticed: Instant) {
        if self.store.knows(&file) {
            self.gone.entry(file).or_insert(Gone { deadline: noticed + GRACE, noticed, cookie });
        }
    }

    /// Looks at the whole tree anew. Should it be gone, or a part of it be unreadable, the last state of that stays.
    fn rescan(&mut self) {
        let found = self.watches.rescan();
        let failed = found.unreadable.iter().find(|(path, _)| path == self.watches.root());
        self.unreadable = failed.map(|(_, why)| {
            let since = self.unreadable.as_ref().map_or_else(Since::now, |(since, _)| *since);
            (since, format!("the directory cannot be read: {why}"))
        });
        for (path, error) in &found.unreadable {
            self.fail(path, error, true);
        }
        let here: HashSet<_> = found.files.iter().map(|path| path.as_path()).collect();
        let missing: Vec<_> = (self.store.paths())
            .filter(|path| !here.contains(path) && !found.unreadable.iter().any(|(closed, _)| path.starts_with(closed)))
            .map(|path| path.to_owned())
            .collect();
        for path in missing {
            self.gone.remove(&path);
            self.store.remove(&path);
        }
        self.gone.retain(|path, _| !here.contains(path.as_path()));
        self.writing.retain(|path| here.contains(path.as_path()));
        self.unread.extend(found.files);
    }

    /// Ends the wait for files that did not come back.
    fn expire(&mut self) {
        let now = Instant::now();
        let gone = std::mem::take(&mut self.gone).into_iter();
        let (over, waiting): (BTreeMap<_, _>, _) = gone.partition(|(_, gone)| gone.deadline <= now);
        self.gone = waiting;
        for (path, gone) in over {
            self.noticed = Some(self.noticed.map_or(gone.noticed, |noticed| noticed.min(gone.noticed)));
            match path.metadata() {
                Ok(metadata) if metadata.is_dir() => self.store.remove(&path),
                Err(error) if error.kind() == io::ErrorKind::NotFound => self.store.remove(&path),
                _ => drop(self.unread.insert(path)),
            }
        }
    }
}
