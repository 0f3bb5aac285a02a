//! What the documentation claims, measured: each test prints its figure and holds it to its bar.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use seawall_idempotency::{
    Abandoned, BoxError, Drain, Fingerprint, InFlight, Key, MemoryStore, RecordKey, RedisStore,
    Store,
    record::{Answer, Pending, Swap, Swapped},
};
use seawall_redis::{Client, Shared};
use support::{Drops, Message, On, Trouble, Troubled, call, layer, message, spawn};
use test_support::Redis;
use tokio::sync::Notify;
use tower::{Layer, service_fn};

const MINUTE: Duration = Duration::from_secs(60);

fn figure(claim: &str, value: u64) {
    println!("figure idempotency/{claim}: {value}");
}

async fn connect(server: &Redis) -> RedisStore<Shared<MultiplexedConnection>> {
    let client = redis::Client::open(server.url()).unwrap();
    let connection = client.get_multiplexed_async_connection().await.unwrap();
    // Hundreds of calls at once on a busy machine outlast the usual deadline.
    RedisStore::from(Client::shared(connection).deadline(MINUTE))
}

fn name(text: String) -> &'static str {
    text.leak()
}

/// 200 keys, 50 duplicates of each at the same time, over two connections to one server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_execution() {
    const KEYS: u64 = 200;
    let server = Redis::start().await;
    let executed = Arc::new(AtomicU64::new(0));
    let mut services = Vec::new();
    for _ in 0..2 {
        let executed = Arc::clone(&executed);
        let layer = layer(connect(&server).await).in_flight(InFlight::Wait(MINUTE));
        services.push(layer.layer(service_fn(move |m: Message| {
            executed.fetch_add(1, SeqCst);
            async move {
                tokio::task::yield_now().await;
                Ok::<_, BoxError>(m.key.to_owned())
            }
        })));
    }
    let keys: Vec<_> = (0..KEYS).map(|key| name(format!("key {key}"))).collect();
    for keys in keys.chunks(20) {
        let calls: Vec<_> = (0..50)
            .flat_map(|duplicate| keys.iter().map(move |key| (duplicate, *key)))
            .map(|(duplicate, key)| (key, spawn(services[duplicate % 2].clone(), message(key))))
            .collect();
        for (key, answer) in calls {
            assert_eq!(answer.await.unwrap().unwrap(), key);
        }
    }
    let beyond = executed.load(SeqCst) - KEYS;
    figure("one-execution", beyond);
    assert_eq!(beyond, 0);
}

/// Commands that clients sent, as the server counted them. A script's own commands are counted too,
/// and are taken off: each of its calls reads once, and writes once where it swaps.
async fn sent(server: &Redis) -> u64 {
    let stats: BTreeMap<String, u64> = server.commandstats().await;
    let of = |command: &str| stats.get(command).copied().unwrap_or(0);
    let known = ["set", "get", "evalsha", "info", "config|resetstat"];
    let unknown: Vec<_> = stats
        .keys()
        .filter(|name| !known.contains(&name.as_str()))
        .collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    assert_eq!(of("get"), of("evalsha"), "only the script reads");
    let swapped = of("evalsha");
    of("set") - swapped + of("evalsha")
}

async fn commands() -> (u64, u64) {
    const CALLS: u64 = 100;
    let server = Redis::start().await;
    let layer = layer(connect(&server).await);
    let mut service = layer.layer(service_fn(|_: Message| async {
        Ok::<_, BoxError>("done".to_owned())
    }));
    // The server learns the script with the first call after it started.
    call(&mut service, message("warm")).await.unwrap();
    let keys: Vec<_> = (0..CALLS).map(|key| name(format!("key {key}"))).collect();
    let mut counts = [0; 2];
    for count in &mut counts {
        server.reset_stats().await;
        for key in &keys {
            call(&mut service, message(key)).await.unwrap();
        }
        assert_eq!(layer.tasks().drain(MINUTE).await, Drain::Finished);
        *count = sent(&server).await;
    }
    assert_eq!(counts.map(|count| count % CALLS), [0, 0], "{counts:?}");
    (counts[0] / CALLS, counts[1] / CALLS)
}

#[tokio::test]
async fn commands_first() {
    let (first, _) = commands().await;
    figure("commands-first", first);
    assert_eq!(first, 2);
}

#[tokio::test]
async fn commands_replay() {
    let (_, replay) = commands().await;
    figure("commands-replay", replay);
    assert_eq!(replay, 1);
}

#[tokio::test(start_paused = true)]
async fn dropped_at_every_poll() {
    let mut wedged = 0;
    for trouble in [
        None,
        Some((On::Claim, Trouble::ReplyLost)),
        Some((On::Claim, Trouble::CommandLost)),
        Some((On::Renew, Trouble::ReplyLost)),
        Some((On::Complete, Trouble::ReplyLost)),
        Some((On::Complete, Trouble::Refused)),
    ] {
        let drops = Drops::default();
        if let Some((on, trouble)) = trouble {
            drops.trouble_each(on, trouble);
        }
        drops.run().await;
        wedged += drops.wedged();
    }
    figure("dropped-at-every-poll", wedged);
    assert_eq!(wedged, 0);
}

