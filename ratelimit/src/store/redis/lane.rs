//! Requests that arrive together travel together.
//!
//! A node has two lanes. In each there is one batch on its way at most, and what arrives meanwhile is the
//! next one; so nobody waits for a timer, and a node that is busy sends few and large batches. There are two, so that
//! the server has work while the answers of the other are handed out.
//!
//! The batches of a lane are numbered, and the server remembers the last number with its reply: a batch that
//! is sent twice, by a cluster client after a dropped connection, counts once.

use std::hash::{BuildHasher, RandomState};
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::Value;
use seawall_redis::{Client, Script, Source};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::batch::{Answer, Leased, Refund, Request};
use super::failed::SharedError;
use super::plan::Plan;

static SCRIPT: Script = Script::new(concat!(
    "local function rules(now)\n",
    include_str!("script/head.lua"),
    include_str!("script/strict.lua"),
    include_str!("script/named.lua"),
    include_str!("script/decide.lua"),
    "end\n",
    include_str!("script/head.lua"),
    include_str!("script/batch.lua"),
));

const LANES: usize = 2;
/// Requests to a batch. It takes the server some milliseconds, for which nobody else is served.
const MAX_BATCH: usize = 1_024;
/// Units given back in one batch.
const MAX_REFUNDS: usize = 512;
/// How often those that are ready to run are let go first, to come along.
const MAX_ROUNDS: usize = 3;

pub(super) struct Lanes<S> {
    client: Client<S>,
    lanes: [Lane; LANES],
}

struct Lane {
    /// Under which the server remembers the last batch.
    key: Vec<u8>,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    requests: Vec<Arc<Request>>,
    tellers: Vec<Teller>,
    refunds: Vec<Refund>,
    /// When the first of them came.
    since: Option<Instant>,
    state: State,
    number: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Idle,
    Gathering,
    UnderWay,
}

/// Whom to tell.
struct Teller {
    /// Its receiver may be gone; there is none for a request that only leases.
    answer: Option<oneshot::Sender<Answer>>,
    lease: Option<TakeLease>,
}

impl Teller {
    fn is_gone(&self) -> bool {
        self.answer.as_ref().is_some_and(oneshot::Sender::is_closed)
    }
}

/// Takes what was leased, and when that was asked for. It is dropped where nothing was, and does not depend
/// on whether anybody still waits for the answer.
pub(crate) type TakeLease = Box<dyn FnOnce(Leased, Instant) + Send>;

/// The lanes of a store, whatever it is connected by.
pub(super) trait Ask: Send + Sync {
    /// Has the request decided with all that arrive in time to travel with it.
    fn ask(
        self: Arc<Self>,
        request: Arc<Request>,
        lease: Option<TakeLease>,
    ) -> oneshot::Receiver<Answer>;

    /// Leases, with nobody who waits for it.
    fn ask_for_lease(self: Arc<Self>, request: Arc<Request>, take: TakeLease);

    /// Gives units back with the next batch.
    fn refund(self: Arc<Self>, refunds: Vec<Refund>);
}

impl<S: Source> Ask for Lanes<S> {
    fn ask(
        self: Arc<Self>,
        request: Arc<Request>,
        lease: Option<TakeLease>,
    ) -> oneshot::Receiver<Answer> {
        let (answer, told) = oneshot::channel();
        self.enter(|queue| {
            queue.requests.push(request);
            queue.tellers.push(Teller {
                answer: Some(answer),
                lease,
            });
        });
        told
    }

    fn ask_for_lease(self: Arc<Self>, request: Arc<Request>, take: TakeLease) {
        self.enter(|queue| {
            queue.requests.push(request);
            queue.tellers.push(Teller {
                answer: None,
                lease: Some(take),
            });
        });
    }

    fn refund(self: Arc<Self>, refunds: Vec<Refund>) {
        if !refunds.is_empty() {
            self.enter(|queue| queue.refunds.extend(refunds));
        }
    }
}

impl<S: Source> Lanes<S> {
    pub(super) fn new(client: Client<S>, prefix: &str) -> Arc<Self> {
        let lane = |_| {
            // A name that no other node has.
            let (one, other) = (
                RandomState::new().hash_one(0),
                RandomState::new().hash_one(1),
            );
            Lane {
                key: format!("{{{prefix}}}!{one:016x}{other:016x}").into_bytes(),
                queue: Mutex::default(),
            }
        };
        Arc::new(Self {
            client,
            lanes: std::array::from_fn(lane),
        })
    }

    pub(super) const fn client(&self) -> &Client<S> {
        &self.client
    }

    fn enter(self: &Arc<Self>, enter: impl FnOnce(&mut Queue)) {
        // One that gathers is joined; else one that is idle begins to; else the shorter is waited for.
        let mut best = 0;
        let mut rank = (u8::MAX, usize::MAX);
        for (number, lane) in self.lanes.iter().enumerate() {
            let queue = lane.lock();
            let this = match queue.state {
                State::Gathering if queue.requests.len() < MAX_BATCH => (0, 0),
                State::Idle => (1, 0),
                State::Gathering | State::UnderWay => (2, queue.requests.len()),
            };
            if this < rank {
                (best, rank) = (number, this);
            }
        }
        let mut queue = self.lanes[best].lock();
        enter(&mut queue);
        if queue.since.is_none() {
            queue.since = Some(Instant::now());
        }
        if queue.state == State::Idle {
            queue.state = State::Gathering;
            drop(queue);
            tokio::spawn(Run::of(Arc::clone(self), best).run());
        }
    }
}

