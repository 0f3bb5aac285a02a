//! The example of Redis servers as shards, with real servers one of which stalls.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../examples/redis_shards.rs"]
mod redis_shards;

use redis::Value;
use redis_shards::{get, router, set, topology};
use seawall_shard_router::{RouteError, Topology};
use test_support::Redis;
use tower::{Service, ServiceExt};

/// A key of the tests that lies on this shard.
fn key_on(topology: &Topology, shard: &str) -> String {
    (0..)
        .map(|number| format!("tenant-{number}"))
        .find(|key| *topology.shard_of(key) == shard)
        .unwrap()
}

#[tokio::test]
async fn keys_live_on_their_servers_and_one_that_stalls_leaves_the_other_alone() {
    let servers = [Redis::start().await, Redis::start().await];
    let urls = servers.each_ref().map(|server| server.url().to_owned());
    let topology = topology(&urls).unwrap();
    let mut router = router(topology.clone().into());
    for number in 0..100 {
        let key = format!("tenant-{number}");
        let written = router.ready().await.unwrap().call(set(&key, &key)).await;
        assert_eq!(written.unwrap(), Value::Okay);
        let read = router.ready().await.unwrap().call(get(&key)).await.unwrap();
        assert_eq!(read, Value::BulkString(key.clone().into_bytes()));
        // It lies there and nowhere else.
        for (number, url) in urls.iter().enumerate() {
            let client = redis::Client::open(url.as_str()).unwrap();
            let mut direct = client.get_multiplexed_async_connection().await.unwrap();
            let there: bool = redis::cmd("EXISTS")
                .arg(&key)
                .query_async(&mut direct)
                .await
                .unwrap();
            assert_eq!(
                there,
                *topology.shard_of(&key) == format!("s{number:02}").as_str()
            );
        }
    }

    let (sick, well) = (key_on(&topology, "s00"), key_on(&topology, "s01"));
    servers[0].pause();
    let mut shed = 0;
    for _ in 0..20 {
        let error = router.call(set(&sick, "x")).await.unwrap_err();
        shed += usize::from(matches!(
            RouteError::find(&*error),
            Some(RouteError::Ejected { .. })
        ));
        router.call(set(&well, "x")).await.unwrap();
    }
    assert!(shed > 0, "after a few that waited they are refused at once");
    servers[0].resume();
    // It comes back by a request that is let through after its time.
    while router.call(set(&sick, "back")).await.is_err() {
        tokio::task::yield_now().await;
    }
    let read = router.call(get(&sick)).await.unwrap();
    assert_eq!(read, Value::BulkString(b"back".to_vec()));
}
