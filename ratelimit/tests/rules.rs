//! How rules treat requests: plans, shadows, quotas that change, rules from a list.

#![allow(clippy::unwrap_used, reason = "in a test it is the assertion")]

use std::time::Duration;

use seawall_ratelimit::{
    BoxRule, ConfigError, Decision, MemoryStore, Plan, Quota, RateLimitError, RateLimitLayer, Rule,
    Verdict,
};
use tokio::time::advance;

fn store() -> MemoryStore {
    MemoryStore::with_capacity(1_000)
}

fn now<F>(verdict: Result<Verdict<F>, RateLimitError>) -> Decision {
    match verdict {
        Ok(Verdict::Now(decision)) => decision,
        _ => panic!("memory decides at once"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_plan_is_another_quota_or_none_or_nothing() {
    let limits = RateLimitLayer::new(store())
        .rule(
            Rule::new("tenant", Quota::per_minute(2))
                .key(|tenant: &&str| (*tenant).into())
                .plan(|tenant: &&str, _| match *tenant {
                    "gold" => Plan::Quota(Quota::per_minute(5)),
                    "probe" => Plan::Unlimited,
                    "mallory" => Plan::Denied,
                    _ => Plan::Regular,
                }),
        )
        .rule(Rule::new("all", Quota::per_minute(100)))
        .checker();
    let mut admitted = Vec::new();
    for tenant in ["ada", "gold", "probe", "mallory"] {
        let mut passed = 0;
        for _ in 0..10 {
            passed += u32::from(limits.check(&tenant).await.is_ok());
        }
        admitted.push(passed);
    }
    assert_eq!(admitted, [2, 5, 10, 0]);
    let denied = limits.check(&"mallory").await;
    assert!(matches!(denied, Err(RateLimitError::Denied { rule }) if rule == "tenant"));
    // What was denied or refused counted under no rule: 17 of the 100 are gone.
    let left = now(limits.decide(&"probe"));
    let (_, all) = left.iter().last().unwrap();
    assert_eq!(all.remaining(), 100 - 18);
}

#[tokio::test(start_paused = true)]
async fn who_changes_plans_keeps_what_was_consumed() {
    struct Ask {
        paid: bool,
    }
    let limits = RateLimitLayer::new(store())
        .rule(
            Rule::new("tenant", Quota::per_minute(2)).plan(|ask: &Ask, _| match ask.paid {
                true => Plan::Quota(Quota::per_minute(5)),
                false => Plan::Regular,
            }),
        )
        .checker();
    let mut passed = 0;
    for paid in [false, false, false, true, true, true, true, false] {
        passed += u32::from(limits.check(&Ask { paid }).await.is_ok());
    }
    assert_eq!(passed, 5);
}

#[tokio::test(start_paused = true)]
async fn a_cost_is_held_against_the_limit_of_the_plan() {
    let limits = RateLimitLayer::new(store())
        .rule(
            Rule::new("rows", Quota::per_minute(10))
                .cost(|rows: &u32| *rows)
                .plan(|_: &u32, _| Plan::Quota(Quota::per_minute(20))),
        )
        .checker();
    assert!(limits.check(&15).await.is_ok());
    let never = limits.check(&21).await;
    assert!(matches!(never, Err(RateLimitError::CostAboveLimit(never)) if never.limit == 20));
}

#[tokio::test(start_paused = true)]
async fn a_shadow_counts_as_if_it_were_enforced_and_refuses_nobody() {
    let limits = RateLimitLayer::new(store())
        .rule(Rule::new("planned", Quota::per_minute(3)).shadow())
        .rule(Rule::new("real", Quota::per_minute(6)))
        .checker();
    for n in 1..=6 {
        let decision = now(limits.decide(&()));
        assert!(decision.passes());
        let outcomes: Vec<_> = decision.iter().map(|(_, outcome)| outcome).collect();
        let [shadow, real] = outcomes[..] else {
            panic!("two rules")
        };
        assert!(shadow.is_shadow() && !real.is_shadow());
        assert_eq!(shadow.passes(), n <= 3);
        // It is not charged beyond its quota, as it would not have been.
        assert_eq!(shadow.remaining(), 3_u32.saturating_sub(n));
        assert_eq!(real.remaining(), 6 - n);
    }
    let Err(RateLimitError::Refused(refused)) = limits.check(&()).await else {
        panic!("the real one refuses");
    };
    let rules: Vec<_> = refused.violations().iter().map(|v| &*v.rule).collect();
    assert_eq!(rules, ["real"]);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_refused_takes_nothing_from_a_shadow() {
    let limits = RateLimitLayer::new(store())
        .rule(Rule::new("planned", Quota::per_minute(10)).shadow())
        .rule(Rule::new("real", Quota::per_minute(1)).key(|key: &&str| (*key).into()))
        .checker();
    for _ in 0..5 {
        let _ = limits.check(&"ada").await;
    }
    let (_, shadow) = now(limits.decide(&"bob")).iter().next().unwrap();
    assert_eq!(shadow.remaining(), 8);
}

#[tokio::test(start_paused = true)]
async fn a_shadow_keeps_nobody_out_whatever_it_says() {
    let limits = RateLimitLayer::new(store())
        .rule(
            Rule::new("cost", Quota::per_minute(3))
                .cost(|_: &()| 4)
                .shadow(),
        )
        .rule(
            Rule::new("list", Quota::per_minute(3))
                .plan(|_: &(), _| Plan::Denied)
                .shadow(),
        )
        .checker();
    assert!(limits.check(&()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_changed_quota_remembers_what_was_consumed() {
    let layer = RateLimitLayer::new(store()).rule(Rule::new("all", Quota::per_minute(4)));
    let (quotas, limits) = (layer.quotas(), layer.checker());
    let passing = async |tries: u32| {
        let mut passed = 0;
        for _ in 0..tries {
            passed += u32::from(limits.check(&()).await.is_ok());
        }
        passed
    };
    assert_eq!(passing(3).await, 3);

    assert_eq!(quotas.set("all", Quota::per_minute(6)), Ok(1));
    assert_eq!(passing(9).await, 3, "6 in all");
    assert_eq!(quotas.set("all", Quota::per_minute(2)), Ok(2));
    assert_eq!(passing(9).await, 0);
    // Another window: the six still count in it, and at most so long as they did.
    assert_eq!(quotas.set("all", Quota::per_hour(8)), Ok(3));
    assert_eq!(passing(9).await, 2, "8 in all");
    assert_eq!(layer.policies()[0].quota(), Quota::per_hour(8));
    assert_eq!(quotas.get("all"), Ok((Quota::per_hour(8), 3)));

    // A version that is known already changes nothing, nor does an older one.
    assert_eq!(quotas.set_version("all", Quota::per_hour(90), 2), Ok(3));
    assert_eq!(passing(9).await, 0);
    assert_eq!(quotas.set_version("all", Quota::per_hour(9), 7), Ok(7));
    assert_eq!(passing(9).await, 1);
    let unknown = quotas.set("al", Quota::per_hour(9));
    assert_eq!(unknown, Err(ConfigError::UnknownRule("al".into())));
}

#[tokio::test(start_paused = true)]
async fn a_quota_changes_for_services_that_are_at_work_already() {
    use tower::{Layer, Service, ServiceExt, service_fn};

    let layer = RateLimitLayer::new(store()).rule(Rule::new("all", Quota::per_minute(1)));
    let mut service = layer.layer(service_fn(async |(): ()| {
        Ok::<_, seawall_ratelimit::BoxError>(())
    }));
    service.ready().await.unwrap().call(()).await.unwrap();
    assert!(service.ready().await.unwrap().call(()).await.is_err());
    layer.quotas().set("all", Quota::per_minute(2)).unwrap();
    service.ready().await.unwrap().call(()).await.unwrap();
}

/// Readers never see the limit of one quota with the window of another.
#[test]
fn a_quota_that_is_being_changed_is_read_whole() {
    let layer = RateLimitLayer::new(store()).rule(Rule::new("all", Quota::new(1, MILLI)));
    const MILLI: Duration = Duration::from_millis(1);
    let quotas = layer.quotas();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for n in 1..50_000 {
                    quotas.set("all", Quota::new(n, n * MILLI)).unwrap();
                }
            });
        }
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..50_000 {
                    let (quota, _) = quotas.get("all").unwrap();
                    assert_eq!(quota.window(), quota.limit() * MILLI);
                }
            });
        }
    });
    assert_eq!(quotas.get("all").unwrap().1, 2 * 49_999);
}

