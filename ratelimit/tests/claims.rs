//! What the crate promises, measured. Each test prints its figure and holds it to the bar.

#![allow(clippy::unwrap_used, reason = "in a test it is the assertion")]

mod script;
mod strict;

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, Response};
use redis::aio::MultiplexedConnection;
use seawall_ratelimit::window::{Outcome, Terms, Wait};
use seawall_ratelimit::{
    ClientIp, Key, MemoryStore, Quota, RateLimitLayer, RedisStore, Rule, WindowKind,
};
use seawall_redis::{BreakerState, Client, Shared};
use test_support::{Redis, count_allocations};
use tokio::task::JoinSet;
use tokio::time::{Instant, advance};
use tower::{Layer, Service, ServiceExt, service_fn};

fn figure(claim: &str, value: impl std::fmt::Display) {
    println!("figure ratelimit/{claim}: {value}");
}

#[test]
fn strict_memory() {
    let violations = strict::memory(400_000, 200_000);
    figure("strict-memory", violations);
    assert_eq!(violations, 0);
}

async fn connect(server: &Redis) -> MultiplexedConnection {
    let client = redis::Client::open(server.url()).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}

async fn patient(server: &Redis) -> RedisStore<Shared<MultiplexedConnection>> {
    Client::shared(connect(server).await)
        .deadline(Duration::from_secs(30))
        .into()
}

#[tokio::test]
async fn strict_redis() {
    let server = Redis::start().await;
    let quota = Quota::new(80, Duration::from_millis(250));
    let mut tasks = JoinSet::new();
    for _ in 0..4 {
        let limits = RateLimitLayer::new(patient(&server).await)
            .rule(Rule::new("key", quota).key(|key: &u64| (*key).into()))
            .checker();
        for task in 0..16_u64 {
            let limits = limits.clone();
            tasks.spawn(async move {
                let mut admitted = Vec::new();
                for n in 0..400 {
                    let key = (task + n) % 2;
                    let before = Instant::now();
                    if limits.check(&key).await.is_ok() {
                        admitted.push((key, before, Instant::now()));
                    }
                }
                admitted
            });
        }
    }
    let admitted: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    assert!(admitted.len() >= 160, "the limits were met");
    let of_key = |key| {
        let mine = admitted.iter().filter(|(other, ..)| *other == key);
        mine.map(|(_, from, to)| (*from, *to)).collect()
    };
    let violations: u64 = (0..2)
        .map(|key| strict::broken_windows(of_key(key), quota))
        .sum();
    figure("strict-redis", violations);
    assert_eq!(violations, 0);
}

/// A rule of each kind, and one more of the default.
const KINDS: [(&str, WindowKind, u8); 5] = [
    ("a", WindowKind::Sliding, 0),
    ("b", WindowKind::Sliding, 0),
    ("c", WindowKind::Log, 1),
    ("d", WindowKind::Counter, 2),
    ("e", WindowKind::Gcra, 3),
];

struct Ask {
    keys: [u64; 5],
    costs: [u32; 5],
}

/// The script that `RedisStore` sends, at a moment of our own.
fn script_at(
    connection: &mut redis::Connection,
    now: u64,
    ask: &Ask,
    quotas: [Quota; 5],
) -> Vec<Outcome> {
    let names: Vec<_> = (0..5)
        .map(|n| format!("{{t}}:{n}:{}", ask.keys[n]))
        .collect();
    let rules: Vec<_> = (0..5)
        .map(|n| script::Rule {
            key: &names[n],
            version: 0,
            limit: quotas[n].limit(),
            width: Terms::new(quotas[n], 0).window().as_micros() as u64 / 16,
            cost: ask.costs[n],
            kind: KINDS[n].2,
        })
        .collect();
    let reply: Vec<u8> = script::call(now, &rules, false).query(connection).unwrap();
    script::read(&reply, &rules, false)
        .chunks(4)
        .map(|rule| {
            let wait = match rule[3] {
                0 => Wait::None,
                -1 => Wait::Forever,
                micros => Wait::Micros(micros as u64),
            };
            Outcome::new(rule[0] as u32, rule[1] as u32, rule[2] as u64, wait)
        })
        .zip(quotas)
        .map(|(outcome, quota)| outcome.in_window_of(Terms::new(quota, 0)))
        .collect()
}

