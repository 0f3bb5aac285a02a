//! One suite for every store: what a store is asked for, and one decision everywhere.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "support/comparing.rs"]
mod comparing;
mod support;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use proptest::prelude::*;
use seawall_idempotency::{
    Abandoned, BoxError, Fingerprint, InFlight, Key, MemoryStore, RecordKey, RedisStore, Store,
    record::{Answer, Owner, Pending, Swap, Swapped},
};
use seawall_redis::{Client, Source};
use support::{Message, call, layer, message, spawn};
use test_support::{Redis, RedisCluster};
use tower::{Layer, service_fn};

const KEEP: Duration = Duration::from_secs(60);

/// A thousand calls at once on a busy machine outlast the usual deadline.
fn patient<S: Source>(client: Client<S>) -> RedisStore<S> {
    RedisStore::from(client.deadline(KEEP))
}

/// Neither do they end before the client's own patience does.
async fn connect(url: &str) -> redis::aio::MultiplexedConnection {
    let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(KEEP));
    let client = redis::Client::open(url).unwrap();
    let connection = client.get_multiplexed_async_connection_with_config(&config);
    connection.await.unwrap()
}

fn key(key: &str) -> RecordKey {
    RecordKey::new(None, &Key::from(key))
}

fn pending(payload: &str) -> Pending {
    Pending::first(Fingerprint::of([payload]), Duration::from_secs(3), KEEP)
}

fn whole(answer: &'static [u8]) -> Answer {
    Answer::Whole(Bytes::from_static(answer))
}

async fn a_claim_is_written_once_and_found_afterwards(store: impl Store) {
    let (one, two) = (pending("").encode(), pending("").encode());
    assert_eq!(
        store.claim(&key("a"), one.clone(), KEEP).await.unwrap(),
        None
    );
    assert_eq!(
        store.claim(&key("a"), two, KEEP).await.unwrap(),
        Some(one.clone())
    );
    assert_eq!(
        store.claim(&key("a"), one.clone(), KEEP).await.unwrap(),
        Some(one)
    );
    assert_eq!(store.remaining(&key("b")).await.unwrap(), None);
}

async fn every_byte_comes_back_as_it_went(store: impl Store) {
    let every: Bytes = (0..=255).chain([0, 255, 0]).collect::<Vec<u8>>().into();
    assert_eq!(
        store.claim(&key("a"), every.clone(), KEEP).await.unwrap(),
        None
    );
    let mine = pending("");
    let swap = Swap::take(every.clone(), &mine);
    assert_eq!(
        store.swap(&key("a"), &swap).await.unwrap(),
        Swapped::Applied
    );
    let swap = Swap::complete(&[mine], Answer::Whole(every));
    assert_eq!(
        store.swap(&key("a"), &swap).await.unwrap(),
        Swapped::Applied
    );
    let found = store.claim(&key("a"), Bytes::new(), KEEP).await.unwrap();
    assert_eq!(found.as_ref(), Some(swap.to()));
}

async fn a_swap_says_applied_already_and_lost(store: impl Store) {
    let (one, two) = (pending("1"), pending("2"));
    let renew = Swap::renew(&one);
    assert_eq!(
        store.swap(&key("a"), &renew).await.unwrap(),
        Swapped::Lost(None)
    );
    store.claim(&key("a"), one.encode(), KEEP).await.unwrap();
    assert_eq!(
        store.swap(&key("a"), &renew).await.unwrap(),
        Swapped::Applied
    );
    assert_eq!(
        store.swap(&key("a"), &renew).await.unwrap(),
        Swapped::Already
    );
    let other = Swap::complete(&[two], whole(b"2"));
    let lost = Swapped::Lost(Some(one.beat().encode()));
    assert_eq!(store.swap(&key("a"), &other).await.unwrap(), lost);
    // Either form of the claim will do.
    let done = Swap::complete(&[one.clone(), one.beat()], whole(b"1"));
    assert_eq!(
        store.swap(&key("a"), &done).await.unwrap(),
        Swapped::Applied
    );
    assert_eq!(
        store.swap(&key("a"), &done).await.unwrap(),
        Swapped::Already
    );
    // And so will nothing at all.
    assert_eq!(
        store.swap(&key("b"), &done).await.unwrap(),
        Swapped::Applied
    );
}

async fn a_swap_begins_the_retention_again(store: impl Store) {
    let brief = Pending {
        retention_ms: 5_000,
        ..pending("")
    };
    store
        .claim(&key("a"), brief.encode(), brief.retention())
        .await
        .unwrap();
    let left = store.remaining(&key("a")).await.unwrap().unwrap();
    assert!(
        left <= brief.retention() && left > brief.retention() / 2,
        "{left:?}"
    );
    let swap = Swap::take(brief.encode(), &pending(""));
    store.swap(&key("a"), &swap).await.unwrap();
    let left = store.remaining(&key("a")).await.unwrap().unwrap();
    assert!(left <= KEEP && left > KEEP / 2, "{left:?}");
}

