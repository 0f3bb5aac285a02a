//! What only a real server can show: lost replies, stalls, restarts, and values that are not ours.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use seawall_idempotency::{
    Abandoned, BoxError, Drain, Error, InFlight, Key, RecordError, RecordKey, RedisStore, Store,
    StoreError,
};
use seawall_redis::{Breaker, Client, Shared};
use support::{Message, call, layer, message, ours, spawn};
use test_support::{Proxy, Redis};
use tokio::sync::Notify;
use tower::{Layer, service_fn};

const MINUTE: Duration = Duration::from_secs(60);

type Connected = RedisStore<Shared<ConnectionManager>>;

/// A store that reconnects at once, gives up on a reply after a while, and never stops asking.
async fn connect(url: &str) -> Connected {
    let config = ConnectionManagerConfig::new()
        .set_min_delay(Duration::from_millis(1))
        .set_max_delay(Duration::from_millis(5));
    let client = redis::Client::open(url).unwrap();
    let manager = ConnectionManager::new_with_config(client, config)
        .await
        .unwrap();
    let client = Client::new(Shared::new(manager)).breaker(Breaker::never());
    RedisStore::from(client.deadline(Duration::from_millis(500)))
}

fn counted(
    calls: &Arc<AtomicU64>,
) -> impl Fn(Message) -> std::future::Ready<Result<String, BoxError>> + Clone + Send + 'static {
    let calls = Arc::clone(calls);
    move |_: Message| {
        calls.fetch_add(1, SeqCst);
        std::future::ready(Ok("done".to_owned()))
    }
}

/// The name of a test's key on the server.
fn name(key: &str) -> String {
    format!(
        "seawall:idempotency:{}",
        RecordKey::new(None, &Key::from(key))
    )
}

#[tokio::test]
async fn a_swallowed_reply_to_begin_is_neither_a_conflict_nor_a_second_run() {
    for silent in [false, true] {
        let server = Redis::start().await;
        let proxy = Proxy::to(server.port()).await;
        let calls = Arc::default();
        let mut service = layer(connect(&proxy.url()).await).layer(service_fn(counted(&calls)));
        if silent {
            proxy.silence_next_reply()
        } else {
            proxy.swallow_next_reply()
        }
        match call(&mut service, message("a")).await {
            Ok(answer) => assert_eq!(answer, "done"),
            // Two replies were lost, with the connection: then the claim is released.
            Err(error) => assert!(matches!(ours(error), Error::Store(_))),
        }
        // A connection that says nothing is given up by its network, sooner or later.
        proxy.cut();
        proxy.heal();
        let mut service = layer(connect(&server.url()).await)
            .in_flight(InFlight::Wait(MINUTE))
            .layer(service_fn(counted(&calls)));
        assert_eq!(call(&mut service, message("a")).await.unwrap(), "done");
        assert_eq!(calls.load(SeqCst), 1, "silent: {silent}");
        assert_eq!(proxy.swallowed(), 1);
    }
}

#[tokio::test]
async fn a_swallowed_reply_to_complete_is_neither_a_conflict_nor_a_second_run() {
    for silent in [false, true] {
        let server = Redis::start().await;
        let proxy = Arc::new(Proxy::to(server.port()).await);
        let calls = Arc::new(AtomicU64::new(0));
        let (armed, count) = (Arc::clone(&proxy), Arc::clone(&calls));
        let layer = layer(connect(&proxy.url()).await);
        let mut service = layer.layer(service_fn(move |_: Message| {
            if count.fetch_add(1, SeqCst) == 0 {
                if silent {
                    armed.silence_next_reply()
                } else {
                    armed.swallow_next_reply()
                }
            }
            async { Ok::<_, BoxError>("done".to_owned()) }
        }));
        assert_eq!(call(&mut service, message("a")).await.unwrap(), "done");
        if silent {
            proxy.cut();
            proxy.heal();
        }
        assert_eq!(layer.tasks().drain(MINUTE).await, Drain::Finished);
        assert_eq!(call(&mut service, message("a")).await.unwrap(), "done");
        assert_eq!(calls.load(SeqCst), 1, "silent: {silent}");
        assert_eq!(proxy.swallowed(), 1);
    }
}

