//! The command line.

use std::path::PathBuf;

use clap::Parser;

use crate::services::Blow;
use crate::strike::Kind;

/// A campaign of failures against the pipeline, and the books after each run.
#[derive(Debug, Parser)]
#[command(name = "chaos", bin_name = "cargo xtask chaos")]
pub struct Args {
    /// Runs.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    pub runs: u64,
    /// The first run's seed; each further run has the next.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Only this: a kind of strike (kill, freeze, ...) or a step of the write path (log.after-commit, ...).
    #[arg(long, value_name = "STEP")]
    pub step: Option<String>,
    /// On Kafka, PostgreSQL and Redis behind HAProxy, which fail as well, instead of the embedded store.
    #[arg(long, conflicts_with = "jobs")]
    pub services: bool,
    /// Runs at a time.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub jobs: u16,
    /// Where the runs keep their files; those of a run that closes are removed.
    #[arg(long, value_name = "DIR")]
    pub directory: Option<PathBuf>,
    /// Write the outcome as JSON to this file as well.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// The program to run.
    #[arg(long, value_name = "FILE", hide = true)]
    pub pipeline: Option<PathBuf>,
}

impl Args {
    /// The blows to services that were asked for.
    ///
    /// # Errors
    ///
    /// What there is instead of the step that was named.
    pub fn blows(&self) -> Result<Vec<(&'static str, Blow)>, String> {
        let Some(step) = &self.step else {
            return Ok(Blow::ALL.to_vec());
        };
        match Blow::by_name(step) {
            Some(blow) => Ok(vec![blow]),
            None => {
                let known: Vec<_> = Blow::ALL.iter().map(|(name, _)| *name).collect();
                Err(format!("no step {step:?}: {}", known.join(", ")))
            }
        }
    }

    /// The kinds of strikes that were asked for.
    ///
    /// # Errors
    ///
    /// What there is instead of the step that was named.
    pub fn kinds(&self) -> Result<Vec<Kind>, String> {
        let Some(step) = &self.step else {
            return Ok(Kind::all());
        };
        let kinds: Vec<_> = Kind::all()
            .into_iter()
            .filter(|kind| kind.name() == step || kind.step() == Some(step))
            .collect();
        if kinds.is_empty() {
            let known: Vec<_> = Kind::all()
                .iter()
                .map(|kind| kind.step().unwrap_or(kind.name()).to_owned())
                .collect();
            return Err(format!("no step {step:?}: {}", known.join(", ")));
        }
        Ok(kinds)
    }
}