impl Lane {
    /// The queue is whole after each statement.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What sends the batches of a lane, for as long as there are any. Dropped in the middle, as by a runtime
/// that ends, it leaves the lane to the next one.
struct Run<S: Source> {
    lanes: Arc<Lanes<S>>,
    lane: usize,
    /// It found nothing more to send: the lane is no longer its own, and may be another's by the time it is dropped.
    over: bool,
}

impl<S: Source> Run<S> {
    const fn of(lanes: Arc<Lanes<S>>, lane: usize) -> Self {
        Self {
            lanes,
            lane,
            over: false,
        }
    }

    async fn run(mut self) {
        loop {
            self.gather().await;
            let Some(batch) = self.take() else {
                return;
            };
            self.send(batch).await;
        }
    }

    fn lane(&self) -> &Lane {
        &self.lanes.lanes[self.lane]
    }

    /// Lets those go first that are ready to run: they may be about to ask.
    async fn gather(&self) {
        let mut seen = self.lane().lock().requests.len();
        for _ in 0..MAX_ROUNDS {
            tokio::task::yield_now().await;
            let waiting = self.lane().lock().requests.len();
            if waiting == seen {
                return;
            }
            seen = waiting;
        }
    }

    fn take(&mut self) -> Option<Batch> {
        let mut queue = self.lanes.lanes[self.lane].lock();
        if queue.requests.is_empty() && queue.refunds.is_empty() {
            queue.state = State::Idle;
            queue.since = None;
            self.over = true;
            return None;
        }
        queue.state = State::UnderWay;
        queue.number += 1;
        let rest = |len: usize, most: usize| len.min(most);
        let (requests, refunds) = (
            rest(queue.requests.len(), MAX_BATCH),
            rest(queue.refunds.len(), MAX_REFUNDS),
        );
        let since = queue.since.unwrap_or_else(Instant::now);
        let batch = Batch {
            number: queue.number,
            since,
            requests: split(&mut queue.requests, requests),
            tellers: split(&mut queue.tellers, requests),
            refunds: split(&mut queue.refunds, refunds),
        };
        if queue.requests.is_empty() && queue.refunds.is_empty() {
            queue.since = None;
        }
        Some(batch)
    }

    async fn send(&self, batch: Batch) {
        let Batch {
            number,
            since,
            mut requests,
            mut tellers,
            refunds,
        } = batch;
        if tellers.iter().any(Teller::is_gone) {
            // Nobody waits for these any more, and nothing was counted for them.
            (requests, tellers) = std::iter::zip(requests, tellers)
                .filter(|(_, teller)| !teller.is_gone())
                .unzip();
        }
        if requests.is_empty() && refunds.is_empty() {
            return;
        }
        let plan = Plan::new(&self.lane().key, number, &refunds, &requests);
        let args: Vec<&[u8]> = plan.args.iter().map(Vec::as_slice).collect();
        // Nobody waits longer than the deadline, and the first has waited since it came.
        let client = &self.lanes.client;
        let rest = client.time_limit().saturating_sub(since.elapsed());
        let client = client.clone().deadline(rest.max(Duration::from_millis(1)));
        let sent = Instant::now();
        let reply = client.script(&SCRIPT, &plan.keys(), &args).await;

        let mut tellers: Vec<Option<Teller>> = tellers.into_iter().map(Some).collect();
        let mut tell = |place: usize, answer: Answer| {
            if let Some(teller) = tellers[place].take() {
                if let (Some(take), Some(leased)) = (teller.lease, answer.leased) {
                    take(leased, sent);
                }
                // Who has gone away meanwhile was counted all the same.
                if let Some(told) = teller.answer {
                    let _ = told.send(answer);
                }
            }
        };
        let error: SharedError = match reply {
            Ok(Value::BulkString(reply)) => {
                if plan.read(&reply, &requests, &mut tell) {
                    return;
                }
                SharedError::Unexpected(format!("{reply:?}").into())
            }
            Ok(reply) => SharedError::Unexpected(format!("{reply:?}").into()),
            Err(error) => SharedError::Unavailable(Arc::new(error)),
        };
        for teller in tellers.into_iter().flatten() {
            if let Some(told) = teller.answer {
                let _ = told.send(Answer::of(Err(error.to_error())));
            }
        }
    }
}

impl<S: Source> Drop for Run<S> {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        // Those who wait learn that nobody will answer them.
        let mut queue = self.lane().lock();
        let number = queue.number;
        *queue = Queue {
            number,
            ..Queue::default()
        };
    }
}

struct Batch {
    number: u64,
    since: Instant,
    requests: Vec<Arc<Request>>,
    tellers: Vec<Teller>,
    refunds: Vec<Refund>,
}

/// The first of them.
fn split<T>(list: &mut Vec<T>, first: usize) -> Vec<T> {
    let rest = list.split_off(first);
    mem::replace(list, rest)
}

#[cfg(test)]
mod tests;
