//! What is counted, with its bounded labels, and what is told.

#![allow(clippy::unwrap_used, reason = "in a test it is the assertion")]

use std::time::Duration;

use seawall_ratelimit::{
    BoxError, Charges, Decision, MemoryStore, Plan, Policy, Quota, RateLimitLayer, Rule, Store,
    StoreError, Verdict,
};
use test_support::{Observed, observe};
use tower::{Layer, Service, ServiceExt, service_fn};

/// Does the work in paused time.
fn observed(work: impl AsyncFnOnce()) -> Observed {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    observe("seawall_ratelimit", || runtime.block_on(work()))
}

/// All that was counted, by the labels.
#[track_caller]
fn expect(seen: &Observed, expected: &[(&str, f64)]) {
    let named = |labels: &str| format!("seawall_ratelimit_decisions_total {labels}");
    let expected = expected
        .iter()
        .map(|(labels, count)| (named(labels), *count));
    assert_eq!(seen.metrics, expected.collect());
}

struct Ask {
    user: u64,
    cost: u32,
}

fn rules() -> RateLimitLayer<MemoryStore, impl seawall_ratelimit::Apply<Ask>> {
    RateLimitLayer::new(MemoryStore::with_capacity(10))
        .rule(
            Rule::new("user", Quota::per_minute(2))
                .key(|ask: &Ask| ask.user.into())
                .cost(|ask: &Ask| ask.cost)
                .plan(|ask: &Ask, _| match ask.user {
                    666 => Plan::Denied,
                    _ => Plan::Regular,
                }),
        )
        .rule(Rule::new("all", Quota::per_minute(100)))
        .rule(Rule::new("planned", Quota::per_minute(1)).shadow())
}

#[test]
fn each_outcome_is_counted_by_rule() {
    let seen = observed(async || {
        let limits = rules().checker();
        for (user, cost) in [(4_711, 1), (4_711, 1), (4_711, 1), (4_712, 3), (666, 1)] {
            let _ = limits.check(&Ask { user, cost }).await;
        }
    });
    expect(
        &seen,
        &[
            ("rule=all outcome=allowed", 2.0),
            ("rule=planned outcome=allowed", 1.0),
            ("rule=planned outcome=shadow", 2.0),
            ("rule=user outcome=allowed", 2.0),
            ("rule=user outcome=cost_above_limit", 1.0),
            ("rule=user outcome=denied", 1.0),
            ("rule=user outcome=refused", 1.0),
        ],
    );
    assert_eq!(seen.events.len(), 5, "{:?}", seen.events);
    let user = r#"rule="user""#;
    assert_eq!(seen.count(&["DEBUG", user]), 3);
    assert_eq!(seen.count(&["DEBUG over the rate limit", "shadow=true"]), 2);
    assert_eq!(seen.count(&["over the rate limit", user, "limit=2"]), 1);
    assert_eq!(
        seen.count(&["the cost is above the limit", user, "cost=3"]),
        1
    );
    assert_eq!(seen.count(&["denied by its plan", user]), 1);
    assert_eq!(seen.count(&["471"]), 0, "a key is never told");
}

#[test]
fn who_waits_is_counted_once() {
    let seen = observed(async || {
        let layer = RateLimitLayer::new(MemoryStore::with_capacity(10))
            .rule(Rule::new("all", Quota::per_second(1)))
            .wait_up_to(Duration::from_secs(2));
        let mut service = layer.layer(service_fn(async |(): ()| Ok::<_, BoxError>(())));
        for _ in 0..3 {
            service.ready().await.unwrap().call(()).await.unwrap();
        }
    });
    let expected = [
        ("rule=all outcome=allowed", 3.0),
        ("rule=all outcome=delayed", 2.0),
    ];
    expect(&seen, &expected);
    assert_eq!(seen.count(&["waits for room under the rate limit"]), 2);
    assert_eq!(seen.events.len(), 2);
}

