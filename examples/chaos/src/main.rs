//! A campaign of failures against the pipeline, and the books after each run.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use chaos::args::Args;
use chaos::embedded;
use chaos::report::Summary;
use clap::Parser;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

#[tokio::main]
async fn main() -> ExitCode {
    match campaign(Args::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("chaos: {error:#}");
            ExitCode::from(2)
        }
    }
}

async fn campaign(args: Args) -> Result<bool> {
    let kinds: Arc<[_]> = args.kinds().map_err(anyhow::Error::msg)?.into();
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
    let places = Arc::new(Semaphore::new(args.jobs.into()));
    let mut runs = JoinSet::new();
    for seed in (args.seed..).take(usize::try_from(args.runs)?) {
        let (kinds, program, directory) = (kinds.clone(), program.clone(), directory.clone());
        let places = Arc::clone(&places);
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
    println!("{}", summary.show(begun.elapsed()));
    if !summary.all_closed() {
        for seed in &summary.open {
            let step = args.step.as_ref().map(|step| format!(" --step {step}"));
            let step = step.unwrap_or_default();
            println!("again: cargo xtask chaos --runs 1 --seed {seed}{step}");
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

/// A program of the same build.
fn beside_us(name: &str) -> Result<PathBuf> {
    let mut program = std::env::current_exe()?;
    program.set_file_name(name);
    Ok(program)
}
