//! A directory of manifests as a source: read once, or followed by inotify.

use std::path::{Path, PathBuf};

use podgate_api::manifest::{Located, ManifestError};
use tokio::sync::mpsc;

use crate::Event;

/// What files and directories say, read once (`podgate test`, `explain`).
#[derive(Debug, Default)]
pub struct Contents {
    /// The objects, each with its file.
    pub objects: Vec<(PathBuf, Located)>,
    /// What is wrong with the rest.
    pub errors: Vec<ManifestError>,
}

/// Reads files and directories (their `*.yaml`, `*.yml` and `*.json`, recursively, in name order; `-` is standard
/// input) once. Two objects with one key in different places are an error at the second.
pub fn read(paths: &[PathBuf]) -> std::io::Result<Contents> {
    let _ = paths;
    todo!()
}

/// Follows a directory until the receiver is dropped. The first events are the directory's contents, then `Synced`.
/// A broken file keeps its last good state and is told as a problem; where there is no such state, a policy that
/// cannot be understood is replaced by one that isolates its whole namespace (fail closed).
pub async fn follow(directory: &Path, events: mpsc::Sender<Event>) -> std::io::Result<()> {
    let _ = (directory, events);
    todo!()
}
