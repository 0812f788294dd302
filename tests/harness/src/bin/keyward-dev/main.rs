//! What `make run` runs: control plane, upstreams and Envoy in the foreground, with the shipped configuration.

mod interrupt;
mod run;
mod settings;

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    if arguments != ["run"] {
        eprintln!("usage: keyward-dev run    (or: make run; `make help` tells the environment it reads)");
        return ExitCode::from(2);
    }
    match run::run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("keyward: {failure}");
            ExitCode::FAILURE
        }
    }
}
