//! A directory of manifests as a source: read once ([`read`]), or followed by inotify ([`follow`]).
//!
//! ```text
//!   files (which files, their text) ──▶ read
//!        │
//!   watches (inotify: which file may have changed) ──▶ follower ──▶ store (what is in force) ──▶ Event
//! ```
//!
//! A manifest is a file named `*.yaml`, `*.yml` or `*.json`. Names that begin with a dot are passed over, files and
//! directories (editors' swap files, the hidden directories of ConfigMap volumes). Symbolic links are followed.

mod files;
mod follower;
mod store;
#[cfg(test)]
mod tests;
mod watches;

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};

use podgate_api::ObjectKey;
use podgate_api::manifest::{Located, ManifestError};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use crate::Event;
use follower::Follower;

/// What files and directories say, read once (`podgate test`, `explain`).
#[derive(Debug, Default)]
pub struct Contents {
    /// The objects, each with its file.
    pub objects: Vec<(PathBuf, Located)>,
    /// What is wrong with the rest.
    pub errors: Vec<ManifestError>,
}

/// Reads files and directories (their `*.yaml`, `*.yml` and `*.json`, recursively, in name order; `-` is standard
/// input) once. Two objects with one key in different places are an error at the second; a file that is named twice
/// is read once.
///
/// # Errors
/// A path that is not there, that can't be read, or that is no regular file (but a pipe that is open already is read to
/// its end); the message has the path.
pub fn read(paths: &[PathBuf]) -> io::Result<Contents> {
    let mut contents = Contents::default();
    let mut read: HashSet<PathBuf> = HashSet::new();
    let mut seen: HashMap<ObjectKey, String> = HashMap::new();
    for path in paths {
        for file in files::list(path)? {
            let parsed = if file.as_os_str() == "-" {
                if !read.insert(file.clone()) {
                    continue;
                }
                files::parse(Path::new("standard input"), io::read_to_string(io::stdin())?.into_bytes())
            } else {
                let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", file.display()));
                // Of a pipe (`<(helm template …)`) there is no canonical path.
                if !read.insert(file.canonicalize().unwrap_or_else(|_| file.clone())) {
                    continue;
                }
                files::parse(&file, files::read_named(&file).map_err(named)?)
            };
            contents.errors.extend(parsed.errors);
            for located in parsed.objects {
                let key = located.object.key();
                if let Some(first) = seen.get(&key) {
                    contents.errors.push(ManifestError {
                        file: file.display().to_string(),
                        line: located.line,
                        field: String::new(),
                        message: format!("stands in {first} already; remove one of the two"),
                        object: Some(key),
                    });
                } else {
                    seen.insert(key, format!("{}:{}", file.display(), located.line));
                    contents.objects.push((file.clone(), located));
                }
            }
        }
    }
    Ok(contents)
}

/// Follows a directory until the receiver is dropped. The first events are the directory's contents, then `Synced`.
/// A broken file keeps its last good state and is told as a problem; where there is no such state, a policy that
/// cannot be understood is replaced by one that isolates its whole namespace (fail closed).
///
/// A file or directory that can't be read is told as a problem, and tried again until it can. Only regular files are
/// read.
///
/// A file is read when its writer has closed it or moved it into place. Of objects with one key, the one in the first
/// file by path is in force, and the others are told as problems. Should the directory itself go away, its last state
/// stays in force until it is back.
///
/// # Errors
/// The directory can't be read at the start, or inotify can't be used.
pub async fn follow(directory: &Path, events: mpsc::Sender<Event>) -> io::Result<()> {
    let directory = std::path::absolute(directory)?;
    let (mut follower, readable) = Follower::new(directory)?;
    #[allow(deprecated, reason = "its successor is unsafe, for descriptors that may change; this one is owned")]
    let readable = AsyncFd::new(readable)?;
    loop {
        let told;
        (follower, told) = spawn_blocking(move || {
            let told = follower.step();
            (follower, told)
        })
        .await
        .map_err(io::Error::other)?;
        for event in told? {
            if events.send(event).await.is_err() {
                return Ok(());
            }
        }
        if follower.has_more() {
            continue;
        }
        let deadline = follower.deadline();
        let expired = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = events.closed() => return Ok(()),
            () = expired => {}
            // Every step reads until nothing is left, so readiness can be cleared before it.
            ready = readable.readable() => ready?.clear_ready(),
        }
    }
}
