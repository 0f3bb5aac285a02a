//! One suite of behaviour, on each way to call: HTTP, gRPC (tonic's own client and server), and messages of a
//! queue that are known by topic, partition and offset.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;
#[path = "support/ways.rs"]
mod ways;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use seawall_idempotency::{Abandoned, Drain, InFlight};
use support::{On, Trouble, Troubled, settle};
use tokio::{
    sync::Notify,
    time::{advance, sleep},
};
use ways::{Grpc, Handler, Messages, Says, Settings, Told, Way, Web, handler};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn answer(text: &str) -> Told {
    Told::Answer(text.to_owned())
}

/// Counts its calls, takes `time`, and answers with the attempt and what it was asked.
fn slow(calls: &Arc<AtomicU64>, time: Duration) -> Handler {
    let calls = Arc::clone(calls);
    handler(move |attempt, payload| {
        let calls = Arc::clone(&calls);
        async move {
            calls.fetch_add(1, SeqCst);
            sleep(time).await;
            Says::Answer(format!("{payload}, attempt {attempt}"))
        }
    })
}

async fn a_call_is_executed_once_and_its_answer_is_repeated<W: Way>() {
    let calls = Arc::default();
    let way = W::new(Settings::default(), slow(&calls, SECOND));
    for _ in 0..3 {
        assert_eq!(way.call(1, "tea").await, answer("tea, attempt 1"));
    }
    assert_eq!(way.call(2, "tea").await, answer("tea, attempt 1"));
    assert_eq!(calls.load(SeqCst), 2);
}

async fn of_many_at_once_one_is_executed<W: Way>() {
    let calls = Arc::default();
    let settings = Settings {
        in_flight: InFlight::Wait(MINUTE),
        ..Settings::default()
    };
    let way = W::new(settings, slow(&calls, SECOND));
    let all: Vec<_> = (0..50)
        .map(|_| {
            let way = way.clone();
            tokio::spawn(async move { way.call(1, "tea").await })
        })
        .collect();
    for one in all {
        assert_eq!(one.await.unwrap(), answer("tea, attempt 1"));
    }
    assert_eq!(calls.load(SeqCst), 1);
}

async fn a_duplicate_of_a_call_in_flight_is_refused<W: Way>() {
    let calls = Arc::default();
    let way = W::new(Settings::default(), slow(&calls, 10 * SECOND));
    let first = way.clone();
    let first = tokio::spawn(async move { first.call(1, "tea").await });
    sleep(5 * SECOND).await;
    assert_eq!(way.call(1, "tea").await, Told::InFlight);
    assert_eq!(first.await.unwrap(), answer("tea, attempt 1"));
    assert_eq!(calls.load(SeqCst), 1);
}

async fn another_payload_under_a_key_is_refused_at_any_time<W: Way>() {
    let calls = Arc::default();
    let way = W::new(Settings::default(), slow(&calls, 10 * SECOND));
    let first = way.clone();
    let first = tokio::spawn(async move { first.call(1, "tea").await });
    sleep(5 * SECOND).await;
    assert_eq!(way.call(1, "coffee").await, Told::Mismatch);
    first.await.unwrap();
    assert_eq!(way.call(1, "coffee").await, Told::Mismatch);
    assert_eq!(calls.load(SeqCst), 1);
}

/// A handler that never ends, and whose process is never heard of again.
async fn dead<W: Way>(store: &Troubled) {
    let cut_off = Troubled::over(store.inner.clone());
    let settings = Settings {
        store: cut_off.clone(),
        ..Settings::default()
    };
    let began = Arc::new(Notify::new());
    let begins = Arc::clone(&began);
    let way = W::new(
        settings,
        handler(move |_, _| {
            begins.notify_one();
            std::future::pending()
        }),
    );
    tokio::spawn(async move { way.call(1, "tea").await });
    began.notified().await;
    cut_off.down(true);
}

async fn an_abandoned_call_is_refused_or_executed_once_again<W: Way>() {
    for abandoned in [Abandoned::Reject, Abandoned::Reexecute] {
        let (calls, store) = (Arc::default(), Troubled::default());
        dead::<W>(&store).await;
        let settings = Settings {
            abandoned,
            store,
            ..Settings::default()
        };
        let way = W::new(settings, slow(&calls, SECOND));
        assert_eq!(
            way.call(1, "tea").await,
            Told::InFlight,
            "it may still live"
        );
        advance(3 * SECOND).await;
        for _ in 0..2 {
            let told = way.call(1, "tea").await;
            match abandoned {
                Abandoned::Reject => assert_eq!(told, Told::Abandoned),
                Abandoned::Reexecute => assert_eq!(told, answer("tea, attempt 2")),
            }
        }
        let executed = u64::from(abandoned == Abandoned::Reexecute);
        assert_eq!(calls.load(SeqCst), executed);
    }
}

async fn a_caller_who_leaves_does_not_stop_the_handler<W: Way>() {
    let calls = Arc::default();
    let way = W::new(Settings::default(), slow(&calls, 10 * SECOND));
    let left = tokio::time::timeout(SECOND, way.call(1, "tea")).await;
    assert!(left.is_err());
    assert_eq!(way.tasks().drain(MINUTE).await, Drain::Finished);
    assert_eq!(way.call(1, "tea").await, answer("tea, attempt 1"));
    assert_eq!(calls.load(SeqCst), 1);
}