// Time is paused, so the store in memory and the script see the same microsecond; the connection to the
// server blocks, so that time does not run on while it is waited for.
#[tokio::test(start_paused = true)]
async fn same_decisions() {
    let server = Redis::start().await;
    let mut connection = redis::Client::open(server.url())
        .unwrap()
        .get_connection()
        .unwrap();
    let quotas = [
        Quota::new(9, Duration::from_micros(30_000_007)),
        Quota::new(25, Duration::from_secs(60)),
        Quota::new(11, Duration::from_micros(34_567_891)),
        Quota::new(13, Duration::from_micros(41_000_009)),
        Quota::new(17, Duration::from_micros(51_234_567)),
    ];
    let rule = |n: usize| {
        Rule::new(KINDS[n].0, quotas[n])
            .window(KINDS[n].1)
            .key(move |ask: &Ask| ask.keys[n].into())
            .cost(move |ask: &Ask| ask.costs[n])
    };
    let limits = RateLimitLayer::new(MemoryStore::with_capacity(1_000))
        .rule(rule(0))
        .rule(rule(1))
        .rule(rule(2))
        .rule(rule(3))
        .rule(rule(4))
        .checker();
    let start = Instant::now();
    let mut random = fastrand::Rng::with_seed(3);
    let (mut differing, mut passed) = (0_u64, 0);
    for _ in 0..20_000 {
        let step = match random.u8(0..10) {
            0..4 => 0,
            9 => random.u64(0..20_000_000),
            _ => random.u64(0..500_000),
        };
        advance(Duration::from_micros(step)).await;
        let ask = Ask {
            keys: std::array::from_fn(|_| random.u64(0..6)),
            costs: std::array::from_fn(|_| random.u32(0..4)),
        };
        let here = strict::now_of(limits.decide(&ask));
        let now = start.elapsed().as_micros() as u64;
        let there = script_at(&mut connection, now, &ask, quotas);
        let here_all: Vec<_> = here.iter().map(|(_, outcome)| outcome).collect();
        differing += u64::from(here_all != there);
        passed += u64::from(here.passes());
    }
    assert!(
        (2_000..18_000).contains(&passed),
        "both kinds of decisions occur: {passed}"
    );
    figure("same-decisions", differing);
    assert_eq!(differing, 0);
}

#[tokio::test]
async fn refused_changes_nothing() {
    let server = Redis::start().await;
    let limits = RateLimitLayer::new(patient(&server).await)
        .rule(Rule::new("wide", Quota::per_hour(100_000)))
        .rule(Rule::new("own", Quota::per_hour(1_000)).key(|n: &u64| Key::from(*n)))
        .rule(Rule::new("full", Quota::per_hour(64)))
        .checker();
    for n in 0..64 {
        limits.check(&n).await.unwrap();
    }
    let mut connection = connect(&server).await;
    let mut counters = async || {
        let mut keys: Vec<String> = redis::cmd("KEYS")
            .arg("*")
            .query_async(&mut connection)
            .await
            .unwrap();
        // All but what nodes keep of their last batches.
        keys.retain(|key| !key.contains("}!"));
        keys.sort();
        let mut get = redis::cmd("MGET");
        let values: Vec<Vec<u8>> = get.arg(&keys).query_async(&mut connection).await.unwrap();
        keys.into_iter().zip(values).collect::<Vec<_>>()
    };
    let before = counters().await;
    assert_eq!(before.len(), 66);
    let mut tasks = JoinSet::new();
    for n in 0..64 {
        let limits = limits.clone();
        tasks.spawn(async move {
            for _ in 0..50 {
                limits.check(&n).await.unwrap_err();
            }
        });
    }
    tasks.join_all().await;
    let after = counters().await;
    let changed = before
        .iter()
        .zip(&after)
        .filter(|(before, after)| before != after)
        .count()
        + before.len().abs_diff(after.len());
    figure("refused-changes-nothing", changed);
    assert_eq!(changed, 0);
}