async fn what_is_over_is_gone(store: impl Store) {
    let brief = Duration::from_millis(5);
    store
        .claim(&key("a"), pending("").encode(), brief)
        .await
        .unwrap();
    while store.remaining(&key("a")).await.unwrap().is_some() {
        tokio::task::yield_now().await;
    }
    let next = pending("").encode();
    assert_eq!(store.claim(&key("a"), next, KEEP).await.unwrap(), None);
}

async fn keys_do_not_meet(store: impl Store) {
    for name in ["a", "b", "", "a\0b", "{a}"] {
        let claimed = store
            .claim(&key(name), pending(name).encode(), KEEP)
            .await
            .unwrap();
        assert_eq!(claimed, None, "{name:?}");
    }
}

async fn of_many_at_once_one_is_written(store: impl Store) {
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let store = store.clone();
        tasks.spawn(async move { store.claim(&key("a"), pending("").encode(), KEEP).await });
    }
    let written = tasks
        .join_all()
        .await
        .into_iter()
        .filter(|found| matches!(found, Ok(None)));
    assert_eq!(written.count(), 1);
}

async fn a_thousand_duplicates_execute_once(store: impl Store) {
    let calls = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let count = Arc::clone(&calls);
    // A machine that is busy with a thousand calls may let the one wait that executes.
    let service = layer(store)
        .lease(KEEP)
        .in_flight(InFlight::Wait(KEEP))
        .layer(service_fn(move |_: Message| {
            let call = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            async move {
                tokio::task::yield_now().await;
                Ok::<_, BoxError>(call.to_string())
            }
        }));
    let all: Vec<_> = (0..1_000)
        .map(|_| spawn(service.clone(), message("a")))
        .collect();
    for one in all {
        assert_eq!(one.await.unwrap().unwrap(), "0");
    }
    assert_eq!(calls.load(std::sync::atomic::Ordering::SeqCst), 1);
}

async fn a_dead_owner_is_taken_over_once(store: impl Store) {
    let dead = Pending::first(Fingerprint::of([""]), Duration::from_millis(50), KEEP);
    store.claim(&key("a"), dead.encode(), KEEP).await.unwrap();
    let service = layer(store)
        .abandoned(Abandoned::Reexecute)
        .in_flight(InFlight::Wait(KEEP))
        .layer(service_fn(|m: Message| async move {
            Ok::<_, BoxError>(m.attempt.to_string())
        }));
    let all: Vec<_> = (0..20)
        .map(|_| spawn(service.clone(), message("a")))
        .collect();
    for one in all {
        assert_eq!(one.await.unwrap().unwrap(), "2");
    }
}

async fn released_attempts_go_on(store: impl Store) {
    let mut service = layer(store).layer(service_fn(|m: Message| async move {
        Ok::<_, BoxError>(if m.attempt < 3 { "undone" } else { "third" }.to_owned())
    }));
    for answer in ["undone", "undone", "third", "third"] {
        assert_eq!(call(&mut service, message("a")).await.unwrap(), answer);
    }
}

macro_rules! suite {
    ($($test:ident)*) => {
        mod in_memory {
            $(#[tokio::test]
            async fn $test() {
                super::$test(super::MemoryStore::with_capacity(1_000)).await;
            })*
        }
        mod on_redis {
            $(#[tokio::test]
            async fn $test() {
                let server = super::Redis::start().await;
                let connection = super::connect(&server.url()).await;
                super::$test(super::patient(super::Client::shared(connection))).await;
            })*
        }
        mod on_a_pool {
            $(#[tokio::test]
            async fn $test() {
                let server = super::Redis::start().await;
                let client = redis::Client::open(server.url()).unwrap();
                let pool = bb8::Pool::builder().max_size(4).build(client).await.unwrap();
                super::$test(super::patient(super::Client::pooled(pool))).await;
            })*
        }
        /// One cluster for all, in which each test has names of its own.
        #[tokio::test]
        async fn on_a_cluster() {
            let cluster = RedisCluster::start().await;
            let urls: Vec<_> = cluster.nodes().iter().map(Redis::url).collect();
            let client = redis::cluster::ClusterClient::builder(urls);
            let client = client.response_timeout(KEEP).build().unwrap();
            let connection = client.get_async_connection().await.unwrap();
            let store = patient(Client::shared(connection));
            $($test(store.clone().prefix(concat!(stringify!($test), ":"))).await;)*
            for node in cluster.nodes() {
                let keys: u64 = node.ask(&["DBSIZE"]).await.parse().unwrap();
                assert!(keys > 0, "records lie everywhere");
            }
        }
        mod by_compare_and_set {
            $(#[tokio::test]
            async fn $test() {
                let server = super::comparing::Server::start().await;
                let connection = super::connect(&server.url()).await;
                super::$test(super::patient(super::Client::shared(connection))).await;
            })*
        }
    };
}