// The rules are asked again for the receipt, and for whom a refusal hit; that is no second request.
#[test]
fn what_is_asked_again_is_not_told_again() {
    let seen = observed(async || {
        let top = seawall_ratelimit::TopRefused::new(10);
        let layer = RateLimitLayer::new(MemoryStore::with_capacity(10))
            .rule(Rule::new("all", Quota::per_minute(1)))
            .rule(
                Rule::new("costly", Quota::per_minute(1))
                    .cost(|(): &()| 2)
                    .shadow(),
            )
            .top_refused(&top)
            .refund_if(|answer: &Result<(), BoxError>| answer.is_err());
        let mut service = layer.layer(service_fn(async |(): ()| Ok::<_, BoxError>(())));
        service.ready().await.unwrap().call(()).await.unwrap();
        service.ready().await.unwrap().call(()).await.unwrap_err();
        assert_eq!(top.list().len(), 1);
    });
    expect(
        &seen,
        &[
            ("rule=all outcome=allowed", 1.0),
            ("rule=all outcome=refused", 1.0),
            ("rule=costly outcome=shadow", 2.0),
        ],
    );
}

/// Lets everything pass, since its counters are out of reach.
#[derive(Clone)]
struct Degraded;

impl Store for Degraded {
    type Scope = ();
    type Deciding = std::future::Ready<Result<Decision, StoreError>>;

    fn scope(&self, _: &Policy) {}

    fn decide(&self, charges: &Charges<'_, ()>) -> Verdict<Self::Deciding> {
        let mut decision = Decision::empty();
        for charge in charges.iter() {
            let passes = seawall_ratelimit::window::Wait::None;
            let outcome = seawall_ratelimit::window::Outcome::new(1, 0, 0, passes);
            decision.push(charge.number(), outcome);
        }
        Verdict::Later(std::future::ready(Ok(decision.degraded())))
    }
}

#[test]
fn what_passes_uncounted_is_counted_as_degraded() {
    let seen = observed(async || {
        let limits = RateLimitLayer::new(Degraded)
            .rule(Rule::new("all", Quota::per_second(1)))
            .checker();
        limits.check(&()).await.unwrap();
    });
    expect(&seen, &[("rule=all outcome=degraded", 1.0)]);
}

#[cfg(feature = "redis")]
mod on_redis {
    use std::future::{Future, ready};

    use redis::{Cmd, Pipeline, RedisError, RedisResult, Value};
    use seawall_ratelimit::{Outage, RedisStore};
    use seawall_redis::{Client, Source};

    use super::*;

    /// Nobody listens there.
    #[derive(Clone)]
    struct Refusing;

    fn refused() -> RedisError {
        std::io::Error::from(std::io::ErrorKind::ConnectionRefused).into()
    }

    impl Source for Refusing {
        fn command(&self, _: &Cmd) -> impl Future<Output = RedisResult<Value>> + Send {
            ready(Err(refused()))
        }

        fn pipeline(&self, _: &Pipeline) -> impl Future<Output = RedisResult<Vec<Value>>> + Send {
            ready(Err(refused()))
        }
    }

    #[test]
    fn an_outage_is_told_with_its_policy_and_its_reason() {
        for (outage, policy) in [
            (Outage::Closed, "closed"),
            (Outage::Open, "open"),
            (Outage::Local { share: 0.5 }, "local"),
        ] {
            let seen = observed(async || {
                let store = RedisStore::from(Client::new(Refusing)).on_outage(outage);
                let limits = RateLimitLayer::new(store)
                    .rule(Rule::new("all", Quota::per_second(10)))
                    .checker();
                let passes = limits.check(&()).await.is_ok();
                assert_eq!(passes, outage != Outage::Closed);
            });
            let counted = format!("seawall_ratelimit_outages_total policy={policy}");
            assert_eq!(seen.metrics[&counted], 1.0);
            let told = format!("policy={policy:?}");
            let why = "WARN the store of the rate limits did not decide";
            assert_eq!(seen.count(&[why, &told]), 1, "{:?}", seen.events);
        }
    }
}
