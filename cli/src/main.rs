//! The program: reads the command line, runs what it asks for, and turns the outcome into an exit code.

use anyhow::{Result, anyhow};
use clap::Parser;
use keyward_cli::{self as cli, Arguments, BackupArguments, CliError, Command, RelayArguments, ServeArguments};
use keyward_server::auth::tokens::file::Audience;
use keyward_server::http::description;
use keyward_server::keys::github::GithubKeys;
use keyward_server::keys::leaks::Leaks;
use keyward_server::net::rlimit;
use keyward_server::serve::relay::{Relay, RelayConfig};
use keyward_server::serve::{Config, RETENTION_INTERVAL, SelfService, Server, default_max_verifications, dialect};
use keyward_server::{clock, logging};
use std::io::Write;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nowhere is left to tell that this cannot be told.
            let message = cli::printable_message(&error.to_string());
            let _ = writeln!(std::io::stderr(), "keyward: {message}");
            error.downcast_ref().map_or(ExitCode::FAILURE, |error: &CliError| ExitCode::from(error.exit_code()))
        }
    }
}

fn run() -> Result<()> {
    // Before clap, which repeats what it refuses.
    let typed = cli::refuse_typed_secrets(std::env::args_os().skip(1), |name| std::env::var_os(name));
    typed.map_err(CliError::from)?;
    match Arguments::parse().command {
        Command::Serve(arguments) => serve(arguments),
        Command::Relay(arguments) => relay(arguments),
        Command::Keys { server, command } => cli::keys::run(&server, command).map_err(Into::into),
        Command::Owners { server, command } => cli::owners::run(&server, command).map_err(Into::into),
        Command::Plans { server, command } => cli::plans::run(&server, command).map_err(Into::into),
        Command::Tokens { server, command } => cli::tokens::run(&server, command).map_err(Into::into),
        Command::Audit { server, arguments } => cli::audit::run(&server, arguments).map_err(Into::into),
        Command::Usage(arguments) => cli::usage(&arguments).map_err(Into::into),
        Command::Backup(arguments) => backup(&arguments),
        Command::MeasureVerifications(arguments) => cli::measure(&arguments).map_err(Into::into),
        Command::CheckConfig(arguments) => cli::check(&arguments).map_err(Into::into),
        Command::Rules { command } => cli::rules(command).map_err(Into::into),
        Command::Openapi { dialect } => openapi(&dialect),
        Command::Completions { shell } => cli::completions(shell).map_err(Into::into),
    }
}

fn openapi(name_or_file: &str) -> Result<()> {
    let description = description(&dialect(name_or_file)?);
    Ok(cli::print(&format!("{description:#}\n"))?)
}

#[tokio::main]
async fn backup(arguments: &BackupArguments) -> Result<()> {
    Ok(cli::backup(arguments).await?)
}

/// Each edge that waits is an open file.
fn raise_open_files() {
    if let Some(open_files) = rlimit::raise() {
        let edges = rlimit::edges(open_files);
        tracing::info!(open_files, edges, "the limit of open files, and of waiting edges");
    }
}

#[tokio::main]
async fn serve(arguments: ServeArguments) -> Result<()> {
    let database_url = cli::database_url()?;
    logging::start().map_err(|error| anyhow!("cannot log: {error}"))?;
    raise_open_files();
    let dialect = dialect(&arguments.dialect)?;
    let ServeArguments {
        listen,
        data_dir,
        retention,
        usage_interval,
        max_verifications,
        trusted_proxy,
        self_service,
        self_service_scope,
        on_leak,
        github_keys,
        ..
    } = arguments;
    let github_keys = github_keys.as_deref().map(GithubKeys::load).transpose()?;
    // Before anything can be asked to end, so that a signal during the start is not lost.
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut hang_up = signal(SignalKind::hangup())?;
    let server = Server::start(Config {
        listen,
        data_dir,
        database_url,
        dialect,
        leaks: Leaks { on_leak, github_keys, hmac_pepper: cli::hmac_pepper() },
        clock: clock::system(),
        retention,
        retention_interval: RETENTION_INTERVAL.min(retention),
        usage_interval,
        max_verifications: max_verifications.unwrap_or_else(default_max_verifications),
        trusted_proxies: trusted_proxy,
        self_service: self_service.then_some(SelfService { scope: self_service_scope }),
    })
    .await?;
    let (tokens, leaks) = (server.tokens(), server.leaks());
    tokio::spawn(async move {
        while hang_up.recv().await.is_some() {
            for audience in Audience::ALL {
                let file = audience.file_name();
                match tokens.reload(audience) {
                    Ok(()) => tracing::info!(file, "tokens read again"),
                    Err(error) => tracing::error!(file, %error, "the tokens stay as they were"),
                }
            }
            match leaks.github_keys.as_ref().map(GithubKeys::reload) {
                None => {}
                Some(Ok(())) => tracing::info!("GitHub's keys read again"),
                Some(Err(error)) => tracing::error!(%error, "GitHub's keys stay as they were"),
            }
        }
    });
    let end = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    server.run(end).await;
    Ok(())
}

#[tokio::main]
async fn relay(arguments: RelayArguments) -> Result<()> {
    let upstream = arguments.upstream()?;
    logging::start().map_err(|error| anyhow!("cannot log: {error}"))?;
    raise_open_files();
    let RelayArguments { listen, data_dir, edge_token_file, upstream_token_file, poll_wait, .. } = arguments;
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut hang_up = signal(SignalKind::hangup())?;
    let clock = clock::system();
    let config = RelayConfig { listen, data_dir, edge_token_file, upstream, upstream_token_file, poll_wait, clock };
    let relay = Relay::start(config).await?;
    let (tokens, upstream) = (relay.tokens(), relay.upstream());
    tokio::spawn(async move {
        while hang_up.recv().await.is_some() {
            match tokens.reload(Audience::Edge) {
                Ok(()) => tracing::info!("the edges' tokens read again"),
                Err(error) => tracing::error!(%error, "the edges' tokens stay as they were"),
            }
            match upstream.reload() {
                Ok(()) => tracing::info!("the token for the upstream read again"),
                Err(error) => tracing::error!(%error, "the token for the upstream stays as it was"),
            }
        }
    });
    let end = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    relay.run(end).await;
    Ok(())
}
