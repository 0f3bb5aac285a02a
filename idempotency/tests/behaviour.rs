//! What a caller sees, in paused time.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use seawall_idempotency::{
    Abandoned, BoxError, Drain, Error, Failed, Fingerprint, IdempotencyLayer, InFlight, Keep, Key,
    MemoryStore, RecordError, RecordKey, Store, StoreError, Unstored,
    record::{Pending, Why},
};
use support::{Message, On, Text, Trouble, Troubled, call, layer, message, ours, settle, spawn};
use tokio::time::{Instant, advance, sleep, timeout};
use tower::{Layer, service_fn};

const SECOND: Duration = Duration::from_secs(1);

fn memory() -> MemoryStore {
    MemoryStore::with_capacity(1_000)
}

/// Takes `time` and answers with how often it was called.
fn slow(
    calls: &Arc<AtomicU64>,
    time: Duration,
) -> impl Fn(Message) -> std::pin::Pin<Box<dyn Future<Output = Result<String, BoxError>> + Send>>
+ Clone
+ Send
+ 'static {
    let calls = Arc::clone(calls);
    move |_| {
        let call = calls.fetch_add(1, SeqCst) + 1;
        Box::pin(async move {
            sleep(time).await;
            Ok(format!("call {call}"))
        })
    }
}

#[tokio::test(start_paused = true)]
async fn repeats_the_answer_until_its_retention_is_over() {
    let calls = Arc::default();
    let mut service = layer(memory())
        .keep_for(60 * SECOND)
        .layer(service_fn(slow(&calls, SECOND)));
    assert_eq!(call(&mut service, message("a")).await.unwrap(), "call 1");
    advance(59 * SECOND).await;
    assert_eq!(call(&mut service, message("a")).await.unwrap(), "call 1");
    advance(SECOND).await;
    assert_eq!(call(&mut service, message("a")).await.unwrap(), "call 2");
}

