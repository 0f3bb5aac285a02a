//! What became of the runs.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

/// What became of one run.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Its seed.
    pub seed: u64,
    /// Its strikes, in order.
    pub strikes: Vec<String>,
    /// Strikes at failpoints that were reached.
    pub reached: Vec<String>,
    /// What the checker says.
    pub accounting: Value,
    /// What is wrong; nothing when all is well.
    pub wrong: Option<String>,
    /// How long it took, in seconds.
    pub seconds: f64,
}

impl Outcome {
    /// A figure of the accounting.
    pub fn figure(&self, name: &str) -> u64 {
        self.accounting[name].as_u64().unwrap_or(0)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "seed {:>6}  {:>5.1} s  accepted {:>5}  applied {:>5}  dead {:>3}  in doubt {:>4}  {}  {}",
            self.seed,
            self.seconds,
            self.figure("accepted"),
            self.figure("applied"),
            self.figure("dead_lettered"),
            self.figure("indeterminate"),
            if self.wrong.is_none() {
                "closed"
            } else {
                "OPEN"
            },
            self.strikes.join(", "),
        )?;
        match &self.wrong {
            Some(wrong) => write!(f, "\n  {wrong}"),
            None => Ok(()),
        }
    }
}

/// What became of all of them.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Summary {
    /// Runs.
    pub runs: u64,
    /// Runs whose books closed.
    pub closed: u64,
    /// Orders accepted, over all runs.
    pub accepted: u64,
    /// Orders lost, over all runs.
    pub lost: u64,
    /// Orders applied twice, over all runs.
    pub double_applied: u64,
    /// Strikes by kind or step; a failpoint counts when it was reached.
    pub strikes: BTreeMap<String, u64>,
    /// Seeds of runs whose books did not close.
    pub open: Vec<u64>,
    /// Each run.
    pub outcomes: Vec<Outcome>,
}

impl Summary {
    /// Adds a run.
    pub fn add(&mut self, outcome: Outcome) {
        self.runs += 1;
        self.accepted += outcome.figure("accepted");
        self.lost += outcome.figure("lost");
        self.double_applied += outcome.figure("double_applied");
        match outcome.wrong {
            None => self.closed += 1,
            Some(_) => self.open.push(outcome.seed),
        }
        let plain = outcome
            .strikes
            .iter()
            .filter(|strike| !strike.contains(':'));
        for strike in plain.chain(&outcome.reached) {
            let name = strike.split(':').next().unwrap_or(strike);
            *self.strikes.entry(name.to_owned()).or_default() += 1;
        }
        self.outcomes.push(outcome);
    }

    /// Whether every run's books closed.
    pub fn all_closed(&self) -> bool {
        self.runs > 0 && self.closed == self.runs
    }

    /// The whole, for people.
    pub fn show(&self, took: Duration) -> String {
        let strikes: Vec<_> = self
            .strikes
            .iter()
            .map(|(name, n)| format!("{name} {n}"))
            .collect();
        format!(
            "{} runs in {:.0} s: {} closed, {} orders accepted, {} lost, {} applied twice\nstruck: {}",
            self.runs,
            took.as_secs_f64(),
            self.closed,
            self.accepted,
            self.lost,
            self.double_applied,
            strikes.join(", ")
        )
    }
}
