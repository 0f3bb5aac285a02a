//! The level of the read cache that processes share, on a real server.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use pipeline::cache::{
    Answer, Class, Lease, LoadError, Loaded, Looked, ReadCache, RedisLevel, SecondLevel,
};
use pipeline::shard::Query;
use seawall_redis::{Client, Shared};
use test_support::{Redis, RedisCluster};
use tokio::task::JoinSet;

type Connection = redis::aio::ConnectionManager;

async fn level(server: &Redis) -> RedisLevel<Shared<Connection>> {
    let client = redis::Client::open(server.url()).unwrap();
    let connection = client.get_connection_manager().await.unwrap();
    let client = Client::shared(connection).deadline(Duration::from_secs(1));
    RedisLevel::new(client, "test:")
}

fn query() -> Query {
    Query::Product("product-1".to_owned())
}

fn loaded(version: u64, body: &str) -> Loaded {
    Loaded {
        version,
        answer: Answer {
            status: StatusCode::OK,
            body: Bytes::copy_from_slice(body.as_bytes()),
            class: Class::Pending,
        },
    }
}

async fn value(level: &impl SecondLevel) -> Option<(u64, Bytes)> {
    match level.get(&query()).await {
        Looked::Value(loaded) => Some((loaded.version, loaded.answer.body)),
        _ => None,
    }
}

#[tokio::test]
async fn the_higher_version_stands_in_either_order_and_a_value_beats_a_tombstone_of_its_version() {
    let server = Redis::start().await;
    let level = level(&server).await;
    level.set(&query(), &loaded(10, "ten"), None).await;
    level.set(&query(), &loaded(9, "nine"), None).await;
    assert_eq!(value(&level).await, Some((10, "ten".into())));
    assert!(level.invalidate(&[(query(), 10)]).await);
    assert_eq!(value(&level).await, Some((10, "ten".into())));
    assert!(level.invalidate(&[(query(), 11), (query(), 5)]).await);
    assert_eq!(lease(&level).await.0, 11);
    // Read before the commit, and put in after it.
    level.set(&query(), &loaded(10, "ten"), None).await;
    assert_eq!(value(&level).await, None);
    level.set(&query(), &loaded(11, "eleven"), None).await;
    assert_eq!(value(&level).await, Some((11, "eleven".into())));
    // Digits are compared as numbers.
    level.set(&query(), &loaded(100, "hundred"), None).await;
    assert_eq!(value(&level).await, Some((100, "hundred".into())));
}

