//! [`Interrupt`]: somebody wants the demo to end (Ctrl-C, SIGTERM, the terminal is gone). It cleans up then.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use podgate_sandbox::at_end_signals;

/// Whether the demo is asked to end.
#[derive(Debug, Clone)]
pub(super) struct Interrupt {
    state: Arc<(Mutex<bool>, Condvar)>,
}

impl Interrupt {
    /// Takes the signals over.
    pub(super) fn catch() -> Result<Self> {
        let interrupt = Interrupt { state: Arc::default() };
        let told = interrupt.clone();
        // Asked twice is asked once: the way out is short.
        at_end_signals(move || {
            *told.state.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
            told.state.1.notify_all();
        })
        .context("cannot take over signals")?;
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
