//! A run that is ended by a signal or a panic leaves nothing behind. Namespaces, rules and processes go with this
//! process; its files have to be taken away.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use podgate_sandbox::at_end_signals;

/// What a shell says of a program that SIGINT ended.
const INTERRUPTED: i32 = 130;

/// Takes `directory` away, and ends this process, at SIGINT, SIGTERM and SIGHUP; at a panic as well, which goes on.
pub(crate) fn clean_up_at_the_end(directory: PathBuf) -> Result<()> {
    let (told, scratch) = (std::panic::take_hook(), directory.clone());
    std::panic::set_hook(Box::new(move |info| {
        told(info);
        remove(&scratch);
    }));
    at_end_signals(move || {
        remove(&directory);
        eprintln!("interrupted: nothing is left behind");
        std::process::exit(INTERRUPTED);
    })
    .context("cannot take over signals")
}

/// As often as it may take while somebody still writes. There is nothing that could be done about a failure.
fn remove(directory: &Path) {
    let gone = || fs::remove_dir_all(directory).is_ok() || !directory.exists();
    let _ = (0..10).any(|_| gone());
}
