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
    /// Requests that failed: not sent, not answered, or answered with a fault of the server.
    pub failed: u64,
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

/// Requests that failed, in what a load says of its answers: lines of kind, status and how many.
pub fn failed(said: &str) -> u64 {
    said.lines()
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [_, status, count] = words[..] else {
                return None;
            };
            let (status, count): (u16, u64) = (status.parse().ok()?, count.parse().ok()?);
            (status == 0 || status >= 500).then_some(count)
        })
        .sum()
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
    /// Requests that failed, over all runs.
    pub failed: u64,
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
        self.failed += outcome.failed;
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
            "{} runs in {:.0} s: {} closed, {} orders accepted, {} lost, {} applied twice, {} requests failed\nstruck: {}",
            self.runs,
            took.as_secs_f64(),
            self.closed,
            self.accepted,
            self.lost,
            self.double_applied,
            self.failed,
            strikes.join(", ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_is_what_was_not_answered_or_by_a_fault_of_the_server() {
        let said = "order      0        2\norder    202     4090\nproduct  404        7\nuser     503       3\n\
                    latency from intended send time: p50 1.0 ms, p99 2.0 ms\naccepted 3, in doubt 0, seed 7\n";
        assert_eq!(failed(said), 5);
    }

    #[test]
    fn a_failpoint_counts_when_it_was_reached() {
        let mut summary = Summary::default();
        summary.add(Outcome {
            seed: 3,
            strikes: vec!["kill".into(), "log.after-mark:9:abort".into()],
            reached: Vec::new(),
            failed: 2,
            accounting: serde_json::json!({"accepted": 5, "lost": 0}),
            wrong: None,
            seconds: 1.0,
        });
        assert_eq!(summary.strikes.get("kill"), Some(&1));
        assert_eq!(summary.strikes.get("log.after-mark"), None);
        assert!(summary.all_closed() && summary.failed == 2 && summary.accepted == 5);
    }
}