#[tokio::test]
async fn a_server_that_stands_still_is_a_typed_error_and_nothing_is_executed() {
    let server = Redis::start().await;
    let calls = Arc::default();
    let layer = layer(connect(&server.url()).await);
    let mut service = layer.layer(service_fn(counted(&calls)));
    server.pause();
    let error = ours(call(&mut service, message("a")).await.unwrap_err());
    assert!(
        matches!(
            error,
            Error::Store(StoreError::Unavailable {
                indeterminate: true,
                ..
            })
        ),
        "{error:?}"
    );
    assert_eq!(calls.load(SeqCst), 0);
    // It goes on, with what lay in its sockets: claims that nobody works for, and their release.
    server.resume();
    assert_eq!(layer.tasks().drain(MINUTE).await, Drain::Finished);
    assert_eq!(call(&mut service, message("a")).await.unwrap(), "done");
    assert_eq!(calls.load(SeqCst), 1);
}

#[tokio::test]
async fn a_call_whose_server_stands_still_while_it_is_handled_is_answered_and_stored_later() {
    let server = Arc::new(Redis::start().await);
    let calls = Arc::new(AtomicU64::new(0));
    let (stopped, count) = (Arc::clone(&server), Arc::clone(&calls));
    let layer = layer(connect(&server.url()).await);
    let mut service = layer.layer(service_fn(move |_: Message| {
        count.fetch_add(1, SeqCst);
        stopped.pause();
        async { Ok::<_, BoxError>("done".to_owned()) }
    }));
    assert_eq!(call(&mut service, message("a")).await.unwrap(), "done");
    server.resume();
    assert_eq!(layer.tasks().drain(MINUTE).await, Drain::Finished);
    assert_eq!(call(&mut service, message("a")).await.unwrap(), "done");
    assert_eq!(calls.load(SeqCst), 1);
}

