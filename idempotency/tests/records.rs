//! Records that are looked up, expired and completed by hand.
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
    Abandoned, BoxError, Concluded, Error, Expired, Fingerprint, Keep, Key, LeaseState,
    MemoryStore, NotARecordKey, RecordKey, State, Store,
    record::{Pending, Swap, Why},
};
use support::{Message, On, Trouble, Troubled, call, layer, message, ours, settle, spawn};
use tokio::{
    sync::Notify,
    time::{advance, sleep},
};
use tower::{Layer, service_fn};

const SECOND: Duration = Duration::from_secs(1);
const LEASE: Duration = Duration::from_secs(3);

fn key() -> RecordKey {
    RecordKey::new(None, &Key::from("a"))
}

fn counted(
    calls: &Arc<AtomicU64>,
) -> impl Fn(Message) -> std::future::Ready<Result<String, BoxError>> + Clone + Send + 'static {
    let calls = Arc::clone(calls);
    move |m: Message| {
        calls.fetch_add(1, SeqCst);
        std::future::ready(Ok(format!("attempt {}", m.attempt)))
    }
}

/// A claim whose process is gone, as attempt `attempt`.
async fn claimed(store: &impl Store, attempt: u64) -> Pending {
    let first = Pending::first(Fingerprint::of([""]), LEASE, 60 * SECOND);
    let dead = first.after(attempt - 1);
    let found = store.claim(&key(), dead.encode(), dead.retention()).await;
    assert_eq!(found.unwrap(), None);
    dead
}

#[tokio::test(start_paused = true)]
async fn each_state_of_a_call_is_seen() {
    let store = Troubled::default();
    let layer = layer(store.clone()).keep_for(60 * SECOND);
    let records = layer.records();
    assert_eq!(records.look_up(&key()).await.unwrap(), None);

    let dead = claimed(&store, 4).await;
    advance(SECOND).await;
    let seen = records.look_up(&key()).await.unwrap().unwrap();
    assert_eq!((seen.attempt, seen.remaining), (4, 59 * SECOND));
    assert_eq!(seen.state, State::InFlight { left: 2 * SECOND });

    advance(4 * SECOND).await;
    let seen = records.look_up(&key()).await.unwrap().unwrap();
    let silent_for = 5 * SECOND;
    assert_eq!(seen.state, State::Abandoned { silent_for });

    // Who was cut off lately cannot tell.
    store.unsteady();
    let seen = records.look_up(&key()).await.unwrap().unwrap();
    assert_eq!(seen.state, State::InFlight { left: LEASE });

    let release = Swap::release(&[dead]);
    store.swap(&key(), &release).await.unwrap();
    let seen = records.look_up(&key()).await.unwrap().unwrap();
    assert_eq!((seen.attempt, &seen.state), (4, &State::Released));

    let calls = Arc::default();
    let mut service = layer.layer(service_fn(counted(&calls)));
    call(&mut service, message("a")).await.unwrap();
    let before = store.claims();
    let seen = records.look_up(&key()).await.unwrap().unwrap();
    let answer = Ok(Bytes::from_static(b"attempt 5"));
    assert_eq!((seen.attempt, seen.remaining), (5, 60 * SECOND));
    assert_eq!(seen.state, State::Completed { answer });
    assert_eq!(store.claims(), before, "looking claims nothing");
}

#[tokio::test(start_paused = true)]
async fn what_is_handled_is_executed_again_once_it_is_expired_and_attempts_go_on() {
    let calls = Arc::default();
    let layer = layer(MemoryStore::with_capacity(10));
    let records = layer.records();
    let mut service = layer.layer(service_fn(counted(&calls)));
    for attempt in 1..=3 {
        let answer = format!("attempt {attempt}");
        assert_eq!(call(&mut service, message("a")).await.unwrap(), answer);
        assert_eq!(call(&mut service, message("a")).await.unwrap(), answer);
        let expired = Expired::Released { attempt };
        assert_eq!(records.expire(&key()).await.unwrap(), expired);
        assert_eq!(records.expire(&key()).await.unwrap(), expired, "twice");
    }
    assert_eq!(calls.load(SeqCst), 3);
    let other = RecordKey::new(None, &Key::from("b"));
    assert_eq!(records.expire(&other).await.unwrap(), Expired::Nothing);
}

#[tokio::test(start_paused = true)]
async fn a_claim_is_not_expired_while_its_owner_may_live() {
    let store = Troubled::default();
    let (layer, calls) = (layer(store.clone()), Arc::default());
    let records = layer.records();
    claimed(&store, 1).await;
    let refused = |left| Expired::InFlight { attempt: 1, left };
    assert_eq!(records.expire(&key()).await.unwrap(), refused(LEASE));
    advance(LEASE).await;
    store.unsteady();
    assert_eq!(records.expire(&key()).await.unwrap(), refused(LEASE));
    advance(LEASE).await;
    let expired = Expired::Released { attempt: 1 };
    assert_eq!(records.expire(&key()).await.unwrap(), expired);
    // Although the layer does not take abandoned calls over by itself.
    let mut service = layer.layer(service_fn(counted(&calls)));
    assert_eq!(call(&mut service, message("a")).await.unwrap(), "attempt 2");
}

