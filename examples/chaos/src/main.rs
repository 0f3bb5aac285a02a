//! A campaign of failures against the pipeline, and the books after each run.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use chaos::args::Args;
use chaos::ground::Ground;
use chaos::report::Summary;
use chaos::{embedded, services};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

#[tokio::main]
async fn main() -> ExitCode {
    // What was started ends with us, and is ended by being dropped: a signal must not keep us from that.
    let done = match (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) {
        (Ok(mut interrupt), Ok(mut terminate)) => tokio::select! {
            done = campaign(Args::parse()) => done,
            _ = interrupt.recv() => return ExitCode::from(130),
            _ = terminate.recv() => return ExitCode::from(143),
        },
        (Err(error), _) | (_, Err(error)) => Err(error.into()),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("chaos: {error:#}");
            ExitCode::from(2)
        }
    }
}

async fn campaign(args: Args) -> Result<bool> {
    let program = match &args.pipeline {
        Some(program) => program.clone(),
        None => beside_us("pipeline")?,
    };
    ensure!(program.exists(), "no program at {}", program.display());
    let (directory, temporary) = match &args.directory {
        Some(directory) => (directory.clone(), None),
        None => {
            let temporary = tempfile::Builder::new().prefix("chaos-").tempdir()?;
            (temporary.path().to_owned(), Some(temporary))
        }
    };
    let begun = Instant::now();
    let summary = if args.services {
        on_services(&args, &program, &directory).await?
    } else {
        embedded(&args, &program, &directory).await?
    };
    println!("{}", summary.show(begun.elapsed()));
    if !summary.all_closed() {
        for seed in &summary.open {
            let step = args.step.as_ref().map(|step| format!(" --step {step}"));
            let step = step.unwrap_or_default();
            let on = if args.services { " --services" } else { "" };
            println!("again: cargo xtask chaos --runs 1 --seed {seed}{on}{step}");
        }
        // Its files are evidence.
        if let Some(temporary) = temporary {
            let _ = temporary.keep();
        }
    }
    if let Some(file) = &args.json {
        std::fs::write(file, serde_json::to_vec_pretty(&summary)?)
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(summary.all_closed())
}

async fn embedded(args: &Args, program: &Path, directory: &Path) -> Result<Summary> {
    let kinds: Arc<[_]> = args.kinds().map_err(anyhow::Error::msg)?.into();
    let places = Arc::new(Semaphore::new(args.jobs.into()));
    let mut runs = JoinSet::new();
    for seed in (args.seed..).take(usize::try_from(args.runs)?) {
        let (program, directory) = (program.to_owned(), directory.to_owned());
        let (kinds, places) = (kinds.clone(), Arc::clone(&places));
        runs.spawn(async move {
            let _place = places.acquire_owned().await;
            embedded::run(&program, &directory, seed, &kinds).await
        });
    }
    let mut summary = Summary::default();
    while let Some(outcome) = runs.join_next().await {
        let outcome = outcome.context("a run panicked")?;
        println!("{outcome}");
        summary.add(outcome);
    }
    Ok(summary)
}

async fn on_services(args: &Args, program: &Path, directory: &Path) -> Result<Summary> {
    let blows = args.blows().map_err(anyhow::Error::msg)?;
    let mut ground = Ground::start().await;
    let mut summary = Summary::default();
    for seed in (args.seed..).take(usize::try_from(args.runs)?) {
        let outcome = services::run(program, &mut ground, directory, seed, &blows).await;
        println!("{outcome}");
        summary.add(outcome);
    }
    Ok(summary)
}

/// A program of the same build.
fn beside_us(name: &str) -> Result<PathBuf> {
    let mut program = std::env::current_exe()?;
    program.set_file_name(name);
    Ok(program)
}