/// Asked by the only one who asks: the version that is to be loaded, whether the level may have forgotten a higher one, and
/// the lease. A connection that is made anew may take a moment.
async fn lease(level: &impl SecondLevel) -> (u64, bool, Lease) {
    loop {
        match level.get(&query()).await {
            Looked::Load {
                at_least,
                forgetful,
                lease,
            } => return (at_least, forgetful, lease),
            Looked::Unreachable => tokio::time::sleep(Duration::from_millis(20)).await,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_server_that_comes_back_with_an_old_file_answers_nothing_of_it() {
    let server = Redis::start().await;
    let level = level(&server).await;
    let (_, forgetful, old) = lease(&level).await;
    assert!(!forgetful, "it was never another one");
    level.set(&query(), &loaded(10, "ten"), Some(&old)).await;
    assert_eq!(value(&level).await, Some((10, "ten".into())));
    server.ask(&["SAVE"]).await;
    assert!(level.invalidate(&[(query(), 11)]).await);
    server.restart().await;
    let (at_least, forgetful, new) = lease(&level).await;
    assert_eq!(at_least, 10, "there was this one at least");
    assert!(forgetful, "and a higher one may have been forgotten");
    // Read before the commit, and put in after the restart, which lost the tombstone.
    level.set(&query(), &loaded(10, "ten"), Some(&old)).await;
    server.ask(&["DEL", &load_mark(&server).await]).await;
    assert_eq!(lease(&level).await, (10, true, new.clone()));
    level.set(&query(), &loaded(11, "eleven"), Some(&new)).await;
    assert_eq!(value(&level).await, Some((11, "eleven".into())));
}

/// The mark that keeps others from loading.
async fn load_mark(server: &Redis) -> String {
    let keys = server.ask(&["KEYS", "test:*:load"]).await;
    keys.trim().to_owned()
}

#[tokio::test]
async fn a_replica_that_takes_over_without_the_last_tombstones_answers_nothing_of_before() {
    let (one, two) = (Redis::start().await, Redis::start().await);
    let (first, second) = (level(&one).await, level(&two).await);
    let (_, _, of_first) = lease(&first).await;
    first
        .set(&query(), &loaded(10, "ten"), Some(&of_first))
        .await;
    follow(&two, &one, "1").await;
    two.ask(&["REPLICAOF", "NO", "ONE"]).await;
    assert!(first.invalidate(&[(query(), 11)]).await);
    let (at_least, _, of_second) = lease(&second).await;
    assert_eq!(at_least, 10);
    second
        .set(&query(), &loaded(12, "twelve"), Some(&of_second))
        .await;
    // And back, without a restart of either.
    follow(&one, &two, "2").await;
    one.ask(&["REPLICAOF", "NO", "ONE"]).await;
    assert!(second.invalidate(&[(query(), 13)]).await);
    let (at_least, _, again) = lease(&first).await;
    assert_eq!(at_least, 12);
    assert_ne!(again, of_first, "its second time is not its first");
}

#[tokio::test]
async fn on_a_cluster_answers_are_found_and_a_promotion_ends_them() {
    let cluster = RedisCluster::with_replicas().await;
    let client = redis::cluster::ClusterClient::new(cluster.urls()).unwrap();
    let connection = client.get_async_connection().await.unwrap();
    let client = Client::shared(connection).deadline(Duration::from_secs(10));
    let level = RedisLevel::new(client, "test:").clustered();
    let (_, _, before) = lease(&level).await;
    level.set(&query(), &loaded(10, "ten"), Some(&before)).await;
    assert_eq!(value(&level).await, Some((10, "ten".into())));
    let mut of = None;
    while of.is_none() {
        for number in 0..3 {
            let keys = cluster.replicas()[number].ask(&["KEYS", "test:*"]).await;
            of = of.or((!keys.trim().is_empty()).then_some(number));
        }
    }
    cluster.fail_over(of.unwrap()).await;
    let (at_least, _, after) = lease(&level).await;
    assert_eq!(at_least, 10, "the replica had it");
    assert_ne!(before, after);
}

/// Makes one the replica of the other, and waits until it has all of it.
async fn follow(replica: &Redis, of: &Redis, mark: &str) {
    of.ask(&["SET", "mark", mark]).await;
    let port = of.port().to_string();
    replica.ask(&["REPLICAOF", "127.0.0.1", &port]).await;
    while replica.ask(&["GET", "mark"]).await.trim() != mark {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn of_many_in_two_processes_one_loads() {
    let server = Redis::start().await;
    let processes = [
        ReadCache::over(100, Arc::new(level(&server).await)),
        ReadCache::over(100, Arc::new(level(&server).await)),
    ];
    let loads = Arc::new(AtomicU64::new(0));
    let mut readers = JoinSet::new();
    for n in 0..100 {
        let (cache, loads) = (processes[n % 2].clone(), Arc::clone(&loads));
        readers.spawn(async move {
            let load = move |_, _| async move {
                loads.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(30)).await;
                Ok(loaded(1, "one"))
            };
            cache.get(query(), load).await.unwrap().body
        });
    }
    assert!(readers.join_all().await.iter().all(|body| body == "one"));
    let loads = loads.load(Ordering::Relaxed);
    println!("figure pipeline/loads-of-a-hot-expiry: {loads}");
    assert_eq!(loads, 1);
}

#[tokio::test]
async fn a_load_is_told_the_version_that_another_process_asked_for() {
    let server = Redis::start().await;
    let shared = level(&server).await;
    assert!(shared.invalidate(&[(query(), 77)]).await);
    let cache = ReadCache::over(100, Arc::new(shared));
    let answer = cache
        .get(query(), |_, at_least| async move {
            Ok(loaded(at_least, &format!("at least {at_least}")))
        })
        .await
        .unwrap();
    assert_eq!(answer.body, "at least 77");
}

#[tokio::test]
async fn a_server_that_is_out_costs_a_load_and_is_told_of_changes_again() {
    let server = Redis::start().await;
    let cache = ReadCache::over(100, Arc::new(level(&server).await));
    assert!(cache.invalidate_all(vec![(query(), 3)]).await);
    server.kill();
    assert!(!cache.invalidate_all(vec![(query(), 4)]).await);
    let answer = cache
        .get(query(), |_, at_least| async move {
            Ok::<_, LoadError>(loaded(at_least, "from the shard"))
        })
        .await
        .unwrap();
    assert_eq!(answer.body, "from the shard");
}
