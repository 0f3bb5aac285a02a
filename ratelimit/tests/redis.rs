//! The store on a real server.

#![allow(clippy::unwrap_used, reason = "in a test it is the assertion")]

mod script;

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use seawall_ratelimit::window::{SlidingWindow, Terms, Wait};
use seawall_ratelimit::{
    Apply, Checker, ConfigError, Key, Outage, Quota, RateLimitError, RateLimitLayer, RedisStore,
    Refused, Rule, StoreError,
};
use seawall_redis::{Breaker, BreakerState, Client, Shared};
use test_support::{Proxy, Redis};
use tokio::task::JoinSet;

type Store = RedisStore<Shared<MultiplexedConnection>>;

async fn connect(port: u16) -> MultiplexedConnection {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}/")).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}

async fn patient(server: &Redis) -> Client<Shared<MultiplexedConnection>> {
    // A loaded machine is no outage.
    Client::shared(connect(server.port()).await).deadline(Duration::from_secs(30))
}

async fn store(server: &Redis) -> Store {
    patient(server).await.into()
}

fn by_number(store: &Store, quota: Quota) -> Checker<Store, impl Apply<u64> + use<>> {
    RateLimitLayer::new(store.clone())
        .rule(Rule::new("number", quota).key(|number: &u64| Key::from(*number)))
        .checker()
}

fn refused(result: Result<(), RateLimitError>) -> Refused {
    match result {
        Err(RateLimitError::Refused(refused)) => refused,
        other => panic!("not refused: {other:?}"),
    }
}

/// All that lies on the server.
async fn dump(server: &Redis) -> Vec<(String, Vec<u8>)> {
    let mut connection = connect(server.port()).await;
    let mut keys: Vec<String> = redis::cmd("KEYS")
        .arg("*")
        .query_async(&mut connection)
        .await
        .unwrap();
    // All but what nodes keep of their last batches.
    keys.retain(|key| !key.contains("}!"));
    keys.sort();
    let mut dump = Vec::new();
    for key in keys {
        let value = redis::cmd("GET")
            .arg(&key)
            .query_async(&mut connection)
            .await
            .unwrap();
        dump.push((key, value));
    }
    dump
}

#[tokio::test]
async fn each_key_has_its_own_quota_on_all_nodes_together() {
    let server = Redis::start().await;
    let (one, other) = (store(&server).await, store(&server).await);
    let (one, other) = (
        by_number(&one, Quota::per_hour(2)),
        by_number(&other, Quota::per_hour(2)),
    );
    one.check(&1).await.unwrap();
    other.check(&1).await.unwrap();
    other.check(&2).await.unwrap();
    let refused = refused(one.check(&1).await);
    assert_eq!(refused.violations()[0].remaining, 0);
    let wait = refused.retry_after().unwrap();
    assert!(
        wait > Duration::from_secs(3_600 - 1) && wait <= Duration::from_secs(3_825),
        "{wait:?}"
    );
}

#[tokio::test]
async fn all_rules_of_a_request_are_one_command() {
    let server = Redis::start().await;
    let limits = RateLimitLayer::new(store(&server).await)
        .rule(Rule::new("user", Quota::per_minute(10)).key(|user: &u64| Key::from(*user)))
        .rule(Rule::new("ip", Quota::per_hour(10)).key(|user: &u64| Key::from(user % 2)))
        .rule(Rule::new("all", Quota::per_day(100)))
        .checker();
    limits.check(&1).await.unwrap();
    server.reset_stats().await;
    for user in 1..=5 {
        limits.check(&user).await.unwrap();
    }
    let stats = server.commandstats().await;
    assert_eq!(stats.get("evalsha"), Some(&5));
    assert_eq!(stats.get("eval"), None);
    let keys = dump(&server).await;
    assert!(
        keys.iter().all(|(key, _)| key.starts_with("{seawall}")),
        "one slot: {keys:?}"
    );
}

