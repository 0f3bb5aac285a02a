//! The demo: everything in one process, real HTTP in between, and books that must close.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;
use tokio::time::{Instant, MissedTickBehavior};

use crate::accounting::{Accounting, Books};
use crate::api::Limits;
use crate::app::{App, Config, PARTITIONS, Role, Runtimes, runtime};
use crate::args::DemoArgs;
use crate::backend::Backend;
use crate::cpu;
use crate::data::{Data, PRODUCTS, Settings as DataSettings};
use crate::load::{Figures as Sent, Ledger, Load, Mix, Run};
use crate::outside::USERS;
use crate::report::{
    BatchFigures, CacheFigures, FaultFigures, Percentiles, Report, Settings, StageFigures,
    Throughput,
};
use crate::shards::Faults;
use crate::worker::WorkerSettings;

/// How long the pipeline may take to finish what it accepted.
const DRAIN: Duration = Duration::from_secs(120);

/// Runs the demo. Answers whether the accounting closed.
pub fn run(args: &DemoArgs) -> anyhow::Result<bool> {
    // The file is made first: to learn at the end that it cannot be written would waste the run.
    let report_file = args
        .report
        .as_ref()
        .map(|path| {
            std::fs::File::create(path).with_context(|| format!("cannot write {}", path.display()))
        })
        .transpose()?;
    let report = match &args.services {
        Some(services) => on_services(args, services)?,
        None => embedded(args)?,
    };
    println!("{report}");
    if let Some(file) = report_file {
        let mut file = std::io::BufWriter::new(file);
        serde_json::to_writer_pretty(&mut file, &report)
            .map_err(std::io::Error::from)
            .and_then(|()| file.write_all(b"\n"))
            .and_then(|()| file.flush())
            .context("the report could not be written")?;
    }
    Ok(report.accounting.closed)
}

fn embedded(args: &DemoArgs) -> anyhow::Result<Report> {
    let directory = tempfile::tempdir().context("no temporary directory")?;
    let path = directory.path().join("data");
    let settings = DataSettings {
        partitions: Some(PARTITIONS),
        shards: Some(args.shards),
        ..DataSettings::default()
    };
    let data = Data::open_or_create(&path, settings)?;
    let ran = Ran::on(
        args,
        data,
        Runtimes::new()?,
        WorkerSettings::default(),
        "data in a temporary directory",
    )?;
    // The other side of the books is read from disk again, as a later run would find it.
    let data = Data::open_or_create(&path, settings).context("the data cannot be opened again")?;
    let books = runtime("checker", 1)?.block_on(Books::read(&**data.log(), data.shards()))?;
    drop(data);
    Ok(ran.report(&books))
}

/// A topic of its own, and tables of its own beside whatever the shards hold; both are gone afterwards if the
/// accounting closes.
#[cfg(feature = "services")]
fn on_services(args: &DemoArgs, services: &Path) -> anyhow::Result<Report> {
    use crate::log::kafka::Reading;
    use crate::services::{Places, Services};

    let mut places = Places::read(services)?;
    places.kafka.topic = format!("demo_{:012x}", fastrand::u64(..1 << 48));
    let runtimes = Runtimes::new()?;
    let connected = runtimes
        .shared()
        .block_on(Services::connect(&places, Reading::Share))?;
    let place = format!("services of {}", services.display());
    let ran = Ran::on(args, connected, runtimes, WorkerSettings::remote(), &place)?;
    // The other side of the books is read by someone else, and everything of it.
    runtime("checker", 1)?.block_on(async {
        let there = Services::connect(&places, Reading::All).await?;
        let books = Books::read(&**there.log(), there.shards()).await?;
        let report = ran.report(&books);
        if report.accounting.closed {
            there.remove().await?;
        }
        there.close().await;
        Ok(report)
    })
}

#[cfg(not(feature = "services"))]
fn on_services(_: &DemoArgs, _: &Path) -> anyhow::Result<Report> {
    anyhow::bail!("{}", crate::services::NOT_BUILT)
}

