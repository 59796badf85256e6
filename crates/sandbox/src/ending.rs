//! [`at_end_signals`]: whoever made namespaces, processes or files is told that it is asked to end, so that it can take them
//! away.

use std::io;
use std::sync::mpsc;
use std::thread;

use tokio::signal::unix::{SignalKind, signal};

/// Has a thread of its own call `each` at every SIGINT, SIGTERM and SIGHUP (the terminal is gone) from now on, instead of
/// what they do by default. By handlers: a blocked signal would stay blocked in child processes.
///
/// # Errors
/// If the thread can't be started, or the handlers can't be set.
pub fn at_end_signals(mut each: impl FnMut() + Send + 'static) -> io::Result<()> {
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
            loop {
                tokio::select! { _ = first.recv() => {} _ = second.recv() => {} _ = third.recv() => {} }
                each();
            }
        });
    };
    thread::Builder::new().name("signals".to_owned()).spawn(listen)?;
    caught.recv().map_err(|_| io::Error::other("the signal thread died"))?
}
