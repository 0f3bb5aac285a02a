//! Overload: what a server answers when it is offered three times what it can do.
//!
//! The server is a process of its own. What it can do is found out in a closed loop: each connection sends when
//! it was answered. Then three times that rate is offered over three times the connections, by clients who give up
//! a deadline after they have sent; only what was accepted within it counts. Who finds every connection busy for as long
//! does not send. (A queue in front of the connections that sends what is about to be given up would keep a server busy
//! with nothing else, and no server could do anything about it.) Both are measured in turns, each on a server and a data directory of its own.
//!
//! With [`pin`](crate::args::OverloadArgs::pin) the server has one processor and the load another, so that the load
//! takes nothing from the server, and neither is helped by the other's rest. Without, the load's own time for three
//! times as many requests is taken from the server, and counted against it.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, ensure};
use serde::Serialize;
use tokio::time::Instant;

use crate::accounting::{Accounting, Books};
use crate::app::runtime;
use crate::args::OverloadArgs;
use crate::data::{Data, PRODUCTS, Settings};
use crate::load::{Load, Mix, Run};
use crate::outside::USERS;
use crate::report::Percentiles;

/// How many times what it can do is offered.
const TIMES: u16 = 3;

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Orders accepted in time under overload, of those that it accepts when it is offered no more than it can do: the
    /// median over the rounds.
    pub goodput_of_peak: f64,
    /// The most memory that the server had under overload, of the same without: the median over the rounds.
    pub memory_of_peak: f64,
    /// Rounds in which everything that was accepted was found on the disk afterwards, once.
    pub closed: usize,
    /// The rounds.
    pub rounds: Vec<Round>,
}

/// Both of them, once.
#[derive(Clone, Debug, Serialize)]
pub struct Round {
    /// What it can do.
    pub peak: Measured,
    /// What became of three times that.
    pub overload: Measured,
}

/// One server under one load.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// Requests that were meant to be sent a second; what was sent in a closed loop.
    pub offered_per_s: f64,
    /// Orders that were accepted in time, a second.
    pub accepted_per_s: f64,
    /// Requests that were answered 503.
    pub shed: u64,
    /// Requests that were given up, sent or not.
    pub given_up: u64,
    /// Percentiles of the answers' latency.
    pub latency_ms: Percentiles,
    /// The most memory that the server had, in MiB.
    pub memory_mib: f64,
    /// Whether the accounting closed.
    pub closed: bool,
}

