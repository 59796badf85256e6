//! inotify: which directories are watched, and what their events mean for the files of the tree.
//!
//! Beside the directories of the tree, those are watched through which a link, or the tree's own path, leads: an
//! event there may mean other files altogether (a ConfigMap volume is renewed by swapping a link), so all is read
//! again.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask};

use super::files::{self, Visit, is_hidden, is_manifest};

/// What the kernel follows at most in one path.
const MOST_LINKS: usize = 40;

/// What may have happened to the tree.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Hint {
    /// Anything: read all again.
    Everything,
    /// This file is complete and may have changed.
    Complete(PathBuf),
    /// This file is being written; it will be complete later.
    Writing(PathBuf),
    /// This file, or the directory with all below it, went away, by a move if the cookie is not 0.
    Gone(PathBuf, u32),
    /// The move with this cookie ended within the tree.
    Moved(u32),
    /// Permissions, times or owner of this file changed.
    Attributes(PathBuf),
    /// This directory can't be watched or listed.
    Unreadable(PathBuf, String),
}

/// The watches on one tree.
#[derive(Debug)]
pub(super) struct Watches {
    inotify: Inotify,
    root: PathBuf,
    watched: HashMap<WatchDescriptor, Watched>,
    buffer: Box<[u8]>,
}

/// A watched directory.
#[derive(Debug, Default)]
struct Watched {
    /// Where in the tree it is: more than once if links lead to it, not at all if it is only passed through.
    paths: BTreeSet<PathBuf>,
    /// Entries of it that a link, or the tree's own path, leads through, with their own path.
    passed: HashMap<OsString, PathBuf>,
}

/// What a walk finds.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The manifests, in path order.
    pub(super) files: Vec<PathBuf>,
    /// Directories that can't be read, and why.
    pub(super) unreadable: Vec<(PathBuf, String)>,
}

impl Watches {
    /// Watches on a tree, none as yet ([`Watches::rescan`] sets them), and the descriptor that becomes readable when
    /// there are events.
    pub(super) fn new(root: PathBuf) -> io::Result<(Self, OwnedFd)> {
        let inotify = Inotify::init()?;
        let readable = inotify.as_fd().try_clone_to_owned()?;
        Ok((Self { inotify, root, watched: HashMap::new(), buffer: vec![0; 64 * 1024].into() }, readable))
    }

    /// The tree's own path.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Walks through the whole tree and watches what it is made of now. Watches are set before the directories are
    /// listed: what comes later is told by an event.
    pub(super) fn rescan(&mut self) -> Found {
        let former = std::mem::take(&mut self.watched);
        let root = self.root.clone();
        self.pass(&root);
        let found = self.scan(&root);
        for (watch, _) in former {
            if !self.watched.contains_key(&watch) {
                // It is gone already if its directory is.
                let _ = self.inotify.watches().remove(watch);
            }
        }
        found
    }

    fn scan(&mut self, directory: &Path) -> Found {
        let mut scan = Scan { watches: self, found: Found::default() };
        files::walk(directory, &mut scan);
        scan.found
    }

    fn watch(&mut self, directory: &Path, mask: WatchMask) -> io::Result<&mut Watched> {
        let mask = mask | WatchMask::MASK_ADD | WatchMask::ONLYDIR;
        let watch = self.inotify.watches().add(directory, mask).map_err(|error| match error.kind() {
            io::ErrorKind::StorageFull => {
                io::Error::new(error.kind(), "no inotify watches left; raise the sysctl fs.inotify.max_user_watches")
            }
            _ => error,
        })?;
        Ok(self.watched.entry(watch).or_default())
    }

    /// Watches every directory entry that a path leads through.
    fn pass(&mut self, path: &Path) {
        let way = way(path);
        let last = way.len().saturating_sub(1);
        for (i, (directory, name)) in way.into_iter().enumerate() {
            let mut mask = WatchMask::CREATE | WatchMask::MOVE | WatchMask::DELETE;
            if i == last && !path.is_dir() {
                mask |= WatchMask::CLOSE_WRITE;
            }
            // A directory that can't be watched, or is not there yet, leaves its changes unseen, not its contents.
            if let Ok(watched) = self.watch(&directory, mask) {
                let path = directory.join(&name);
                watched.passed.insert(name, path);
            }
        }
    }

    /// Takes all events there are now.
    pub(super) fn drain(&mut self) -> io::Result<Vec<Hint>> {
        let mut hints = Vec::new();
        let mut buffer = std::mem::take(&mut self.buffer);
        let result = loop {
            let events = match self.inotify.read_events(&mut buffer) {
                Ok(events) => events,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break Ok(hints),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => break Err(error),
            };
            for event in events {
                if event.mask.intersects(EventMask::Q_OVERFLOW | EventMask::UNMOUNT) {
                    hints.push(Hint::Everything);
                } else if event.mask.contains(EventMask::IGNORED) {
                    self.watched.remove(&event.wd);
                } else if let Some(name) = event.name {
                    self.event(&event.wd, event.mask, event.cookie, name, &mut hints);
                }
            }
        };
        self.buffer = buffer;
        result
    }

