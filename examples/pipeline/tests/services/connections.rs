//! Connections to PostgreSQL, of which a server has few for many processes and shards.

use std::time::Duration;

use futures_util::future::join_all;
use pipeline::log::LogId;
use pipeline::services::{Assigned, Places};
use pipeline::shard::postgres::Patience;
use test_support::Postgres;

use crate::common::places::remote::describe;

/// As seed 141 of the campaign found it: after a failover every process had made all the connections that it may, went on
/// using each of them now and then, and a process that came later never got one.
#[tokio::test]
async fn what_a_burst_made_is_given_back_while_the_shard_goes_on_being_looked_after() {
    let postgres = Postgres::start().await;
    postgres.create_database("s00").await;
    let at = (postgres.url_of("s00"), None);
    let file = describe("redis://nowhere", "nowhere:1", "orders", &[at]);
    let places = Places::parse(&file).unwrap();
    let shards = Assigned::open(&places, LogId([7; 16])).await.unwrap();
    let open = || async {
        let count = "SELECT count(*) FROM pg_stat_activity WHERE datname = 's00'";
        postgres.ask(count).await.trim().parse::<u32>().unwrap()
    };
    while open().await < 4 {
        let burst = (0..64).map(|_| shards.look(Patience::Read));
        for looked in join_all(burst).await {
            looked.unwrap();
        }
    }
    let wait = async {
        while open().await > 2 {
            shards.look(Patience::Read).await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let given_back = tokio::time::timeout(Duration::from_secs(60), wait).await;
    assert!(given_back.is_ok(), "{} are kept", open().await);
}
