//! How many calls contending clients need, by jitter: the well-known study of AWS, run with these backoffs.
//!
//! A hundred clients change one row at the same time. Each reads its version and writes with it; a write
//! under an old version fails, and its client waits and begins again. A message takes about 10 ms. The study
//! counts 2410 writes without any wait, 1878 with exponential waits, 811 with equal jitter, 794 with full
//! and 1009 with decorrelated jitter. (Base 5 ms, cap 2 s.)

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use fastrand::Rng;
use seawall_retry::{Backoff, Delays, Jitter};

const CLIENTS: usize = 100;
const RUNS: u64 = 30;

/// What arrives at the row, and from whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Message {
    Read,
    Write { version: u32 },
}

/// The writes until each client has made its change.
fn writes(backoff: Option<Backoff>, run: u64) -> u32 {
    let mut rng = Rng::with_seed(run);
    let mut travel = move || {
        // Nearly normal, with a mean of 10 ms and a deviation of 2 ms.
        let spread: f64 = (0..12).map(|_| rng.f64()).sum::<f64>() - 6.0;
        Duration::from_secs_f64((10.0 + 2.0 * spread).abs() / 1e3)
    };
    let mut waits: Vec<Option<Delays>> = (0..CLIENTS as u64)
        .map(|client| backoff.map(|backoff| backoff.session(run << 32 | client)))
        .collect();
    let mut arrivals: BinaryHeap<_> = (0..CLIENTS)
        .map(|client| Reverse((travel(), client, Message::Read)))
        .collect();
    let (mut version, mut writes) = (0, 0);
    while let Some(Reverse((now, client, message))) = arrivals.pop() {
        // There and back again.
        let next = now + travel() + travel();
        match message {
            Message::Read => arrivals.push(Reverse((next, client, Message::Write { version }))),
            Message::Write { version: read } => {
                writes += 1;
                if read == version {
                    version += 1;
                    continue;
                }
                let wait = waits[client]
                    .as_mut()
                    .map(|waits| waits.next().expect("without end"));
                let next = next + wait.unwrap_or_default();
                arrivals.push(Reverse((next, client, Message::Read)));
            }
        }
    }
    writes
}

fn mean(jitter: Option<Jitter>) -> f64 {
    let backoff = jitter.map(|jitter| {
        // The study's exponential waits begin with twice its base.
        let base = if jitter == Jitter::Decorrelated {
            5
        } else {
            10
        };
        Backoff::exponential(Duration::from_millis(base))
            .cap(Duration::from_secs(2))
            .attempts(u32::MAX)
            .jitter(jitter)
            .seed(1)
    });
    let sum: u32 = (0..RUNS).map(|run| writes(backoff, run)).sum();
    f64::from(sum) / RUNS as f64
}

#[test]
fn calls_of_contending_clients() {
    let mut furthest = 0.0_f64;
    for (jitter, published) in [
        (None, 2410.0),
        (Some(Jitter::None), 1878.0),
        (Some(Jitter::Equal), 811.0),
        (Some(Jitter::Full), 794.0),
        (Some(Jitter::Decorrelated), 1009.0),
    ] {
        let calls = mean(jitter);
        println!("{jitter:?}: {calls:.0} calls, {published} in the study");
        furthest = furthest.max((calls / published - 1.0).abs());
    }
    println!("figure retry/jitter-study: {furthest:.3}");
    assert!(furthest <= 0.05);
}