#[tokio::test(start_paused = true)]
async fn a_running_call_that_is_revoked_learns_of_it_and_its_answer_does_not_count() {
    let layer = layer(MemoryStore::with_capacity(10)).stamp(|m: &mut Message, claim| {
        m.attempt = claim.fence().0;
        LEASES.lock().unwrap().push(claim.lease().clone());
    });
    static LEASES: std::sync::Mutex<Vec<seawall_idempotency::Lease>> =
        std::sync::Mutex::new(Vec::new());
    let records = layer.records();
    let go = Arc::new(Notify::new());
    let gone = Arc::clone(&go);
    let service = layer.layer(service_fn(move |m: Message| {
        let gone = Arc::clone(&gone);
        async move {
            if m.attempt == 1 {
                gone.notified().await;
            }
            Ok::<_, BoxError>(format!("attempt {}", m.attempt))
        }
    }));
    let first = spawn(service.clone(), message("a"));
    sleep(10 * SECOND).await;
    let left = 2 * SECOND;
    let running = records.expire(&key()).await.unwrap();
    assert_eq!(running, Expired::InFlight { attempt: 1, left });
    let revoked = records.revoke(&key()).await.unwrap();
    assert_eq!(revoked, Expired::Released { attempt: 1 });
    let lease = LEASES.lock().unwrap()[0].clone();
    assert_eq!(lease.state(), LeaseState::Held, "until its next heartbeat");
    sleep(SECOND).await;
    assert_eq!(lease.state(), LeaseState::Lost);
    go.notify_one();
    let error = ours(first.await.unwrap().unwrap_err());
    assert!(matches!(error, Error::Superseded { attempt: 1 }), "{error}");
    let again = call(&mut service.clone(), message("a")).await.unwrap();
    assert_eq!(again, "attempt 2");
}

#[tokio::test(start_paused = true)]
async fn what_happens_between_a_look_and_a_change_is_not_lost() {
    // The owner completes while the operator's order is under way: it arrives late, and changes nothing.
    let store = Troubled::default();
    let records = layer(store.clone()).records();
    let dead = claimed(&store, 1).await;
    advance(LEASE).await;
    store.plan(On::Release, Trouble::Late);
    store.plan(On::Release, Trouble::Late);
    let error = records.expire(&key()).await.unwrap_err();
    assert!(matches!(error, Error::Store(_)), "{error:?}");
    let complete = Swap::complete(
        &[dead],
        seawall_idempotency::record::Answer::Whole("x".into()),
    );
    store.swap(&key(), &complete).await.unwrap();
    assert_eq!(store.deliver().await, 2);
    let seen = records.look_up(&key()).await.unwrap().unwrap();
    let answer = Ok(Bytes::from_static(b"x"));
    assert_eq!(seen.state, State::Completed { answer });
}

