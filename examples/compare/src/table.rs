//! The table that people read, line by line as the figures come.

use crate::measure::{Row, Unit};

/// How the figures came about: what nobody can read off the table.
const NOTES: &[&str] = &[
    "Figures are medians over the runs. All contenders of a row take turns, in slices of 25 ms (80 ms",
    "  with Redis or a disk).",
    "ratio: median of the ratios of the runs, ours to theirs; where there is a bare service, of what each",
    "  adds to it (to the peer `bare` itself: ours to bare). In ns lower is better, in /s higher.",
    "  \"-\": the peer adds nothing that could be measured.",
    "allocs: heap allocations of ours a call, beyond those of the bare service.",
    "Layers are polled with a waker that does nothing; idempotency in memory runs on a current-thread",
    "  runtime, as its handler may become a task. Redis and the file are used by 256 tasks on a runtime as",
    "  `#[tokio::main]` makes it.",
    "ratelimit/store, ratelimit/layer*: both sides read the processor's counter, as governor does by default;",
    "  `tokio-clock` is our store by its own default, the clock that tests can pause.",
    "ratelimit/layer*: keys are header fields, and responses get no fields. tower_governor makes a String",
    "  of each key, as its example does.",
    "ratelimit/redis-strict: the peers' script is a two-bucket counter by the server's clock.",
    "retry: backon is not a layer, and it and tower-retry have no budget.",
    "shard-router/lookup: keys are fetched from a million strings; rings have 100 points a node.",
    "shard-router/layer: of a router that threads share; tower-steer is no Clone, so each thread has its own.",
    "shard-router/plan-add-one: hashring makes the new ring, and does not say which keys move.",
];

/// Build, machine, and the names of the columns.
pub(crate) fn head() {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!("build: {}", env!("COMPARE_PROFILE"));
    if cfg!(debug_assertions) {
        println!("       these figures say nothing: measure with `cargo run --release -p compare`");
    }
    println!("machine: {cores} cores, {}", std::env::consts::ARCH);
    println!();
    println!(
        "{:<36} {:<24} {:>4} {:>11} {:>11} {:>9} {:>7} {:>7} {:>5}",
        "name", "peer", "unit", "ours", "theirs", "bare", "ratio", "allocs", "runs"
    );
}

/// One row.
pub(crate) fn line(row: &Row) {
    let unit = match row.unit {
        Unit::Nanos => "ns",
        Unit::PerSecond => "/s",
    };
    let optional = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), figure);
    let ratio = row
        .ratio
        .map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
    println!(
        "{:<36} {:<24} {:>4} {:>11} {:>11} {:>9} {:>7} {:>7} {:>5}",
        row.name,
        row.peer,
        unit,
        figure(row.ours),
        figure(row.theirs),
        optional(row.bare),
        ratio,
        optional(row.allocs),
        row.runs
    );
}

/// What the columns mean.
pub(crate) fn foot() {
    println!();
    for note in NOTES {
        println!("{note}");
    }
}

/// Three digits that say something, or all before the point.
fn figure(value: f64) -> String {
    let digits = match value.abs() {
        0.0 => 0,
        below if below < 10.0 => 2,
        below if below < 100.0 => 1,
        _ => 0,
    };
    format!("{value:.digits$}")
}
