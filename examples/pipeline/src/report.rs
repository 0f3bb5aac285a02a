//! What a run has to say for itself, for people and as JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::accounting::Accounting;

/// The report of a demo run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Whether everything accepted is applied or dead, and nothing twice.
    pub accounting: Accounting,
    /// From the intended send time to the whole answer, all requests.
    pub latency_ms: Percentiles,
    /// The same, orders alone.
    pub write_latency_ms: Percentiles,
    /// How late the load itself was in sending.
    pub send_delay_ms: Percentiles,
    /// Rates over the time of the load.
    pub throughput: Throughput,
    /// The API's read cache.
    pub cache: CacheFigures,
    /// CPU time by stage.
    pub stages: BTreeMap<String, StageFigures>,
    /// Answers by kind of request and status; status 0 means that the connection failed.
    pub requests: BTreeMap<String, BTreeMap<u16, u64>>,
    /// Answers that were replays of an earlier one.
    pub replays: u64,
    /// Requests that a rate limit refused.
    pub refused: u64,
    /// Letters by class.
    pub dead_letters: BTreeMap<String, u64>,
    /// Transactions of the workers.
    pub batches: BatchFigures,
    /// Failures put into shard calls on purpose, and how the workers got over them.
    pub faults: FaultFigures,
    /// What the run was asked for.
    pub settings: Settings,
}

/// Percentiles in milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Percentiles {
    /// Half are below.
    pub p50: f64,
    /// 95 of 100 are below.
    pub p95: f64,
    /// 99 of 100 are below.
    pub p99: f64,
    /// All are below.
    pub max: f64,
}

impl Percentiles {
    /// Those of a histogram of microseconds.
    pub fn of_micros(histogram: &Histogram<u64>) -> Self {
        let at = |q| histogram.value_at_quantile(q) as f64 / 1e3;
        Self {
            p50: at(0.5),
            p95: at(0.95),
            p99: at(0.99),
            max: histogram.max() as f64 / 1e3,
        }
    }
}

/// Rates.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Throughput {
    /// Requests answered a second.
    pub requests_per_s: f64,
    /// Orders applied a second, over the load and the drain after it.
    pub writes_applied_per_s: f64,
}

/// The read cache.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct CacheFigures {
    /// Hits over all reads.
    pub hit_rate: f64,
    /// Reads answered from it.
    pub hits: u64,
    /// Reads that went on to a shard.
    pub misses: u64,
}

/// One stage.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct StageFigures {
    /// CPU time.
    pub cpu_ms: f64,
    /// CPU time for each unit the stage handled, in microseconds.
    pub us_per_unit: f64,
    /// What the unit is.
    pub unit: &'static str,
}

impl StageFigures {
    /// So much time for so many units.
    pub fn new(cpu: Duration, units: u64, unit: &'static str) -> Self {
        let us_per_unit = if units == 0 {
            0.0
        } else {
            cpu.as_secs_f64() * 1e6 / units as f64
        };
        Self {
            cpu_ms: cpu.as_secs_f64() * 1e3,
            us_per_unit,
            unit,
        }
    }
}

/// What the workers sent to the shards.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct BatchFigures {
    /// Transactions.
    pub transactions: u64,
    /// Batches that needed one on each of several shards: none, until slots move.
    pub spanning: u64,
}

/// Injected faults.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct FaultFigures {
    /// Shard calls that were failed before the transaction.
    pub refused: u64,
    /// Shard calls whose answer was thrown away after the transaction.
    pub answers_lost: u64,
    /// Attempts that retry made beyond the first.
    pub retries: u64,
}

/// The run's settings.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Settings {
    /// Length of the load.
    pub seconds: f64,
    /// Requests a second that were meant to be sent.
    pub rate: u64,
    /// Shards.
    pub shards: u16,
    /// Partitions of the log.
    pub partitions: u16,
    /// Seed of the load.
    pub seed: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Settings {
            seconds,
            rate,
            shards,
            partitions,
            seed,
        } = self.settings;
        writeln!(
            f,
            "\n{seconds} s at {rate} requests/s, {partitions} partitions, {shards} shards, seed {seed}"
        )?;
        writeln!(f, "\nrequests")?;
        for (kind, statuses) in &self.requests {
            write!(f, "  {kind:<9}")?;
            for (status, n) in statuses {
                match status {
                    0 => write!(f, " {n:>8} without an answer")?,
                    _ => write!(f, " {n:>8} x {status}")?,
                }
            }
            writeln!(f)?;
        }
        writeln!(
            f,
            "  {:.0} answered/s, {:.0} orders applied/s, {} replays, {} refused by limits",
            self.throughput.requests_per_s,
            self.throughput.writes_applied_per_s,
            self.replays,
            self.refused
        )?;
        writeln!(
            f,
            "\nlatency from intended send time, ms {:>12} {:>8} {:>8} {:>8}",
            "p50", "p95", "p99", "max"
        )?;
        for (name, p) in [
            ("all requests", self.latency_ms),
            ("orders (durable when answered)", self.write_latency_ms),
            ("of it: late in sending", self.send_delay_ms),
        ] {
            writeln!(
                f,
                "  {name:<32} {:>13.2} {:>8.2} {:>8.2} {:>8.2}",
                p.p50, p.p95, p.p99, p.max
            )?;
        }
        writeln!(
            f,
            "\nread cache: {:.1}% hits ({} of {})",
            self.cache.hit_rate * 100.0,
            self.cache.hits,
            self.cache.hits + self.cache.misses
        )?;
        writeln!(f, "\nCPU by stage {:>12} {:>10}", "ms", "us/unit")?;
        for (name, stage) in &self.stages {
            writeln!(
                f,
                "  {name:<10} {:>12.0} {:>10.1} a {}",
                stage.cpu_ms, stage.us_per_unit, stage.unit
            )?;
        }
        let faults = self.faults;
        writeln!(
            f,
            "\nbatches {}, of which {} on several shards\nfaults put in on purpose: {} shard calls refused, {} answers lost; {} retries",
            self.batches.transactions,
            self.batches.spanning,
            faults.refused,
            faults.answers_lost,
            faults.retries
        )?;
        for (class, n) in &self.dead_letters {
            writeln!(f, "dead letters: {n} x {class}")?;
        }
        write!(
            f,
            "\naccounting, clients' own record against the shards reopened from disk\n{}",
            self.accounting
        )
    }
}
