//! Runs the product for `make run`: control plane, upstreams and Envoy in the foreground, with the shipped
//! configuration; and loads against limits for `make plot-limits`.

mod interrupt;
mod load;
mod run;
mod settings;

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let done = match arguments.as_slice() {
        ["run"] => run::run().await,
        ["load", scenario] => load::load(scenario).await,
        _ => {
            eprintln!(
                "usage: keyward-dev run              (or: make run; `make help` lists the environment variables)"
            );
            eprintln!("       keyward-dev load {}    (or: make plot-limits)", load::SCENARIOS.join("|"));
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("keyward: {failure}");
            ExitCode::FAILURE
        }
    }
}
