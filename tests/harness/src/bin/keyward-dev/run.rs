//! Starts the parts, reports when they are ready, monitors them, and stops them together.

use crate::interrupt::Interrupt;
use crate::settings::{CONTROL_PORT, Settings};
use keyward_harness::config::{CONTROL_PLANE, Example};
use keyward_harness::envoy::Options;
use keyward_harness::ports::loopback;
use keyward_harness::process::forget_log;
use keyward_harness::{ControlPlane, Echo, Envoy, EnvoyConfig, Failure, Request, Result, artifacts};
use std::fs;
use std::path::Path;
use std::time::Duration;
use tokio::time::sleep;

/// The deadline for the first snapshot.
const SNAPSHOT: Duration = Duration::from_secs(30);

/// The interval at which the parts are checked.
const WATCH: Duration = Duration::from_millis(200);

struct Parts {
    envoy: Envoy,
    control_plane: ControlPlane,
    upstreams: Vec<Echo>,
    example: Example,
}

/// Runs until interrupted, or until a part exits.
pub(crate) async fn run() -> Result<()> {
    let mut interrupt = Interrupt::listen()?;
    let settings = Settings::read()?;
    settings.ensure_ports_free()?;
    let root = artifacts::root().canonicalize().map_err(|error| Failure::new(error.to_string()))?;

    let started = tokio::select! {
        parts = start(&settings, &root) => parts,
        () = interrupt.wait() => return Ok(()),
    };
    let mut parts = match started {
        Ok(parts) => parts,
        Err(_) if interrupt.came().await => return Ok(()),
        Err(failure) => return Err(failure),
    };
    announce(&settings, &parts);

    let ended = tokio::select! {
        failure = parts.watch() => if interrupt.came().await { Ok(()) } else { Err(failure) },
        () = interrupt.wait() => Ok(()),
    };
    tokio::select! {
        () = parts.stop() => {}
        // A second interrupt: dropping the parts kills them.
        () = interrupt.wait() => {}
    }
    ended
}

async fn start(settings: &Settings, root: &Path) -> Result<Parts> {
    let data_dir = root.join(".keyward");
    let run_dir = data_dir.join("run");
    fs::create_dir_all(&run_dir).map_err(|error| Failure::new(format!("{}: {error}", run_dir.display())))?;
    let control_plane_log = run_dir.join("control-plane.log");
    for log in [&control_plane_log, &run_dir.join("envoy.log"), &run_dir.join("access.log")] {
        forget_log(log)?;
    }

    let mut config = EnvoyConfig::variant(&settings.dialect)?;
    let module = artifacts::filter()?;
    let mut control_plane = ControlPlane::on(settings.control, &data_dir, &settings.dialect, &control_plane_log)?
        .arguments(&config.serve_arguments());
    control_plane.start().await?;

    let mut upstreams = Vec::new();
    for (name, default) in config.upstreams() {
        let upstream = match Echo::start(&name, default).await {
            Ok(upstream) => upstream,
            // Only Envoy needs the address.
            Err(_) => Echo::start(&name, loopback(0)).await?,
        };
        config.set_cluster(&name, upstream.address());
        upstreams.push(upstream);
    }

    config
        .set_gateway(loopback(settings.gateway))
        .set_admin(loopback(settings.admin))
        .set_cluster(CONTROL_PLANE, control_plane.address())
        .set_module(&module);
    let token = ("KEYWARD_EDGE_TOKEN".to_owned(), control_plane.edge_token()?);
    let options = Options { environment: vec![token], ..Options::default() };
    let mut envoy = Envoy::start(&config, &run_dir, &options).await?;
    envoy.wait_for_snapshot(SNAPSHOT).await?;
    let health = envoy.send(&Request::get("/health")).await?;
    if health.status != 200 {
        return Err(Failure::new(format!("GET /health through the gateway: {} {}", health.status, health.text())));
    }
    Ok(Parts { envoy, control_plane, upstreams, example: config.example().clone() })
}

fn announce(settings: &Settings, parts: &Parts) {
    let Settings { dialect, gateway, control, admin } = settings;
    println!(
        "keyward: ready  gateway http://127.0.0.1:{gateway}  control plane http://127.0.0.1:{control}  \
         Envoy admin http://127.0.0.1:{admin}"
    );
    let upstreams: Vec<_> = parts.upstreams.iter().map(|up| format!("{} http://{}", up.name(), up.address())).collect();
    println!("  dialect {dialect}; echo {}; logs in .keyward/run; Ctrl-C stops everything", upstreams.join(", "));
    let url = if *control == CONTROL_PORT { String::new() } else { format!("KEYWARD_URL=http://127.0.0.1:{control} ") };
    println!("Create a key, and use it:");
    let Example { create, path } = &parts.example;
    println!("  {url}target/release/keyward keys create {create}");
    println!("  curl -i -H 'Authorization: Bearer <the key>' http://127.0.0.1:{gateway}{path}");
}

impl Parts {
    /// Waits until a part exits; returns its failure.
    async fn watch(&mut self) -> Failure {
        loop {
            let control_plane = self.control_plane.process().map_or(Ok(()), |process| process.ensure_running());
            if let Err(failure) = control_plane.and_then(|()| self.envoy.process().ensure_running()) {
                return failure;
            }
            sleep(WATCH).await;
        }
    }

    /// Stops Envoy first, so that no request reaches a gateway without its other parts.
    async fn stop(&mut self) {
        let _ = self.envoy.stop().await;
        let _ = self.control_plane.stop().await;
    }
}
