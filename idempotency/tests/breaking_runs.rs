//! Runs that break a simpler protocol, each by its name.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use seawall_idempotency::{
    Abandoned, BoxError, Drain, Error, Fingerprint, InFlight, Key, Lease, LeaseState, MemoryStore,
    RecordKey, Store,
    record::{self, Answer, Found, Pending, Record, Standing, Swap, Swapped},
};
use support::{Message, On, Trouble, Troubled, call, layer, message, ours, settle, spawn};
use tokio::{
    sync::Notify,
    time::{advance, sleep},
};
use tower::{Layer, service_fn};

const SECOND: Duration = Duration::from_secs(1);
const LEASE: Duration = Duration::from_secs(3);

fn key(key: &str) -> RecordKey {
    RecordKey::new(None, &Key::from(key))
}

async fn look(store: &impl Store, name: &str) -> Option<Record> {
    // A claim that finds something changes nothing; a swap from bytes nobody has tells the same.
    let probe = Swap::take(Bytes::from_static(b"nothing"), &pending("probe"));
    match store.swap(&key(name), &probe).await.unwrap() {
        Swapped::Lost(found) => found.map(|bytes| Record::decode(bytes).unwrap()),
        other => unreachable!("{other:?}"),
    }
}

fn pending(payload: &str) -> Pending {
    Pending::first(Fingerprint::of([payload]), LEASE, 60 * SECOND)
}