#[tokio::test(start_paused = true)]
async fn keys_of_different_scopes_do_not_meet() {
    let calls = Arc::default();
    let mut service = IdempotencyLayer::new(memory())
        .scope(|m: &Message| m.payload.into())
        .key(|m: &Message| m.key.into())
        .codec(Text)
        .layer(service_fn(slow(&calls, SECOND)));
    for (payload, answer) in [("alice", "call 1"), ("bob", "call 2"), ("alice", "call 1")] {
        let mut message = message("a");
        message.payload = payload;
        assert_eq!(call(&mut service, message).await.unwrap(), answer);
    }
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_in_flight_is_refused_and_told_when_to_come_back() {
    let calls = Arc::default();
    let service = layer(memory()).layer(service_fn(slow(&calls, SECOND)));
    let first = spawn(service.clone(), message("a"));
    settle().await;
    let error = ours(
        spawn(service.clone(), message("a"))
            .await
            .unwrap()
            .unwrap_err(),
    );
    let Error::InFlight { retry_after } = error else {
        panic!("{error}")
    };
    assert!(retry_after > Duration::ZERO && retry_after <= SECOND);
    assert_eq!(first.await.unwrap().unwrap(), "call 1");
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_in_flight_may_wait_for_the_answer() {
    let calls = Arc::default();
    let service = layer(memory())
        .in_flight(InFlight::Wait(10 * SECOND))
        .layer(service_fn(slow(&calls, 5 * SECOND)));
    let began = Instant::now();
    let all: Vec<_> = (0..50)
        .map(|_| spawn(service.clone(), message("a")))
        .collect();
    for one in all {
        assert_eq!(one.await.unwrap().unwrap(), "call 1");
    }
    assert!(began.elapsed() < 6 * SECOND);
    assert_eq!(calls.load(SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn waiting_has_an_end() {
    let calls = Arc::default();
    let service = layer(memory())
        .in_flight(InFlight::Wait(2 * SECOND))
        .layer(service_fn(slow(&calls, 100 * SECOND)));
    let first = spawn(service.clone(), message("a"));
    settle().await;
    let began = Instant::now();
    let error = ours(spawn(service, message("a")).await.unwrap().unwrap_err());
    assert!(matches!(error, Error::InFlight { .. }), "{error}");
    assert_eq!(began.elapsed(), 2 * SECOND);
    first.abort();
}

#[tokio::test(start_paused = true)]
async fn a_claim_is_renewed_at_a_third_of_its_lease_for_as_long_as_the_handler_runs() {
    let store = Troubled::default();
    let calls = Arc::default();
    let service = layer(store.clone())
        .abandoned(Abandoned::Reexecute)
        .layer(service_fn(slow(&calls, 100 * SECOND + SECOND / 2)));
    let first = spawn(service.clone(), message("a"));
    settle().await;
    sleep(99 * SECOND).await;
    let error = ours(spawn(service, message("a")).await.unwrap().unwrap_err());
    assert!(
        matches!(error, Error::InFlight { .. }),
        "thirty-three leases later: {error}"
    );
    assert_eq!(first.await.unwrap().unwrap(), "call 1");
    assert_eq!(
        store.swaps(),
        100 + 1,
        "a hundred renewals and one completion"
    );
    assert_eq!(calls.load(SeqCst), 1);
}

/// A claim whose process is gone.
async fn dead(store: &impl Store) {
    let dead = Pending::first(Fingerprint::of([""]), 3 * SECOND, 60 * SECOND);
    let key = RecordKey::new(None, &Key::from("a"));
    store
        .claim(&key, dead.encode(), dead.retention())
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_abandoned_call_is_not_executed_again_unless_asked_for() {
    let (store, calls) = (memory(), Arc::default());
    dead(&store).await;
    let mut service = layer(store).layer(service_fn(slow(&calls, SECOND)));
    let error = ours(call(&mut service, message("a")).await.unwrap_err());
    assert!(
        matches!(error, Error::InFlight { .. }),
        "it may still live: {error}"
    );
    advance(3 * SECOND).await;
    let error = ours(call(&mut service, message("a")).await.unwrap_err());
    assert!(matches!(error, Error::Abandoned { attempt: 1 }), "{error}");
    assert_eq!(calls.load(SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn an_abandoned_call_is_executed_once_by_the_next_of_many() {
    let (store, calls) = (memory(), Arc::default());
    dead(&store).await;
    advance(3 * SECOND).await;
    let service = layer(store)
        .abandoned(Abandoned::Reexecute)
        .in_flight(InFlight::Wait(10 * SECOND))
        .layer(service_fn(slow(&calls, SECOND)));
    let all: Vec<_> = (0..50)
        .map(|_| spawn(service.clone(), message("a")))
        .collect();
    for one in all {
        assert_eq!(one.await.unwrap().unwrap(), "call 1");
    }
    assert_eq!(calls.load(SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_leaves_does_not_stop_the_handler() {
    let calls = Arc::default();
    let layer = layer(memory());
    let mut service = layer.layer(service_fn(slow(&calls, 5 * SECOND)));
    assert!(
        timeout(SECOND, call(&mut service, message("a")))
            .await
            .is_err()
    );
    assert_eq!(layer.tasks().len(), 1);
    assert_eq!(
        layer.tasks().drain(SECOND).await,
        Drain::Unfinished { tasks: 1 }
    );
    assert_eq!(layer.tasks().drain(10 * SECOND).await, Drain::Finished);
    assert_eq!(call(&mut service, message("a")).await.unwrap(), "call 1");
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_leaves_while_waiting_leaves_nothing_behind() {
    let calls = Arc::default();
    let layer = layer(memory()).in_flight(InFlight::Wait(60 * SECOND));
    let service = layer.layer(service_fn(slow(&calls, 30 * SECOND)));
    let first = spawn(service.clone(), message("a"));
    settle().await;
    assert!(
        timeout(SECOND, call(&mut service.clone(), message("a")))
            .await
            .is_err()
    );
    settle().await;
    assert_eq!(layer.tasks().len(), 1, "only the one that works");
    assert_eq!(first.await.unwrap().unwrap(), "call 1");
}

#[tokio::test(start_paused = true)]
async fn what_did_nothing_is_forgotten_and_the_next_call_executes() {
    let mut service = layer(memory()).layer(service_fn(|m: Message| async move {
        Ok::<_, BoxError>(if m.attempt < 3 {
            "undone".to_owned()
        } else {
            "done".to_owned()
        })
    }));
    for answer in ["undone", "undone", "done", "done"] {
        assert_eq!(call(&mut service, message("a")).await.unwrap(), answer);
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_is_final_unless_errors_mean_that_nothing_was_done() {
    let calls = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&calls);
    let fails = service_fn(move |_: Message| {
        count.fetch_add(1, SeqCst);
        async { Err::<String, BoxError>("boom".into()) }
    });
    let mut service = layer(memory()).layer(fails.clone());
    assert_eq!(
        call(&mut service, message("a"))
            .await
            .unwrap_err()
            .to_string(),
        "boom"
    );
    let error = ours(call(&mut service, message("a")).await.unwrap_err());
    assert!(
        matches!(error, Error::AnswerNotKept { why: Why::Failed }),
        "{error}"
    );
    assert_eq!(calls.load(SeqCst), 1);

    let mut service = layer(memory()).failed(Failed::Release).layer(fails);
    for _ in 0..2 {
        assert_eq!(
            call(&mut service, message("a"))
                .await
                .unwrap_err()
                .to_string(),
            "boom"
        );
    }
    assert_eq!(calls.load(SeqCst), 3);
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_final_and_does_not_wedge_its_key() {
    let calls = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&calls);
    let mut service = layer(memory()).layer(service_fn(move |_: Message| {
        count.fetch_add(1, SeqCst);
        async move {
            assert!(std::hint::black_box(false), "the handler's own panic");
            Ok::<_, BoxError>(String::new())
        }
    }));
    let error = ours(call(&mut service, message("a")).await.unwrap_err());
    let Error::Panicked { message: text } = error else {
        panic!("{error}")
    };
    assert_eq!(text, "the handler's own panic");
    let error = ours(call(&mut service, message("a")).await.unwrap_err());
    assert!(
        matches!(error, Error::AnswerNotKept { why: Why::Panicked }),
        "{error}"
    );
    assert_eq!(calls.load(SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_inner_service_is_not_ready_after_waiting_leaves_its_key_free() {
    let (store, calls) = (memory(), Arc::new(AtomicU64::new(0)));
    let wait = layer(store.clone()).in_flight(InFlight::Wait(60 * SECOND));
    let places = Arc::new(tokio::sync::Semaphore::new(2));
    let limit = tower::limit::GlobalConcurrencyLimitLayer::with_semaphore(Arc::clone(&places));
    let service = wait.layer(limit.layer(service_fn(slow(&calls, SECOND))));
    let undone = layer(store).layer(service_fn(|_: Message| async {
        sleep(SECOND).await;
        Ok::<_, BoxError>("undone".to_owned())
    }));
    let first = spawn(undone, message("a"));
    settle().await;
    let second = spawn(service.clone(), message("a"));
    settle().await;
    let all = places.acquire_many(2).await.unwrap();
    first.await.unwrap().unwrap();
    let error = ours(second.await.unwrap().unwrap_err());
    assert!(
        matches!(error, Error::NotReady { waited } if waited == 3 * SECOND),
        "{error}"
    );
    assert_eq!(calls.load(SeqCst), 0);
    drop(all);
    assert_eq!(
        call(&mut service.clone(), message("a")).await.unwrap(),
        "call 1"
    );
}

#[tokio::test(start_paused = true)]
async fn while_the_store_is_out_nothing_is_executed() {
    let (store, calls) = (Troubled::default(), Arc::default());
    let mut service = layer(store.clone()).layer(service_fn(slow(&calls, SECOND)));
    store.down(true);
    let error = ours(call(&mut service, message("a")).await.unwrap_err());
    assert!(
        matches!(error, Error::Store(StoreError::Unavailable { .. })),
        "{error}"
    );
    assert_eq!(calls.load(SeqCst), 0);
    store.down(false);
    assert_eq!(call(&mut service, message("a")).await.unwrap(), "call 1");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_cannot_be_stored_is_given_and_stored_later() {
    let (store, calls) = (Troubled::default(), Arc::default());
    let layer = layer(store.clone());
    let mut service = layer.layer(service_fn(slow(&calls, SECOND / 2)));
    let first = spawn(service.clone(), message("a"));
    settle().await;
    store.down(true);
    assert_eq!(first.await.unwrap().unwrap(), "call 1");
    store.down(false);
    assert_eq!(layer.tasks().drain(10 * SECOND).await, Drain::Finished);
    assert_eq!(call(&mut service, message("a")).await.unwrap(), "call 1");
    assert_eq!(calls.load(SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_may_be_held_until_it_is_stored() {
    let (store, calls) = (Troubled::default(), Arc::default());
    let service = layer(store.clone())
        .unstored(Unstored::Hold)
        .layer(service_fn(slow(&calls, SECOND / 2)));
    let first = spawn(service, message("a"));
    settle().await;
    store.down(true);
    sleep(10 * SECOND).await;
    assert!(!first.is_finished());
    store.down(false);
    assert_eq!(first.await.unwrap().unwrap(), "call 1");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_its_codec_does_not_keep_is_never_executed_again() {
    let calls = Arc::default();
    let codec = (
        |_: &String| Keep::Tombstone(Why::NotKept),
        |_: Bytes| Err::<String, BoxError>("nothing was kept".into()),
    );
    let mut service = IdempotencyLayer::new(memory())
        .unscoped()
        .key(|m: &Message| m.key.into())
        .codec(codec)
        .layer(service_fn(slow(&calls, SECOND)));
    assert_eq!(call(&mut service, message("a")).await.unwrap(), "call 1");
    let error = ours(call(&mut service, message("a")).await.unwrap_err());
    assert!(
        matches!(error, Error::AnswerNotKept { why: Why::NotKept }),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn values_that_are_not_ours_are_a_typed_error_and_stay_as_they_are() {
    let newer = Bytes::from_static(b"si\x02whatever comes");
    for (value, expected) in [
        (Bytes::from_static(b"{\"json\":1}"), RecordError::Foreign),
        (newer, RecordError::Newer { version: 2 }),
        (Bytes::from_static(b"si\x01P short"), RecordError::Torn),
        (Bytes::new(), RecordError::Foreign),
    ] {
        let (store, calls) = (memory(), Arc::default());
        let key = RecordKey::new(None, &Key::from("a"));
        store.claim(&key, value.clone(), 60 * SECOND).await.unwrap();
        let mut service = layer(store.clone())
            .abandoned(Abandoned::Reexecute)
            .layer(service_fn(slow(&calls, SECOND)));
        let error = ours(call(&mut service, message("a")).await.unwrap_err());
        assert!(
            matches!(error, Error::Record(found) if found == expected),
            "{error:?}"
        );
        assert_eq!(
            store.claim(&key, Bytes::new(), SECOND).await.unwrap(),
            Some(value)
        );
        assert_eq!(calls.load(SeqCst), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_memory_store_refuses_new_calls_and_keeps_every_record() {
    let (store, calls) = (MemoryStore::with_capacity(2), Arc::default());
    let mut service = layer(store.clone())
        .keep_for(60 * SECOND)
        .layer(service_fn(slow(&calls, SECOND)));
    for key in ["a", "b"] {
        call(&mut service, message(key)).await.unwrap();
    }
    let error = ours(call(&mut service, message("c")).await.unwrap_err());
    assert!(
        matches!(error, Error::Store(StoreError::Full { capacity: 2 })),
        "{error}"
    );
    assert_eq!(call(&mut service, message("a")).await.unwrap(), "call 1");
    assert_eq!(calls.load(SeqCst), 2);
    advance(60 * SECOND).await;
    assert_eq!(
        call(&mut service, message("c")).await.unwrap(),
        "call 3",
        "what expired made room"
    );
    assert_eq!(store.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_lost_renewal_is_tried_again_well_within_the_lease() {
    let (store, calls) = (Troubled::default(), Arc::default());
    let service = layer(store.clone())
        .abandoned(Abandoned::Reexecute)
        .layer(service_fn(slow(&calls, 20 * SECOND)));
    store.plan(On::Renew, Trouble::CommandLost);
    store.plan(On::Renew, Trouble::ReplyLost);
    let first = spawn(service.clone(), message("a"));
    sleep(10 * SECOND).await;
    let error = ours(spawn(service, message("a")).await.unwrap().unwrap_err());
    assert!(matches!(error, Error::InFlight { .. }), "{error}");
    assert_eq!(first.await.unwrap().unwrap(), "call 1");
    assert_eq!(calls.load(SeqCst), 1);
}
