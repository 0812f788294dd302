//! Logs to standard error, at the level of `RUST_LOG` (info by default).
//!
//! Whatever `RUST_LOG` says, the HTTP and database libraries stay at info: below it they may log headers and bodies, which
//! contain tokens and new keys. Of PostgreSQL's notices only warnings are logged, as starting on an existing schema causes many.

use tracing::Metadata;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::{EnvFilter, FilterExt, filter_fn};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

/// Installs the logger; fails if the process has one.
pub fn start() -> Result<(), TryInitError> {
    let chosen = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).from_env_lossy();
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    tracing_subscriber::registry().with(lines.with_filter(chosen.and(filter_fn(may_be_shown)))).try_init()
}

fn may_be_shown(event: &Metadata<'_>) -> bool {
    let lowest = match event.target() {
        target if target.starts_with("keyward") => tracing::Level::TRACE,
        "sqlx::postgres::notice" => tracing::Level::WARN,
        target if target.starts_with("rmcp") => tracing::Level::WARN,
        _ => tracing::Level::INFO,
    };
    *event.level() <= lowest
}
