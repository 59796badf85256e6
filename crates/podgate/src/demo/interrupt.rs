//! [`Interrupt`]: somebody wants the demo to end (Ctrl-C, SIGTERM, the terminal is gone). It cleans up then.

use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};

/// Whether the demo is asked to end.
#[derive(Debug, Clone)]
pub(super) struct Interrupt {
    state: Arc<(Mutex<bool>, Condvar)>,
}

impl Interrupt {
    /// Takes the signals over. (By handlers: a blocked signal would stay blocked in child processes.)
    pub(super) fn catch() -> Result<Self> {
        let interrupt = Interrupt { state: Arc::default() };
        let told = interrupt.clone();
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
                // Asked twice is asked once: the way out is short.
                loop {
                    tokio::select! { _ = first.recv() => {} _ = second.recv() => {} _ = third.recv() => {} }
                    *told.state.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
                    told.state.1.notify_all();
                }
            });
        };
        thread::Builder::new().name("signals".to_owned()).spawn(listen).context("cannot start a thread")?;
        caught.recv().context("the signal thread died")?.context("cannot take over signals")?;
        Ok(interrupt)
    }

    /// Whether it has happened.
    pub(super) fn happened(&self) -> bool {
        *self.state.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for it, or for `over`, which is looked at twice a second.
    pub(super) fn wait(&self, over: impl Fn() -> bool) {
        let mut happened = self.state.0.lock().unwrap_or_else(PoisonError::into_inner);
        while !*happened && !over() {
            let waited = self.state.1.wait_timeout(happened, Duration::from_millis(500));
            happened = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