#[tokio::test]
async fn a_server_that_restarts_with_its_log_executes_nothing_again() {
    let server = Redis::with_args(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let calls = Arc::new(AtomicU64::new(0));
    let layer = layer(connect(&server.url()).await).abandoned(Abandoned::Reexecute);
    let go = Arc::new(Notify::new());
    let (gone, count) = (Arc::clone(&go), Arc::clone(&calls));
    let service = layer.layer(service_fn(move |m: Message| {
        count.fetch_add(1, SeqCst);
        let gone = Arc::clone(&gone);
        async move {
            if m.key == "running" {
                gone.notified().await;
            }
            Ok::<_, BoxError>("done".to_owned())
        }
    }));
    assert_eq!(
        call(&mut service.clone(), message("before")).await.unwrap(),
        "done"
    );
    let running = spawn(service.clone(), message("running"));
    while calls.load(SeqCst) < 2 {
        tokio::task::yield_now().await;
    }
    server.restart().await;
    go.notify_one();
    assert_eq!(running.await.unwrap().unwrap(), "done");
    assert_eq!(layer.tasks().drain(MINUTE).await, Drain::Finished);
    // Until the connection is up again, calls are refused; that is not what is asked for here.
    for key in ["before", "running"] {
        let answer = loop {
            match call(&mut service.clone(), message(key)).await {
                Err(error) => {
                    let error = ours(error);
                    assert!(
                        matches!(error, Error::Store(_)),
                        "{key} is known: {error:?}"
                    );
                }
                Ok(answer) => break answer,
            }
        };
        assert_eq!(answer, "done");
    }
    assert_eq!(calls.load(SeqCst), 2);
}

#[tokio::test]
async fn scripts_that_the_server_forgot_are_sent_again() {
    let server = Redis::start().await;
    let calls = Arc::default();
    let mut service = layer(connect(&server.url()).await).layer(service_fn(counted(&calls)));
    for key in ["a", "b"] {
        assert_eq!(call(&mut service, message(key)).await.unwrap(), "done");
        assert_eq!(call(&mut service, message(key)).await.unwrap(), "done");
        server.flush_scripts().await;
    }
    assert_eq!(calls.load(SeqCst), 2);
}

#[tokio::test]
async fn values_that_are_not_ours_are_a_typed_error_and_stay_as_they_are() {
    let server = Redis::start().await;
    let calls = Arc::default();
    let mut service = layer(connect(&server.url()).await)
        .abandoned(Abandoned::Reexecute)
        .layer(service_fn(counted(&calls)));

    server
        .ask(&["SET", &name("foreign"), "{\"answer\":42}"])
        .await;
    let error = ours(call(&mut service, message("foreign")).await.unwrap_err());
    assert!(
        matches!(error, Error::Record(RecordError::Foreign)),
        "{error:?}"
    );
    assert_eq!(
        server.ask(&["GET", &name("foreign")]).await,
        "{\"answer\":42}"
    );

    server.ask(&["SET", &name("newer"), "si\u{7f}P..."]).await;
    let error = ours(call(&mut service, message("newer")).await.unwrap_err());
    assert!(
        matches!(error, Error::Record(RecordError::Newer { version: 0x7f })),
        "{error:?}"
    );
    assert_eq!(server.ask(&["GET", &name("newer")]).await, "si\u{7f}P...");

    server.ask(&["RPUSH", &name("list"), "1"]).await;
    let error = ours(call(&mut service, message("list")).await.unwrap_err());
    assert!(
        matches!(error, Error::Store(StoreError::Foreign { .. })),
        "{error:?}"
    );
    assert_eq!(server.ask(&["LLEN", &name("list")]).await, "1");
    assert_eq!(calls.load(SeqCst), 0);
}

#[tokio::test]
async fn a_claim_that_never_expires_is_not_judged_by_its_age() {
    let server = Redis::start().await;
    let store = connect(&server.url()).await;
    let key = RecordKey::new(None, &Key::from("a"));
    store
        .claim(&key, bytes::Bytes::from_static(b"x"), MINUTE)
        .await
        .unwrap();
    server.ask(&["PERSIST", &name("a")]).await;
    let error = store.remaining(&key).await.unwrap_err();
    assert!(matches!(error, StoreError::Foreign { .. }), "{error:?}");
}

#[tokio::test]
async fn a_record_is_one_key_that_expires_and_says_nothing_of_the_callers_key() {
    let server = Redis::start().await;
    let calls = Arc::default();
    let store = connect(&server.url()).await.prefix("orders:");
    let mut service = layer(store)
        .keep_for(MINUTE)
        .layer(service_fn(counted(&calls)));
    call(&mut service, message("secret")).await.unwrap();
    let keys = server.ask(&["KEYS", "*"]).await;
    assert_eq!(keys.lines().count(), 1);
    let hash = keys.strip_prefix("orders:").unwrap();
    assert_eq!(hash, RecordKey::new(None, &Key::from("secret")).to_string());
    let left: u64 = server.ask(&["PTTL", &keys]).await.parse().unwrap();
    assert!((1..=60_000).contains(&left), "{left}");
}

#[tokio::test]
async fn a_node_that_was_cut_off_does_not_take_over_what_only_looks_abandoned() {
    let server = Redis::start().await;
    let proxy = Proxy::to(server.port()).await;
    let owner = connect(&proxy.url()).await;
    let other_proxy = Proxy::to(server.port()).await;
    let other = connect(&other_proxy.url()).await;
    let calls = Arc::new(AtomicU64::new(0));
    let lease = Duration::from_millis(1_500);

    let go = Arc::new(Notify::new());
    let (gone, count) = (Arc::clone(&go), Arc::clone(&calls));
    let owner_layer = layer(owner).lease(lease);
    let first = spawn(
        owner_layer.layer(service_fn(move |_: Message| {
            count.fetch_add(1, SeqCst);
            let gone = Arc::clone(&gone);
            async move {
                gone.notified().await;
                Ok::<_, BoxError>("first".to_owned())
            }
        })),
        message("a"),
    );
    while calls.load(SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    proxy.cut();
    other_proxy.cut();
    // The record grows old while nobody can reach it: the server's clock says when.
    let key = name("a");
    while server.ask(&["PTTL", &key]).await.parse::<u64>().unwrap() > 86_400_000 - 1_600 {
        tokio::task::yield_now().await;
    }
    go.notify_one();
    other_proxy.heal();
    let mut second = layer(other)
        .abandoned(Abandoned::Reexecute)
        .lease(lease)
        .layer(service_fn(counted(&calls)));
    // Whatever the node is told, as long as the owner's answer is not there, it is not to execute.
    let error = ours(call(&mut second, message("a")).await.unwrap_err());
    assert!(
        matches!(error, Error::Store(_) | Error::InFlight { .. }),
        "{error:?}"
    );
    proxy.heal();
    assert_eq!(first.await.unwrap().unwrap(), "first");
    assert_eq!(owner_layer.tasks().drain(MINUTE).await, Drain::Finished);
    let answer = loop {
        match call(&mut second, message("a")).await {
            Ok(answer) => break answer,
            Err(error) => {
                let error = ours(error);
                assert!(matches!(error, Error::Store(_)), "{error:?}");
            }
        }
    };
    assert_eq!(answer, "first");
    assert_eq!(calls.load(SeqCst), 1);
}