/// Shows how it goes, once a second, until the load is through.
async fn watch<B: Backend>(
    app: &App<B>,
    run: &Run,
    driver: tokio::task::JoinHandle<()>,
) -> anyhow::Result<()> {
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick.tick().await;
    let (mut second, mut before) = (0_u64, 0_u64);
    let mut driver = std::pin::pin!(driver);
    let live = std::io::stderr().is_terminal();
    loop {
        tokio::select! {
            ended = driver.as_mut() => {
                if live && second > 0 {
                    eprintln!();
                }
                return ended.context("the load ended early");
            }
            _ = tick.tick() => {}
        }
        second += 1;
        let (answered, accepted, p99) = run.look(|ledger, sent| {
            let p99 = sent.latency.value_at_quantile(0.99);
            (sent.answered(), ledger.accepted(), p99)
        });
        let figures = Figures::of(app);
        let line = format!(
            "{second:>4} s  {:>6} req/s  accepted {accepted:>7}  applied {:>7}  dead {:>4}  behind {:>3} partitions  hits {:>5.1}%  p99 {:>7.1} ms",
            answered - before,
            figures.applied,
            figures.dead,
            figures.behind,
            figures.hit_rate() * 100.0,
            p99 as f64 / 1e3,
        );
        if live {
            eprint!("\r{line}");
        } else {
            eprintln!("{line}");
        }
        before = answered;
    }
}

