//! The servers and faults that other tests rely on.

use std::net::Ipv4Addr;
use std::time::Duration;

use test_support::{Proxy, Redis, drop_at_every_poll};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// An inline command, and its one-line reply without the line's end; nothing when the connection ended.
async fn say(stream: &mut TcpStream, words: &str) -> Option<String> {
    stream
        .write_all(format!("{words}\r\n").as_bytes())
        .await
        .ok()?;
    let mut reply = Vec::new();
    while !reply.ends_with(b"\r\n") {
        match stream.read_u8().await {
            Ok(byte) => reply.push(byte),
            Err(_) => return None,
        }
    }
    Some(String::from_utf8_lossy(&reply).trim_end().to_owned())
}

async fn connect(port: u16) -> TcpStream {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port))
        .await
        .expect("somebody listens")
}

#[tokio::test]
async fn counts_commands_by_name() {
    let redis = Redis::start().await;
    redis.ask(&["SET", "key", "one\r\ntwo"]).await;
    redis.reset_stats().await;
    assert_eq!(redis.ask(&["GET", "key"]).await, "one\r\ntwo");
    assert_eq!(redis.ask(&["GET", "nothing"]).await, "");
    assert_eq!(redis.ask(&["MGET", "nothing", "key"]).await, "\none\r\ntwo");
    let calls = redis.commandstats().await;
    assert_eq!(calls.get("get"), Some(&2));
    assert_eq!(calls.get("mget"), Some(&1));
    assert_eq!(calls.get("set"), None);
}

#[tokio::test]
async fn a_paused_server_answers_when_resumed() {
    let redis = Redis::start().await;
    let mut stream = connect(redis.port()).await;
    redis.pause();
    let mut answer = tokio::spawn(async move { say(&mut stream, "PING").await });
    assert!(
        tokio::time::timeout(Duration::from_millis(50), &mut answer)
            .await
            .is_err()
    );
    redis.resume();
    assert_eq!(answer.await.unwrap().as_deref(), Some("+PONG"));
}

#[tokio::test]
async fn a_paused_server_goes_when_dropped() {
    let redis = Redis::start().await;
    let port = redis.port();
    redis.pause();
    drop(redis);
    assert!(
        TcpStream::connect((Ipv4Addr::LOCALHOST, port))
            .await
            .is_err()
    );
}

#[tokio::test]
async fn a_killed_server_comes_back_at_the_same_place() {
    let redis = Redis::with_args(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let port = redis.port();
    redis.ask(&["SET", "kept", "yes"]).await;
    redis.kill();
    assert!(
        TcpStream::connect((Ipv4Addr::LOCALHOST, port))
            .await
            .is_err()
    );
    redis.restart().await;
    assert_eq!(redis.port(), port);
    assert_eq!(redis.ask(&["GET", "kept"]).await, "yes");
}

#[tokio::test]
#[should_panic(expected = "Bad directive or wrong number of arguments")]
async fn a_server_that_does_not_start_shows_its_log() {
    Redis::with_args(&["--no-such-setting", "yes"]).await;
}

#[tokio::test]
async fn a_cut_ends_old_and_new_connections_until_healed() {
    let redis = Redis::start().await;
    let proxy = Proxy::to(redis.port()).await;
    let mut old = connect(proxy.port()).await;
    assert_eq!(say(&mut old, "PING").await.as_deref(), Some("+PONG"));
    proxy.cut();
    assert_eq!(say(&mut old, "PING").await, None);
    assert_eq!(say(&mut connect(proxy.port()).await, "PING").await, None);
    proxy.heal();
    let mut new = connect(proxy.port()).await;
    assert_eq!(say(&mut new, "PING").await.as_deref(), Some("+PONG"));
}

#[tokio::test]
async fn a_stall_holds_back_and_loses_nothing() {
    let redis = Redis::start().await;
    let proxy = Proxy::to(redis.port()).await;
    let mut stream = connect(proxy.port()).await;
    assert_eq!(say(&mut stream, "PING").await.as_deref(), Some("+PONG"));
    proxy.stall();
    let mut answer = tokio::spawn(async move { say(&mut stream, "INCR n").await });
    assert!(
        tokio::time::timeout(Duration::from_millis(50), &mut answer)
            .await
            .is_err()
    );
    proxy.flow();
    assert_eq!(answer.await.unwrap().as_deref(), Some(":1"));
}

#[tokio::test]
async fn a_swallowed_reply_belongs_to_work_that_was_done() {
    let redis = Redis::start().await;
    let proxy = Proxy::to(redis.port()).await;
    let mut stream = connect(proxy.port()).await;
    assert_eq!(say(&mut stream, "INCR n").await.as_deref(), Some(":1"));
    proxy.swallow_next_reply();
    assert_eq!(say(&mut stream, "INCR n").await, None);
    assert_eq!(proxy.swallowed(), 1);
    assert_eq!(redis.ask(&["GET", "n"]).await, "2");
    let mut next = connect(proxy.port()).await;
    assert_eq!(say(&mut next, "INCR n").await.as_deref(), Some(":3"));
}

#[tokio::test]
async fn a_silenced_connection_stays_open_and_says_nothing() {
    let redis = Redis::start().await;
    let proxy = Proxy::to(redis.port()).await;
    let mut stream = connect(proxy.port()).await;
    proxy.silence_next_reply();
    let mut answer = tokio::spawn(async move { say(&mut stream, "INCR n").await });
    while proxy.swallowed() == 0 {
        tokio::task::yield_now().await;
    }
    assert!(
        tokio::time::timeout(Duration::from_millis(50), &mut answer)
            .await
            .is_err()
    );
    assert_eq!(redis.ask(&["GET", "n"]).await, "1");
}

#[tokio::test(start_paused = true)]
async fn a_future_is_dropped_before_each_of_its_steps() {
    let mut drops = Vec::new();
    let output = drop_at_every_poll(
        || async {
            tokio::time::sleep(Duration::from_secs(60)).await;
            tokio::task::yield_now().await;
            "done"
        },
        async |polls| drops.push(polls),
    )
    .await;
    assert_eq!(output, "done");
    assert_eq!(drops, [0, 1, 2]);
}

#[test]
fn allocations_of_other_threads_are_not_counted() {
    let counted = test_support::count_allocations(|| {
        std::thread::scope(|scope| {
            let own = test_support::count_allocations(|| drop(Box::new(1_u64)));
            assert_eq!(own, 1);
            let before = test_support::count_allocations(|| {
                let (go, wait) = std::sync::mpsc::sync_channel::<()>(0);
                scope.spawn(move || (0..1_000).for_each(|_| drop(Box::new(1_u64))));
                drop((go, wait));
            });
            assert!(before < 1_000, "{before} allocations");
        });
    });
    assert!(counted < 1_000, "{counted} allocations");
}
