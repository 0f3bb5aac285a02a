//! What rules, refunds and operators do is the same on Redis.

#![allow(clippy::unwrap_used, reason = "in a test it is the assertion")]

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use seawall_ratelimit::{
    Apply, BoxError, Checker, Decision, Key, Plan, Quota, RateLimitError, RateLimitLayer,
    RedisStore, Rule, Verdict,
};
use seawall_redis::{Client, Shared};
use test_support::Redis;
use tower::{Layer, Service, ServiceExt, service_fn};

type OnRedis = RedisStore<Shared<MultiplexedConnection>>;

/// Counters of a server of its own; windows are so long that none ends while a test runs.
async fn store(server: &Redis) -> OnRedis {
    let client = redis::Client::open(server.url()).unwrap();
    let connection = client.get_multiplexed_async_connection().await.unwrap();
    Client::shared(connection)
        .deadline(Duration::from_secs(30))
        .into()
}

async fn decision<Req>(limits: &Checker<OnRedis, impl Apply<Req>>, request: &Req) -> Decision {
    match limits.decide(request).unwrap() {
        Verdict::Now(decision) => decision,
        Verdict::Later(deciding) => deciding.await.unwrap(),
    }
}

async fn passing<Req>(limits: &Checker<OnRedis, impl Apply<Req>>, request: Req) -> u32 {
    let mut passed = 0;
    while limits.check(&request).await.is_ok() {
        passed += 1;
    }
    passed
}

#[tokio::test]
async fn a_plan_is_another_quota_or_none_or_nothing() {
    let server = Redis::start().await;
    let limits = RateLimitLayer::new(store(&server).await)
        .rule(
            Rule::new("tenant", Quota::per_hour(2))
                .key(|tenant: &&str| (*tenant).into())
                .plan(|tenant: &&str, _| match *tenant {
                    "gold" => Plan::Quota(Quota::per_day(5)),
                    "probe" => Plan::Unlimited,
                    "mallory" => Plan::Denied,
                    _ => Plan::Regular,
                }),
        )
        .checker();
    assert_eq!(passing(&limits, "ada").await, 2);
    assert_eq!(passing(&limits, "gold").await, 5);
    let (_, gold) = decision(&limits, &"gold").await.iter().next().unwrap();
    assert_eq!(
        (gold.limit(), gold.window()),
        (5, Some(Duration::from_secs(86_400)))
    );
    assert!(limits.check(&"probe").await.is_ok());
    let denied = limits.check(&"mallory").await;
    assert!(matches!(denied, Err(RateLimitError::Denied { .. })));
}

#[tokio::test]
async fn a_shadow_counts_as_if_it_were_enforced_and_refuses_nobody() {
    let server = Redis::start().await;
    let limits = RateLimitLayer::new(store(&server).await)
        .rule(Rule::new("planned", Quota::per_hour(3)).shadow())
        .rule(Rule::new("real", Quota::per_hour(6)))
        .checker();
    for n in 1..=8_u32 {
        let decision = decision(&limits, &()).await;
        assert_eq!(decision.passes(), n <= 6);
        let outcomes: Vec<_> = decision.iter().map(|(_, outcome)| outcome).collect();
        assert!(outcomes[0].is_shadow() && !outcomes[1].is_shadow());
        assert_eq!(outcomes[0].passes(), n <= 3);
        assert_eq!(outcomes[0].remaining(), 3_u32.saturating_sub(n));
        assert_eq!(outcomes[1].remaining(), 6_u32.saturating_sub(n));
    }
}

#[tokio::test]
async fn a_changed_quota_holds_on_nodes_that_do_not_know_it_yet() {
    let server = Redis::start().await;
    let layer = |store| RateLimitLayer::new(store).rule(Rule::new("all", Quota::per_hour(4)));
    let (one, other) = (layer(store(&server).await), layer(store(&server).await));
    let (here, there) = (one.checker(), other.checker());
    assert_eq!(passing(&here, ()).await, 4);
    assert_eq!(one.quotas().set("all", Quota::per_hour(6)), Ok(1));
    assert!(here.check(&()).await.is_ok());
    // The record is of version 1 by now, and so the node on version 0 goes by it.
    assert!(there.check(&()).await.is_ok());
    let Err(RateLimitError::Refused(refused)) = there.check(&()).await else {
        panic!("six in all");
    };
    assert_eq!(refused.violations()[0].limit, 6);
    assert_eq!(
        other.quotas().set_version("all", Quota::per_hour(6), 1),
        Ok(1)
    );
    assert!(there.check(&()).await.is_err());
}

#[tokio::test]
async fn what_the_answer_says_is_given_back() {
    let server = Redis::start().await;
    let layer = RateLimitLayer::new(store(&server).await)
        .rule(Rule::new("wrong", Quota::per_hour(3)))
        .rule(Rule::new("planned", Quota::per_hour(1)).shadow());
    let limits = layer.checker();
    let mut service = layer
        .refund_if(|answer: &Result<bool, BoxError>| matches!(answer, Ok(true)))
        .refund_dropped()
        .layer(service_fn(async |right: bool| Ok::<_, BoxError>(right)));
    for _ in 0..8 {
        assert!(service.ready().await.unwrap().call(true).await.unwrap());
    }
    for _ in 0..2 {
        assert!(!service.ready().await.unwrap().call(false).await.unwrap());
    }
    assert_eq!(passing(&limits, true).await, 1);
}

#[tokio::test]
async fn operators_peek_reset_and_block() {
    let server = Redis::start().await;
    let limits = RateLimitLayer::new(store(&server).await)
        .rule(Rule::new("user", Quota::per_hour(3)).key(|user: &u64| (*user).into()))
        .checker();
    let seven = Key::from(7);
    let left = async || {
        let standing = limits.peek("user", seven).await.unwrap();
        standing.outcome().remaining()
    };
    assert_eq!(left().await, 3);
    limits.check(&7).await.unwrap();
    assert_eq!([left().await, left().await], [2, 2]);

    let hour = Duration::from_secs(3_600);
    limits.block("user", seven, hour).await.unwrap();
    let Err(RateLimitError::Refused(refused)) = limits.check(&7).await else {
        panic!("it is blocked");
    };
    let wait = refused.retry_after().unwrap();
    assert!(wait > hour / 2 && wait <= hour, "{wait:?}");
    let standing = limits.peek("user", seven).await.unwrap();
    assert!(standing.blocked_for().is_some());
    limits.check(&8).await.unwrap();
    limits.unblock("user", seven).await.unwrap();
    limits.check(&7).await.unwrap();
    assert_eq!(left().await, 1);
    limits.reset("user", seven).await.unwrap();
    assert_eq!(left().await, 3);
}

#[tokio::test]
async fn who_waits_passes_when_there_is_room() {
    let server = Redis::start().await;
    let quota = Quota::new(1, Duration::from_millis(40));
    let layer = RateLimitLayer::new(store(&server).await)
        .rule(Rule::new("all", quota))
        .wait_up_to(Duration::from_secs(60));
    let mut service = layer.layer(service_fn(async |n: u32| Ok::<_, BoxError>(n)));
    let start = tokio::time::Instant::now();
    for n in 0..5 {
        assert_eq!(service.ready().await.unwrap().call(n).await.unwrap(), n);
    }
    assert!(start.elapsed() >= Duration::from_millis(4 * 40));
}
