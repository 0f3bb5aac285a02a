//! PostgreSQL as other tests rely on it.

use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use test_support::Postgres;

fn is_up(port: u16) -> bool {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[tokio::test]
async fn a_replica_lags_when_told_to_and_catches_up() {
    let primary = Postgres::start().await;
    let replica = primary.replica().await;
    primary.ask("CREATE TABLE t (n int)").await;
    replica.caught_up(primary.position().await).await;
    replica.pause_replay().await;
    let before = replica.position().await;
    primary.ask("INSERT INTO t VALUES (1), (2)").await;
    let after = primary.position().await;
    assert!(after > before);
    assert_eq!(replica.position().await, before);
    assert_eq!(replica.ask("SELECT count(*) FROM t").await, "0");
    replica.resume_replay().await;
    replica.caught_up(after).await;
    assert_eq!(replica.ask("SELECT n FROM t ORDER BY n").await, "1\n2");
    let refused = replica
        .try_ask_in("postgres", "INSERT INTO t VALUES (3)")
        .await;
    assert!(
        refused.is_err_and(|said| said.contains("25006")),
        "a replica takes no write"
    );
}

#[tokio::test]
async fn a_killed_primary_gives_way_to_a_replica_and_another_follows() {
    let primary = Postgres::start().await;
    let (one, other) = tokio::join!(primary.replica(), primary.replica());
    primary
        .ask("CREATE TABLE t (n int); INSERT INTO t VALUES (7)")
        .await;
    let written = primary.position().await;
    tokio::join!(one.caught_up(written), other.caught_up(written));
    primary.kill();
    assert!(!is_up(primary.port()));
    one.promote().await;
    one.ask("INSERT INTO t VALUES (8)").await;
    other.follow(&one).await;
    other.caught_up(one.position().await).await;
    assert_eq!(other.ask("SELECT sum(n) FROM t").await, "15");
}

#[tokio::test]
async fn a_killed_server_comes_back_at_the_same_place_with_what_was_committed() {
    let server = Postgres::durable().await;
    let (port, url) = (server.port(), server.create_database("shop").await);
    assert_eq!(url, format!("postgres://postgres@127.0.0.1:{port}/shop"));
    assert_eq!(server.ask("SHOW fsync").await, "on");
    server
        .ask_in("shop", "CREATE TABLE t (n int); INSERT INTO t VALUES (7)")
        .await;
    server.kill();
    assert!(!is_up(port));
    server.restart().await;
    assert_eq!(server.port(), port);
    assert_eq!(server.ask_in("shop", "SELECT n FROM t").await, "7");
    server.stop();
    assert!(!is_up(port));
    server.restart().await;
    assert_eq!(server.ask_in("shop", "SELECT n FROM t").await, "7");
}

#[tokio::test]
async fn a_paused_server_answers_when_resumed_and_goes_when_dropped() {
    let server = Postgres::start().await;
    server.pause();
    {
        let mut answer = std::pin::pin!(server.ask("SELECT 1"));
        let early = tokio::time::timeout(Duration::from_millis(50), &mut answer).await;
        assert!(early.is_err());
        server.resume();
        assert_eq!(answer.await, "1");
    }
    let (port, data) = (server.port(), server.data());
    server.pause();
    drop(server);
    assert!(!is_up(port) && !data.exists());
}

#[tokio::test]
#[should_panic(expected = "unrecognized configuration parameter \"no_such_setting\"")]
async fn a_server_that_does_not_start_shows_its_log() {
    Postgres::with_settings(&[("no_such_setting", "yes")]).await;
}
