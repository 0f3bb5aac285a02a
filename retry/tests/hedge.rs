//! Requests that are sent a second time while the first attempt runs.
#![allow(clippy::unwrap_used)] // in helpers, which are tests as well

mod support;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use seawall_retry::{Backoff, BoxError, Budget, Class, HedgeLayer, RetryLayer};
use support::{Busy, call, seconds};
use tokio::time::{Instant, sleep};
use tower::{Layer, Service, ServiceExt, service_fn};

/// What an attempt does: answers after a time, with its number or an error.
type Script = &'static [(u64, Result<(), Busy>)];

#[derive(Clone, Default)]
struct Calls {
    made: Arc<Mutex<Vec<u64>>>,
    running: Arc<()>,
}

impl Calls {
    fn made(&self) -> Vec<u64> {
        self.made.lock().unwrap().clone()
    }

    fn running(&self) -> usize {
        Arc::strong_count(&self.running) - 2 // this, and the service's
    }
}

fn scripted(
    script: Script,
) -> (
    impl Service<(), Response = usize, Error = Busy, Future = impl Send> + Clone,
    Calls,
) {
    let calls = Calls::default();
    let (noted, start) = (calls.clone(), Instant::now());
    let service = service_fn(move |()| {
        let mut made = noted.made.lock().unwrap();
        let (wait, outcome) = script[made.len()];
        made.push(start.elapsed().as_secs());
        let (nth, running) = (made.len(), Arc::clone(&noted.running));
        async move {
            sleep(seconds(wait)).await;
            drop(running);
            outcome.map(|()| nth)
        }
    });
    (service, calls)
}

async fn run(script: Script, budget: &Budget) -> (Result<usize, BoxError>, u64, Vec<u64>, usize) {
    let (inner, calls) = scripted(script);
    let mut service = HedgeLayer::after(seconds(2), budget.clone()).layer(inner);
    let start = Instant::now();
    let mut future = Box::pin(service.ready().await.unwrap().call(()));
    // What runs is counted while the future is still there.
    let answer = future.as_mut().await;
    (
        answer,
        start.elapsed().as_secs(),
        calls.made(),
        calls.running(),
    )
}

#[tokio::test(start_paused = true)]
async fn an_answer_in_time_is_not_hedged() {
    let budget = Budget::ratio(0.5);
    let (answer, took, made, _) = run(&[(1, Ok(()))], &budget).await;
    assert_eq!((answer.unwrap(), took, made), (1, 1, vec![0]));
    assert_eq!(budget.balance(), 10.0);
}

