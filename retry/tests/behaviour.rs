//! What a call does, under paused time.
#![allow(clippy::unwrap_used)] // in helpers, which are tests as well

mod support;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
    },
    task::{Context, Poll},
};

use seawall_retry::{
    Attempt, Backoff, BoxError, Budget, Class, Interrupted, Jitter, RetryError, RetryLayer, Stopped,
};
use support::{Busy, call, seconds};
use tokio::time::Instant;
use tower::{Layer, Service, service_fn};

fn backoff(attempts: u32) -> Backoff {
    Backoff::exponential(seconds(1))
        .cap(seconds(300))
        .attempts(attempts)
}

/// A service that notes when it is called, and fails.
fn failing() -> (
    impl Service<u32, Response = (), Error = Busy, Future = impl Send> + Clone,
    Arc<Mutex<Vec<u64>>>,
) {
    let start = Instant::now();
    let times = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&times);
    let service = service_fn(move |_: u32| {
        noted.lock().unwrap().push(start.elapsed().as_secs());
        std::future::ready(Err(Busy))
    });
    (service, times)
}

fn why(error: &BoxError) -> (u32, Stopped) {
    let error = RetryError::find(error).expect("a RetryError");
    (error.attempts, error.stopped)
}

#[tokio::test(start_paused = true)]
async fn waits_one_two_four_eight_seconds_between_five_attempts() {
    let (inner, times) = failing();
    let error = call(&mut RetryLayer::new(backoff(5)).layer(inner), 0)
        .await
        .unwrap_err();
    assert_eq!(*times.lock().unwrap(), [0, 1, 3, 7, 15]);
    let why = RetryError::find(&error).unwrap();
    assert_eq!(
        (why.attempts, why.elapsed, why.stopped),
        (5, seconds(15), Stopped::Exhausted)
    );
    assert!(why.source.is::<Busy>());
    assert_eq!(
        error.to_string(),
        "gave up after 5 attempts in 15s: no attempts left"
    );
}

#[tokio::test(start_paused = true)]
async fn waits_may_come_from_an_iterator_under_the_cap_and_the_attempts_of_the_backoff() {
    for (attempts, cap, made) in [
        (10, 300, &[0, 5, 6, 26][..]), // the iterator ends
        (3, 300, &[0, 5, 6]),
        (10, 7, &[0, 5, 6, 13]),
    ] {
        let (inner, times) = failing();
        let backoff = Backoff::constant(seconds(7)).cap(seconds(cap));
        let layer = RetryLayer::new(backoff.attempts(attempts))
            .waits(|| [5, 1, 20].into_iter().map(seconds));
        let mut service = layer.layer(inner);
        let error = call(&mut service, 0).await.unwrap_err();
        assert_eq!(*times.lock().unwrap(), made);
        assert_eq!(why(&error), (made.len() as u32, Stopped::Exhausted));
        // Each call begins anew.
        call(&mut service, 0).await.unwrap_err();
        assert_eq!(times.lock().unwrap().len(), 2 * made.len());
    }
}

#[tokio::test(start_paused = true)]
async fn one_attempt_is_no_retry() {
    let (inner, times) = failing();
    let error = call(&mut RetryLayer::new(backoff(1)).layer(inner), 0)
        .await
        .unwrap_err();
    assert_eq!(*times.lock().unwrap(), [0]);
    assert_eq!(why(&error), (1, Stopped::Exhausted));
}

#[tokio::test(start_paused = true)]
async fn a_permanent_error_is_not_retried() {
    let (inner, times) = failing();
    let layer = RetryLayer::new(backoff(5)).classify(|_: Result<&(), &BoxError>| Class::Permanent);
    let error = call(&mut layer.layer(inner), 0).await.unwrap_err();
    assert_eq!(times.lock().unwrap().len(), 1);
    assert_eq!(why(&error), (1, Stopped::Permanent));
}

#[tokio::test(start_paused = true)]
async fn an_error_that_counts_as_success_comes_back_bare_and_credits_the_budget() {
    let (inner, times) = failing();
    let budget = Budget::ratio(1.0).burst(2);
    let layer = RetryLayer::new(backoff(5))
        .budget(budget.clone())
        .classify(|_: Result<&(), &BoxError>| Class::Success);
    budget.withdraw().unwrap().spend();
    let error = call(&mut layer.layer(inner), 0).await.unwrap_err();
    assert!(error.is::<Busy>());
    assert_eq!((times.lock().unwrap().len(), budget.balance()), (1, 2.0));
}