#[tokio::test]
async fn no_window_holds_more_than_the_limit_under_concurrency() {
    let server = Redis::start().await;
    let quota = Quota::new(50, Duration::from_millis(400));
    let mut tasks = JoinSet::new();
    for _ in 0..4 {
        let limits = by_number(&store(&server).await, quota);
        for _ in 0..16 {
            let limits = limits.clone();
            tasks.spawn(async move {
                let mut admitted = Vec::new();
                for _ in 0..150 {
                    let before = tokio::time::Instant::now();
                    if limits.check(&7).await.is_ok() {
                        admitted.push((before, tokio::time::Instant::now()));
                    }
                }
                admitted
            });
        }
    }
    let admitted: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    assert!(admitted.len() >= 50);
    // Each was decided between its two moments; those that fit into a window whole, count there.
    for (start, _) in &admitted {
        let end = *start + quota.window();
        let inside = admitted
            .iter()
            .filter(|(from, to)| from >= start && *to < end)
            .count();
        assert!(inside <= 50, "{inside} in one window");
    }
}

#[tokio::test]
async fn a_refused_request_changes_no_counter_of_any_rule() {
    let server = Redis::start().await;
    let limits = RateLimitLayer::new(store(&server).await)
        .rule(Rule::new("wide", Quota::per_hour(1_000)))
        .rule(Rule::new("own", Quota::per_hour(1_000)).key(|n: &u64| Key::from(*n)))
        .rule(Rule::new("full", Quota::per_hour(5)))
        .checker();
    for n in 0..5 {
        limits.check(&n).await.unwrap();
    }
    let before = dump(&server).await;
    let mut tasks = JoinSet::new();
    for n in 0..64 {
        let limits = limits.clone();
        tasks.spawn(async move {
            for _ in 0..20 {
                assert_eq!(refused(limits.check(&n).await).violations()[0].rule, "full");
            }
        });
    }
    tasks.join_all().await;
    assert_eq!(dump(&server).await, before);
}

#[tokio::test]
async fn a_forgotten_script_is_sent_again() {
    let server = Redis::start().await;
    let limits = by_number(&store(&server).await, Quota::per_hour(100));
    for _ in 0..3 {
        limits.check(&1).await.unwrap();
        limits.check(&1).await.unwrap();
        server.flush_scripts().await;
    }
    // Nothing was counted twice for it.
    for _ in 0..94 {
        limits.check(&1).await.unwrap();
    }
    limits.check(&1).await.unwrap_err();
}

#[tokio::test]
async fn a_counter_goes_away_by_itself_after_a_window() {
    let server = Redis::start().await;
    by_number(&store(&server).await, Quota::per_second(2))
        .check(&1)
        .await
        .unwrap();
    let key = dump(&server).await.remove(0).0;
    let ttl: i64 = server.ask(&["PTTL", &key]).await.trim().parse().unwrap();
    // A window and two buckets: the next one may be charged by a lease.
    assert!((1..=1_125).contains(&ttl), "{ttl}");
    assert_eq!(server.ask(&["STRLEN", &key]).await.trim(), "44");
}

#[tokio::test]
async fn a_foreign_value_is_left_alone_and_named() {
    let server = Redis::start().await;
    let limits = RateLimitLayer::new(store(&server).await)
        .rule(Rule::new("first", Quota::per_hour(10)))
        .rule(Rule::new("second", Quota::per_hour(10)))
        .checker();
    let alone = RateLimitLayer::new(store(&server).await)
        .rule(Rule::new("first", Quota::per_hour(10)))
        .checker();
    alone.check(&()).await.unwrap();
    // The second is the one that a layer with that rule alone comes to.
    let first = &dump(&server).await[0].0;
    let second = &{
        let both = RateLimitLayer::new(store(&server).await)
            .rule(Rule::new("second", Quota::per_hour(10)))
            .checker();
        both.check(&()).await.unwrap();
        let keys = dump(&server).await;
        keys.into_iter().find(|(key, _)| key != first).unwrap().0
    };
    limits.check(&()).await.unwrap();
    let value = server.ask(&["GET", first]).await;

    for set in [
        vec!["SET", second, "not a counter"],
        vec!["SET", second, ""],
        vec!["RPUSH", second, "a", "list"],
    ] {
        server.ask(&["DEL", second]).await;
        server.ask(&set).await;
        let before = server.ask(&["DUMP", second]).await;
        let Err(RateLimitError::Store(StoreError::ForeignValue { rule })) = limits.check(&()).await
        else {
            panic!("{set:?} is not ours");
        };
        assert_eq!(rule, "second");
        assert_eq!(server.ask(&["DUMP", second]).await, before);
        assert_eq!(
            server.ask(&["GET", first]).await,
            value,
            "nothing is charged beside it"
        );
    }

    let open = RateLimitLayer::new(store(&server).await.on_outage(Outage::Open))
        .rule(Rule::new("second", Quota::per_hour(10)))
        .checker();
    open.check(&()).await.unwrap();
}

