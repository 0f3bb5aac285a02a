//! Against a real server that is paused, killed and cut off.

#![allow(clippy::unwrap_used, reason = "what is unwrapped here fails the test")]

use std::time::Duration;

use bb8::Pool;
use redis::aio::ConnectionManager;
use redis::{Cmd, Pipeline, Value, cmd};
use seawall_redis::{Breaker, BreakerState, Client, Error, Pooled, Script, Shared, Source};
use test_support::{Proxy, Redis, drop_at_every_poll};

/// Long enough for a server on a machine that is busy with other tests.
const PATIENT: Duration = Duration::from_secs(30);

async fn shared(url: &str) -> Client<Shared<ConnectionManager>> {
    let client = redis::Client::open(url).unwrap();
    Client::shared(client.get_connection_manager().await.unwrap()).deadline(PATIENT)
}

async fn pooled(url: &str, size: u32) -> Client<Pooled<redis::Client>> {
    let pool = Pool::builder()
        .max_size(size)
        .test_on_check_out(false)
        .build(redis::Client::open(url).unwrap())
        .await
        .unwrap();
    Client::pooled(pool)
        .deadline(PATIENT)
        .breaker(Breaker::never())
}

fn set(key: &str, value: &[u8]) -> Cmd {
    let mut set = cmd("SET");
    set.arg(key).arg(value);
    set
}

fn get(key: &str) -> Cmd {
    let mut get = cmd("GET");
    get.arg(key);
    get
}

fn incr(key: &str) -> Cmd {
    let mut incr = cmd("INCR");
    incr.arg(key);
    incr
}