/// Measures. Answers whether the accounting closed each time.
pub fn run(args: &OverloadArgs) -> anyhow::Result<bool> {
    if let Some(processor) = args.pin {
        hold_to(processor + 1)?;
    }
    let mut rounds = Vec::new();
    for round in 1..=args.rounds {
        let seed = u64::from(round) * 2;
        let peak = measure(args, None, seed)?;
        println!("round {round}: peak     {peak}");
        let rate = peak.accepted_per_s * f64::from(TIMES);
        let overload = measure(args, Some(rate as u64), seed + 1)?;
        println!("round {round}: overload {overload}");
        rounds.push(Round { peak, overload });
    }
    let median_of = |of: fn(&Measured) -> f64| {
        let mut ratios: Vec<f64> = rounds
            .iter()
            .map(|round| of(&round.overload) / of(&round.peak))
            .collect();
        ratios.sort_by(f64::total_cmp);
        ratios[ratios.len() / 2]
    };
    let report = Report {
        goodput_of_peak: median_of(|one| one.accepted_per_s),
        memory_of_peak: median_of(|one| one.memory_mib),
        closed: rounds
            .iter()
            .filter(|round| round.peak.closed && round.overload.closed)
            .count(),
        rounds,
    };
    println!(
        "goodput {:.3} of the peak, memory {:.2} of it, accounting closed in {} of {} rounds",
        report.goodput_of_peak, report.memory_of_peak, report.closed, args.rounds
    );
    if let Some(path) = &args.report {
        let mut json = serde_json::to_vec_pretty(&report)?;
        json.push(b'\n');
        fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(report.closed == usize::from(args.rounds))
}

/// A load on a server of its own: at a rate, or in a closed loop.
fn measure(args: &OverloadArgs, rate: Option<u64>, seed: u64) -> anyhow::Result<Measured> {
    let directory = tempfile::tempdir().context("no temporary directory")?;
    let data = directory.path().join("data");
    let server = Server::start(args, &data)?;
    let times = if rate.is_some() { TIMES } else { 1 };
    let load = Load {
        server: server.address,
        rate: rate.unwrap_or(1).max(1),
        duration: args.seconds,
        connections: usize::from(args.connections * times),
        users: USERS,
        products: PRODUCTS as usize,
        mix: Mix {
            writes: 1.0,
            repeats: 0.0,
            ..Mix::default()
        },
        seed,
    };
    let run = Run::new(&load, None).with_deadline(args.deadline);
    let run = match rate {
        Some(_) => run,
        None => run.in_a_closed_loop(),
    };
    let took = runtime("load", 1)?.block_on(async {
        let start = Instant::now();
        run.drive(&load).await;
        start.elapsed()
    });
    let memory_mib = server.most_memory()?;
    server.stop()?;
    let data = Data::open_or_create(&data, Settings::default())?;
    let books = runtime("checker", 1)?.block_on(Books::read(&**data.log(), data.shards()))?;
    drop(data);
    Ok(run.look(|ledger, sent| {
        let requests: u64 = sent.statuses.values().sum();
        let in_time = sent.statuses.get(&("order", 202)).copied().unwrap_or(0);
        // Whatever came too late, if at all.
        let given_up = sent
            .statuses
            .iter()
            .filter(|((kind, status), _)| *kind == "late" || *status == 0)
            .map(|(_, n)| n)
            .sum();
        Measured {
            offered_per_s: requests as f64 / args.seconds.as_secs_f64(),
            accepted_per_s: in_time as f64 / took.as_secs_f64(),
            shed: sent.with_status(503),
            given_up,
            latency_ms: Percentiles::of_micros(&sent.latency),
            memory_mib,
            closed: Accounting::of(ledger, &books).closed,
        }
    }))
}

/// A server in a process of its own, ended with this.
struct Server {
    process: Child,
    address: SocketAddr,
}

impl Server {
    fn start(args: &OverloadArgs, data: &std::path::Path) -> anyhow::Result<Self> {
        let program = std::env::current_exe()?;
        let mut command = match args.pin {
            Some(processor) => {
                let mut command = Command::new("taskset");
                command.arg("-c").arg(processor.to_string()).arg(program);
                command
            }
            None => Command::new(program),
        };
        let mut process = command
            .args([
                "serve",
                "--listen=127.0.0.1:0",
                "--proxies=1",
                "--shards=10",
            ])
            // Three times the load is not to be stopped at the limits of its most active users.
            .args(["--user-limit=1000000", "--ip-limit=1000000"])
            .args(["--key-limit=100000000", "--drain=120"])
            .arg(format!("--at-once={}", args.at_once))
            .arg("--data")
            .arg(data)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("the server does not start")?;
        let mut line = String::new();
        if let Some(said) = process.stdout.take() {
            let mut said = BufReader::new(said);
            said.read_line(&mut line)?;
            // Whatever else it says is not to be waited for.
            std::thread::spawn(move || said.lines().count());
        }
        let address = line
            .split_once("http://")
            .and_then(|(_, rest)| rest.split(',').next()?.trim().parse().ok());
        let Some(address) = address else {
            let _ = process.kill();
            anyhow::bail!("the server does not say where it listens: {line:?}");
        };
        Ok(Self { process, address })
    }

    /// The most memory that it ever had, in MiB.
    fn most_memory(&self) -> anyhow::Result<f64> {
        let path = format!("/proc/{}/status", self.process.id());
        let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let most = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
        Ok(most.context("the system does not say how much memory it had")? / 1024.0)
    }

    /// Has it apply what it accepted.
    fn stop(mut self) -> anyhow::Result<()> {
        let asked = Command::new("kill")
            .arg("-TERM")
            .arg(self.process.id().to_string())
            .status()?;
        ensure!(asked.success(), "the server is gone");
        let ended = self.process.wait()?;
        ensure!(ended.success(), "the server did not finish: {ended}");
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It fails only for what has ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Holds this process, and the threads that it starts from now on, to a processor.
fn hold_to(processor: u16) -> anyhow::Result<()> {
    let said = Command::new("taskset")
        .args(["-cp", &processor.to_string()])
        .arg(std::process::id().to_string())
        .output()
        .context("taskset does not run")?;
    if !said.status.success() {
        let _ = std::io::stderr().write_all(&said.stderr);
        anyhow::bail!("the load cannot be held to processor {processor}");
    }
    Ok(())
}

impl std::fmt::Display for Measured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:>7.0} offered/s {:>7.0} accepted/s {:>7} shed {:>7} given up  p50 {:>6.1} ms p99 {:>6.1} ms  {:>5.0} MiB",
            self.offered_per_s,
            self.accepted_per_s,
            self.shed,
            self.given_up,
            self.latency_ms.p50,
            self.latency_ms.p99,
            self.memory_mib,
        )
    }
}
