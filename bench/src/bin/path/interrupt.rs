//! A run that is ended by a signal or a panic leaves nothing behind. Namespaces, rules and processes go with this
//! process; its files have to be taken away.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};

/// What a shell says of a program that SIGINT ended.
const INTERRUPTED: i32 = 130;

/// Takes `directory` away, and ends this process, at SIGINT, SIGTERM and SIGHUP; at a panic as well, which goes on. (By
/// handlers: a blocked signal would stay blocked in child processes.)
pub(crate) fn clean_up_at_the_end(directory: PathBuf) -> Result<()> {
    let (told, scratch) = (std::panic::take_hook(), directory.clone());
    std::panic::set_hook(Box::new(move |info| {
        told(info);
        remove(&scratch);
    }));
    let (ready, caught) = mpsc::channel();
    let listen = move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return drop(ready.send(Err(error))),
        };
        runtime.block_on(async {
            let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
            let handlers = kinds.into_iter().map(signal).collect::<Result<Vec<_>, _>>();
            let mut handlers = match handlers {
                Ok(handlers) => handlers,
                Err(error) => return drop(ready.send(Err(error))),
            };
            drop(ready.send(Ok(())));
            let [first, second, third] = &mut handlers[..] else { return };
            tokio::select! { _ = first.recv() => {} _ = second.recv() => {} _ = third.recv() => {} }
            remove(&directory);
            eprintln!("interrupted: nothing is left behind");
            std::process::exit(INTERRUPTED);
        });
    };
    thread::Builder::new().name("signals".to_owned()).spawn(listen).context("cannot start a thread")?;
    caught.recv().context("the signal thread died")?.context("cannot take over signals")
}

/// As often as it may take while somebody still writes. There is nothing that could be done about a failure.
fn remove(directory: &Path) {
    let gone = || fs::remove_dir_all(directory).is_ok() || !directory.exists();
    let _ = (0..10).any(|_| gone());
}
