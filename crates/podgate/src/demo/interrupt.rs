//! [`Interrupt`]: somebody wants the demo to end (Ctrl-C, SIGTERM, the terminal is gone). It cleans up then.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};

/// Whether the demo is asked to end.
#[derive(Debug, Clone)]
pub(super) struct Interrupt {
    state: Arc<(Mutex<bool>, Condvar)>,
}

impl Interrupt {
    /// Takes the signals over for all threads that are made from now on.
    pub(super) fn catch() -> Result<Self> {
        let mut signals = SigSet::empty();
        [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().for_each(|s| signals.add(s));
        signals.thread_block().context("cannot take over signals")?;
        let interrupt = Interrupt { state: Arc::default() };
        let told = interrupt.clone();
        let listen = move || {
            // Asked twice is asked once: the way out is short.
            while signals.wait().is_ok() {
                *told.state.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
                told.state.1.notify_all();
            }
        };
        thread::Builder::new().name("signals".to_owned()).spawn(listen).context("cannot start a thread")?;
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
            let (guard, _) = self
                .state
                .1
                .wait_timeout(happened, std::time::Duration::from_millis(500))
                .unwrap_or_else(PoisonError::into_inner);
            happened = guard;
        }
    }
}
