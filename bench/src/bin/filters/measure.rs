//! The rounds, and their results.

use crate::keys;
use crate::scenarios::{Filters, Scenario};
use crate::testbed::{Known, Testbed};
use keyward_bench::load::{Get, Load, Order, Protocol};
use keyward_bench::process::Observed;
use keyward_bench::stats::{Rates, Summary};
use keyward_harness::{Failure, Result};
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The number of keys in constant use, and of unknown keys.
const FEW: usize = 16;

/// How long Envoy gets to complete the work of a response before its processor time is read.
const SETTLE: Duration = Duration::from_millis(4);

/// The upstream that answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Upstream {
    /// Envoy itself, by `direct_response`.
    Direct,
    /// A separate process.
    Real,
}

/// The parameters of the measurement.
pub(crate) struct Plan {
    pub(crate) scenarios: Vec<Scenario>,
    pub(crate) protocols: Vec<Protocol>,
    pub(crate) upstreams: Vec<Upstream>,
    pub(crate) rounds: usize,
    pub(crate) round: Duration,
    pub(crate) many: usize,
}

/// The results.
#[derive(Serialize)]
pub(crate) struct Found {
    round_ms: u128,
    rounds: usize,
    hot_keys: usize,
    many_keys: usize,
    cells: Vec<Cell>,
    ratios: Vec<Ratio>,
}

/// Keyward compared with Envoy's own filters, with one protocol and one upstream.
#[derive(Serialize)]
struct Ratio {
    /// The host of Keyward.
    scenario: Scenario,
    protocol: Protocol,
    upstream: Upstream,
    /// The processor time added by Keyward, divided by that added by Envoy's own filters.
    added: Option<Statistics>,
    /// Requests per second.
    per_second: Statistics,
}

/// One scenario with one protocol and one upstream.
#[derive(Serialize)]
struct Cell {
    scenario: Scenario,
    protocol: Protocol,
    upstream: Upstream,
    /// Envoy's processor time per request, in microseconds.
    cpu_us: Summary,
    /// Requests per second.
    per_second: Rates,
    /// The share of its processor that Envoy used in the median round: far below one means that something else was the
    /// bottleneck.
    busy: f64,
    /// The load generator's processor time per request, in microseconds.
    load_us: Summary,
    /// The upstream's processor time per request, in microseconds.
    upstream_us: Summary,
    /// The authorizer's processor time per request, in microseconds.
    authorizer_us: Summary,
    /// The difference from no filter for each statistic, in microseconds; absent without that scenario.
    added_us: Option<Statistics>,
}

#[derive(Clone, Copy, Serialize)]
struct Statistics {
    /// Of the best rounds: the least processor time, the most requests.
    best: f64,
    quartile: f64,
    median: f64,
}

/// One cell during the measurement.
struct Bench {
    scenario: Scenario,
    protocol: Protocol,
    upstream: Upstream,
    load: Load,
    order: Order,
    envoy: Observed,
    rounds: Vec<Round>,
}

/// Processor times are per request, in microseconds.
struct Round {
    envoy: f64,
    load: f64,
    upstream: f64,
    authorizer: f64,
    per_second: f64,
    busy: f64,
}