#[tokio::test(start_paused = true)]
async fn the_last_response_is_returned_as_it_is() {
    let layer =
        RetryLayer::new(backoff(3)).classify(|outcome: Result<&u32, &BoxError>| match outcome {
            Ok(200) => Class::Success,
            _ => Class::Transient,
        });
    let calls = AtomicU32::new(0);
    let mut service = layer.layer(service_fn(|()| {
        std::future::ready(Ok::<u32, Busy>(500 + calls.fetch_add(1, SeqCst)))
    }));
    assert_eq!(call(&mut service, ()).await.unwrap(), 502);
    assert_eq!(calls.load(SeqCst), 3);
}

#[tokio::test(start_paused = true)]
async fn what_an_inner_retry_layer_gave_up_on_is_not_retried_again() {
    let (inner, times) = failing();
    let layer = RetryLayer::new(backoff(3));
    let error = call(&mut layer.layer(layer.layer(inner)), 0)
        .await
        .unwrap_err();
    assert_eq!(
        times.lock().unwrap().len(),
        3,
        "attempts of nested layers do not multiply"
    );
    assert_eq!(why(&error), (1, Stopped::Permanent));
}

// The budget, from end to end: this fails if it is not wired in.

#[tokio::test(start_paused = true)]
async fn an_empty_budget_stops_retries_and_successes_fill_it() {
    let broken = Arc::new(AtomicBool::new(true));
    let calls = Arc::new(AtomicU32::new(0));
    let inner = {
        let (broken, calls) = (Arc::clone(&broken), Arc::clone(&calls));
        service_fn(move |()| {
            calls.fetch_add(1, SeqCst);
            std::future::ready(if broken.load(SeqCst) {
                Err(Busy)
            } else {
                Ok(())
            })
        })
    };
    let mut service = RetryLayer::new(backoff(3))
        .budget(Budget::ratio(0.1).burst(5))
        .layer(inner);

    let mut stopped = Vec::new();
    for _ in 0..100 {
        stopped.push(why(&call(&mut service, ()).await.unwrap_err()));
    }
    assert_eq!(
        calls.load(SeqCst),
        105,
        "a broken service gets 5 retries for 100 calls"
    );
    assert_eq!(stopped[0], (3, Stopped::Exhausted));
    assert_eq!(stopped[2], (2, Stopped::Budget));
    assert_eq!(stopped[99], (1, Stopped::Budget));

    broken.store(false, SeqCst);
    for _ in 0..20 {
        call(&mut service, ()).await.unwrap();
    }
    broken.store(true, SeqCst);
    calls.store(0, SeqCst);
    let error = call(&mut service, ()).await.unwrap_err();
    // 20 successes pay for 2 retries, less what rounding down leaves.
    assert!(calls.load(SeqCst) >= 2, "{error}");
}

// Deadlines and timeouts.

#[tokio::test(start_paused = true)]
async fn a_wait_that_would_pass_the_deadline_is_not_begun() {
    let (inner, times) = failing();
    let start = Instant::now();
    let mut service = RetryLayer::new(backoff(10))
        .deadline(seconds(10))
        .layer(inner);
    let error = call(&mut service, 0).await.unwrap_err();
    assert_eq!(*times.lock().unwrap(), [0, 1, 3, 7]);
    assert_eq!(
        start.elapsed(),
        seconds(7),
        "it ends at once, not at the deadline"
    );
    assert_eq!(why(&error), (4, Stopped::Deadline));
    assert!(RetryError::find(&error).unwrap().source.is::<Busy>());
}

#[tokio::test(start_paused = true)]
async fn the_deadline_cuts_a_hung_first_attempt() {
    let start = Instant::now();
    let hung = service_fn(|()| std::future::pending::<Result<(), Busy>>());
    let mut service = RetryLayer::new(backoff(3)).deadline(seconds(5)).layer(hung);
    let error = call(&mut service, ()).await.unwrap_err();
    assert_eq!(start.elapsed(), seconds(5));
    assert_eq!(why(&error), (1, Stopped::Deadline));
    let source = &RetryError::find(&error).unwrap().source;
    assert_eq!(source.downcast_ref(), Some(&Interrupted::Deadline));
}