#[tokio::test(start_paused = true)]
async fn rules_from_a_list_decide_as_typed_ones() {
    let boxed: [BoxRule<(u64, u32)>; 2] = [
        Rule::new("key", Quota::per_minute(3))
            .key(|ask: &(u64, u32)| ask.0.into())
            .boxed(),
        Rule::new("units", Quota::per_minute(20))
            .cost(|ask: &(u64, u32)| ask.1)
            .boxed(),
    ];
    let listed = RateLimitLayer::new(store()).rules(boxed).checker();
    let typed = RateLimitLayer::new(store())
        .rule(Rule::new("key", Quota::per_minute(3)).key(|ask: &(u64, u32)| ask.0.into()))
        .rule(Rule::new("units", Quota::per_minute(20)).cost(|ask: &(u64, u32)| ask.1))
        .checker();
    let mut random = fastrand::Rng::with_seed(5);
    for _ in 0..2_000 {
        advance(Duration::from_millis(random.u64(0..2_000))).await;
        let ask = (random.u64(0..4), random.u32(0..5));
        let outcomes = |decision: Decision| decision.iter().collect::<Vec<_>>();
        let (listed, typed) = (now(listed.decide(&ask)), now(typed.decide(&ask)));
        assert_eq!(outcomes(listed), outcomes(typed));
    }
}

#[test]
fn a_list_of_rules_is_checked_as_typed_ones_are() {
    let rule = |name: &str| {
        Rule::new(name.to_owned(), Quota::per_second(1))
            .key(|key: &u64| (*key).into())
            .boxed()
    };
    let layer = || RateLimitLayer::new(store());
    let twice = layer().try_rules([rule("a"), rule("b"), rule("a")]);
    assert!(matches!(twice, Err(ConfigError::DuplicateRule(name)) if name == "a"));
    let nine = layer().try_rules((0..9).map(|n| rule(&n.to_string())));
    assert!(matches!(nine, Err(ConfigError::TooManyRules)));
    let more = layer().rules([rule("a")]);
    let more = more.rule(Rule::new("b", Quota::per_second(1)));
    let names: Vec<_> = more.policies().iter().map(|policy| policy.name()).collect();
    assert_eq!(names, ["a", "b"]);
    assert!(matches!(
        more.try_rule(Rule::new("a", Quota::per_second(1))),
        Err(ConfigError::DuplicateRule(_))
    ));
}