/// Runs the plan.
pub(crate) async fn run(plan: &Plan, wasm: Option<PathBuf>) -> Result<Found> {
    let known = Known { hot: keys::make(FEW)?, many: keys::make(plan.many)? };
    let unknown = keys::make(FEW)?;
    let filters: BTreeSet<Filters> = plan.scenarios.iter().map(|scenario| scenario.filters()).collect();
    eprintln!("starting {} Envoys", filters.len());
    let filters: Vec<Filters> = filters.into_iter().collect();
    let mut testbed = Testbed::start(&filters, &known, wasm).await?;

    let mut groups: Vec<Vec<Bench>> = Vec::new();
    for &protocol in &plan.protocols {
        for &upstream in &plan.upstreams {
            let open = |&scenario: &Scenario| {
                let keys = match scenario {
                    Scenario::KeywardUnknown => &unknown,
                    scenario if scenario.has_many_keys() => &known.many,
                    _ => &known.hot,
                };
                Bench::open(&mut testbed, scenario, protocol, upstream, keys)
            };
            groups.push(plan.scenarios.iter().map(open).collect::<Result<_>>()?);
        }
    }
    eprintln!("warming up");
    let mut warm = BTreeSet::new();
    for bench in groups.iter_mut().flatten() {
        bench.first(warm.insert(bench.scenario))?;
    }
    for round in 0..plan.rounds {
        eprintln!("round {} of {}", round + 1, plan.rounds);
        for group in &mut groups {
            // Alternates, so that no scenario is always first, or always after the same one's cold caches.
            let first = round % group.len();
            for at in (first..group.len()).chain(0..first) {
                group[at].round(plan.round, &testbed)?;
            }
        }
    }
    let cells = groups.iter().map(|group| cells(group)).collect::<Result<Vec<_>>>()?;
    let cells: Vec<Cell> = cells.into_iter().flatten().collect();
    Ok(Found {
        round_ms: plan.round.as_millis(),
        rounds: plan.rounds,
        hot_keys: FEW,
        many_keys: plan.many,
        ratios: ratios(&cells),
        cells,
    })
}

impl Bench {
    fn open(
        testbed: &mut Testbed,
        scenario: Scenario,
        protocol: Protocol,
        upstream: Upstream,
        keys: &[String],
    ) -> Result<Self> {
        let envoy = testbed.envoy(scenario.filters())?;
        let path = match upstream {
            Upstream::Direct => "/direct",
            Upstream::Real => "/upstream",
        };
        let requests: Vec<Get> = keys.iter().map(|key| Get { path, authorization: format!("Bearer {key}") }).collect();
        let load = Load::open(envoy.gateway(), protocol, &requests, scenario.status())?;
        let order = match scenario {
            scenario if scenario.has_many_keys() => Order::Uniform,
            _ => Order::InTurn,
        };
        let envoy = Observed::new(envoy.process().id());
        Ok(Self { scenario, protocol, upstream, load, order, envoy, rounds: Vec::new() })
    }

    /// Warms up: sends each request once where the scenario has not had them yet, so that caches and buckets reach
    /// their steady state.
    fn first(&mut self, each: bool) -> Result<()> {
        let wanted = if each { self.load.variety() } else { 1 };
        self.with_context(|bench| bench.load.run(Order::InTurn, |answers| answers < wanted).map(drop))
    }

    fn round(&mut self, length: Duration, testbed: &Testbed) -> Result<()> {
        self.with_context(|bench| bench.measure(length, testbed))
    }

    fn measure(&mut self, length: Duration, testbed: &Testbed) -> Result<()> {
        let observed = [self.envoy, Observed::new(std::process::id()), testbed.upstream(), testbed.authorizer()];
        let used = || observed.iter().map(Observed::cpu_time).collect::<Result<Vec<Duration>>>();
        self.load.run(self.order, lasting(length / 5))?;
        std::thread::sleep(SETTLE);
        let before = used()?;
        let ran = self.load.run(self.order, lasting(length))?;
        std::thread::sleep(SETTLE);
        let after = used()?;
        let each = |process: usize| (after[process] - before[process]).as_secs_f64() * 1e6 / ran.answers as f64;
        let per_second = ran.answers as f64 / ran.took.as_secs_f64();
        self.rounds.push(Round {
            envoy: each(0),
            load: each(1),
            upstream: each(2),
            authorizer: each(3),
            per_second,
            busy: each(0) * per_second / 1e6,
        });
        Ok(())
    }

    fn with_context<T>(&mut self, doing: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let (scenario, protocol, upstream) = (self.scenario, self.protocol, self.upstream);
        doing(self).map_err(|error| Failure::new(format!("{scenario:?}, {protocol:?}, {upstream:?}: {error}")))
    }
}

fn lasting(length: Duration) -> impl FnMut(u64) -> bool {
    let end = Instant::now() + length;
    move |_| Instant::now() < end
}