/// Counts its calls and answers with the attempt.
fn counted(
    calls: &Arc<AtomicU64>,
) -> impl Fn(Message) -> std::future::Ready<Result<String, BoxError>> + Clone + Send + 'static {
    let calls = Arc::clone(calls);
    move |m: Message| {
        calls.fetch_add(1, SeqCst);
        std::future::ready(Ok(format!("attempt {}", m.attempt)))
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_reply_to_begin_is_sent_again_and_finds_its_own_bytes() {
    let store = Troubled::default();
    let calls = Arc::default();
    let mut service = layer(store.clone()).layer(service_fn(counted(&calls)));
    store.plan(On::Claim, Trouble::ReplyLost);
    assert_eq!(call(&mut service, message("a")).await.unwrap(), "attempt 1");
    assert_eq!(call(&mut service, message("a")).await.unwrap(), "attempt 1");
    assert_eq!(calls.load(SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_late_copy_of_begin_leaves_no_record_that_nobody_runs() {
    for first in [Trouble::Late, Trouble::ReplyLost, Trouble::CommandLost] {
        let store = Troubled::default();
        let calls = Arc::default();
        let layer = layer(store.clone());
        let mut service = layer.layer(service_fn(counted(&calls)));
        store.plan(On::Claim, first.clone());
        store.plan(On::Claim, Trouble::Late);
        let error = ours(call(&mut service, message("a")).await.unwrap_err());
        assert!(matches!(error, Error::Store(_)), "{error}");
        assert_eq!(layer.tasks().drain(60 * SECOND).await, Drain::Finished);
        // The copies come in long after everybody stopped caring.
        store.deliver().await;
        assert_eq!(
            look(&store.inner, "a").await,
            Some(Record::Released { attempt: 1 })
        );
        assert_eq!(
            call(&mut service, message("a")).await.unwrap(),
            "attempt 2",
            "{first:?}"
        );
        assert_eq!(calls.load(SeqCst), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn the_release_of_an_unknown_begin_goes_on_until_its_fate_is_known() {
    let store = Troubled::default();
    let calls = Arc::default();
    let layer = layer(store.clone());
    let mut service = layer.layer(service_fn(counted(&calls)));
    store.plan(On::Claim, Trouble::ReplyLost);
    store.plan(On::Claim, Trouble::ReplyLost);
    for _ in 0..5 {
        store.plan(On::Release, Trouble::CommandLost);
    }
    store.plan(On::Release, Trouble::ReplyLost);
    call(&mut service, message("a")).await.unwrap_err();
    assert!(matches!(
        look(&store.inner, "a").await,
        Some(Record::Pending(_))
    ));
    assert_eq!(layer.tasks().drain(60 * SECOND).await, Drain::Finished);
    assert_eq!(
        look(&store.inner, "a").await,
        Some(Record::Released { attempt: 1 })
    );
}

#[tokio::test(start_paused = true)]
async fn a_late_copy_of_a_takeover_leaves_no_record_that_nobody_runs() {
    for first in [Trouble::Late, Trouble::ReplyLost, Trouble::CommandLost] {
        let store = Troubled::default();
        let calls = Arc::default();
        let layer = layer(store.clone()).abandoned(Abandoned::Reexecute);
        let mut service = layer.layer(service_fn(counted(&calls)));
        let dead = pending("");
        store
            .inner
            .claim(&key("a"), dead.encode(), dead.retention())
            .await
            .unwrap();
        advance(LEASE).await;
        store.plan(On::Swap, first.clone());
        store.plan(On::Swap, Trouble::Late);
        let error = ours(call(&mut service, message("a")).await.unwrap_err());
        assert!(matches!(error, Error::Store(_)), "{error}");
        assert_eq!(layer.tasks().drain(60 * SECOND).await, Drain::Finished);
        store.deliver().await;
        assert_eq!(
            look(&store.inner, "a").await,
            Some(Record::Released { attempt: 2 })
        );
        assert_eq!(
            call(&mut service, message("a")).await.unwrap(),
            "attempt 3",
            "{first:?}"
        );
        assert_eq!(calls.load(SeqCst), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_reply_to_a_takeover_finds_its_own_bytes() {
    let store = Troubled::default();
    let calls = Arc::default();
    let mut service = layer(store.clone())
        .abandoned(Abandoned::Reexecute)
        .layer(service_fn(counted(&calls)));
    let dead = pending("");
    store
        .inner
        .claim(&key("a"), dead.encode(), dead.retention())
        .await
        .unwrap();
    advance(LEASE).await;
    store.plan(On::Swap, Trouble::ReplyLost);
    assert_eq!(call(&mut service, message("a")).await.unwrap(), "attempt 2");
    assert_eq!(calls.load(SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn the_fingerprint_is_compared_first_in_every_state() {
    let calls = Arc::default();
    let mismatch = async |store: &MemoryStore| {
        let mut service = layer(store.clone())
            .abandoned(Abandoned::Reexecute)
            .in_flight(InFlight::Wait(60 * SECOND))
            .layer(service_fn(counted(&calls)));
        let other = Message {
            payload: "other",
            ..message("a")
        };
        let error = ours(call(&mut service, other).await.unwrap_err());
        assert!(matches!(error, Error::Mismatch), "{error}");
    };
    let store = MemoryStore::with_capacity(10);
    let mine = pending("mine");
    store
        .claim(&key("a"), mine.encode(), mine.retention())
        .await
        .unwrap();
    mismatch(&store).await; // in flight: it does not wait
    advance(LEASE).await;
    mismatch(&store).await; // abandoned: it does not take over
    let done = Swap::complete(&[mine], Answer::Whole(Bytes::new()));
    assert_eq!(
        store.swap(&key("a"), &done).await.unwrap(),
        Swapped::Applied
    );
    mismatch(&store).await; // completed: it is not given the answer
    assert_eq!(calls.load(SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn a_deploy_that_keeps_records_longer_does_not_make_fresh_claims_look_old() {
    let store = MemoryStore::with_capacity(10);
    let running = Arc::new(Notify::new());
    let go = Arc::clone(&running);
    let before = layer(store.clone()).lease(SECOND / 2).keep_for(SECOND);
    let before = before.layer(service_fn(move |_: Message| {
        let go = Arc::clone(&go);
        async move {
            go.notified().await;
            Ok::<_, BoxError>("before".to_owned())
        }
    }));
    let first = spawn(before, message("a"));
    settle().await;

    let calls = Arc::default();
    let after = layer(store)
        .keep_for(3 * SECOND)
        .lease(SECOND / 2)
        .abandoned(Abandoned::Reexecute);
    let mut after = after.layer(service_fn(counted(&calls)));
    let error = ours(call(&mut after, message("a")).await.unwrap_err());
    assert!(matches!(error, Error::InFlight { .. }), "{error}");
    running.notify_one();
    assert_eq!(first.await.unwrap().unwrap(), "before");
    assert_eq!(calls.load(SeqCst), 0);
}

#[test]
fn age_counts_from_the_retention_in_the_record_and_is_never_negative() {
    let pending = pending("");
    assert_eq!(pending.age(59 * SECOND), SECOND);
    assert_eq!(
        pending.age(61 * SECOND),
        Duration::ZERO,
        "the store's clock stepped back"
    );
    let steady = Duration::MAX;
    assert_eq!(
        pending.standing(60 * SECOND, steady),
        Standing::Claimed { left: LEASE }
    );
    assert_eq!(pending.standing(57 * SECOND, steady), Standing::Abandoned);
}

#[tokio::test(start_paused = true)]
async fn a_takeover_prepared_before_a_renewal_does_not_match_after_it() {
    let store = MemoryStore::with_capacity(10);
    let slow = pending("");
    let seen = slow.encode();
    store
        .claim(&key("a"), seen.clone(), slow.retention())
        .await
        .unwrap();
    advance(LEASE).await;
    // Another node has seen the lease run out, and is about to take over ...
    let Found::Pending(other) = record::look(&pending(""), seen.clone()).unwrap() else {
        unreachable!()
    };
    let left = store.remaining(&key("a")).await.unwrap().unwrap();
    assert_eq!(other.standing(left, Duration::MAX), Standing::Abandoned);
    // ... when the owner renews its claim.
    assert_eq!(
        store.swap(&key("a"), &Swap::renew(&slow)).await.unwrap(),
        Swapped::Applied
    );
    let take = Swap::take(seen, &pending("").after(1));
    assert!(matches!(
        store.swap(&key("a"), &take).await.unwrap(),
        Swapped::Lost(Some(_))
    ));
}

#[tokio::test(start_paused = true)]
async fn after_an_outage_nothing_is_taken_over_before_a_lease_has_passed() {
    let records = MemoryStore::with_capacity(10);
    let owner = Troubled::over(records.clone());
    let other = Troubled::over(records);
    let calls = Arc::new(AtomicU64::new(0));
    let policy = Abandoned::Reexecute;

    let finish = Arc::new(Notify::new());
    let (finished, count) = (Arc::clone(&finish), Arc::clone(&calls));
    let first = layer(owner.clone())
        .abandoned(policy)
        .layer(service_fn(move |_: Message| {
            let finished = Arc::clone(&finished);
            count.fetch_add(1, SeqCst);
            async move {
                finished.notified().await;
                Ok::<_, BoxError>("first".to_owned())
            }
        }));
    let first = spawn(first, message("a"));
    settle().await;

    // Everybody is cut off for longer than the lease; the handler ends meanwhile.
    owner.down(true);
    other.down(true);
    advance(2 * LEASE).await;
    finish.notify_one();
    settle().await;
    other.down(false);
    let mut second = layer(other.clone())
        .abandoned(policy)
        .layer(service_fn(counted(&calls)));
    let error = ours(call(&mut second, message("a")).await.unwrap_err());
    assert!(
        matches!(error, Error::InFlight { .. }),
        "the record is old, and yet: {error}"
    );

    // The owner comes back within a third of its lease, and its answer is the one.
    owner.down(false);
    sleep(LEASE / 2).await;
    assert_eq!(first.await.unwrap().unwrap(), "first");
    assert_eq!(call(&mut second, message("a")).await.unwrap(), "first");
    assert_eq!(calls.load(SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_stays_away_is_taken_over_once_the_reader_was_steady_for_a_lease() {
    let store = Troubled::default();
    let dead = pending("");
    store
        .claim(&key("a"), dead.encode(), dead.retention())
        .await
        .unwrap();
    advance(2 * LEASE).await;
    store.unsteady();
    let calls = Arc::default();
    let mut service = layer(store.clone())
        .abandoned(Abandoned::Reexecute)
        .in_flight(InFlight::Wait(10 * LEASE))
        .layer(service_fn(counted(&calls)));
    let began = tokio::time::Instant::now();
    assert_eq!(call(&mut service, message("a")).await.unwrap(), "attempt 2");
    assert!(began.elapsed() >= LEASE, "after {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn attempts_go_on_after_a_release_so_a_stalled_first_owner_does_not_pass_the_fence() {
    let store = MemoryStore::with_capacity(10);
    // The first owner stalls before it writes.
    let stalled = pending("");
    store
        .claim(&key("a"), stalled.encode(), stalled.retention())
        .await
        .unwrap();
    advance(LEASE).await;
    // The second takes over, finds nothing to do, and lets go.
    let fence = Mutex::new(0);
    let pass = |attempt: u64| {
        let mut highest = fence.lock().unwrap();
        let passes = attempt >= *highest;
        *highest = attempt.max(*highest);
        passes
    };
    let base = layer(store.clone()).abandoned(Abandoned::Reexecute);
    let mut undone = base.clone().layer(service_fn(|m: Message| async move {
        assert_eq!(m.attempt, 2);
        Ok::<_, BoxError>("undone".to_owned())
    }));
    assert_eq!(call(&mut undone, message("a")).await.unwrap(), "undone");
    // The third writes, as attempt 3 and not as 1 again.
    let calls = Arc::default();
    let mut third = base.layer(service_fn(counted(&calls)));
    assert_eq!(call(&mut third, message("a")).await.unwrap(), "attempt 3");
    assert!(pass(3));
    assert!(
        !pass(stalled.attempt),
        "the stalled owner wakes up and is refused by the resource"
    );
    let late = Swap::complete(&[stalled], Answer::Whole(Bytes::from_static(b"stale")));
    assert!(matches!(
        store.swap(&key("a"), &late).await.unwrap(),
        Swapped::Lost(Some(_))
    ));
}

#[tokio::test(start_paused = true)]
async fn a_stale_owner_can_neither_complete_renew_nor_release() {
    let store = MemoryStore::with_capacity(10);
    let stale = pending("");
    store
        .claim(&key("a"), stale.encode(), stale.retention())
        .await
        .unwrap();
    let next = pending("").after(1);
    let take = Swap::take(stale.encode(), &next);
    assert_eq!(
        store.swap(&key("a"), &take).await.unwrap(),
        Swapped::Applied
    );
    let held = [stale.clone(), stale.beat()];
    for swap in [
        Swap::complete(&held, Answer::Whole(Bytes::from_static(b"stale"))),
        Swap::renew(&stale),
        Swap::release(&held),
    ] {
        let lost = Swapped::Lost(Some(next.encode()));
        assert_eq!(store.swap(&key("a"), &swap).await.unwrap(), lost);
    }
    assert_eq!(look(&store, "a").await, Some(Record::Pending(next)));
}

#[tokio::test(start_paused = true)]
async fn completion_says_applied_already_applied_or_lost() {
    let store = MemoryStore::with_capacity(10);
    let mine = pending("");
    store
        .claim(&key("a"), mine.encode(), mine.retention())
        .await
        .unwrap();
    let done = Swap::complete(
        std::slice::from_ref(&mine),
        Answer::Whole(Bytes::from_static(b"1")),
    );
    assert_eq!(
        store.swap(&key("a"), &done).await.unwrap(),
        Swapped::Applied
    );
    assert_eq!(
        store.swap(&key("a"), &done).await.unwrap(),
        Swapped::Already
    );
    // The same answer of somebody else is somebody else's.
    let other = Swap::complete(&[pending("")], Answer::Whole(Bytes::from_static(b"1")));
    assert!(matches!(
        store.swap(&key("a"), &other).await.unwrap(),
        Swapped::Lost(Some(_))
    ));
}

#[tokio::test(start_paused = true)]
async fn a_lost_reply_to_completion_is_sent_again() {
    for trouble in [Trouble::ReplyLost, Trouble::CommandLost, Trouble::Refused] {
        let store = Troubled::default();
        let calls = Arc::default();
        let layer = layer(store.clone());
        let mut service = layer.layer(service_fn(counted(&calls)));
        store.plan(On::Complete, trouble);
        assert_eq!(call(&mut service, message("a")).await.unwrap(), "attempt 1");
        assert_eq!(layer.tasks().drain(60 * SECOND).await, Drain::Finished);
        assert_eq!(call(&mut service, message("a")).await.unwrap(), "attempt 1");
        assert_eq!(calls.load(SeqCst), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_completion_whose_record_is_gone_stores_the_answer() {
    let store = MemoryStore::with_capacity(10);
    let mut service = layer(store.clone())
        .keep_for(LEASE)
        .layer(service_fn(|_: Message| async {
            Ok::<_, BoxError>("done".to_owned())
        }));
    // A store that lost the record, as after a failover: it was never written there.
    let mine = pending("");
    let done = Swap::complete(&[mine], Answer::Whole(Bytes::from_static(b"done")));
    assert_eq!(
        store.swap(&key("gone"), &done).await.unwrap(),
        Swapped::Applied
    );
    assert!(matches!(
        look(&store, "gone").await,
        Some(Record::Completed(_))
    ));
    assert_eq!(call(&mut service, message("gone")).await.unwrap(), "done");
}

/// An owner that is cut off alone for longer than its lease, while another attempt runs.
async fn cut_off(winner: &'static str) -> Result<String, BoxError> {
    let records = MemoryStore::with_capacity(10);
    let owner = Troubled::over(records.clone());
    let finish = Arc::new(Notify::new());
    let finished = Arc::clone(&finish);
    let first = layer(owner.clone()).layer(service_fn(move |_: Message| {
        let finished = Arc::clone(&finished);
        async move {
            finished.notified().await;
            Ok::<_, BoxError>("stale".to_owned())
        }
    }));
    let first = spawn(first, message("a"));
    settle().await;
    owner.down(true);
    sleep(LEASE + SECOND).await;

    let second = layer(records)
        .abandoned(Abandoned::Reexecute)
        .layer(service_fn(move |m: Message| async move {
            assert_eq!(m.attempt, 2);
            if winner == "running" {
                std::future::pending::<()>().await;
            }
            Ok::<_, BoxError>(winner.to_owned())
        }));
    let second = spawn(second, message("a"));
    settle().await;
    owner.down(false);
    finish.notify_one();
    let first = first.await.unwrap();
    second.abort();
    first
}

#[tokio::test(start_paused = true)]
async fn a_lost_owner_returns_the_winners_answer() {
    assert_eq!(cut_off("winner").await.unwrap(), "winner");
}

#[tokio::test(start_paused = true)]
async fn a_lost_owner_without_a_winner_yet_is_refused_and_never_answers_its_own() {
    let error = ours(cut_off("running").await.unwrap_err());
    assert!(matches!(error, Error::Superseded { attempt: 1 }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_lease_in_doubt_is_signalled_to_the_handler() {
    let records = MemoryStore::with_capacity(10);
    let store = Troubled::over(records.clone());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let leases: Arc<Mutex<Option<Lease>>> = Arc::default();
    let (log, kept) = (Arc::clone(&seen), Arc::clone(&leases));
    let service = layer(store.clone())
        .stamp(move |_: &mut Message, claim| *kept.lock().unwrap() = Some(claim.lease().clone()))
        .layer(service_fn(move |_: Message| {
            let (log, mut lease) = (Arc::clone(&log), leases.lock().unwrap().clone().unwrap());
            async move {
                log.lock().unwrap().push(lease.state());
                let doubt = lease.in_doubt().await;
                log.lock().unwrap().push(doubt);
                sleep(2 * SECOND).await;
                log.lock().unwrap().push(lease.state());
                lease.lost().await;
                log.lock().unwrap().push(lease.state());
                Ok::<_, BoxError>("stale".to_owned())
            }
        }));
    let first = spawn(service, message("a"));
    settle().await;

    store.plan(On::Renew, Trouble::Refused); // at a third of the lease, and once
    sleep(4 * SECOND).await;
    // Somebody takes over, by whatever right.
    let Some(Record::Pending(current)) = look(&records, "a").await else {
        unreachable!()
    };
    let take = Swap::take(current.encode(), &pending("").after(1));
    assert_eq!(
        records.swap(&key("a"), &take).await.unwrap(),
        Swapped::Applied
    );
    let error = ours(first.await.unwrap().unwrap_err());
    assert!(matches!(error, Error::Superseded { attempt: 1 }));
    assert_eq!(
        *seen.lock().unwrap(),
        [
            LeaseState::Held,
            LeaseState::Doubtful,
            LeaseState::Held,
            LeaseState::Lost
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_hangs_beyond_the_lease_is_signalled_to_the_handler() {
    let store = Troubled::default();
    let leases: Arc<Mutex<Option<Lease>>> = Arc::default();
    let kept = Arc::clone(&leases);
    let mut service = layer(store.clone())
        .stamp(move |_: &mut Message, claim| *kept.lock().unwrap() = Some(claim.lease().clone()))
        .layer(service_fn(move |_: Message| {
            let mut lease = leases.lock().unwrap().clone().unwrap();
            async move {
                let began = tokio::time::Instant::now();
                assert_eq!(lease.in_doubt().await, LeaseState::Doubtful);
                Ok::<_, BoxError>(format!("{} s", began.elapsed().as_secs()))
            }
        }));
    store.plan(On::Renew, Trouble::Hangs);
    assert_eq!(call(&mut service, message("a")).await.unwrap(), "3 s");
}

#[tokio::test(start_paused = true)]
async fn an_owner_does_not_lose_to_its_own_renewal_whose_reply_was_lost() {
    for trouble in [
        Trouble::ReplyLost,
        Trouble::CommandLost,
        Trouble::Late,
        Trouble::Hangs,
    ] {
        let store = Troubled::default();
        let calls = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&calls);
        let mut service = layer(store.clone()).layer(service_fn(move |_: Message| {
            count.fetch_add(1, SeqCst);
            async {
                sleep(SECOND + SECOND / 100).await; // the renewal is on its way
                Ok::<_, BoxError>("done".to_owned())
            }
        }));
        store.plan(On::Renew, trouble.clone());
        assert_eq!(
            call(&mut service, message("a")).await.unwrap(),
            "done",
            "{trouble:?}"
        );
        store.deliver().await;
        assert_eq!(
            call(&mut service, message("a")).await.unwrap(),
            "done",
            "{trouble:?}"
        );
        assert_eq!(calls.load(SeqCst), 1);
    }
}
