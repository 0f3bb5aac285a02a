//! What the layer does with a `MemoryStore`, by paused time.

use std::time::Duration;

use seawall_ratelimit::{
    Apply, Checker, ConfigError, Key, MemoryStore, Quota, RateLimitError, RateLimitLayer, Refused,
    Rule,
};
use tokio::time::advance;

fn refused(result: Result<(), RateLimitError>) -> Refused {
    match result {
        Err(RateLimitError::Refused(refused)) => refused,
        other => panic!("not refused: {other:?}"),
    }
}

fn by_number(store: &MemoryStore, quota: Quota) -> Checker<MemoryStore, impl Apply<u64> + use<>> {
    RateLimitLayer::new(store.clone())
        .rule(Rule::new("number", quota).key(|number: &u64| Key::from(*number)))
        .checker()
}

#[tokio::test(start_paused = true)]
async fn each_key_has_its_own_quota_and_gets_it_back() {
    let limits = by_number(&MemoryStore::with_capacity(100), Quota::per_second(2));
    for key in [1, 2, 1, 2] {
        assert!(limits.check(&key).await.is_ok());
    }
    let refused = refused(limits.check(&1).await);
    let violation = &refused.violations()[0];
    assert_eq!(
        (
            violation.rule.as_ref(),
            violation.limit,
            violation.remaining
        ),
        ("number", 2, 0)
    );

    let wait = refused.retry_after().expect("it passes some time");
    advance(wait - Duration::from_micros(1)).await;
    assert!(
        limits.check(&1).await.is_err(),
        "a moment before the wait is over"
    );
    advance(Duration::from_micros(1)).await;
    assert!(limits.check(&1).await.is_ok());
    assert!(limits.check(&2).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_refusal_by_one_rule_counts_under_none() {
    let limits = RateLimitLayer::new(MemoryStore::with_capacity(100))
        .rule(Rule::new("many", Quota::per_minute(3)))
        .rule(Rule::new("few", Quota::per_minute(1)).key(|name: &&str| Key::from(*name)))
        .checker();
    assert!(limits.check(&"a").await.is_ok());
    for _ in 0..10 {
        let refused = refused(limits.check(&"a").await);
        assert_eq!(refused.violations().len(), 1);
        assert_eq!(refused.violations()[0].rule, "few");
    }
    // Had the ten been counted under `many`, these two would not fit.
    assert!(limits.check(&"b").await.is_ok());
    assert!(limits.check(&"c").await.is_ok());
    let both = refused(limits.check(&"a").await);
    let rules: Vec<_> = both
        .violations()
        .iter()
        .map(|violation| &*violation.rule)
        .collect();
    assert_eq!(rules, ["many", "few"]);
    assert_eq!(
        both.retry_after(),
        both.violations()
            .iter()
            .map(|violation| violation.retry_after)
            .max()
            .flatten()
    );
}

#[tokio::test(start_paused = true)]
async fn a_cost_is_taken_whole_or_not_at_all() {
    let limits = RateLimitLayer::new(MemoryStore::with_capacity(100))
        .rule(Rule::new("rows", Quota::per_minute(10)).cost(|rows: &u32| *rows))
        .checker();
    assert!(limits.check(&7).await.is_ok());
    assert_eq!(refused(limits.check(&4).await).violations()[0].remaining, 3);
    assert!(limits.check(&3).await.is_ok());
    assert!(limits.check(&1).await.is_err());
    assert!(
        limits.check(&0).await.is_ok(),
        "a cost of nothing always passes"
    );

    let Err(RateLimitError::CostAboveLimit(never)) = limits.check(&11).await else {
        panic!("a cost above the limit has an error of its own");
    };
    assert_eq!(
        (never.rule.as_ref(), never.cost, never.limit),
        ("rows", 11, 10)
    );
}

#[tokio::test(start_paused = true)]
async fn a_rule_without_a_key_does_not_apply() {
    let limits = RateLimitLayer::new(MemoryStore::with_capacity(100))
        .rule(
            Rule::new("named", Quota::per_minute(1))
                .key_if(|name: &Option<&str>| name.map(Key::from)),
        )
        .checker();
    for _ in 0..5 {
        assert!(limits.check(&None).await.is_ok());
    }
    assert!(limits.check(&Some("ada")).await.is_ok());
    assert!(limits.check(&Some("ada")).await.is_err());
    assert!(limits.check(&None).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn keys_that_look_alike_are_not_the_same() {
    let seven = 7_u64.to_le_bytes();
    let four = [192, 0, 2, 1];
    let keys = [
        Key::EVERYONE,
        Key::from(""),
        Key::from(7),
        Key::from(seven.as_slice()),
        Key::from(std::net::IpAddr::from(four)),
        Key::from(four.as_slice()),
    ];
    let limits = RateLimitLayer::new(MemoryStore::with_capacity(100))
        .rule(Rule::new("any", Quota::per_minute(1)).key(|key: &Key<'_>| reborrow(key)))
        .checker();
    for key in &keys {
        assert!(limits.check(key).await.is_ok(), "{key:?}");
        assert!(limits.check(key).await.is_err(), "{key:?}");
    }
}

fn reborrow<'a>(key: &'a Key<'_>) -> Key<'a> {
    *key
}

#[tokio::test(start_paused = true)]
async fn keys_of_any_bytes_and_length_are_taken() {
    let limits = RateLimitLayer::new(MemoryStore::with_capacity(100))
        .rule(Rule::new("any", Quota::per_minute(1)).key(|key: &Vec<u8>| key.as_slice().into()))
        .checker();
    for key in [
        vec![],
        vec![0],
        vec![0, 0],
        vec![255; 1 << 20],
        vec![255; (1 << 20) - 1],
    ] {
        assert!(limits.check(&key).await.is_ok());
        assert!(limits.check(&key).await.is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn rules_of_one_name_on_one_store_share_their_counters() {
    let store = MemoryStore::with_capacity(100);
    let (one, other) = (
        by_number(&store, Quota::per_minute(1)),
        by_number(&store, Quota::per_minute(1)),
    );
    assert!(one.check(&1).await.is_ok());
    assert!(other.check(&1).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_newer_version_holds_for_the_older_ones_too() {
    let store = MemoryStore::with_capacity(100);
    let version = |version, limit| {
        RateLimitLayer::new(store.clone())
            .rule(Rule::new("rule", Quota::per_minute(limit)).version(version))
            .checker()
    };
    let (old, new) = (version(1, 100), version(2, 5));
    for _ in 0..8 {
        assert!(old.check(&()).await.is_ok());
    }
    assert_eq!(refused(new.check(&()).await).violations()[0].limit, 5);
    assert_eq!(refused(old.check(&()).await).violations()[0].limit, 5);
    // Nothing of it is left after the window, so the older version decides by itself again.
    advance(Duration::from_secs(64)).await;
    for _ in 0..100 {
        assert!(old.check(&()).await.is_ok());
    }
    assert!(old.check(&()).await.is_err());
}

// With a table that gives newcomers a fresh quota, whoever is at their limit floods it with other keys and
// comes back as one of them.
#[tokio::test(start_paused = true)]
async fn the_run_in_which_eviction_gives_quota_back() {
    let limit = 10;
    for used in [limit, limit - 1] {
        let store = MemoryStore::with_capacity(16);
        let limits = by_number(&store, Quota::per_minute(limit));
        for _ in 0..used {
            assert!(limits.check(&0).await.is_ok());
        }
        // Strangers who use up theirs, so that the key is not spared for having used the most.
        for stranger in 1..1_000_u64 {
            while limits.check(&stranger).await.is_ok() {}
        }
        let mut more = 0;
        while limits.check(&0).await.is_ok() {
            more += 1;
        }
        assert!(
            used + more <= limit,
            "{used} before the flood and {more} after it"
        );
        // What the flood held against everybody goes with the window.
        advance(Duration::from_secs(64)).await;
        assert!(limits.check(&0).await.is_ok());
        assert!(limits.check(&77_777).await.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn keys_within_the_capacity_do_not_disturb_each_other() {
    let limits = by_number(&MemoryStore::with_capacity(10_000), Quota::per_minute(100));
    for key in 0..10_000 {
        for _ in 0..3 {
            assert!(limits.check(&key).await.is_ok());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn deciding_without_a_service_shares_the_counters_of_the_layer() {
    use tower::{Service, ServiceBuilder, ServiceExt, service_fn};

    let layer = RateLimitLayer::new(MemoryStore::with_capacity(100))
        .rule(Rule::new("all", Quota::per_minute(1)));
    let mut service = ServiceBuilder::new()
        .layer(layer.clone())
        .service(service_fn(async |(): ()| {
            Ok::<_, seawall_ratelimit::BoxError>(())
        }));
    service.ready().await.unwrap().call(()).await.unwrap();
    assert!(layer.checker().check(&()).await.is_err());
}

#[test]
fn settings_that_cannot_be_say_what_is_wrong() {
    assert_eq!(Quota::try_per_second(0), Err(ConfigError::ZeroLimit));
    let short = Duration::from_micros(999);
    assert_eq!(Quota::try_new(1, short), Err(ConfigError::Window(short)));
    assert_eq!(
        Quota::try_new(1, Duration::MAX),
        Err(ConfigError::Window(Duration::MAX))
    );
    assert!(Quota::try_new(u32::MAX, Duration::from_secs(3_660 * 86_400)).is_ok());
    assert!(matches!(
        MemoryStore::try_with_capacity(0),
        Err(ConfigError::ZeroCapacity)
    ));
    let long = "x".repeat(65);
    for name in ["", "a\"b", "a\\b", "ü", "a\nb", long.as_str()] {
        let rule = Rule::try_new(name.to_owned(), Quota::per_second(1));
        assert_eq!(rule.err(), Some(ConfigError::RuleName(name.to_owned())));
    }
    let one = RateLimitLayer::new(MemoryStore::with_capacity(1))
        .rule(Rule::new("a", Quota::per_second(1)));
    let twice = one.try_rule(Rule::new("a", Quota::per_second(2)));
    assert!(matches!(twice, Err(ConfigError::DuplicateRule(name)) if name == "a"));
}

#[test]
fn a_layer_holds_eight_rules() {
    let rule = |name| Rule::new(name, Quota::per_second(1));
    let eight = RateLimitLayer::new(MemoryStore::with_capacity(1))
        .rule(rule("1"))
        .rule(rule("2"))
        .rule(rule("3"))
        .rule(rule("4"))
        .rule(rule("5"))
        .rule(rule("6"))
        .rule(rule("7"))
        .rule(rule("8"));
    assert_eq!(eight.policies().len(), 8);
    assert!(matches!(
        eight.try_rule(rule("9")),
        Err(ConfigError::TooManyRules)
    ));
}

#[test]
#[should_panic(expected = "a quota of 0 admits nothing")]
fn a_quota_of_nothing_panics_where_it_is_written() {
    let _ = Quota::per_minute(0);
}

#[test]
#[should_panic(expected = "two rules are named")]
fn two_rules_of_one_name_panic_where_they_are_written() {
    let _ = RateLimitLayer::new(MemoryStore::with_capacity(1))
        .rule(Rule::new("a", Quota::per_second(1)))
        .rule(Rule::new("a", Quota::per_second(1)));
}
