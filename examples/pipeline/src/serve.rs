//! The server for real clients.

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use crate::api::Limits;
use crate::app::{App, Config, PARTITIONS, Role, Runtimes, runtime};
use crate::args::ServeArgs;
use crate::data::{Data, Settings};
use crate::shards::Faults;
use crate::worker::WorkerSettings;

/// Serves until Ctrl-C or SIGTERM, then drains. Answers whether everything that was accepted is applied.
pub fn run(args: &ServeArgs) -> anyhow::Result<bool> {
    let settings = Settings {
        partitions: Some(PARTITIONS),
        shards: args.shards,
        ..Settings::default()
    };
    let signals = runtime("signals", 1)?;
    // Listened for from here on, so that a signal during a long start is not the end of the process.
    let (mut interrupt, mut terminate) = {
        let _on = signals.enter();
        (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
        )
    };
    let data = Data::open_or_create(&args.data, settings)?;
    let app = App::start(
        data,
        Runtimes::new()?,
        Config {
            role: Role::Both,
            listen: args.listen,
            limits: Limits {
                user: args.user_limit,
                ip: args.ip_limit,
                api_key: args.key_limit,
                proxies: args.proxies.into(),
                ..Limits::default()
            },
            retry_scale: args.retry_scale,
            faults: Faults::default(),
            workers: WorkerSettings::default(),
            metrics: crate::telemetry::metrics()?,
        },
    )
    .context("the pipeline could not start")?;
    println!(
        "listening on http://{}, data in {}",
        app.address,
        args.data.display()
    );
    signals.block_on(async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    });
    println!("draining; once more to stop at once");
    signals.spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        // Nothing is lost by it: what was accepted is in the log.
        std::process::exit(130);
    });
    let done = app.stop(args.drain);
    println!(
        "{}",
        if done {
            "drained"
        } else {
            "stopped before all was applied: the next start goes on"
        }
    );
    signals.shutdown_background();
    Ok(done)
}
