//! What the documentation claims, measured: each test prints its figure and holds it to its bar.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use redis::{
    AsyncConnectionConfig,
    aio::{ConnectionManager, ConnectionManagerConfig, MultiplexedConnection},
};
use seawall_idempotency::{
    Abandoned, BoxError, Codec, CodecMissing, Drain, Error, Fingerprint, InFlight, Key, KeyMissing,
    KeyedBy, MemoryStore, Messages, RecordKey, RedisStore, Store, Unscoped,
    record::{Answer, Pending, Swap, Swapped},
};
use seawall_redis::{Breaker, Client, Shared};
use support::{Drops, Message, On, Trouble, Troubled, call, layer, message, ours, spawn};
use test_support::{Proxy, Redis};
use tokio::sync::Notify;
use tower::{Layer, service_fn};

const MINUTE: Duration = Duration::from_secs(60);

fn figure(claim: &str, value: u64) {
    println!("figure idempotency/{claim}: {value}");
}

async fn connect(server: &Redis) -> RedisStore<Shared<MultiplexedConnection>> {
    // Hundreds of calls at once on a busy machine outlast the usual deadlines.
    let config = AsyncConnectionConfig::new().set_response_timeout(Some(MINUTE));
    let client = redis::Client::open(server.url()).unwrap();
    let connection = client.get_multiplexed_async_connection_with_config(&config);
    let connection = connection.await.unwrap();
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

type Reconnecting = RedisStore<Shared<ConnectionManager>>;

/// A store that reconnects at once, and never stops asking.
async fn reconnecting(url: &str) -> Reconnecting {
    let config = ConnectionManagerConfig::new()
        .set_min_delay(Duration::from_millis(1))
        .set_max_delay(Duration::from_millis(5));
    let client = redis::Client::open(url).unwrap();
    let manager = ConnectionManager::new_with_config(client, config);
    let client = Client::new(Shared::new(manager.await.unwrap())).breaker(Breaker::never());
    RedisStore::from(client.deadline(Duration::from_millis(500)))
}

/// Which reply of a real server a proxy takes away.
#[derive(Debug, Clone, Copy)]
enum Swallowed {
    Begin,
    Renewal,
    Completion,
    /// Of a call that did nothing.
    Release,
}

/// Each command of a call in turn loses its reply: the connection ends instead, or says nothing more. The
/// command was carried out. Says whether the call and a repetition of it were executed more than once, or met
/// themselves.
async fn swallowed(which: Swallowed, silent: bool) -> bool {
    let server = Redis::start().await;
    let proxy = Arc::new(Proxy::to(server.port()).await);
    let executed = Arc::new(AtomicU64::new(0));
    let arm = {
        let proxy = Arc::clone(&proxy);
        move || {
            if silent {
                proxy.silence_next_reply();
            } else {
                proxy.swallow_next_reply();
            }
        }
    };
    // The probe for the server's own compare-and-set would be the command whose reply is lost.
    let store = reconnecting(&proxy.url()).await;
    let warm = RecordKey::new(None, &Key::from("warm"));
    let nothing = Pending::first(Fingerprint::NONE, MINUTE, MINUTE);
    store.swap(&warm, &Swap::renew(&nothing)).await.unwrap();

    let lease = Duration::from_millis(1_500);
    let layer = layer(store).lease(lease);
    let (count, armed, lost) = (Arc::clone(&executed), arm.clone(), Arc::clone(&proxy));
    let service = layer.layer(service_fn(move |_: Message| {
        let first = count.fetch_add(1, SeqCst) == 0;
        if first && !matches!(which, Swallowed::Begin) {
            armed();
        }
        let lost = Arc::clone(&lost);
        async move {
            if first && matches!(which, Swallowed::Renewal) {
                // It runs on until its renewal went unanswered.
                while lost.swallowed() == 0 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
            Ok::<_, BoxError>(match which {
                Swallowed::Release if first => "undone".to_owned(),
                _ => "done".to_owned(),
            })
        }
    }));
    if matches!(which, Swallowed::Begin) {
        arm();
    }
    let first = call(&mut service.clone(), message("a")).await;
    // A connection that says nothing is given up by its network, sooner or later.
    proxy.cut();
    proxy.heal();
    let settled = layer.tasks().drain(MINUTE).await == Drain::Finished;
    let second = loop {
        match call(&mut service.clone(), message("a")).await.map_err(ours) {
            // Until the connection is up again, calls are refused; that is not what is asked for here.
            Err(Error::Store(_)) => tokio::task::yield_now().await,
            answer => break answer,
        }
    };
    let first = match (which, first) {
        (Swallowed::Release, Ok(answer)) => answer == "undone",
        (_, Ok(answer)) => answer == "done",
        // Where two replies were lost with the connection, the claim was refused, and released.
        (Swallowed::Begin, Err(error)) => matches!(ours(error), Error::Store(_)),
        (_, Err(_)) => false,
    };
    let expected = match which {
        Swallowed::Release => 2,
        _ => 1,
    };
    let executed = executed.load(SeqCst) == expected;
    let second = second.is_ok_and(|answer| answer == "done");
    first && second && settled && executed && proxy.swallowed() == 1
}

#[tokio::test]
async fn swallowed_replies() {
    let mut wrong = Vec::new();
    for which in [
        Swallowed::Begin,
        Swallowed::Renewal,
        Swallowed::Completion,
        Swallowed::Release,
    ] {
        for silent in [false, true] {
            if !swallowed(which, silent).await {
                wrong.push((which, silent));
            }
        }
    }
    figure("swallowed-replies", wrong.len() as u64);
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// Counts its calls of each key, and waits with those of keys that run.
fn running(
    executed: &Arc<AtomicU64>,
    go: &Arc<Notify>,
) -> impl Fn(Message) -> Running + Clone + Send + 'static {
    let (executed, go) = (Arc::clone(executed), Arc::clone(go));
    move |m: Message| {
        executed.fetch_add(1, SeqCst);
        let go = Arc::clone(&go);
        Box::pin(async move {
            if m.key.starts_with("running") {
                go.notified().await;
            }
            Ok("done".to_owned())
        })
    }
}

type Running = std::pin::Pin<Box<dyn Future<Output = Result<String, BoxError>> + Send>>;

/// A server that writes each command to disk before it answers is killed among calls that are done and calls
/// that run.
#[tokio::test]
async fn restarted_with_its_log() {
    let server = Redis::with_args(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let (executed, go) = (Arc::default(), Arc::new(Notify::new()));
    let layer = layer(reconnecting(&server.url()).await)
        .lease(MINUTE)
        .abandoned(Abandoned::Reexecute);
    let service = layer.layer(service_fn(running(&executed, &go)));
    let done: Vec<_> = (0..50).map(|key| name(format!("done {key}"))).collect();
    let runs: Vec<_> = (0..50).map(|key| name(format!("running {key}"))).collect();
    for key in &done {
        call(&mut service.clone(), message(key)).await.unwrap();
    }
    let calls: Vec<_> = runs
        .iter()
        .map(|key| spawn(service.clone(), message(key)))
        .collect();
    while executed.load(SeqCst) < 100 {
        tokio::task::yield_now().await;
    }
    server.restart().await;
    for _ in &runs {
        go.notify_one();
        tokio::task::yield_now().await;
    }
    go.notify_waiters();
    for answer in calls {
        assert_eq!(answer.await.unwrap().unwrap(), "done");
    }
    assert_eq!(layer.tasks().drain(MINUTE).await, Drain::Finished);
    for key in done.iter().chain(&runs) {
        loop {
            match call(&mut service.clone(), message(key)).await.map_err(ours) {
                Err(Error::Store(_)) => tokio::task::yield_now().await,
                answer => break assert_eq!(answer.unwrap(), "done"),
            }
        }
    }
    let beyond = executed.load(SeqCst) - 100;
    figure("aof-restart", beyond);
    assert_eq!(beyond, 0);
}

/// What a server says of its replication.
async fn replication(server: &Redis, field: &str) -> String {
    let info = server.ask(&["INFO", "replication"]).await;
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap_or_default().trim().to_owned()
}

/// A replica takes over that had seen half of the calls: the other half is executed again, and no more.
#[tokio::test]
async fn failed_over() {
    const SEEN: u64 = 50;
    const UNSEEN: u64 = 50;
    let primary = Redis::start().await;
    let link = Proxy::to(primary.port()).await;
    let port = link.port().to_string();
    let replica = Redis::with_args(&["--replicaof", "127.0.0.1", &port]).await;
    while replication(&replica, "master_link_status").await != "up" {
        tokio::task::yield_now().await;
    }
    let (executed, go) = (Arc::default(), Arc::new(Notify::new()));
    let service = layer(connect(&primary).await).layer(service_fn(running(&executed, &go)));
    let keys: Vec<_> = (0..SEEN + UNSEEN)
        .map(|key| name(format!("key {key}")))
        .collect();
    let (seen, unseen) = keys.split_at(SEEN as usize);
    for key in seen {
        call(&mut service.clone(), message(key)).await.unwrap();
    }
    let reached = replication(&primary, "master_repl_offset").await;
    while replication(&replica, "slave_repl_offset").await != reached {
        tokio::task::yield_now().await;
    }
    // What is answered from here on never reaches the replica.
    link.stall();
    for key in unseen {
        call(&mut service.clone(), message(key)).await.unwrap();
    }
    primary.kill();
    replica.ask(&["REPLICAOF", "NO", "ONE"]).await;
    let service = layer(connect(&replica).await).layer(service_fn(running(&executed, &go)));
    let mut again = [0; 2];
    for (again, keys) in again.iter_mut().zip([seen, unseen]) {
        let before = executed.load(SeqCst);
        for key in keys {
            assert_eq!(
                call(&mut service.clone(), message(key)).await.unwrap(),
                "done"
            );
        }
        *again = executed.load(SeqCst) - before;
    }
    figure("failover-replicated", again[0]);
    figure("failover-unreplicated", again[1]);
    assert_eq!(again, [0, UNSEEN]);
}

/// Whether a type is a `Layer`, known when this is compiled.
macro_rules! is_layer {
    ($type:ty) => {{
        #[allow(dead_code, reason = "it is used where the type is no layer")]
        trait Otherwise {
            const IS: bool = false;
        }
        struct Probe<T>(std::marker::PhantomData<T>);
        impl<T> Otherwise for Probe<T> {}
        // What a type has by itself goes before what it has by a trait, where its bounds hold.
        #[allow(dead_code, reason = "it is used where the type is a layer")]
        impl<T: Layer<Answers>> Probe<T> {
            const IS: bool = true;
        }
        Probe::<$type>::IS
    }};
}

/// Whatever a layer is put around.
struct Answers;

type Once<A> = seawall_idempotency::IdempotencyLayer<MemoryStore, A>;
type Missing = seawall_idempotency::ScopeMissing;

#[test]
fn without_scope() {
    type Keyed = KeyedBy<Message>;
    type Coded = Arc<support::Text>;
    fn is_codec<C: Codec<String>>() {}
    is_codec::<support::Text>();
    let without = [
        is_layer!(Once<Messages<Missing, Keyed, Coded>>),
        is_layer!(Once<Messages<Unscoped, KeyMissing, Coded>>),
        is_layer!(Once<Messages<Unscoped, Keyed, CodecMissing>>),
        is_layer!(Once<seawall_idempotency::Http<Missing>>),
        is_layer!(Once<seawall_idempotency::Http<Missing, seawall_idempotency::GrpcStatus>>),
    ];
    let with = [
        is_layer!(Once<Messages<Unscoped, Keyed, Coded>>),
        is_layer!(Once<seawall_idempotency::Http<Unscoped>>),
        is_layer!(Once<seawall_idempotency::Http<seawall_idempotency::Scoped>>),
        is_layer!(Once<seawall_idempotency::Http<Unscoped, seawall_idempotency::GrpcStatus>>),
    ];
    assert_eq!(with, [true; 4]);
    figure(
        "without-scope",
        without.iter().filter(|is| **is).count() as u64,
    );
    assert_eq!(without, [false; 5]);
}