#[tokio::test]
async fn a_paused_server_costs_deadlines_then_nothing_and_is_found_again() {
    let redis = Redis::start().await;
    let client = shared(&redis.url())
        .await
        .breaker(Breaker::new(3, Duration::from_millis(50)));
    client.command(&set("key", b"value")).await.unwrap();

    redis.pause();
    let hasty = client.clone().deadline(Duration::from_millis(20));
    for _ in 0..3 {
        let error = hasty.command(&get("key")).await.unwrap_err();
        assert!(matches!(error, Error::Deadline(_)), "{error:?}");
    }
    // On a slow machine the cool-off may be over before the next call, which then is a probe.
    while let Err(error) = hasty.command(&get("key")).await {
        match error {
            Error::Open { retry_in } => {
                assert!(retry_in <= Duration::from_millis(50));
                break;
            }
            Error::Deadline(_) => {}
            other => panic!("{other:?}"),
        }
    }

    redis.resume();
    loop {
        match client.command(&get("key")).await {
            Ok(value) => {
                assert_eq!(value, Value::BulkString(b"value".to_vec()));
                break;
            }
            Err(Error::Open { retry_in }) => tokio::time::sleep(retry_in).await,
            Err(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(client.state(), BreakerState::Closed);
}

#[tokio::test]
async fn a_server_that_is_gone_is_an_outage_and_found_again() {
    let redis = Redis::start().await;
    let client = shared(&redis.url()).await.breaker(Breaker::never());
    client.command(&Cmd::ping()).await.unwrap();
    redis.kill();
    assert!(client.command(&Cmd::ping()).await.unwrap_err().is_outage());
    redis.restart().await;
    while client.command(&Cmd::ping()).await.is_err() {
        tokio::task::yield_now().await;
    }
    assert!(client.steady_for() < PATIENT);
}

#[tokio::test]
async fn a_lost_reply_is_indeterminate_for_the_work_was_done() {
    let redis = Redis::start().await;
    let proxy = Proxy::to(redis.port()).await;
    let client = shared(&proxy.url()).await;
    client.command(&incr("n")).await.unwrap();
    proxy.swallow_next_reply();
    let error = client.command(&incr("n")).await.unwrap_err();
    assert!(error.is_indeterminate(), "{error:?}");
    assert_eq!(redis.ask(&["GET", "n"]).await, "2");
}

#[tokio::test]
async fn a_refused_connection_is_known_to_have_done_nothing() {
    let port = test_support::free_port();
    let pool = Pool::builder()
        .max_size(1)
        .retry_connection(false)
        .connection_timeout(Duration::from_millis(20))
        .build_unchecked(redis::Client::open(format!("redis://127.0.0.1:{port}/")).unwrap());
    let error = Client::pooled(pool)
        .deadline(PATIENT)
        .command(&Cmd::ping())
        .await
        .unwrap_err();
    assert!(error.is_outage());
    assert!(matches!(error, Error::Redis(_)), "{error:?}");
    assert!(!error.is_indeterminate(), "{error:?}");
}

#[tokio::test]
async fn scripts_survive_a_flush_and_a_restart() {
    static ECHO: Script = Script::new("return {KEYS[1], ARGV[1], ARGV[2]}");
    let redis = Redis::start().await;
    let client = shared(&redis.url()).await;
    let bytes: Vec<u8> = (0..=255).collect();
    let expected = Value::Array(vec![
        Value::BulkString(b"\r\n\0key".to_vec()),
        Value::BulkString(bytes.clone()),
        Value::BulkString(Vec::new()),
    ]);
    for flush in [false, false, true, false] {
        if flush {
            redis.flush_scripts().await;
        }
        let reply = client
            .script(&ECHO, &[b"\r\n\0key"], &[&bytes, b""])
            .await
            .unwrap();
        assert_eq!(reply, expected);
    }
    let calls = redis.commandstats().await;
    assert_eq!((calls["evalsha"], calls["eval"]), (4, 2));
}

#[tokio::test]
async fn an_error_raised_by_a_script_is_an_answer() {
    static FAILS: Script = Script::new("return redis.error_reply('STALE not the owner')");
    let redis = Redis::start().await;
    let client = shared(&redis.url()).await;
    for _ in 0..2 {
        let error = client.script(&FAILS, &[], &[]).await.unwrap_err();
        assert!(!error.is_outage() && !error.is_indeterminate());
        let Error::Redis(error) = error else {
            panic!("{error:?}")
        };
        assert_eq!(error.code(), Some("STALE"));
    }
}

#[tokio::test]
async fn a_pipeline_answers_each_command_in_its_place() {
    let redis = Redis::start().await;
    for atomic in [false, true] {
        redis.ask(&["FLUSHALL"]).await;
        let mut pipe = Pipeline::new();
        if atomic {
            pipe.atomic();
        }
        pipe.add_command(set("list", b"no list"));
        pipe.cmd("LPUSH").arg("list").arg("x");
        pipe.add_command(get("list")).ignore();
        for replies in [
            shared(&redis.url()).await.pipeline(&pipe).await.unwrap(),
            pooled(&redis.url(), 2).await.pipeline(&pipe).await.unwrap(),
        ] {
            assert_eq!(replies.len(), 3, "atomic: {atomic}");
            assert_eq!(replies[0], Value::Okay);
            let Value::ServerError(error) = &replies[1] else {
                panic!("{replies:?}")
            };
            assert_eq!(error.code(), "WRONGTYPE");
            assert_eq!(replies[2], Value::BulkString(b"no list".to_vec()));
        }
    }
    let nothing = shared(&redis.url()).await.pipeline(&Pipeline::new()).await;
    assert_eq!(nothing.unwrap(), []);
}

#[tokio::test]
async fn a_replica_that_refuses_to_write_is_an_outage() {
    static WRITES: Script = Script::new("return redis.call('SET', KEYS[1], 'x')");
    let redis = Redis::start().await;
    let client = shared(&redis.url()).await.breaker(Breaker::never());
    let nobody = test_support::free_port().to_string();
    redis.ask(&["REPLICAOF", "127.0.0.1", &nobody]).await;

    let outage = |error: Error| assert!(error.is_outage(), "{error:?}");
    outage(client.command(&set("key", b"x")).await.unwrap_err());
    outage(client.script(&WRITES, &[b"key"], &[]).await.unwrap_err());
    let mut pipe = Pipeline::new();
    pipe.atomic().add_command(set("key", b"x"));
    outage(client.pipeline(&pipe).await.unwrap_err());
}

#[tokio::test]
async fn a_pool_of_connections_that_broke_unseen_fails_one_call() {
    let redis = Redis::start().await;
    let client = pooled(&redis.url(), 4).await;
    fill(&client, 4).await;
    redis.restart().await;
    // The first call meets a connection that broke; the others are tested before they are used.
    client.command(&Cmd::ping()).await.unwrap_err();
    for _ in 0..16 {
        client.command(&Cmd::ping()).await.unwrap();
    }
}

/// Uses `size` connections at once, so that the pool opens them all.
async fn fill(client: &Client<Pooled<redis::Client>>, size: usize) {
    let mut sleeping = cmd("BLPOP");
    sleeping.arg("nothing").arg(0.05);
    let calls: Vec<_> = (0..size)
        .map(|_| {
            let (client, sleeping) = (client.clone(), sleeping.clone());
            tokio::spawn(async move { client.command(&sleeping).await.map(drop) })
        })
        .collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_pooled_connection_that_went_silent_is_replaced() {
    let redis = Redis::start().await;
    let proxy = Proxy::to(redis.port()).await;
    let client = pooled(&proxy.url(), 1).await;
    client.command(&Cmd::ping()).await.unwrap();

    proxy.silence_next_reply();
    let hasty = client.clone().deadline(Duration::from_millis(50));
    let error = hasty.command(&Cmd::ping()).await.unwrap_err();
    assert!(matches!(error, Error::Deadline(_)), "{error:?}");
    client.command(&Cmd::ping()).await.unwrap();
    assert!(client.steady_for() < PATIENT);
}

#[tokio::test]
async fn a_connection_replaced_by_the_pool_is_no_steady_one() {
    let redis = Redis::start().await;
    let pool = Pool::builder()
        .max_size(1)
        .test_on_check_out(true)
        .build(redis::Client::open(redis.url()).unwrap())
        .await
        .unwrap();
    let source = Pooled::new(pool);
    let client = Client::new(source.clone()).deadline(PATIENT);
    client.command(&Cmd::ping()).await.unwrap();
    let before = source.replaced();
    redis.restart().await;
    client.command(&Cmd::ping()).await.unwrap();
    assert!(source.replaced() > before);
}

#[tokio::test]
async fn a_call_dropped_anywhere_leaves_its_connection_to_the_next() {
    static SCRIPT: Script = Script::new("return ARGV[1]");
    let redis = Redis::start().await;
    // With one connection, one that is not given back would let the next call wait for ever.
    let client = pooled(&redis.url(), 1).await;
    let reply = drop_at_every_poll(
        || client.script(&SCRIPT, &[], &[b"mine"]),
        async |_| {
            let reply = client.command(&set("key", b"other")).await.unwrap();
            assert_eq!(reply, Value::Okay);
        },
    )
    .await;
    assert_eq!(reply.unwrap(), Value::BulkString(b"mine".to_vec()));
    assert_eq!(client.state(), BreakerState::Closed);
}