/// The script at an injected time; four numbers for each rule.
async fn run_at(
    connection: &mut MultiplexedConnection,
    keys: &[&str],
    now: u64,
    asked: &[(Terms, u32, u32)],
) -> Vec<i64> {
    let rules: Vec<_> = std::iter::zip(keys, asked)
        .map(|(key, (terms, version, cost))| script::Rule {
            key,
            version: *version,
            limit: terms.limit(),
            width: terms.window().as_micros() as u64 / 16,
            cost: *cost,
            kind: 0,
        })
        .collect();
    let short = rules.len() == 1 && rules[0].cost > 0;
    let reply: Vec<u8> = script::call(now, &rules, short)
        .query_async(connection)
        .await
        .unwrap();
    script::read(&reply, &rules, short)
}

fn numbers(window: &SlidingWindow, now: u64, cost: u32) -> [i64; 4] {
    let outcome = window.decide(now, cost);
    let wait = match outcome.wait() {
        Wait::None => 0,
        Wait::Micros(micros) => micros as i64,
        Wait::Forever => -1,
    };
    let reset = outcome.reset().as_micros() as i64;
    [
        outcome.limit().into(),
        outcome.remaining().into(),
        reset,
        wait,
    ]
}

// The script and the pure rules say the same to the last microsecond, for two rules whose quotas change
// while it runs.
#[tokio::test]
async fn the_script_is_the_image_of_the_pure_rules() {
    let server = Redis::start().await;
    let mut connection = connect(server.port()).await;
    let mut random = fastrand::Rng::with_seed(7);
    for trace in 0..40_u32 {
        let keys = [format!("{{t}}:a:{trace}"), format!("{{t}}:b:{trace}")];
        let keys = [keys[0].as_str(), keys[1].as_str()];
        // Long windows, so that no key runs out in real time.
        let mut quota = || {
            Quota::new(
                random.u32(1..20),
                Duration::from_micros(random.u64(20_000_000..90_000_000)),
            )
        };
        let versions = [
            [
                Terms::new(quota(), 1),
                Terms::new(quota(), 2),
                Terms::new(quota(), 2),
            ],
            [
                Terms::new(quota(), 1),
                Terms::new(quota(), 2),
                Terms::new(quota(), 1),
            ],
        ];
        let numbering = [[1, 2, 2], [1, 2, 1]];
        let mut windows: [Option<SlidingWindow>; 2] = [None, None];
        let mut now = 1_700_000_000_000_000 + random.u64(0..1 << 40);
        for step in 0..60 {
            now += match random.u8(0..6) {
                0 | 1 => 0,
                2 | 3 => random.u64(0..3_000_000),
                4 => random.u64(0..20_000_000),
                _ => random.u64(0..60_000_000),
            };
            let mut asked = Vec::new();
            let mut seen = Vec::new();
            for rule in 0..2 {
                let version = if trace % 2 == 0 {
                    0
                } else {
                    random.usize(0..3)
                };
                let terms = versions[rule][version];
                let cost = random.u32(0..6);
                asked.push((terms, numbering[rule][version], cost));
                let mut window = windows[rule].unwrap_or(SlidingWindow::new(terms));
                let renewed = window.renew(terms, now);
                seen.push((window, renewed, cost));
            }
            let fits = seen
                .iter()
                .all(|(window, _, cost)| window.decide(now, *cost).passes());
            let mut expected = Vec::new();
            for (rule, (mut window, renewed, cost)) in seen.into_iter().enumerate() {
                let told = if !fits && window.decide(now, cost).passes() {
                    0
                } else {
                    cost
                };
                expected.extend(numbers(&window, now, told));
                if fits && cost > 0 {
                    window.charge(now, cost);
                    windows[rule] = Some(window);
                } else if renewed {
                    windows[rule] = Some(window);
                }
            }
            let got = run_at(&mut connection, &keys, now, &asked).await;
            assert_eq!(got, expected, "trace {trace}, step {step}");
        }
    }
}