/// Says this at each call.
fn says(calls: &Arc<AtomicU64>, says: Says) -> Handler {
    let calls = Arc::clone(calls);
    handler(move |_, _| {
        calls.fetch_add(1, SeqCst);
        let says = says.clone();
        async { says }
    })
}

async fn what_did_nothing_is_executed_again<W: Way>() {
    let calls = Arc::default();
    let way = W::new(Settings::default(), says(&calls, Says::Undone));
    for _ in 0..3 {
        assert_eq!(way.call(1, "tea").await, Told::Undone);
    }
    assert_eq!(calls.load(SeqCst), 3);
}

async fn an_answer_too_large_to_keep_is_given_once_and_not_executed_again<W: Way>() {
    let calls = Arc::default();
    let text = "x".repeat(ways::MAX_ANSWER + 1);
    let way = W::new(
        Settings::default(),
        says(&calls, Says::Answer(text.clone())),
    );
    assert_eq!(way.call(1, "tea").await, Told::Answer(text));
    assert_eq!(way.call(1, "tea").await, Told::NotKept);
    assert_eq!(calls.load(SeqCst), 1);
}

async fn a_panic_is_not_executed_again<W: Way>() {
    let calls = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&calls);
    let way = W::new(
        Settings::default(),
        handler(move |_, _| {
            count.fetch_add(1, SeqCst);
            async { panic!("the handler's own") }
        }),
    );
    assert_eq!(way.call(1, "tea").await, Told::Panicked);
    let again = way.call(1, "tea").await;
    assert!(matches!(again, Told::Panicked | Told::NotKept), "{again:?}");
    assert_eq!(calls.load(SeqCst), 1);
}

async fn while_the_store_is_out_nothing_is_executed<W: Way>() {
    let (calls, settings) = (Arc::default(), Settings::default());
    let store = settings.store.clone();
    let way = W::new(settings, slow(&calls, SECOND));
    store.down(true);
    assert_eq!(way.call(1, "tea").await, Told::Unavailable);
    assert_eq!(calls.load(SeqCst), 0);
    store.down(false);
    assert_eq!(way.call(1, "tea").await, answer("tea, attempt 1"));
}

async fn a_reply_that_is_lost_is_no_conflict_with_oneself<W: Way>() {
    for on in [On::Claim, On::Renew, On::Complete] {
        let (calls, settings) = (Arc::default(), Settings::default());
        settings.store.plan(on, Trouble::ReplyLost);
        let way = W::new(settings, slow(&calls, 5 * SECOND));
        for _ in 0..2 {
            assert_eq!(way.call(1, "tea").await, answer("tea, attempt 1"), "{on:?}");
            assert_eq!(way.tasks().drain(MINUTE).await, Drain::Finished);
        }
        assert_eq!(calls.load(SeqCst), 1);
    }
}

async fn dropped_at_every_poll_no_key_is_wedged<W: Way>() {
    let calls = Arc::new(AtomicU64::new(0));
    let way = W::new(Settings::default(), slow(&calls, SECOND));
    let key = AtomicU64::new(0);
    let made = || {
        let (way, key) = (way.clone(), key.fetch_add(1, SeqCst));
        async move { way.call(key, "tea").await }
    };
    let wedged = Mutex::new(Vec::new());
    let last = test_support::drop_at_every_poll(made, async |polls| {
        settle().await;
        assert_eq!(way.tasks().drain(MINUTE).await, Drain::Finished);
        let before = calls.load(SeqCst);
        let again = way.call(key.load(SeqCst) - 1, "tea").await;
        // It had begun and is not executed again, or had not and is now: once in either case.
        let fine = again == answer("tea, attempt 1") && calls.load(SeqCst) == polls as u64 + 1;
        if !fine {
            wedged.lock().unwrap().push((polls, before, again));
        }
    })
    .await;
    assert_eq!(last, answer("tea, attempt 1"));
    assert!(wedged.lock().unwrap().is_empty(), "{wedged:?}");
}

macro_rules! on {
    ($way:ident: $($test:ident)*) => {
        $(#[tokio::test(start_paused = true)]
        async fn $test() {
            super::$test::<super::$way>().await;
        })*
    };
}

macro_rules! suite {
    ($($test:ident)*) => {
        mod http {
            on! { Web: $($test)* }
        }
        mod grpc {
            on! { Grpc: $($test)* }
        }
        mod messages {
            on! { Messages: $($test)* }
        }
    };
}

suite! {
    a_call_is_executed_once_and_its_answer_is_repeated
    of_many_at_once_one_is_executed
    a_duplicate_of_a_call_in_flight_is_refused
    another_payload_under_a_key_is_refused_at_any_time
    an_abandoned_call_is_refused_or_executed_once_again
    a_caller_who_leaves_does_not_stop_the_handler
    what_did_nothing_is_executed_again
    an_answer_too_large_to_keep_is_given_once_and_not_executed_again
    a_panic_is_not_executed_again
    while_the_store_is_out_nothing_is_executed
    a_reply_that_is_lost_is_no_conflict_with_oneself
    dropped_at_every_poll_no_key_is_wedged
}
