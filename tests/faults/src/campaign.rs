//! A campaign: faults drawn from a seed, one after the other under load, with a check by the oracle after each.

use crate::fault::Fault;
use crate::machine::Machine;
use crate::observe::{self, converge, observe};
use crate::oracle::Observed;
use crate::proxy::{Mode, Proxy};
use crate::workload::Workload;
use keyward_harness::{Edges, Failure, Postgres, Request, Result, http, left_out, until};
use rustix::process::Signal;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// The deadline for a server to be ready again after a fault.
const RECOVERED: Duration = Duration::from_secs(60);

/// The deadline for a server to complete requests of disconnected clients.
const SETTLED: Duration = Duration::from_secs(30);

/// The number of edges.
const EDGES: usize = 3;

/// Options of a campaign.
#[derive(Clone, Debug)]
pub struct Options {
    /// The seed of all random choices.
    pub seed: u64,
    /// The number of faults.
    pub faults: usize,
    /// Whether the server uses PostgreSQL.
    pub on_postgres: bool,
}

/// Runs a campaign and prints its progress.
pub async fn run(options: &Options) -> Result<()> {
    let seed = options.seed;
    let engine = if options.on_postgres { "PostgreSQL" } else { "SQLite" };
    println!("faults on {engine}, SEED={seed}");
    attempt(options).await.map_err(|failure| {
        Failure::new(format!("{failure}\nfaults on {engine}: `SEED={seed} make faults` draws the same faults again"))
    })
}

async fn attempt(options: &Options) -> Result<()> {
    let mut rng = fastrand::Rng::with_seed(options.seed);
    let mut machine = Machine::new(options.on_postgres)?;
    machine.plane.start().await?;
    let mut site = Site::start(machine, &mut rng).await?;
    let schedule = schedule(&site.machine, options, &mut rng);
    for (number, (fault, lasts)) in (1..).zip(&schedule) {
        let before = site.workload.oracle().answers();
        let what = format!("fault {number} of {}: {fault} for {lasts:?}", schedule.len());
        let checked = async {
            site.bring_about(*fault, *lasts, &mut rng).await?;
            site.recover().await?;
            site.check().await
        };
        if let Err(failure) = checked.await {
            let log = site.machine.log();
            let tail: Vec<_> = log.lines().rev().take(20).collect();
            let tail = tail.into_iter().rev().collect::<Vec<_>>().join("\n");
            return Err(Failure::new(format!("{what}: {failure}\n--- the end of the server's log\n{tail}\n---")));
        }
        println!("{what}: {} changes answered, nothing lost", site.workload.oracle().answers() - before);
    }
    site.workload.end().await;
    Ok(())
}

/// All possible faults in random order, repeated until there are enough.
fn schedule(machine: &Machine, options: &Options, rng: &mut fastrand::Rng) -> Vec<(Fault, Duration)> {
    let mut possible = Vec::new();
    for fault in Fault::ALL.into_iter().filter(|fault| fault.concerns(options.on_postgres)) {
        match fault.lacks(machine.abilities()) {
            None => possible.push(fault),
            Some(why) => left_out(&format!("{fault} (faults)"), why),
        }
    }
    let mut schedule = Vec::new();
    while schedule.len() < options.faults {
        rng.shuffle(&mut possible);
        schedule.extend(possible.iter().map(|fault| (*fault, fault.lasts(rng))));
    }
    schedule.truncate(options.faults);
    schedule
}

/// A server with its clients and edges.
struct Site {
    machine: Machine,
    answers: Proxy,
    feed: Proxy,
    workload: Workload,
    edges: Edges,
}

impl Site {
    async fn start(machine: Machine, rng: &mut fastrand::Rng) -> Result<Self> {
        let plane = &machine.plane;
        let answers = Proxy::start(plane.address(), rng.u64(..)).await?;
        let feed = Proxy::start(plane.address(), rng.u64(..)).await?;
        let clients = [plane.address(), plane.address(), answers.address(), answers.address()];
        let workload = Workload::start(&clients, &plane.admin_token()?, rng);
        let edges = Edges::start(feed.address(), &plane.edge_token()?, observe::edges(EDGES))?;
        Ok(Self { machine, answers, feed, workload, edges })
    }

