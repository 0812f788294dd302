//! Termination signals.

use keyward_harness::{Failure, Result};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::timeout;

/// SIGINT, SIGTERM, or SIGHUP.
pub(crate) struct Interrupt([Signal; 3]);

impl Interrupt {
    /// Listens from now on, so that no signal is missed between two waits.
    pub(crate) fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).map_err(|error| Failure::new(format!("signals: {error}")));
        Ok(Self([listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?, listen(SignalKind::hangup())?]))
    }

    /// Waits for a signal.
    pub(crate) async fn wait(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }

    /// Whether a signal arrives within a moment. Ctrl-C reaches child processes too, and the exit of one may be noticed
    /// first.
    pub(crate) async fn came(&mut self) -> bool {
        timeout(Duration::from_millis(300), self.wait()).await.is_ok()
    }
}