#[tokio::test(start_paused = true)]
async fn the_deadline_cuts_a_hung_retry_and_the_last_error_explains_it() {
    let start = Instant::now();
    let calls = AtomicU32::new(0);
    let mut service = RetryLayer::new(backoff(3))
        .deadline(seconds(5))
        .layer(service_fn(|()| {
            let first = calls.fetch_add(1, SeqCst) == 0;
            async move {
                if first {
                    Err::<(), _>(Busy)
                } else {
                    std::future::pending().await
                }
            }
        }));
    let error = call(&mut service, ()).await.unwrap_err();
    assert_eq!(start.elapsed(), seconds(5));
    assert_eq!(why(&error), (2, Stopped::Deadline));
    assert!(RetryError::find(&error).unwrap().source.is::<Busy>());
}

/// Ready once, and then not again.
#[derive(Clone)]
struct OnceReady {
    polls: Arc<AtomicU32>,
    fails: bool,
}

impl Service<()> for OnceReady {
    type Response = ();
    type Error = &'static str;
    type Future = std::future::Ready<Result<(), &'static str>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), &'static str>> {
        match self.polls.fetch_add(1, SeqCst) {
            0 => Poll::Ready(Ok(())),
            _ if self.fails => Poll::Ready(Err("closed")),
            _ => Poll::Pending,
        }
    }

    fn call(&mut self, (): ()) -> Self::Future {
        std::future::ready(Err("busy"))
    }
}