/// Waits until the workers have reached the end of the log.
async fn drain<B: Backend>(app: &App<B>) {
    let until = Instant::now() + DRAIN;
    while app.shared.behind() > 0 {
        if Instant::now() >= until || app.shared.counters.halted.load(Ordering::Relaxed) > 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The pipeline's own figures, for show. The accounting does not believe them.
#[derive(Debug)]
struct Figures {
    applied: u64,
    dead: u64,
    behind: usize,
    hits: u64,
    misses: u64,
    batches: BatchFigures,
    faults: FaultFigures,
}

impl Figures {
    fn of<B: Backend>(app: &App<B>) -> Self {
        let counters = &app.shared.counters;
        let (hits, misses) = app.api.cache.hits_and_misses();
        Self {
            applied: counters.applied.load(Ordering::Relaxed),
            dead: counters.dead.load(Ordering::Relaxed),
            behind: app.shared.behind(),
            hits,
            misses,
            batches: BatchFigures {
                transactions: counters.batches.load(Ordering::Relaxed),
                spanning: counters.spanning.load(Ordering::Relaxed),
            },
            faults: FaultFigures {
                refused: app.faults.refused.load(Ordering::Relaxed),
                answers_lost: app.faults.answers_lost.load(Ordering::Relaxed),
                retries: app.shared.stack.retries(),
            },
        }
    }

    fn hit_rate(&self) -> f64 {
        let reads = self.hits + self.misses;
        if reads == 0 {
            0.0
        } else {
            self.hits as f64 / reads as f64
        }
    }
}

/// Everything that a finished run left behind, but for the books.
struct Ran<'a> {
    args: &'a DemoArgs,
    run: Run,
    shards: u16,
    figures: Figures,
    cpu: BTreeMap<&'static str, Duration>,
    loaded: Duration,
    drained: Duration,
}

impl<'a> Ran<'a> {
    /// Runs the pipeline under load, lets it finish what it accepted, and stops it.
    fn on<B: Backend>(
        args: &'a DemoArgs,
        backend: B,
        runtimes: Runtimes,
        workers: WorkerSettings,
        place: &str,
    ) -> anyhow::Result<Self> {
        let shards = u16::try_from(backend.shards().len()).context("too many shards")?;
        let app = App::start(
            backend,
            runtimes,
            Config {
                role: Role::Both,
                listen: ([127, 0, 0, 1], 0).into(),
                // The load stands where the load balancer would.
                limits: Limits {
                    proxies: 1,
                    // Its own clients all find a place.
                    at_once: Limits::default().at_once.max(args.connections.into()),
                    ..Limits::default()
                },
                retry_scale: args.retry_scale,
                faults: Faults::with_chance(args.faults),
                workers,
                metrics: crate::telemetry::metrics()?,
            },
        )?;
        let load = Load {
            server: app.address,
            rate: args.rate,
            duration: args.seconds,
            connections: args.connections.into(),
            users: USERS,
            products: PRODUCTS as usize,
            mix: Mix {
                writes: args.writes,
                ..Mix::default()
            },
            seed: args.seed,
        };
        println!(
            "pipeline on http://{}: {} requests/s for {} s, {PARTITIONS} partitions, {shards} shards, {place}",
            app.address,
            args.rate,
            args.seconds.as_secs_f64(),
        );
        let run = Run::new(&load, None);
        let loader = runtime("load", 1)?;
        let start = Instant::now();
        loader.block_on(async {
            let driver = tokio::spawn({
                let (run, load) = (run.clone(), load.clone());
                async move { run.drive(&load).await }
            });
            watch(&app, &run, driver).await
        })?;
        let loaded = start.elapsed();
        loader.block_on(drain(&app));
        let drained = start.elapsed();
        let cpu = cpu::by_stage();
        let figures = Figures::of(&app);
        if !app.stop(DRAIN) {
            tracing::error!("the pipeline did not finish what it had accepted");
        }
        drop(loader);
        Ok(Self {
            args,
            run,
            shards,
            figures,
            cpu,
            loaded,
            drained,
        })
    }

    fn report(&self, books: &Books) -> Report {
        self.run
            .look(|ledger, sent| self.report_of(ledger, sent, books))
    }

    fn report_of(&self, ledger: &Ledger, sent: &Sent, books: &Books) -> Report {
        let Self { args, figures, .. } = self;
        let accounting = Accounting::of(ledger, books);
        let mut requests: BTreeMap<String, BTreeMap<u16, u64>> = BTreeMap::new();
        for ((kind, status), n) in &sent.statuses {
            requests
                .entry((*kind).to_owned())
                .or_default()
                .insert(*status, *n);
        }
        let mut dead_letters = BTreeMap::new();
        for letter in books.shards.iter().flat_map(|shard| &shard.letters) {
            *dead_letters.entry(letter.class.clone()).or_default() += 1;
        }
        Report {
            latency_ms: Percentiles::of_micros(&sent.latency),
            write_latency_ms: Percentiles::of_micros(&sent.write_latency),
            send_delay_ms: Percentiles::of_micros(&sent.send_delay),
            throughput: Throughput {
                requests_per_s: sent.answered() as f64 / self.loaded.as_secs_f64(),
                writes_applied_per_s: accounting.applied as f64 / self.drained.as_secs_f64(),
            },
            stages: self.stages(sent.answered(), &accounting),
            accounting,
            cache: CacheFigures {
                hit_rate: figures.hit_rate(),
                hits: figures.hits,
                misses: figures.misses,
            },
            requests,
            replays: ledger.replays,
            refused: sent.with_status(429),
            dead_letters,
            batches: figures.batches,
            faults: figures.faults,
            settings: Settings {
                seconds: args.seconds.as_secs_f64(),
                rate: args.rate,
                shards: self.shards,
                partitions: PARTITIONS,
                seed: args.seed,
            },
        }
    }

    fn stages(&self, answered: u64, accounting: &Accounting) -> BTreeMap<String, StageFigures> {
        let decided = accounting.applied + accounting.dead_lettered;
        let stage = |name: &str, units, unit| {
            let cpu = self.cpu.get(name).copied().unwrap_or_default();
            (name.to_owned(), StageFigures::new(cpu, units, unit))
        };
        BTreeMap::from([
            stage("load", answered, "request sent"),
            stage("api", answered, "request"),
            stage("log", accounting.accepted, "order accepted"),
            stage("workers", decided, "order decided"),
            stage("shards", decided, "order decided"),
            stage("other", answered, "request"),
        ])
    }
}
