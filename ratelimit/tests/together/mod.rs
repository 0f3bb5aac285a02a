//! A store on a real server, and requests that are decided together.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use seawall_ratelimit::{Apply, Checker, Decision, MemoryStore, RedisStore, Verdict};
use seawall_redis::{Client, Shared};
use test_support::Redis;
use tokio::task::JoinSet;

pub(crate) type Strict = RedisStore<Shared<MultiplexedConnection>>;

pub(crate) async fn connect(server: &Redis) -> MultiplexedConnection {
    let client = redis::Client::open(server.url()).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}

pub(crate) async fn store(server: &Redis) -> Strict {
    // A loaded machine is no outage.
    Client::shared(connect(server).await)
        .deadline(Duration::from_secs(30))
        .into()
}

/// What does not depend on the moment.
fn told(decision: &Decision) -> Vec<(usize, u32, u32, bool)> {
    let outcomes = decision.iter();
    outcomes
        .map(|(rule, outcome)| (rule, outcome.limit(), outcome.remaining(), outcome.passes()))
        .collect()
}

/// Asks for all of them at once, and compares with what comes of asking memory for one after the other.
pub(crate) async fn decides_as_in_turn<Ask, Rs>(
    together: &Checker<Strict, Rs>,
    in_turn: &Checker<MemoryStore, impl Apply<Ask>>,
    asks: &[Ask],
    round: usize,
) where
    Ask: Copy + Send + Sync + 'static,
    Rs: Apply<Ask> + Send + Sync + 'static,
{
    let mut tasks = JoinSet::new();
    for (number, ask) in asks.iter().copied().enumerate() {
        let together = together.clone();
        tasks.spawn(async move {
            let decision = match together.decide(&ask).unwrap() {
                Verdict::Now(decision) => decision,
                Verdict::Later(deciding) => deciding.await.unwrap(),
            };
            (number, decision)
        });
    }
    let mut decided = tasks.join_all().await;
    decided.sort_by_key(|(number, _)| *number);
    for (ask, (number, decision)) in asks.iter().zip(&decided) {
        let Ok(Verdict::Now(expected)) = in_turn.decide(ask) else {
            panic!("memory decides at once");
        };
        let (expected, got) = (told(&expected), told(decision));
        assert_eq!(got, expected, "round {round}, request {number}");
    }
}