#[tokio::test(start_paused = true)]
async fn an_abandoned_call_is_completed_by_hand_and_its_late_owner_gets_that_answer() {
    let store = MemoryStore::with_capacity(10);
    let cut_off = Troubled::over(store.clone());
    let go = Arc::new(Notify::new());
    let gone = Arc::clone(&go);
    let owner = layer(cut_off.clone()).layer(service_fn(move |_: Message| {
        let gone = Arc::clone(&gone);
        async move {
            gone.notified().await;
            Ok::<_, BoxError>("late".to_owned())
        }
    }));
    let owner = spawn(owner, message("a"));
    settle().await;
    cut_off.down(true);
    let layer = layer(store);
    let records = layer.records();
    let by_hand = || Keep::Answer(Bytes::from_static(b"by hand"));
    let refused = records.complete(&key(), by_hand()).await.unwrap();
    let left = LEASE;
    assert_eq!(refused, Concluded::InFlight { attempt: 1, left });
    sleep(LEASE).await;
    let stored = records.complete(&key(), by_hand()).await.unwrap();
    assert_eq!(stored, Concluded::Stored { attempt: 1 });
    let again = records.complete(&key(), by_hand()).await.unwrap();
    assert_eq!(again, Concluded::Already { attempt: 1 });

    cut_off.down(false);
    go.notify_one();
    assert_eq!(owner.await.unwrap().unwrap(), "by hand");
    let calls = Arc::default();
    let mut service = layer
        .abandoned(Abandoned::Reexecute)
        .layer(service_fn(counted(&calls)));
    assert_eq!(call(&mut service, message("a")).await.unwrap(), "by hand");
    assert_eq!(calls.load(SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn an_abandoned_call_is_buried_or_given_up_by_hand() {
    for keep in [Keep::Tombstone(Why::NotKept), Keep::Undone] {
        let (store, calls) = (MemoryStore::with_capacity(10), Arc::default());
        let layer = layer(store.clone());
        let records = layer.records();
        assert_eq!(
            records.complete(&key(), keep.clone()).await.unwrap(),
            Concluded::Nothing
        );
        claimed(&store, 2).await;
        advance(LEASE).await;
        let stored = records.complete(&key(), keep.clone()).await.unwrap();
        assert_eq!(stored, Concluded::Stored { attempt: 2 });
        let mut service = layer.layer(service_fn(counted(&calls)));
        let answer = call(&mut service, message("a")).await;
        if keep == Keep::Undone {
            assert_eq!(answer.unwrap(), "attempt 3");
        } else {
            let error = ours(answer.unwrap_err());
            let why = Why::NotKept;
            assert!(matches!(error, Error::AnswerNotKept { why: found } if found == why));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_not_a_record_is_a_typed_error_and_stays_as_it_is() {
    let store = MemoryStore::with_capacity(10);
    let records = layer(store.clone()).records();
    let foreign = Bytes::from_static(b"somebody else's");
    store
        .claim(&key(), foreign.clone(), 60 * SECOND)
        .await
        .unwrap();
    let nothing = Keep::Undone;
    for error in [
        records.look_up(&key()).await.unwrap_err(),
        records.expire(&key()).await.unwrap_err(),
        records.revoke(&key()).await.unwrap_err(),
        records.complete(&key(), nothing).await.unwrap_err(),
    ] {
        assert!(matches!(error, Error::Record(_)), "{error:?}");
    }
    let found = store.claim(&key(), Bytes::new(), SECOND).await.unwrap();
    assert_eq!(found, Some(foreign));
}

#[test]
fn the_key_of_a_record_is_read_off_a_log_line() {
    let key = key();
    assert_eq!(key.to_string().parse(), Ok(key));
    for text in [
        "",
        "3f9a",
        &"g".repeat(64),
        &"é".repeat(32),
        &"0".repeat(65),
    ] {
        assert_eq!(text.parse::<RecordKey>(), Err(NotARecordKey), "{text}");
    }
}

#[cfg(feature = "http")]
mod http {
    use ::http::{Request, Response, StatusCode};
    use http_body_util::{BodyExt, Full};
    use seawall_idempotency::IdempotencyLayer;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_answer_of_http_is_seen_and_written_by_hand() {
        let store = MemoryStore::with_capacity(10);
        let layer = IdempotencyLayer::http(store.clone()).scope(::http::header::AUTHORIZATION);
        let records = layer.records();
        let mut service = layer.layer(service_fn(async |_: Request<Full<Bytes>>| {
            let mut response = Response::new(Full::<Bytes>::from("tea"));
            *response.status_mut() = StatusCode::CREATED;
            Ok::<_, BoxError>(response)
        }));
        let post = |key: &str| {
            Request::post("/")
                .header("authorization", "Bearer t")
                .header("idempotency-key", format!("\"{key}\""))
                .body(Full::<Bytes>::default())
                .unwrap()
        };
        let place = |key: &str| RecordKey::new(Some(&Key::of(["Bearer t"])), &Key::from(key));
        call(&mut service, post("a")).await.unwrap();
        let seen = records.look_up(&place("a")).await.unwrap().unwrap();
        let seen = seen.response().unwrap().unwrap();
        assert_eq!(
            (seen.status(), &seen.body()[..]),
            (StatusCode::CREATED, &b"tea"[..])
        );

        // Another program began "b" and died: what it asked for is in its claim.
        let (parts, _) = post("b").into_parts();
        let asked = Fingerprint::of([parts.method.as_str(), parts.uri.path(), "", ""]);
        let dead = Pending::first(asked, LEASE, 60 * SECOND);
        let (b, kept) = (place("b"), dead.retention());
        store.claim(&b, dead.encode(), kept).await.unwrap();
        advance(LEASE).await;
        let by_hand = Response::builder()
            .status(202)
            .body("coffee".into())
            .unwrap();
        let stored = records.complete(&b, Keep::response(by_hand)).await;
        assert_eq!(stored.unwrap(), Concluded::Stored { attempt: 1 });
        let replay = call(&mut service, post("b")).await.unwrap();
        assert_eq!(replay.status(), StatusCode::ACCEPTED);
        assert_eq!(replay.headers()["idempotency-replayed"], "true");
        assert_eq!(
            replay.into_body().collect().await.unwrap().to_bytes(),
            "coffee"
        );
    }
}