suite! {
    a_claim_is_written_once_and_found_afterwards
    every_byte_comes_back_as_it_went
    a_swap_says_applied_already_and_lost
    a_swap_begins_the_retention_again
    what_is_over_is_gone
    keys_do_not_meet
    of_many_at_once_one_is_written
    a_thousand_duplicates_execute_once
    a_dead_owner_is_taken_over_once
    released_attempts_go_on
}

/// On a server that compares and sets by itself, a call takes two `SET`s and its replay one.
#[tokio::test]
async fn a_server_that_compares_and_sets_is_asked_for_no_script() {
    let server = comparing::Server::start().await;
    let client = redis::Client::open(server.url()).unwrap();
    let connection = client.get_multiplexed_async_connection().await.unwrap();
    let mut service = layer(RedisStore::new(connection)).layer(service_fn(|_: Message| async {
        Ok::<_, BoxError>("done".to_owned())
    }));
    for sent in [2, 3] {
        assert_eq!(call(&mut service, message("a")).await.unwrap(), "done");
        let commands: Vec<_> = server.commands().into_iter().collect();
        assert_eq!(commands, [("set".to_owned(), sent)]);
    }
}

/// Where it says nil for a comparison that fails, the script decides.
#[tokio::test]
async fn a_server_that_says_nothing_of_what_it_found_is_asked_again() {
    let server = comparing::Server::start().await;
    server.be_terse();
    let client = redis::Client::open(server.url()).unwrap();
    let connection = client.get_multiplexed_async_connection().await.unwrap();
    let store = patient(Client::shared(connection));
    let (key, mine, other) = (key("a"), pending("mine"), pending("other"));
    store.claim(&key, mine.encode(), KEEP).await.unwrap();
    let lost = store.swap(&key, &Swap::renew(&other)).await.unwrap();
    assert_eq!(lost, Swapped::Lost(Some(mine.encode())));
    let complete = Swap::complete(&[mine], whole(b"done"));
    assert_eq!(store.swap(&key, &complete).await.unwrap(), Swapped::Applied);
    assert_eq!(store.swap(&key, &complete).await.unwrap(), Swapped::Already);
}

/// A step of a trace: what somebody does to one of two keys.
#[derive(Debug, Clone)]
enum Step {
    Claim(u8),
    Renew(u8),
    Complete(u8),
    Release(u8),
    Take(u8, u8),
    Untake(u8, u8),
}

fn step() -> impl Strategy<Value = (bool, Step)> {
    let who = || 0..4_u8;
    let step = prop_oneof![
        who().prop_map(Step::Claim),
        who().prop_map(Step::Renew),
        who().prop_map(Step::Complete),
        who().prop_map(Step::Release),
        (who(), who()).prop_map(|(from, to)| Step::Take(from, to)),
        (who(), who()).prop_map(|(from, to)| Step::Untake(from, to)),
    ];
    (any::<bool>(), step)
}

/// Owner `who`, at heartbeat `who % 2`.
fn owner(who: u8) -> Pending {
    let pending = Pending {
        owner: Owner::from_bytes([who / 2; 24]),
        ..pending("")
    };
    if who.is_multiple_of(2) {
        pending
    } else {
        pending.beat()
    }
}

async fn decide(store: &impl Store, key: &RecordKey, step: &Step) -> String {
    let swap = match *step {
        Step::Claim(who) => {
            let found = store.claim(key, owner(who).encode(), KEEP).await.unwrap();
            return format!("{found:?}");
        }
        Step::Renew(who) => Swap::renew(&owner(who)),
        Step::Complete(who) => Swap::complete(&[owner(who), owner(who).beat()], whole(b"done")),
        Step::Release(who) => Swap::release(&[owner(who)]),
        Step::Take(from, to) => Swap::take(owner(from).encode(), &owner(to).after(1)),
        Step::Untake(from, to) => Swap::untake(owner(from).encode(), &owner(to).after(1)),
    };
    format!("{:?}", store.swap(key, &swap).await.unwrap())
}

#[test]
fn memory_and_redis_decide_alike_on_every_trace() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (_server, redis) = runtime.block_on(async {
        let server = Redis::start().await;
        let client = redis::Client::open(server.url()).unwrap();
        (
            server,
            RedisStore::new(client.get_multiplexed_async_connection().await.unwrap()),
        )
    });
    let trace = std::cell::Cell::new(0_u64);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(100)
    });
    let steps = proptest::collection::vec(step(), 1..40);
    runner
        .run(&steps, |steps| {
            trace.set(trace.get() + 1);
            runtime.block_on(async {
                let memory = MemoryStore::with_capacity(10);
                for (other, step) in steps {
                    let key = key(&format!("{} {other}", trace.get()));
                    let decided = decide(&memory, &key, &step).await;
                    prop_assert_eq!(decided, decide(&redis, &key, &step).await);
                }
                Ok(())
            })
        })
        .unwrap();
}