    /// Causes a fault for this long, and removes it.
    async fn bring_about(&mut self, fault: Fault, lasts: Duration, rng: &mut fastrand::Rng) -> Result<()> {
        // Under load, not before.
        sleep(Duration::from_millis(rng.u64(50..300))).await;
        match fault {
            Fault::Kill => self.restart(lasts).await?,
            Fault::Terminate => {
                self.machine.plane.stop().await?;
                self.workload.oracle().restarted();
                sleep(lasts).await;
                self.machine.plane.start().await?;
            }
            Fault::Pause => {
                self.machine.signal(Signal::STOP)?;
                sleep(lasts).await;
                self.machine.signal(Signal::CONT)?;
            }
            Fault::CutAnswers => harm(&self.answers, Mode::Cut(rng.usize(..600)), lasts).await,
            Fault::StallAnswers => harm(&self.answers, Mode::Stall, lasts).await,
            Fault::DropAnswers => harm(&self.answers, Mode::Drop, lasts).await,
            Fault::CutFeed => harm(&self.feed, Mode::Cut(rng.usize(..10_000)), lasts).await,
            Fault::StallFeed => harm(&self.feed, Mode::Stall, lasts).await,
            Fault::DropFeed => harm(&self.feed, Mode::Drop, lasts).await,
            Fault::FlipFeed => harm(&self.feed, Mode::Flip, lasts).await,
            Fault::FileSize | Fault::FileSizeAndKill => {
                self.machine.limit_files(Some(room(rng)))?;
                sleep(lasts).await;
                if fault == Fault::FileSizeAndKill {
                    return self.restart(Duration::ZERO).await;
                }
                self.machine.limit_files(None)?;
            }
            Fault::DiskFull | Fault::DiskFullAndKill => {
                self.machine.fill_disk(Some(room(rng)))?;
                sleep(lasts).await;
                if fault == Fault::DiskFullAndKill {
                    self.kill();
                }
                self.machine.fill_disk(None)?;
                if fault == Fault::DiskFullAndKill {
                    self.machine.plane.start().await?;
                }
            }
            Fault::Descriptors => {
                self.machine.limit_descriptors(Some(rng.u64(..4)))?;
                sleep(lasts).await;
                self.machine.limit_descriptors(None)?;
            }
            Fault::Clock => {
                for _ in 0..3 {
                    self.machine.set_clock(rng.i32(-3600..3600))?;
                    sleep(lasts / 3).await;
                }
                self.machine.set_clock(0)?;
            }
            Fault::PostgresKill => {
                let postgres =
                    self.machine.postgres.as_mut().ok_or_else(|| Failure::new("expected a PostgreSQL server"))?;
                postgres.kill()?;
                sleep(lasts).await;
                postgres.restart()?;
            }
        }
        Ok(())
    }

    async fn restart(&mut self, downtime: Duration) -> Result<()> {
        self.kill();
        sleep(downtime).await;
        self.machine.plane.start().await
    }

    fn kill(&mut self) {
        self.machine.plane.kill();
        self.workload.oracle().restarted();
    }

    /// Waits until the server is ready, which it must become by itself.
    async fn recover(&mut self) -> Result<()> {
        let address = self.machine.plane.address();
        let process = self.machine.plane.process().ok_or_else(|| Failure::new("the server is not running"))?;
        process
            .until("the server is ready again", RECOVERED, async || {
                match http::send(address, &Request::get("/readyz")).await?.status {
                    200 => Ok(()),
                    status => Err(Failure::new(format!("/readyz is {status}"))),
                }
            })
            .await
    }

    /// Reads the complete state while nothing changes, and compares it.
    async fn check(&mut self) -> Result<()> {
        let plane = &self.machine.plane;
        let _quiet = self.workload.quiet().await;
        let observed = settled(plane).await?;
        let mut wrong: Vec<_> = {
            let mut oracle = self.workload.oracle();
            let violations = oracle.check(&observed);
            oracle.settle(&observed);
            violations.iter().map(ToString::to_string).collect()
        };
        let unexpected = self.workload.unexpected().into_iter();
        wrong.extend(
            unexpected.map(|(what, count)| format!("{what}, {count} times: expected done, refused or unknown")),
        );
        let edges = &self.edges;
        let converged =
            until("every edge has the server's state", SETTLED, async || match converge(plane, edges).await? {
                differences if differences.is_empty() => Ok(()),
                differences => Err(Failure::new(differences.join("; "))),
            });
        wrong.extend(converged.await.err().map(|failure| failure.to_string()));
        if wrong.is_empty() {
            return Ok(());
        }
        let shown = wrong.iter().take(20).map(|line| format!("\n  {line}")).collect::<String>();
        Err(Failure::new(format!("{} violations:{shown}", wrong.len())))
    }
}

/// The bytes to leave free: from few to a hundred thousand, each order of magnitude equally likely.
fn room(rng: &mut fastrand::Rng) -> u64 {
    let most = 1 << rng.u32(1..18);
    rng.u64(..most)
}

async fn harm(proxy: &Proxy, mode: Mode, lasts: Duration) {
    proxy.set(mode);
    sleep(lasts).await;
    proxy.set(Mode::Pass);
}

/// The server's state once it is the same twice in a row: requests of disconnected clients may still be running.
async fn settled(plane: &keyward_harness::ControlPlane) -> Result<Observed> {
    let deadline = Instant::now() + SETTLED;
    let mut last = observe(plane).await?;
    loop {
        let next = observe(plane).await?;
        if next == last {
            return Ok(next);
        }
        if Instant::now() >= deadline {
            return Err(Failure::new("the state keeps changing although no client sends requests"));
        }
        last = next;
    }
}

/// Runs campaigns of this many faults on SQLite and, if installed, on PostgreSQL, until time is up, each with the next
/// seed; stops at the first failure.
pub async fn run_for(time: Duration, seed: u64, faults: usize) -> Result<()> {
    let started = Instant::now();
    let postgres = Postgres::is_there();
    if !postgres {
        left_out("faults on PostgreSQL", "apt-get install postgresql");
    }
    let mut campaigns = 0;
    for seed in seed.. {
        for on_postgres in [false, true] {
            if on_postgres && !postgres {
                continue;
            }
            run(&Options { seed, faults, on_postgres }).await?;
            campaigns += 1;
        }
        if started.elapsed() >= time {
            break;
        }
    }
    println!("{campaigns} campaigns of {faults} faults in {:?}: nothing acknowledged was lost", started.elapsed());
    Ok(())
}