// A key that is full when the clock steps back must not wait for the clock to catch up.
#[tokio::test]
async fn the_run_that_freezes_a_full_key_by_clamping() {
    let server = Redis::start().await;
    let mut connection = connect(server.port()).await;
    let asked = [(Terms::new(Quota::per_second(3), 0), 0, 3)];
    let (hour, start) = (3_600_000_000, 1_700_000_000_000_000);
    // A lease or a clock ahead has left a charge that outlives its window by far.
    assert_eq!(
        run_at(&mut connection, &["k"], start + hour, &asked).await[3],
        0
    );
    server.ask(&["PEXPIRE", "k", "3600000"]).await;
    let refused = run_at(&mut connection, &["k"], start, &asked).await;
    assert!(
        refused[3] > 0,
        "what was admitted before the step still counts"
    );
    assert!(
        refused[3] <= 1_064_000,
        "and it is said that the wait is short: {refused:?}"
    );
    let ttl: i64 = server.ask(&["PTTL", "k"]).await.trim().parse().unwrap();
    assert!((1..=1_063).contains(&ttl), "{ttl}");
    // Being asked again and again does not make it live longer.
    for _ in 0..50 {
        run_at(&mut connection, &["k"], start, &asked).await;
    }
    let later: i64 = server.ask(&["PTTL", "k"]).await.trim().parse().unwrap();
    assert!(later <= ttl, "{later}");
}

#[tokio::test]
async fn the_run_that_steps_back_and_does_not_sum_the_future() {
    let server = Redis::start().await;
    let mut connection = connect(server.port()).await;
    let asked = [(Terms::new(Quota::per_hour(10), 0), 0, 1)];
    let hour = 3_600_000_000;
    let mut admitted = 0;
    for step in 0..5 {
        for _ in 0..10 {
            let now = (470_000 - 10 * step) * hour;
            admitted += i64::from(run_at(&mut connection, &["k"], now, &asked).await[3] == 0);
        }
    }
    assert_eq!(admitted, 10);
}

#[tokio::test]
async fn a_newer_version_holds_for_nodes_that_do_not_know_it() {
    let server = Redis::start().await;
    let version = async |version, limit| {
        RateLimitLayer::new(store(&server).await)
            .rule(Rule::new("rule", Quota::per_hour(limit)).version(version))
            .checker()
    };
    let (old, new) = (version(1, 100).await, version(2, 5).await);
    for _ in 0..8 {
        old.check(&()).await.unwrap();
    }
    assert_eq!(refused(new.check(&()).await).violations()[0].limit, 5);
    assert_eq!(refused(old.check(&()).await).violations()[0].limit, 5);
}

#[tokio::test]
async fn a_pool_and_a_connection_manager_do_as_well() {
    let server = Redis::start().await;
    let client = redis::Client::open(server.url()).unwrap();
    let pool = bb8::Pool::builder()
        .max_size(2)
        .build(client.clone())
        .await
        .unwrap();
    let pooled =
        RateLimitLayer::new(RedisStore::pooled(pool)).rule(Rule::new("all", Quota::per_hour(2)));
    let manager = client.get_connection_manager().await.unwrap();
    let managed =
        RateLimitLayer::new(RedisStore::new(manager)).rule(Rule::new("all", Quota::per_hour(2)));
    pooled.checker().check(&()).await.unwrap();
    managed.checker().check(&()).await.unwrap();
    pooled.checker().check(&()).await.unwrap_err();
    managed.checker().check(&()).await.unwrap_err();
}

#[tokio::test]
async fn stores_of_different_prefixes_do_not_meet() {
    let server = Redis::start().await;
    let store = store(&server).await;
    let (one, other) = (store.clone().prefix("one"), store.prefix("other"));
    by_number(&one, Quota::per_hour(1)).check(&1).await.unwrap();
    by_number(&other, Quota::per_hour(1))
        .check(&1)
        .await
        .unwrap();
    by_number(&one, Quota::per_hour(1))
        .check(&1)
        .await
        .unwrap_err();
}