    fn event(&mut self, watch: &WatchDescriptor, mask: EventMask, cookie: u32, name: &OsStr, hints: &mut Vec<Hint>) {
        let Some(watched) = self.watched.get(watch) else { return };
        let paths: Vec<_> = watched.paths.iter().map(|path| path.join(name)).collect();
        let came = mask.intersects(EventMask::CREATE | EventMask::MOVED_TO);
        let went = mask.intersects(EventMask::DELETE | EventMask::MOVED_FROM);
        if let Some(path) = watched.passed.get(name) {
            let made = mask.contains(EventMask::CREATE) && !mask.contains(EventMask::ISDIR);
            if went || mask.contains(EventMask::CLOSE_WRITE) || came && !(made && is_unfinished(path)) {
                hints.push(Hint::Everything);
            }
        }
        if is_hidden(name) {
            return;
        }
        for path in paths {
            if mask.contains(EventMask::ISDIR) {
                if came {
                    hints.push(Hint::Moved(cookie));
                    let found = self.scan(&path);
                    hints.extend(found.files.into_iter().map(Hint::Complete));
                    hints.extend(found.unreadable.into_iter().map(|(path, error)| Hint::Unreadable(path, error)));
                } else if went {
                    self.forget(&path);
                    hints.push(Hint::Gone(path, cookie));
                } else if mask.contains(EventMask::ATTRIB) {
                    hints.push(Hint::Attributes(path));
                }
                continue;
            }
            if came && path.is_symlink() {
                hints.push(Hint::Everything);
            }
            if !is_manifest(name) {
                continue;
            }
            if went {
                hints.push(Hint::Gone(path, cookie));
            } else if mask.contains(EventMask::MOVED_TO) {
                hints.extend([Hint::Moved(cookie), Hint::Complete(path)]);
            } else if mask.contains(EventMask::CLOSE_WRITE) || came && !is_unfinished(&path) {
                hints.push(Hint::Complete(path));
            } else if mask.contains(EventMask::ATTRIB) {
                hints.push(Hint::Attributes(path));
            } else {
                hints.push(Hint::Writing(path));
            }
        }
    }

    /// A directory of the tree went away (moved, it would still be watched).
    fn forget(&mut self, directory: &Path) {
        let inotify = &self.inotify;
        self.watched.retain(|watch, watched| {
            let before = watched.paths.len();
            watched.paths.retain(|path| !path.starts_with(directory));
            let unused = watched.paths.is_empty() && watched.passed.is_empty() && before > 0;
            if unused {
                let _ = inotify.watches().remove(watch.clone());
            }
            !unused
        });
    }
}

/// Whether a file that was just made is yet to be written and closed: a second link to a file, and a symbolic link,
/// bring it complete.
fn is_unfinished(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.is_file() && metadata.nlink() == 1)
}

struct Scan<'w> {
    watches: &'w mut Watches,
    found: Found,
}

impl Visit for Scan<'_> {
    fn directory(&mut self, path: &Path) -> io::Result<()> {
        let mask = WatchMask::CREATE
            | WatchMask::MOVE
            | WatchMask::DELETE
            | WatchMask::MODIFY
            | WatchMask::CLOSE_WRITE
            | WatchMask::ATTRIB;
        self.watches.watch(path, mask)?.paths.insert(path.to_owned());
        Ok(())
    }

    fn link(&mut self, path: &Path) {
        self.watches.pass(path);
    }

    fn file(&mut self, path: PathBuf) {
        self.found.files.push(path);
    }

    fn error(&mut self, path: &Path, error: io::Error) {
        self.found.unreadable.push((path.to_owned(), error.to_string()));
    }
}

/// The directory entries that an absolute path leads through, links followed.
fn way(path: &Path) -> Vec<(PathBuf, OsString)> {
    let components = |path: &Path| -> Vec<OsString> {
        (path.components())
            .filter(|component| matches!(component, Component::Normal(_) | Component::ParentDir))
            .map(|component| component.as_os_str().to_owned())
            .collect()
    };
    let mut here = PathBuf::from("/");
    let mut ahead: VecDeque<_> = components(path).into();
    let mut way = Vec::new();
    let mut links = 0;
    while let Some(name) = ahead.pop_front() {
        if name == ".." {
            here.pop();
            continue;
        }
        let next = here.join(&name);
        way.push((here.clone(), name));
        match std::fs::read_link(&next) {
            Ok(_) if links == MOST_LINKS => break,
            Ok(target) => {
                links += 1;
                if target.is_absolute() {
                    here = PathBuf::from("/");
                }
                components(&target).into_iter().rev().for_each(|name| ahead.push_front(name));
            }
            Err(_) => here = next,
        }
    }
    way
}
