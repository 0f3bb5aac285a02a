//! What a crowd of keys costs the server: made to see that leases are taken where they save more than they cost.

use std::collections::VecDeque;

use fastrand::Rng;

use super::KEYS;
use super::lease::{KeyLease, Step, time_of};
use super::table::Table;
use crate::key::Key;
use crate::quota::Quota;
use crate::store::redis::batch::Leased;
use crate::window::Terms;

#[derive(Debug, Default)]
struct Work {
    /// Decided out of a lease.
    here: f64,
    /// Leases that were taken, and those of which something went back.
    leases: f64,
    given_back: f64,
}

/// So many requests a second for some seconds, as parts of all of them.
fn work(per_second: u64, seconds: u64, mut draw: impl FnMut() -> u64) -> Work {
    let terms = Terms::new(Quota::per_minute(1_000_000_000), 0);
    let time = time_of(terms);
    let start = 1_000 * time;
    let table = Table::with_capacity(KEYS);
    let mut ends = VecDeque::new();
    let mut work = Work::default();
    let requests = per_second * seconds;
    for number in 0..requests {
        let now = start + number * 1_000_000 / per_second;
        while let Some(&(at, hash)) = ends.front()
            && at <= now
        {
            ends.pop_front();
            let mut shard = table.shard(hash);
            let back = shard.get(hash).and_then(|key| key.expire(now));
            work.given_back += f64::from(u8::from(back.is_some()));
        }
        let hash = table.hash(Key::from(draw()));
        let mut shard = table.shard(hash);
        let new = |passed| KeyLease::passed(terms, now, 1, passed);
        let Some(key) = table.known(&mut shard, hash, now, time, new) else {
            continue;
        };
        let (step, back) = key.step(now, terms, 1);
        work.given_back += f64::from(u8::from(back.is_some()));
        match step {
            Step::Pass(..) => work.here += 1.0,
            Step::Ask(Some(ask)) => {
                let leased = Leased {
                    units: ask.units,
                    bucket: (now + ask.time) / terms.width,
                    now,
                    left: terms.limit / 2,
                };
                let back = key.take(now, now, terms, ask, leased);
                assert_eq!(back, None);
                work.leases += 1.0;
                ends.extend(key.ends().map(|at| (at, hash)));
            }
            Step::Ask(None) | Step::Refuse(_) => {}
        }
    }
    for part in [&mut work.here, &mut work.leases, &mut work.given_back] {
        *part /= requests as f64;
    }
    work
}

#[test]
fn a_million_keys_drawn_evenly_take_next_to_no_leases() {
    let mut random = Rng::with_seed(1);
    let work = work(300_000, 4, || random.u64(..1_000_000));
    assert!(work.leases + work.given_back < 0.02, "{work:?}");
}

#[test]
fn most_requests_of_an_uneven_crowd_are_decided_here() {
    // Drawn in proportion to 1 / rank, nearly.
    let mut random = Rng::with_seed(1);
    let work = work(1_000_000, 3, || 100_000_f64.powf(random.f64()) as u64);
    assert!(work.here > 0.88, "{work:?}");
}