#[tokio::test]
async fn settings_that_cannot_be_say_what_is_wrong() {
    let server = Redis::start().await;
    let store = store(&server).await;
    for prefix in ["", "a{b", "a}b"] {
        let tried = store.clone().try_prefix(prefix);
        assert_eq!(tried.err(), Some(ConfigError::Prefix(prefix.to_owned())));
    }
    for share in [0.0, -0.1, 1.1, f64::INFINITY] {
        let tried = store.clone().try_on_outage(Outage::Local { share });
        assert_eq!(tried.err(), Some(ConfigError::Share(share)));
    }
    assert!(
        store
            .clone()
            .try_on_outage(Outage::Local { share: f64::NAN })
            .is_err()
    );
    assert!(store.try_on_outage(Outage::Local { share: 1.0 }).is_ok());
}

/// A store whose server is stopped, with a breaker that is open.
async fn frozen(server: &Redis, outage: Outage) -> (Store, Client<Shared<MultiplexedConnection>>) {
    let client = Client::shared(connect(server.port()).await)
        .deadline(Duration::from_millis(50))
        .breaker(Breaker::new(2, Duration::from_secs(3_600)));
    (RedisStore::from(client.clone()).on_outage(outage), client)
}

#[tokio::test]
async fn a_frozen_server_refuses_by_default() {
    let server = Redis::start().await;
    let (store, client) = frozen(&server, Outage::default()).await;
    let limits = by_number(&store, Quota::per_hour(10));
    server.pause();
    for _ in 0..5 {
        let Err(RateLimitError::Store(StoreError::Unavailable(_))) = limits.check(&1).await else {
            panic!("what cannot be counted is not let through");
        };
    }
    assert!(matches!(client.state(), BreakerState::Open { .. }));
    server.resume();
}

#[tokio::test]
async fn a_frozen_server_lets_all_pass_if_that_is_the_policy() {
    let server = Redis::start().await;
    let (store, _) = frozen(&server, Outage::Open).await;
    let limits = by_number(&store, Quota::per_hour(2));
    server.pause();
    for _ in 0..10 {
        limits.check(&1).await.unwrap();
    }
    server.resume();
}

#[tokio::test]
async fn a_frozen_server_leaves_a_local_share_of_all_rules() {
    let server = Redis::start().await;
    let (store, _) = frozen(&server, Outage::Local { share: 0.5 }).await;
    let limits = RateLimitLayer::new(store)
        .rule(Rule::new("number", Quota::per_hour(4)).key(|number: &u64| Key::from(*number)))
        .rule(Rule::new("all", Quota::per_hour(7)))
        .checker();
    server.pause();
    for _ in 0..2 {
        limits.check(&1).await.unwrap();
    }
    for _ in 0..3 {
        let refused = refused(limits.check(&1).await);
        assert_eq!(
            (
                &*refused.violations()[0].rule,
                refused.violations()[0].limit
            ),
            ("number", 2)
        );
    }
    // Three of all together: the refusals above were counted nowhere.
    limits.check(&2).await.unwrap();
    assert_eq!(refused(limits.check(&3).await).violations()[0].rule, "all");
    server.resume();
}

#[tokio::test]
async fn after_an_outage_the_shared_counters_decide_again() {
    let server = Redis::start().await;
    let client = Client::shared(connect(server.port()).await)
        .deadline(Duration::from_millis(100))
        .breaker(Breaker::never());
    let store = RedisStore::from(client).on_outage(Outage::Open);
    let limits = by_number(&store, Quota::per_hour(1));
    limits.check(&1).await.unwrap();
    server.pause();
    limits.check(&1).await.unwrap();
    server.resume();
    // The server answers as soon as it has caught up.
    while limits.check(&1).await.is_ok() {}
}

#[tokio::test]
async fn a_call_whose_reply_is_lost_may_be_counted_and_is_never_free() {
    let server = Redis::start().await;
    let proxy = Proxy::to(server.port()).await;
    let client = Client::shared(connect(proxy.port()).await).deadline(Duration::from_secs(30));
    let limits = by_number(&client.into(), Quota::per_hour(3));
    limits.check(&1).await.unwrap();
    proxy.swallow_next_reply();
    limits.check(&1).await.unwrap_err();
    let direct = by_number(&store(&server).await, Quota::per_hour(3));
    direct.check(&1).await.unwrap();
    direct.check(&1).await.unwrap_err();
}
