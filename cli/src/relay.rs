//! `keyward relay`: serves the feed of an upstream.

use super::CliError;
use super::arguments::{duration_within, listen_address, url, whole_seconds};
use super::process::{Signals, log_reload, start_logging};
use clap::Args;
use keyward_server::auth::tokens::file::Audience;
use keyward_server::clock;
use keyward_server::relay::POLL_WAITS;
use keyward_server::serve::relay::{Relay, RelayConfig};
use std::path::PathBuf;
use std::time::Duration;

/// How to run a relay.
#[derive(Debug, Args)]
#[command(
    after_help = "The token files must be readable only by the user that runs the relay. On SIGHUP they are reloaded."
)]
pub(super) struct RelayArguments {
    /// Upstream URL: a control plane or another relay
    #[arg(long, env = "KEYWARD_UPSTREAM", hide_env_values = true, value_name = "URL")]
    upstream: String,
    /// File with the edge token for the upstream
    #[arg(long, env = "KEYWARD_UPSTREAM_TOKEN_FILE", value_name = "FILE")]
    upstream_token_file: PathBuf,
    /// Address to listen on; port 0 is any free port
    #[arg(long, env = "KEYWARD_LISTEN", default_value = "127.0.0.1:8081", value_parser = listen_address, value_name = "HOST:PORT")]
    listen: String,
    /// Directory of the relay's database
    #[arg(long, env = "KEYWARD_DATA_DIR", default_value = ".keyward-relay", value_name = "DIR")]
    data_dir: PathBuf,
    /// File with the edge tokens that the relay accepts [default: edge-token in the data directory, created if absent]
    #[arg(long, env = "KEYWARD_EDGE_TOKEN_FILE", value_name = "FILE")]
    edge_token_file: Option<PathBuf>,
    /// How long a poll at the upstream may wait for a change, from 1s to 1min in whole seconds; edges count their data as
    /// that much older
    #[arg(long, env = "KEYWARD_POLL_WAIT", default_value = "2s", value_parser = poll_wait, value_name = "DURATION")]
    poll_wait: Duration,
}

fn poll_wait(text: &str) -> Result<Duration, String> {
    whole_seconds(text).and_then(|_| duration_within(text, &POLL_WAITS, "1s to 1min"))
}

#[tokio::main]
pub(super) async fn run(arguments: RelayArguments) -> Result<(), CliError> {
    // Checked here and not as the argument is parsed: clap would repeat the URL, which can hold a password.
    let upstream = url(&arguments.upstream).map_err(CliError::Usage)?;
    start_logging()?;
    let signals = Signals::listen()?;
    let relay = Relay::start(RelayConfig {
        listen: arguments.listen,
        data_dir: arguments.data_dir,
        edge_token_file: arguments.edge_token_file,
        upstream,
        upstream_token_file: arguments.upstream_token_file,
        poll_wait: arguments.poll_wait,
        clock: clock::system(),
    })
    .await?;
    let (tokens, upstream) = (relay.tokens(), relay.upstream());
    let shutdown = signals.shutdown(move || {
        log_reload(Audience::Edge.file_name(), tokens.reload(Audience::Edge));
        log_reload("upstream-token", upstream.reload());
    });
    relay.run(shutdown).await;
    Ok(())
}
