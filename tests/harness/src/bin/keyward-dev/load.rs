//! Loads against a limit on real gateways: prints the allowed and refused requests in spans of 50 ms as JSON, for
//! `tools/plot-limits`.
//!
//! Times are those at which the client received its responses, some varying milliseconds later than the gateway's. The
//! guarantees of limits are verified by tests, not here.

use keyward_harness::http::Connection;
use keyward_harness::{ControlPlane, Envoy, Failure, Fleet, Gateway, Request, Result, artifacts, until};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

/// The available loads.
pub(crate) const SCENARIOS: [&str; 3] = ["burst", "overload", "fleet"];

/// The key's limit: requests in any second.
const LIMIT: usize = 40;

const WINDOW: Duration = Duration::from_secs(1);

/// The span over which requests are counted.
const SPAN: Duration = Duration::from_millis(50);

/// The duration of a load; by its end all requests are answered.
const LENGTH: Duration = Duration::from_secs(6);

/// Connections to each gateway: enough that no request waits long for another's response.
const CONNECTIONS: usize = 16;

/// The deadline for a key to reach a gateway.
const SOON: Duration = Duration::from_secs(10);

/// A response: its time, and whether the request was allowed.
type Answered = (Duration, bool);

/// Runs a load and prints its results.
pub(crate) async fn load(scenario: &str) -> Result<()> {
    let answered = match scenario {
        "burst" => {
            // Two bursts around a full second, both of which a fixed-window limit would allow.
            let bursts = [500, 900, 1100, 1600, 2800, 3900, 4100];
            let times = bursts.into_iter().flat_map(|ms| [Duration::from_millis(ms); 3 * LIMIT / 4]).collect();
            one_gateway(times).await?
        }
        "overload" => one_gateway(evenly(3 * LIMIT)).await?,
        "fleet" => two_gateways(evenly(3 * LIMIT / 2)).await?,
        _ => return Err(Failure::new(format!("unknown load {scenario:?}; expected one of {}", SCENARIOS.join(", ")))),
    };
    let (version, answered) = answered;
    let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let results = json!({
        "command": format!("keyward-dev load {scenario}"),
        "at": at,
        "envoy": version,
        "limit": LIMIT,
        "window_ms": millis(WINDOW),
        "span_ms": millis(SPAN),
        "gateways": answered.iter().map(|answered| spans(answered)).collect::<Vec<_>>(),
        "in_window": in_window(&answered.concat()),
    });
    println!("{results}");
    Ok(())
}

/// One gateway, whose filter applies the limit.
async fn one_gateway(times: Vec<Duration>) -> Result<(String, Vec<Vec<Answered>>)> {
    let gateway = Gateway::start().await?;
    let key = make_key(&gateway.control_plane).await?;
    let answered = run(&[gateway.envoy.gateway()], &key, times).await?;
    Ok((version(&gateway.envoy).await?, answered))
}

/// Two gateways that share the limit; each also applies it locally.
async fn two_gateways(times: Vec<Duration>) -> Result<(String, Vec<Vec<Answered>>)> {
    let limit = format!("key_id:{LIMIT}/s");
    let fleet = Fleet::start(&artifacts::rate_limit_service()?, &[&limit], |_| ()).await?;
    let key = make_key(&fleet.gateway.control_plane).await?;
    let answered = run(&[fleet.gateway.envoy.gateway(), fleet.second.gateway()], &key, times).await?;
    Ok((version(&fleet.second).await?, answered))
}

async fn make_key(control_plane: &ControlPlane) -> Result<String> {
    Ok(control_plane.create(&json!({"name": "load", "limits": [format!("{LIMIT}/s")]})).await?.key)
}

/// This many requests per second, evenly spaced.
fn evenly(per_second: usize) -> Vec<Duration> {
    let length = usize::try_from(LENGTH.as_secs()).unwrap_or(0);
    (0..per_second * length).map(|request| WINDOW.mul_f64(request as f64 / per_second as f64)).collect()
}

/// Sends a request to each gateway at each of the times; returns the responses of each gateway.
async fn run(gateways: &[SocketAddr], key: &str, times: Vec<Duration>) -> Result<Vec<Vec<Answered>>> {
    let request = Request::get("/").bearer(key);
    let mut connections = Vec::new();
    for &gateway in gateways {
        until("the key is accepted", SOON, async || {
            let answer = keyward_harness::http::send(gateway, &request).await?;
            if answer.status == 200 { Ok(()) } else { Err(Failure::new(answer.text())) }
        })
        .await?;
        let mut of_gateway = Vec::new();
        for _ in 0..CONNECTIONS {
            of_gateway.push(Connection::open(gateway).await?);
        }
        connections.push(of_gateway);
    }
    // Wait until the requests of the probe have left the window.
    sleep(2 * WINDOW).await;
    let start = Instant::now();
    let mut clients = JoinSet::new();
    for (gateway, of_gateway) in connections.into_iter().enumerate() {
        for (client, mut connection) in of_gateway.into_iter().enumerate() {
            let times: Vec<_> = times.iter().copied().skip(client).step_by(CONNECTIONS).collect();
            let request = request.clone();
            clients.spawn(async move {
                let mut answered = Vec::new();
                for time in times {
                    sleep_until(start + time).await;
                    let answer = connection.send(&request).await?;
                    match answer.status {
                        200 | 429 => answered.push((start.elapsed(), answer.status == 200)),
                        status => return Err(Failure::new(format!("{status} {}", answer.text()))),
                    }
                }
                Ok((gateway, answered))
            });
        }
    }
    let mut by_gateway = vec![Vec::new(); gateways.len()];
    for client in clients.join_all().await {
        let (gateway, answered) = client?;
        by_gateway[gateway].extend(answered);
    }
    Ok(by_gateway)
}

/// The number of allowed and refused requests in each span.
fn spans(answered: &[Answered]) -> Value {
    let count = |admitted: bool| {
        let mut spans = vec![0; usize::try_from(LENGTH.as_millis() / SPAN.as_millis()).unwrap_or(0)];
        for (time, _) in answered.iter().filter(|(_, was)| *was == admitted) {
            let span = usize::try_from(time.as_millis() / SPAN.as_millis()).unwrap_or(usize::MAX);
            // Late responses are counted in the last span, so that none is missing.
            let last = spans.len() - 1;
            spans[span.min(last)] += 1;
        }
        spans
    };
    json!({"admitted": count(true), "refused": count(false)})
}

/// For each allowed request, the time in milliseconds and the number allowed in the window that ends then.
fn in_window(answered: &[Answered]) -> Vec<(u64, usize)> {
    let mut admitted: Vec<_> = answered.iter().filter(|(_, admitted)| *admitted).map(|(time, _)| *time).collect();
    admitted.sort();
    let within = |end: &Duration| admitted.iter().filter(|time| *time <= end && **time + WINDOW > *end).count();
    admitted.iter().map(|end| (millis(*end), within(end))).collect()
}

/// Envoy's version, such as 1.40.0.
async fn version(envoy: &Envoy) -> Result<String> {
    let info = envoy.server_info().await?;
    Ok(info["version"].as_str().and_then(|version| version.split('/').nth(1)).unwrap_or("?").to_owned())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