#[tokio::test(start_paused = true)]
async fn the_deadline_cuts_a_hung_poll_ready() {
    let start = Instant::now();
    let inner = OnceReady {
        polls: Arc::default(),
        fails: false,
    };
    let mut service = RetryLayer::new(backoff(3))
        .deadline(seconds(5))
        .layer(inner);
    let error = call(&mut service, ()).await.unwrap_err();
    assert_eq!(
        (start.elapsed(), why(&error)),
        (seconds(5), (1, Stopped::Deadline))
    );
    assert_eq!(RetryError::find(&error).unwrap().source.to_string(), "busy");
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_not_ready_in_time_returns_the_last_error() {
    let start = Instant::now();
    let inner = OnceReady {
        polls: Arc::default(),
        fails: false,
    };
    let mut service = RetryLayer::new(backoff(3))
        .ready_within(seconds(2))
        .layer(inner);
    let error = call(&mut service, ()).await.unwrap_err();
    assert_eq!(
        (start.elapsed(), why(&error)),
        (seconds(1 + 2), (1, Stopped::NotReady))
    );
    assert_eq!(RetryError::find(&error).unwrap().source.to_string(), "busy");
}

#[tokio::test(start_paused = true)]
async fn a_service_that_fails_while_it_is_readied_ends_the_call() {
    let inner = OnceReady {
        polls: Arc::default(),
        fails: true,
    };
    let error = call(&mut RetryLayer::new(backoff(3)).layer(inner), ())
        .await
        .unwrap_err();
    assert_eq!(why(&error), (1, Stopped::NotReady));
    assert_eq!(
        RetryError::find(&error).unwrap().source.to_string(),
        "closed"
    );
}

#[tokio::test(start_paused = true)]
async fn the_attempt_timeout_cuts_each_attempt_and_leaves_the_waits_alone() {
    let start = Instant::now();
    let hung = service_fn(|()| std::future::pending::<Result<(), Busy>>());
    let mut service = RetryLayer::new(backoff(3))
        .attempt_timeout(seconds(2))
        .layer(hung);
    let error = call(&mut service, ()).await.unwrap_err();
    assert_eq!(start.elapsed(), seconds(2 + 1 + 2 + 2 + 2));
    let why = RetryError::find(&error).unwrap();
    assert_eq!(
        (why.attempts, why.elapsed, why.stopped),
        (3, seconds(9), Stopped::Exhausted)
    );
    assert_eq!(
        why.source.downcast_ref(),
        Some(&Interrupted::AttemptTimeout(seconds(2)))
    );
}

/// Nothing is sent that nobody waits for any more.
#[tokio::test(start_paused = true)]
async fn a_wait_that_is_noticed_only_after_the_deadline_is_not_followed_by_an_attempt() {
    let (inner, times) = failing();
    let mut service = RetryLayer::new(backoff(3))
        .deadline(seconds(2))
        .layer(inner);
    let mut late = tokio_test::task::spawn(call(&mut service, 0));
    tokio_test::assert_pending!(late.poll());
    tokio::time::advance(seconds(5)).await;
    let error = tokio_test::assert_ready!(late.poll()).unwrap_err();
    assert_eq!(why(&error), (1, Stopped::Deadline));
    assert_eq!(*times.lock().unwrap(), [0]);
}

/// The end of an attempt that never had to wait is not that of the next one.
#[tokio::test(start_paused = true)]
async fn the_attempt_timeout_counts_from_the_start_of_each_attempt() {
    let calls = AtomicU32::new(0);
    let mut service = RetryLayer::new(backoff(2))
        .attempt_timeout(seconds(3))
        .layer(service_fn(|()| {
            let first = calls.fetch_add(1, SeqCst) == 0;
            async move {
                if first {
                    return Err(Busy);
                }
                tokio::time::sleep(seconds(3)).await;
                Ok(())
            }
        }));
    let start = Instant::now();
    call(&mut service, ()).await.unwrap();
    assert_eq!(start.elapsed(), seconds(1 + 3));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_there_when_the_time_is_up_counts() {
    let mut service = RetryLayer::new(backoff(3))
        .deadline(seconds(2))
        .layer(service_fn(|()| async {
            tokio::time::sleep(seconds(2)).await;
            Ok::<_, Busy>("in time")
        }));
    assert_eq!(call(&mut service, ()).await.unwrap(), "in time");
}

#[tokio::test(start_paused = true)]
async fn a_request_may_bring_a_nearer_deadline_and_attempts_are_told_when_they_end() {
    let start = Instant::now();
    let told = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&told);
    let mut service = RetryLayer::new(backoff(10))
        .deadline(seconds(60))
        .attempt_timeout(seconds(2))
        .deadline_of(|deadline: &Instant| Some(*deadline))
        .stamp(move |_: &mut Instant, attempt: Attempt| {
            let left = attempt.deadline.map(|deadline| deadline - Instant::now());
            noted.lock().unwrap().push((attempt.number, left));
        })
        .layer(service_fn(|_: Instant| {
            std::future::ready(Err::<(), _>(Busy))
        }));
    let error = call(&mut service, start + seconds(4)).await.unwrap_err();
    assert_eq!(why(&error), (3, Stopped::Deadline));
    let two = Some(seconds(2));
    assert_eq!(
        *told.lock().unwrap(),
        [(1, two), (2, two), (3, Some(seconds(1)))]
    );
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_has_passed_is_no_panic() {
    let past = Instant::now();
    tokio::time::advance(seconds(10)).await;
    let layer = RetryLayer::new(backoff(3)).deadline_of(|deadline: &Instant| Some(*deadline));
    let mut ready = layer
        .clone()
        .layer(service_fn(|_| std::future::ready(Ok::<_, Busy>(1))));
    assert_eq!(
        call(&mut ready, past).await.unwrap(),
        1,
        "an answer that is there counts"
    );
    let mut hung = layer.layer(service_fn(|_| std::future::pending::<Result<(), Busy>>()));
    assert_eq!(
        why(&call(&mut hung, past).await.unwrap_err()),
        (1, Stopped::Deadline)
    );
}

#[tokio::test(start_paused = true)]
async fn limits_without_end_are_no_limits() {
    let forever = std::time::Duration::MAX;
    let (inner, times) = failing();
    let mut service = RetryLayer::new(backoff(3))
        .deadline(forever)
        .attempt_timeout(forever)
        .ready_within(forever)
        .layer(inner);
    assert_eq!(
        why(&call(&mut service, 0).await.unwrap_err()),
        (3, Stopped::Exhausted)
    );
    assert_eq!(times.lock().unwrap().len(), 3);
}

// What a server asks for.

fn throttled(
    asked: u64,
    backoff: Backoff,
) -> RetryLayer<impl Fn(Result<&(), &BoxError>) -> Class + Clone> {
    RetryLayer::new(backoff)
        .classify(move |_: Result<&(), &BoxError>| Class::Throttled(seconds(asked)))
}

#[tokio::test(start_paused = true)]
async fn a_server_given_wait_is_never_cut_short_and_a_longer_backoff_wins() {
    let (inner, times) = failing();
    let jittery = backoff(4).jitter(Jitter::Full);
    call(&mut throttled(20, jittery).layer(inner), 0)
        .await
        .unwrap_err();
    assert_eq!(*times.lock().unwrap(), [0, 20, 40, 60]);

    let (inner, times) = failing();
    call(&mut throttled(2, backoff(5)).layer(inner), 0)
        .await
        .unwrap_err();
    assert_eq!(*times.lock().unwrap(), [0, 2, 4, 8, 16]);
}

#[tokio::test(start_paused = true)]
async fn a_server_given_wait_beyond_the_deadline_stops_at_once() {
    let (inner, times) = failing();
    let start = Instant::now();
    let mut service = throttled(60, backoff(5)).deadline(seconds(30)).layer(inner);
    let error = call(&mut service, 0).await.unwrap_err();
    assert_eq!(why(&error), (1, Stopped::Deadline));
    assert_eq!(
        (times.lock().unwrap().len(), start.elapsed()),
        (1, seconds(0))
    );
}

#[tokio::test(start_paused = true)]
async fn a_server_given_wait_beyond_the_cap_stops_at_once() {
    for asked in [301, u64::MAX] {
        let (inner, _) = failing();
        let error = call(&mut throttled(asked, backoff(5)).layer(inner), 0)
            .await
            .unwrap_err();
        assert_eq!(why(&error), (1, Stopped::Throttled(seconds(asked))));
    }
}

// Requests.

#[derive(Debug)]
struct Counted {
    clones: Arc<AtomicU32>,
    attempt: u32,
}

impl Clone for Counted {
    fn clone(&self) -> Self {
        self.clones.fetch_add(1, SeqCst);
        Self {
            clones: Arc::clone(&self.clones),
            attempt: self.attempt,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_attempt_gets_the_request_without_a_clone() {
    for attempts in 1..6 {
        let clones = Arc::new(AtomicU32::new(0));
        let request = Counted {
            clones: Arc::clone(&clones),
            attempt: 0,
        };
        let seen = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&seen);
        let mut service = RetryLayer::new(backoff(attempts))
            .stamp(|request: &mut Counted, attempt: Attempt| request.attempt = attempt.number)
            .layer(service_fn(move |request: Counted| {
                noted.lock().unwrap().push(request.attempt);
                std::future::ready(Err::<(), _>(Busy))
            }));
        call(&mut service, request).await.unwrap_err();
        assert_eq!(clones.load(SeqCst), attempts - 1);
        assert_eq!(*seen.lock().unwrap(), (1..=attempts).collect::<Vec<_>>());
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_cloned_is_sent_once() {
    struct Once;
    let mut service = RetryLayer::new(backoff(3))
        .clone_with(|_: &Once| None)
        .layer(service_fn(|_: Once| std::future::ready(Err::<(), _>(Busy))));
    assert_eq!(
        why(&call(&mut service, Once).await.unwrap_err()),
        (1, Stopped::Unrepeatable)
    );
}

#[tokio::test(start_paused = true)]
async fn what_can_be_cloned_for_a_while_is_sent_so_often() {
    let mut service = RetryLayer::new(backoff(9))
        .clone_with(|left: &u32| left.checked_sub(1))
        .layer(service_fn(|_: u32| std::future::ready(Err::<(), _>(Busy))));
    assert_eq!(
        why(&call(&mut service, 2).await.unwrap_err()),
        (3, Stopped::Unrepeatable)
    );
}

// Seeds.

#[tokio::test(start_paused = true)]
async fn seeded_layers_repeat_themselves_and_their_calls_differ() {
    async fn run() -> Vec<std::time::Duration> {
        let seeded = backoff(4).jitter(Jitter::Full).seed(7);
        let mut service =
            RetryLayer::new(seeded).layer(service_fn(|()| std::future::ready(Err::<(), _>(Busy))));
        let mut took = Vec::new();
        for _ in 0..3 {
            let start = Instant::now();
            call(&mut service, ()).await.unwrap_err();
            took.push(start.elapsed());
        }
        took
    }
    let took = run().await;
    assert_eq!(took, run().await);
    assert!(took[0] != took[1] && took[1] != took[2]);
}