#[tokio::test(start_paused = true)]
async fn the_answer_that_comes_first_wins_and_the_other_attempt_is_dropped() {
    let budget = Budget::ratio(0.5);
    let (answer, took, made, running) = run(&[(60, Ok(())), (1, Ok(()))], &budget).await;
    assert_eq!((answer.unwrap(), took, made), (2, 3, vec![0, 2]));
    assert_eq!(running, 0, "the loser is dropped, not left to run");
    assert_eq!(
        budget.balance(),
        9.5,
        "a hedge costs one, a success pays half"
    );

    let (answer, took, _, running) = run(&[(5, Ok(())), (60, Ok(()))], &budget).await;
    assert_eq!((answer.unwrap(), took, running), (1, 5, 0));
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_fails_leaves_it_to_the_other() {
    let budget = Budget::ratio(0.5);
    let (answer, took, ..) = run(&[(3, Err(Busy)), (4, Ok(()))], &budget).await;
    assert_eq!((answer.unwrap(), took), (2, 6));
    let (answer, took, ..) = run(&[(7, Ok(())), (1, Err(Busy))], &budget).await;
    assert_eq!((answer.unwrap(), took), (1, 7));
    let (answer, took, ..) = run(&[(7, Err(Busy)), (1, Err(Busy))], &budget).await;
    assert!(answer.unwrap_err().is::<Busy>());
    assert_eq!(took, 7);
    // Alone it is final: hedging is not retrying.
    let (answer, took, made, _) = run(&[(1, Err(Busy))], &budget).await;
    assert!(answer.unwrap_err().is::<Busy>());
    assert_eq!((took, made.len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn without_budget_or_copy_it_is_sent_once() {
    let budget = Budget::ratio(0.1).burst(1);
    budget.withdraw().unwrap().spend();
    let (answer, took, made, _) = run(&[(9, Ok(()))], &budget).await;
    assert_eq!((answer.unwrap(), took, made.len()), (1, 9, 1));

    let (inner, calls) = scripted(&[(9, Ok(()))]);
    let layer = HedgeLayer::after(seconds(1), Budget::ratio(0.1)).clone_with(|(): &()| None);
    call(&mut layer.layer(inner), ()).await.unwrap();
    assert_eq!(calls.made().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn there_are_never_more_hedges_than_the_budget_allows() {
    let budget = Budget::ratio(0.1).burst(3);
    let calls = AtomicU32::new(0);
    let service =
        HedgeLayer::after(Duration::from_millis(10), budget.clone()).layer(service_fn(|()| {
            calls.fetch_add(1, SeqCst);
            async {
                sleep(seconds(1)).await;
                Ok::<_, Busy>(())
            }
        }));
    let all = (0..200).map(|_| {
        let mut service = service.clone();
        async move { call(&mut service, ()).await }
    });
    for answer in futures_util::future::join_all(all).await {
        answer.unwrap();
    }
    // All of them are slow at the same time, and none has succeeded when the others are hedged.
    let beyond = calls.load(SeqCst).abs_diff(200 + 3);
    println!("figure retry/hedges-beyond-budget: {beyond}");
    assert_eq!(beyond, 0);
    // 200 successes would have paid for 20, but only 3 fit into the burst.
    assert_eq!(budget.balance(), 3.0);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_no_success_does_not_win_over_one_that_may_be() {
    let calls = AtomicU32::new(0);
    let mut service = HedgeLayer::after(seconds(1), Budget::ratio(0.1))
        .classify(|outcome: Result<&u16, &BoxError>| match outcome {
            Ok(503) | Err(_) => Class::Transient,
            Ok(_) => Class::Success,
        })
        .layer(service_fn(|()| {
            let first = calls.fetch_add(1, SeqCst) == 0;
            async move {
                sleep(seconds(4)).await;
                Ok::<_, Busy>(if first { 503 } else { 200 })
            }
        }));
    assert_eq!(call(&mut service, ()).await.unwrap(), 200);
}

/// Ready once; the clone that would hedge never is, or fails.
#[derive(Clone)]
struct NeverAgain {
    polls: Arc<AtomicU32>,
    fails: bool,
}

impl Service<()> for NeverAgain {
    type Response = ();
    type Error = Busy;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<(), Busy>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Busy>> {
        match self.polls.fetch_add(1, SeqCst) {
            0 => Poll::Ready(Ok(())),
            _ if self.fails => Poll::Ready(Err(Busy)),
            _ => Poll::Pending,
        }
    }

    fn call(&mut self, (): ()) -> Self::Future {
        Box::pin(async {
            sleep(seconds(5)).await;
            Ok(())
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_cannot_take_a_second_attempt_answers_the_first() {
    for fails in [false, true] {
        let budget = Budget::ratio(0.1);
        let polls = Arc::default();
        let mut service =
            HedgeLayer::after(seconds(1), budget.clone()).layer(NeverAgain { polls, fails });
        call(&mut service, ()).await.unwrap();
        assert_eq!(
            budget.balance(),
            10.0,
            "a hedge that was not made costs nothing"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn dropped_at_any_poll_it_leaves_no_attempt_and_no_retry_behind() {
    let budget = Budget::ratio(0.5).burst(4);
    let running = Arc::new(());
    let service = HedgeLayer::after(seconds(1), budget.clone()).layer(service_fn(|_: u32| {
        let running = Arc::clone(&running);
        async move {
            sleep(seconds(3)).await;
            drop(running);
            Ok::<_, Busy>(())
        }
    }));
    let result = test_support::drop_at_every_poll(
        || {
            let mut service = service.clone();
            async move { call(&mut service, 1).await }
        },
        async |polls| {
            assert_eq!(
                Arc::strong_count(&running),
                1,
                "an attempt runs on after {polls} polls"
            );
            let spent = 4.0 - budget.balance();
            assert!(spent == 0.0 || spent == 1.0 || spent == 0.5, "{spent}");
            while budget.balance() < 4.0 {
                budget.deposit();
            }
        },
    )
    .await;
    result.unwrap();
}

#[tokio::test(start_paused = true)]
async fn hedged_and_retried_under_one_budget_each_success_counts_once() {
    let budget = Budget::ratio(0.25).burst(4);
    let (inner, _) = scripted(&[(9, Ok(())), (1, Ok(()))]);
    let hedge = HedgeLayer::after(seconds(2), budget.clone()).without_deposits();
    let retry = RetryLayer::new(Backoff::constant(seconds(1))).budget(budget.clone());
    let mut service = retry.layer(hedge.layer(inner));
    assert_eq!(call(&mut service, ()).await.unwrap(), 2);
    assert_eq!(budget.balance(), 4.0 - 1.0 + 0.25);
}

#[test]
fn a_hedge_after_no_time_is_refused() {
    let refused = HedgeLayer::try_after(Duration::ZERO, Budget::ratio(0.1));
    assert!(refused.unwrap_err().message().contains("double"));
}