/// Every command of a call in turn (claim, three renewals, completion) loses its reply, or itself, or
/// comes late.
#[tokio::test(start_paused = true)]
async fn lost_replies() {
    let mut wrong = 0;
    for at in 0..5 {
        for trouble in [
            Trouble::ReplyLost,
            Trouble::CommandLost,
            Trouble::Late,
            Trouble::Refused,
        ] {
            let store = Troubled::default();
            let executed = Arc::new(AtomicU64::new(0));
            let count = Arc::clone(&executed);
            let layer = layer(store.clone()).in_flight(InFlight::Reject);
            let mut service = layer.layer(service_fn(move |_: Message| {
                count.fetch_add(1, SeqCst);
                async {
                    tokio::time::sleep(Duration::from_millis(3_500)).await;
                    Ok::<_, BoxError>("done".to_owned())
                }
            }));
            store.after(at, trouble.clone());
            let first = call(&mut service, message("a")).await;
            let _ = layer.tasks().drain(MINUTE).await;
            store.deliver().await;
            let second = call(&mut service, message("a")).await;
            let _ = layer.tasks().drain(MINUTE).await;
            // A refused claim executes nothing, and says so. Everything else is answered.
            let refused = trouble == Trouble::Refused && at == 0;
            let fine = (first.is_ok_and(|answer| answer == "done") || refused)
                && second.is_ok_and(|answer| answer == "done")
                && executed.load(SeqCst) == 1;
            wrong += u64::from(!fine);
        }
    }
    figure("lost-replies", wrong);
    assert_eq!(wrong, 0);
}

/// Owners that were taken over try everything, on memory and on Redis; and one that was cut off ends
/// its work after a later attempt is done.
#[tokio::test]
async fn stale_owner() {
    let server = Redis::start().await;
    let mut written = stale_commands(MemoryStore::with_capacity(1_000)).await;
    written += stale_commands(connect(&server).await).await;
    written += stale_handler(connect(&server).await, connect(&server).await).await;
    figure("stale-owner", written);
    assert_eq!(written, 0);
}

/// How many commands of stale owners changed anything.
async fn stale_commands(store: impl Store) -> u64 {
    let mut written = 0;
    for round in 0..20_u64 {
        let key = RecordKey::new(None, &Key::from(round));
        let first = || {
            let lease = Duration::from_secs(3);
            Pending::first(Fingerprint::NONE, lease, MINUTE)
        };
        let (stale, winner) = (first(), first().after(1));
        store.claim(&key, stale.encode(), MINUTE).await.unwrap();
        store
            .swap(&key, &Swap::take(stale.encode(), &winner))
            .await
            .unwrap();
        let held = [stale.clone(), stale.beat()];
        let attacks = [
            Swap::complete(&held, Answer::Whole(Bytes::from_static(b"stale"))),
            Swap::renew(&stale),
            Swap::renew(&stale.beat()),
            Swap::release(&held),
            Swap::take(stale.encode(), &first().after(1)),
            Swap::untake(stale.encode(), &stale.after(1)),
        ];
        let done = Swap::complete(&[winner], Answer::Whole(Bytes::from_static(b"winner")));
        for before in [true, false] {
            for attack in &attacks {
                let lost = matches!(
                    store.swap(&key, attack).await.unwrap(),
                    Swapped::Lost(Some(_))
                );
                written += u64::from(!lost);
            }
            if before {
                assert_eq!(store.swap(&key, &done).await.unwrap(), Swapped::Applied);
            }
        }
        let found = store.claim(&key, Bytes::new(), MINUTE).await.unwrap();
        written += u64::from(found.as_ref() != Some(done.to()));
    }
    written
}

/// An owner is taken over while its handler runs: is it answered with its own result?
async fn stale_handler<S: Store>(owner: S, other: S) -> u64 {
    let go = Arc::new(Notify::new());
    let began = Arc::new(Notify::new());
    let (gone, begins) = (Arc::clone(&go), Arc::clone(&began));
    // Its renewals never arrive.
    let cut = Troubled::behind(owner);
    for _ in 0..1_000 {
        cut.plan(On::Renew, Trouble::CommandLost);
    }
    let lease = Duration::from_millis(60);
    let first = layer(cut).lease(lease).layer(service_fn(move |_: Message| {
        let gone = Arc::clone(&gone);
        begins.notify_one();
        async move {
            gone.notified().await;
            Ok::<_, BoxError>("stale".to_owned())
        }
    }));
    let first = spawn(first, message("a"));
    let mut second = layer(other)
        .lease(lease)
        .abandoned(Abandoned::Reexecute)
        .in_flight(InFlight::Wait(MINUTE))
        .layer(service_fn(|m: Message| async move {
            Ok::<_, BoxError>(format!("attempt {}", m.attempt))
        }));
    began.notified().await;
    let answer = call(&mut second, message("a")).await.unwrap();
    go.notify_one();
    u64::from(first.await.unwrap().unwrap() != answer)
}
