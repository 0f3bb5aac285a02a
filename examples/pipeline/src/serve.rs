//! The server for real clients, whole or in parts.

use std::path::Path;

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::api::Limits;
use crate::app::{App, Config, PARTITIONS, Role, Runtimes, runtime};
use crate::args::{ApiArgs, LimitArgs, ListenArgs, ServeArgs, WorkerArgs};
use crate::backend::Backend;
use crate::data::{Data, Settings};
use crate::shards::Faults;
use crate::worker::WorkerSettings;

/// Serves until Ctrl-C or SIGTERM, then drains. Answers whether everything that was accepted is applied, or, on
/// services, whether everything that was begun is done.
pub fn run(args: &ServeArgs) -> anyhow::Result<bool> {
    let asked = Asked {
        role: Role::Both,
        listen: &args.listen,
        limits: args.limits.limits(),
        retry_scale: args.work.retry_scale,
    };
    match &args.services {
        Some(services) => on_services(services, &asked),
        None => embedded(args, &asked),
    }
}

/// Takes orders and answers reads until Ctrl-C or SIGTERM.
pub fn api(args: &ApiArgs) -> anyhow::Result<bool> {
    on_services(
        &args.services,
        &Asked {
            role: Role::Api,
            listen: &args.listen,
            limits: args.limits.limits(),
            retry_scale: 1.0,
        },
    )
}

/// Applies what is in the log until Ctrl-C or SIGTERM.
pub fn worker(args: &WorkerArgs) -> anyhow::Result<bool> {
    on_services(
        &args.services,
        &Asked {
            role: Role::Worker,
            listen: &args.listen,
            limits: Limits::default(),
            retry_scale: args.work.retry_scale,
        },
    )
}

/// What a process is to be.
struct Asked<'a> {
    role: Role,
    listen: &'a ListenArgs,
    limits: Limits,
    retry_scale: f64,
}

impl LimitArgs {
    fn limits(&self) -> Limits {
        Limits {
            user: self.user_limit,
            ip: self.ip_limit,
            api_key: self.key_limit,
            proxies: self.proxies.into(),
            at_once: self.at_once.into(),
            ..Limits::default()
        }
    }
}

fn embedded(args: &ServeArgs, asked: &Asked<'_>) -> anyhow::Result<bool> {
    let settings = Settings {
        partitions: Some(PARTITIONS),
        shards: args.shards,
        ..Settings::default()
    };
    let signals = Signals::listen()?;
    let runtimes = Runtimes::new()?;
    let data = Data::open_or_create(&args.data, settings)?;
    let place = format!("data in {}", args.data.display());
    serve(
        data,
        runtimes,
        signals,
        asked,
        WorkerSettings::default(),
        &place,
    )
}

#[cfg(feature = "services")]
fn on_services(services: &Path, asked: &Asked<'_>) -> anyhow::Result<bool> {
    use crate::log::kafka::Reading;
    use crate::services::{Places, Services};

    let places = Places::read(services)?;
    let signals = Signals::listen()?;
    let runtimes = Runtimes::new()?;
    let reading = if asked.role.applies() {
        Reading::Share
    } else {
        Reading::Nothing
    };
    let connected = runtimes
        .shared()
        .block_on(Services::connect(&places, reading))?;
    let place = format!("services of {}", services.display());
    serve(
        connected,
        runtimes,
        signals,
        asked,
        WorkerSettings::remote(),
        &place,
    )
}

#[cfg(not(feature = "services"))]
fn on_services(_: &Path, _: &Asked<'_>) -> anyhow::Result<bool> {
    anyhow::bail!("{}", crate::services::NOT_BUILT)
}

fn serve<B: Backend>(
    backend: B,
    runtimes: Runtimes,
    mut signals: Signals,
    asked: &Asked<'_>,
    workers: WorkerSettings,
    place: &str,
) -> anyhow::Result<bool> {
    let config = Config {
        role: asked.role,
        listen: asked.listen.listen,
        limits: asked.limits,
        retry_scale: asked.retry_scale,
        faults: Faults::default(),
        workers,
        metrics: crate::telemetry::metrics()?,
    };
    let app = App::start(backend, runtimes, config).context("the pipeline could not start")?;
    println!("listening on http://{}, {place}", app.address);
    signals.wait();
    println!("draining; once more to stop at once");
    let runtime = signals.exit_at_the_next();
    let done = app.stop(asked.listen.drain);
    println!(
        "{}",
        if done {
            "drained"
        } else {
            "stopped before all was applied: the next start goes on"
        }
    );
    runtime.shutdown_background();
    Ok(done)
}

/// Ctrl-C and SIGTERM. Listened for from the start on, so that a signal during a long start is not the end of the
/// process.
struct Signals {
    runtime: tokio::runtime::Runtime,
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        let runtime = runtime("signals", 1)?;
        let (interrupt, terminate) = {
            let _on = runtime.enter();
            (
                signal(SignalKind::interrupt())?,
                signal(SignalKind::terminate())?,
            )
        };
        Ok(Self {
            runtime,
            interrupt,
            terminate,
        })
    }

    fn wait(&mut self) {
        self.runtime.block_on(async {
            tokio::select! {
                _ = self.interrupt.recv() => {}
                _ = self.terminate.recv() => {}
            }
        });
    }

    fn exit_at_the_next(self) -> tokio::runtime::Runtime {
        let Self {
            runtime,
            mut interrupt,
            mut terminate,
        } = self;
        runtime.spawn(async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            // Nothing is lost by it: what was accepted is in the log.
            std::process::exit(130);
        });
        runtime
    }
}