#[tokio::test(start_paused = true)]
async fn allocations_per_decision() {
    let mut service = RateLimitLayer::new(MemoryStore::with_capacity(10_000))
        .rule(Rule::new("own", Quota::per_hour(100)).key(|key: &u64| (*key).into()))
        .rule(Rule::new("few", Quota::per_hour(100_000)).key(|key: &u64| (key % 3).into()))
        .rule(Rule::new("all", Quota::per_minute(100_000)))
        .layer(service_fn(|key: u64| {
            std::future::ready(Ok::<u64, Infallible>(key))
        }));
    let mut worst = 0;
    // First and repeated requests of each key.
    for key in (0..2_000).chain(0..2_000) {
        let allocations = count_allocations(|| {
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(service.poll_ready(&mut context).is_ready());
            let answer = std::pin::pin!(service.call(key));
            let polled = std::future::Future::poll(answer, &mut context);
            assert!(matches!(polled, std::task::Poll::Ready(Ok(_))));
        });
        worst = worst.max(allocations);
    }
    figure("allocations-per-decision", worst);
    assert_eq!(worst, 0);
}

#[tokio::test(start_paused = true)]
async fn spoofed_forwarded_for() {
    let mut service = RateLimitLayer::new(MemoryStore::with_capacity(1_000))
        .rule(Rule::new("ip", Quota::per_minute(1)).by(ClientIp::behind_proxies(1)))
        .http()
        .layer(service_fn(async |_: Request<Body>| {
            Ok::<_, Infallible>(Response::new(Body::empty()))
        }));
    let mut admitted = 0;
    for n in 0..200 {
        // The client makes up what it likes; the proxy appends where it was called from.
        let forwarded = format!("198.51.100.{n}, 192.0.2.9");
        let request = Request::get("/")
            .header("x-forwarded-for", forwarded)
            .body(Body::empty())
            .unwrap();
        let response = service.ready().await.unwrap().call(request).await.unwrap();
        admitted += u64::from(response.status() == 200);
    }
    figure("spoofed-forwarded-for", admitted);
    assert_eq!(admitted, 1);
}

// Figures, and no assertion about time: the bars are held to by `cargo xtask prove`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen_redis() {
    let deadline = Duration::from_millis(250);
    let server = Redis::start().await;
    let client = Client::shared(connect(&server).await).deadline(deadline);
    let store = RedisStore::from(client.clone());
    let limits = RateLimitLayer::new(store)
        .rule(Rule::new("key", Quota::per_hour(1_000_000)).key(|key: &u64| (*key).into()))
        .checker();
    limits.check(&0).await.unwrap();

    server.pause();
    let mut longest = Duration::ZERO;
    // Until the breaker opens.
    while !matches!(client.state(), BreakerState::Open { .. }) {
        let mut tasks = JoinSet::new();
        for key in 0..64 {
            let limits = limits.clone();
            tasks.spawn(async move {
                let asked = Instant::now();
                limits.check(&key).await.unwrap_err();
                asked.elapsed()
            });
        }
        longest = longest.max(tasks.join_all().await.into_iter().max().unwrap());
    }
    let beyond = longest.saturating_sub(deadline).as_secs_f64() * 1e3;
    figure("frozen-ms-beyond-deadline", format!("{beyond:.1}"));

    let mut open = Vec::new();
    for key in 0..200 {
        let asked = Instant::now();
        let refused = limits.check(&key).await.is_err();
        if refused && matches!(client.state(), BreakerState::Open { .. }) {
            open.push(asked.elapsed());
        }
    }
    open.sort();
    let median = open[open.len() / 2].as_secs_f64() * 1e3;
    figure("open-breaker-ms", format!("{median:.3}"));

    server.resume();
    let resumed = Instant::now();
    while limits.check(&0).await.is_err() {
        tokio::task::yield_now().await;
    }
    let recovered = resumed.elapsed().as_secs_f64();
    figure("recovers-in-s", format!("{recovered:.2}"));
}
