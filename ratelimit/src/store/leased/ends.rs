//! Leases that come, and what becomes of them when they end.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use seawall_redis::Source;
use tokio::time::Instant;

use super::table::Table;
use crate::store::redis::RedisStore;
use crate::store::redis::batch::{LeaseAsk, Leased as Granted, Refund};
use crate::window::Terms;

pub(super) struct Shared {
    start: Instant,
    /// Leases by when they end, the next one first, as far as they are of one length.
    ends: Mutex<Ends>,
}

#[derive(Default)]
struct Ends {
    queue: VecDeque<End>,
    /// Whether a task sees to them.
    seen_to: bool,
}

struct End {
    at: u64,
    table: Arc<Table>,
    hash: u128,
    /// What gives the units back: with the key and terms of the lease.
    refund: Refund,
}

impl Shared {
    pub(super) fn new() -> Self {
        Self {
            start: Instant::now(),
            ends: Mutex::default(),
        }
    }

    pub(super) fn now(&self) -> u64 {
        self.micros(Instant::now())
    }

    fn micros(&self, moment: Instant) -> u64 {
        moment.saturating_duration_since(self.start).as_micros() as u64
    }

    fn ends(&self) -> std::sync::MutexGuard<'_, Ends> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A lease that was asked for. Dropped before it came, it lets the next one be asked for.
pub(super) struct Asking<S> {
    pub(super) store: RedisStore<S>,
    pub(super) shared: Arc<Shared>,
    pub(super) table: Arc<Table>,
    pub(super) hash: u128,
    pub(super) terms: Terms,
    pub(super) ask: LeaseAsk,
    pub(super) refund: Refund,
    pub(super) came: bool,
}

impl<S: Source> Asking<S> {
    pub(super) fn take(&mut self, leased: Granted, sent: Instant) {
        self.came = true;
        let (now, sent) = (self.shared.now(), self.shared.micros(sent));
        let (back, ends) = match self.table.shard(self.hash).get(self.hash) {
            Some(key) => {
                let back = key.take(now, sent, self.terms, self.ask, leased);
                (back, key.ends())
            }
            // Forgotten meanwhile.
            None => (Some(leased), None),
        };
        if let Some(back) = back {
            self.store.give_back(vec![self.refund.of(back)]);
        }
        if let Some(at) = ends {
            see_to(
                &self.store,
                &self.shared,
                End {
                    at,
                    table: Arc::clone(&self.table),
                    hash: self.hash,
                    refund: self.refund.clone(),
                },
            );
        }
    }
}

impl<S> Drop for Asking<S> {
    fn drop(&mut self) {
        if !self.came
            && let Some(key) = self.table.shard(self.hash).get(self.hash)
        {
            key.give_up();
        }
    }
}

/// Has a lease given back when it is over, as far as it is not spent by then.
fn see_to<S: Source>(store: &RedisStore<S>, shared: &Arc<Shared>, end: End) {
    let mut ends = shared.ends();
    ends.queue.push_back(end);
    if !ends.seen_to {
        ends.seen_to = true;
        drop(ends);
        let watch = Watch {
            store: store.clone(),
            shared: Arc::clone(shared),
        };
        tokio::spawn(watch.run());
    }
}

/// Waits for leases to end, for as long as there are any.
struct Watch<S> {
    store: RedisStore<S>,
    shared: Arc<Shared>,
}

impl<S: Source> Watch<S> {
    async fn run(self) {
        loop {
            let next = {
                let mut ends = self.shared.ends();
                match ends.queue.front() {
                    Some(end) => end.at,
                    None => {
                        ends.seen_to = false;
                        return;
                    }
                }
            };
            // A little later, so that one waking serves many.
            let next = Duration::from_micros(next) + Duration::from_millis(5);
            tokio::time::sleep_until(self.shared.start + next).await;
            let now = self.shared.now();
            loop {
                let over: Vec<End> = {
                    let mut ends = self.shared.ends();
                    let over = ends.queue.iter().take_while(|end| end.at <= now);
                    let over = over.take(256).count();
                    ends.queue.drain(..over).collect()
                };
                if over.is_empty() {
                    break;
                }
                let back = over.iter().filter_map(|end| {
                    let mut shard = end.table.shard(end.hash);
                    let leased = shard.get(end.hash)?.expire(now)?;
                    Some(end.refund.of(leased))
                });
                self.store.give_back(back.collect());
                tokio::task::yield_now().await;
            }
        }
    }
}

impl<S> Drop for Watch<S> {
    /// If the runtime ends before the leases do, the next lease has another task see to them.
    fn drop(&mut self) {
        self.shared.ends().seen_to = false;
    }
}