fn cells(group: &[Bench]) -> Result<Vec<Cell>> {
    let unmeasured = || Failure::new("expected at least one round");
    let of = |bench: &Bench, value: fn(&Round) -> f64| {
        Summary::of(bench.rounds.iter().map(value).collect()).ok_or_else(unmeasured)
    };
    let bare = group.iter().find(|bench| bench.scenario == Scenario::None);
    let bare = bare.map(|bench| of(bench, |round| round.envoy)).transpose()?;
    let cell = |bench: &Bench| {
        let cpu_us = of(bench, |round| round.envoy)?;
        Ok(Cell {
            scenario: bench.scenario,
            protocol: bench.protocol,
            upstream: bench.upstream,
            cpu_us,
            per_second: Rates::of(bench.rounds.iter().map(|round| round.per_second).collect())
                .ok_or_else(unmeasured)?,
            busy: of(bench, |round| round.busy)?.median,
            load_us: of(bench, |round| round.load)?,
            upstream_us: of(bench, |round| round.upstream)?,
            authorizer_us: of(bench, |round| round.authorizer)?,
            added_us: bare.map(|bare| Statistics {
                best: cpu_us.min - bare.min,
                quartile: cpu_us.quartile - bare.quartile,
                median: cpu_us.median - bare.median,
            }),
        })
    };
    group.iter().map(cell).collect()
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "Envoy's processor time for a request in µs (min, quartile, median), what it is more than without a filter,"
        )?;
        writeln!(
            f,
            "requests in a second (max, quartile, median), how busy Envoy was, and the µs of load, upstream, authorizer"
        )?;
        for cell in &self.cells {
            let Cell { scenario, protocol, upstream, cpu_us, per_second, .. } = cell;
            let name = format!("{scenario:?} {protocol:?} {upstream:?}");
            write!(f, "{name:<32}{:7.2}{:7.2}{:7.2}  ", cpu_us.min, cpu_us.quartile, cpu_us.median)?;
            match cell.added_us {
                Some(added) => write!(f, "{:+7.2}{:+7.2}{:+7.2}  ", added.best, added.quartile, added.median)?,
                None => write!(f, "{:23}", "")?,
            }
            write!(f, "{:8.0}{:8.0}{:8.0}", per_second.max, per_second.quartile, per_second.median)?;
            write!(f, "  {:3.0} %", cell.busy * 100.0)?;
            writeln!(f, "{:6.2}{:6.2}{:6.2}", cell.load_us.min, cell.upstream_us.min, cell.authorizer_us.min)?;
        }
        for ratio in &self.ratios {
            let Ratio { scenario, protocol, upstream, added, per_second } = ratio;
            write!(
                f,
                "{protocol:?} {upstream:?}, {scenario:?} by Envoy's own filters: requests in a second {per_second}"
            )?;
            writeln!(f, "{}", added.map_or_else(String::new, |added| format!("; added processor time {added}")))?;
        }
        Ok(())
    }
}

impl fmt::Display for Statistics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} {:.3} {:.3}", self.best, self.quartile, self.median)
    }
}

fn ratios(cells: &[Cell]) -> Vec<Ratio> {
    let of = |scenario: Scenario, protocol, upstream| {
        cells.iter().find(|cell| (cell.scenario, cell.protocol, cell.upstream) == (scenario, protocol, upstream))
    };
    let ratio = |keyward: &Cell| {
        let native = of(Scenario::Native, keyward.protocol, keyward.upstream)?;
        Some(Ratio {
            scenario: keyward.scenario,
            protocol: keyward.protocol,
            upstream: keyward.upstream,
            added: keyward.added_us.zip(native.added_us).map(|(keyward, native)| Statistics {
                best: keyward.best / native.best,
                quartile: keyward.quartile / native.quartile,
                median: keyward.median / native.median,
            }),
            per_second: Statistics {
                best: keyward.per_second.max / native.per_second.max,
                quartile: keyward.per_second.quartile / native.per_second.quartile,
                median: keyward.per_second.median / native.per_second.median,
            },
        })
    };
    let is_compared = |cell: &&Cell| {
        matches!(cell.scenario, Scenario::Keyward | Scenario::KeywardNative | Scenario::KeywardNativeUnguarded)
    };
    cells.iter().filter(is_compared).filter_map(ratio).collect()
}
