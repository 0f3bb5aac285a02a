//! A call that succeeds at once, through layers that would retry it.

use std::future::{Future, Ready, ready};
use std::hint::black_box;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use seawall_retry::{Attempt, Backoff, BoxError, Budget, Class, RetryLayer};
use tower::retry::budget::{Budget as _, TpsBudget};
use tower::{Layer, Service};

use super::Entry;
use crate::drive::{allocations, at_once, call, in_turn};
use crate::measure::{Contest, Lane, Row, Unit};

const ATTEMPTS: u32 = 5;
const BASE: Duration = Duration::from_secs(1);
const CAP: Duration = Duration::from_secs(300);

#[derive(Clone)]
struct Job {
    id: u64,
    attempt: u32,
}

impl Job {
    fn new(id: u64) -> Self {
        Self { id, attempt: 0 }
    }
}

/// Succeeds at once. Not inlined, as no real service would be.
#[derive(Clone, Copy)]
struct Succeeds;

impl Service<Job> for Succeeds {
    type Response = u64;
    type Error = io::Error;
    type Future = Ready<Result<u64, io::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Poll::Ready(Ok(()))
    }

    #[inline(never)]
    fn call(&mut self, job: Job) -> Self::Future {
        ready(Ok(job.id + u64::from(job.attempt)))
    }
}

/// A policy for `tower::retry` that counts attempts.
#[derive(Clone)]
struct Counted {
    left: u32,
}

impl tower::retry::Policy<Job, u64, io::Error> for Counted {
    type Future = Ready<()>;

    fn retry(&mut self, _: &mut Job, result: &mut Result<u64, io::Error>) -> Option<Ready<()>> {
        if result.is_ok() {
            return None;
        }
        self.left = self.left.checked_sub(1)?;
        Some(ready(()))
    }

    fn clone_request(&mut self, job: &Job) -> Option<Job> {
        Some(job.clone())
    }
}

/// The same under a budget.
#[derive(Clone)]
struct Budgeted {
    counted: Counted,
    budget: Arc<TpsBudget>,
}

impl tower::retry::Policy<Job, u64, io::Error> for Budgeted {
    type Future = Ready<()>;

    fn retry(&mut self, job: &mut Job, result: &mut Result<u64, io::Error>) -> Option<Ready<()>> {
        if result.is_ok() {
            self.budget.deposit();
            return None;
        }
        self.budget
            .withdraw()
            .then(|| self.counted.retry(job, result))
            .flatten()
    }

    fn clone_request(&mut self, job: &Job) -> Option<Job> {
        self.counted.clone_request(job)
    }
}

/// The happy path with classifier, budget and attempt stamp.
pub(super) fn layer(entry: &Entry, threads: usize) -> Vec<Row> {
    let backoff = Backoff::exponential(BASE).cap(CAP).attempts(ATTEMPTS);
    let ours = RetryLayer::new(backoff)
        .classify(|outcome: Result<&u64, &BoxError>| Class::of(outcome))
        .stamp(|job: &mut Job, attempt: Attempt| job.attempt = attempt.number)
        .budget(Budget::ratio(0.1))
        .layer(Succeeds);

    let counted = Counted { left: ATTEMPTS - 1 };
    let tower = tower::retry::RetryLayer::new(counted.clone()).layer(Succeeds);
    let budget = Arc::new(TpsBudget::new(Duration::from_secs(10), 10, 0.1));
    let tower_budget = tower::retry::RetryLayer::new(Budgeted { counted, budget }).layer(Succeeds);

    let budget = tower_resilience_retry::RetryBudgetBuilder::new()
        .token_bucket()
        .tokens_per_second(10.0)
        .max_tokens(100)
        .build()
        .expect("the numbers are within their ranges");
    let resilience = tower_resilience_retry::RetryLayer::<Job, u64, io::Error>::builder()
        .max_attempts(ATTEMPTS as usize)
        .exponential_backoff(BASE)
        .retry_on(|_: &io::Error| true)
        .budget(budget)
        .build()
        .layer(Succeeds);

    let allocs = allocations(handle(ours.clone()), handle(Succeeds));
    Contest::new(entry, Unit::Nanos, lane(threads, || handle(ours.clone())))
        .bare(lane(threads, || handle(Succeeds)))
        .peer("tower-retry", lane(threads, || handle(tower.clone())))
        .peer(
            "tower-retry-tps-budget",
            lane(threads, || handle(tower_budget.clone())),
        )
        .peer(
            "tower-resilience",
            lane(threads, || handle(resilience.clone())),
        )
        .peer("backon", lane(threads, backon_handles))
        .allocs(allocs)
        .run()
}

fn handle<S>(mut service: S) -> impl FnMut(u64) + Send
where
    S: Service<Job, Response = u64, Error: std::fmt::Debug> + Send,
{
    move |number| {
        black_box(call(&mut service, black_box(Job::new(number))));
    }
}

/// `backon` retries closures.
fn backon_handles() -> impl FnMut(u64) + Send {
    let backoff = ExponentialBuilder::new()
        .with_min_delay(BASE)
        .with_max_delay(CAP)
        .with_max_times(ATTEMPTS as usize - 1);
    let mut service = Succeeds;
    move |number| {
        let job = black_box(Job::new(number));
        let attempt = || {
            let mut context = Context::from_waker(Waker::noop());
            match service.poll_ready(&mut context) {
                Poll::Ready(Ok(())) => service.call(job.clone()),
                _ => panic!("the service is not ready"),
            }
        };
        let mut called = pin!(attempt.retry(backoff).when(|_: &io::Error| true));
        match called
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
        {
            Poll::Ready(response) => black_box(response.expect("it succeeds")),
            Poll::Pending => panic!("the answer is not there at once"),
        };
    }
}

/// Each thread has a clone of its own, as a server's tasks have.
fn lane<'a, H: FnMut(u64) + Send + 'a>(threads: usize, handler: impl Fn() -> H) -> Lane<'a> {
    if threads == 1 {
        in_turn(handler())
    } else {
        at_once((0..threads).map(|_| handler()).collect())
    }
}
