//! What the processes that serve have in common: the log, the limit of open files, and signals. SIGHUP reloads files, SIGTERM
//! and SIGINT end the process.

use super::CliError;
use keyward_server::logging;
use keyward_server::net::rlimit;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Starts to log, and makes room for edges: each one that waits is an open file.
pub(super) fn start_logging() -> Result<(), CliError> {
    logging::start().map_err(|error| CliError::Logging(error.to_string()))?;
    if let Some(open_files) = rlimit::raise() {
        let edges = rlimit::edges(open_files);
        tracing::info!(open_files, edges, "limit of open files, and of waiting edges");
    }
    Ok(())
}

/// The signals from here on, so that one during the start is not lost.
pub(super) struct Signals {
    hang_up: Signal,
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    pub(super) fn listen() -> Result<Self, CliError> {
        let listen = |kind| signal(kind).map_err(CliError::Signals);
        Ok(Self {
            hang_up: listen(SignalKind::hangup())?,
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    /// Waits until the process is to end, and reloads files meanwhile.
    pub(super) async fn shutdown(mut self, reload: impl Fn()) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                Some(()) = self.hang_up.recv() => reload(),
            }
        }
    }
}

/// Logs the outcome of a reload.
pub(super) fn log_reload<E: std::fmt::Display>(file: &'static str, result: Result<(), E>) {
    match result {
        Ok(()) => tracing::info!(file, "reloaded"),
        Err(error) => tracing::error!(file, %error, "reload failed; keeping the previous content"),
    }
}
