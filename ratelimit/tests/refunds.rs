//! Charges that are given back by what the answer says.

#![allow(clippy::unwrap_used, reason = "in a test it is the assertion")]

use std::time::Duration;

use seawall_ratelimit::{
    Apply, BoxError, Checker, MemoryStore, Quota, RateLimitLayer, Rule, WindowKind,
};
use test_support::drop_at_every_poll;
use tokio::time::{advance, sleep};
use tower::{Layer, Service, ServiceExt, service_fn};

#[derive(Clone, Copy, Debug)]
enum Password {
    Right,
    Wrong,
    Outage,
}
use Password::{Outage, Right, Wrong};

/// Whether it was right.
type Answer = Result<bool, BoxError>;

async fn log_in(password: Password) -> Answer {
    sleep(Duration::from_millis(10)).await;
    match password {
        Right => Ok(true),
        Wrong => Ok(false),
        Outage => Err("the database is out".into()),
    }
}

fn wrong_ones(
    store: &MemoryStore,
    kind: WindowKind,
) -> RateLimitLayer<MemoryStore, impl Apply<Password> + use<>> {
    RateLimitLayer::new(store.clone())
        .rule(Rule::new("wrong", Quota::per_minute(3)).window(kind))
        .rule(
            Rule::new("planned", Quota::per_minute(2))
                .window(kind)
                .shadow(),
        )
}

fn right(answer: &Answer) -> bool {
    matches!(answer, Ok(true))
}

/// How many more there is room for.
async fn left(limits: &Checker<MemoryStore, impl Apply<Password>>) -> u32 {
    let mut left = 0;
    while limits.check(&Wrong).await.is_ok() {
        left += 1;
    }
    left
}

const KINDS: [WindowKind; 4] = [
    WindowKind::Sliding,
    WindowKind::Log,
    WindowKind::Counter,
    WindowKind::Gcra,
];

#[tokio::test(start_paused = true)]
async fn only_what_failed_counts() {
    for kind in KINDS {
        let store = MemoryStore::with_capacity(10);
        let layer = wrong_ones(&store, kind);
        let limits = layer.checker();
        let mut service = layer.refund_if(right).layer(service_fn(log_in));
        for _ in 0..20 {
            let answer = service.ready().await.unwrap().call(Right).await;
            assert!(answer.unwrap());
        }
        for password in [Wrong, Right, Outage] {
            let _ = service.ready().await.unwrap().call(password).await;
        }
        assert_eq!(left(&limits).await, 1, "{kind:?}");
        let refused = service.ready().await.unwrap().call(Right).await;
        assert!(refused.is_err(), "it cannot be known before");
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_are_under_way_than_there_is_room_for() {
    let store = MemoryStore::with_capacity(10);
    let service = wrong_ones(&store, WindowKind::Sliding)
        .refund_if(right)
        .layer(service_fn(log_in));
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let mut service = service.clone();
        calls.spawn(async move { service.ready().await.unwrap().call(Right).await.is_ok() });
    }
    let passed = calls.join_all().await;
    assert_eq!(passed.into_iter().filter(|passed| *passed).count(), 3);
    // All three are back.
    assert_eq!(
        left(&wrong_ones(&store, WindowKind::Sliding).checker()).await,
        3
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_dropped_is_given_back_if_that_was_asked_for() {
    for refund_dropped in [false, true] {
        let store = MemoryStore::with_capacity(10);
        let layer = wrong_ones(&store, WindowKind::Sliding);
        let limits = layer.checker();
        let mut layer = layer.refund_if(right);
        if refund_dropped {
            layer = layer.refund_dropped();
        }
        let call = || {
            let mut service = layer.layer(service_fn(log_in));
            async move { service.ready().await?.call(Wrong).await }
        };
        let mut polls_seen = 0;
        let answer = drop_at_every_poll(call, async |polls| {
            polls_seen = polls;
            let left = left(&limits).await;
            // A future that was never polled had not called yet.
            let gone = u32::from(!refund_dropped && polls > 0);
            assert_eq!(left, 3 - gone, "dropped after {polls} polls");
            advance(Duration::from_secs(64)).await;
        })
        .await;
        assert!(!answer.unwrap());
        assert!(polls_seen > 0);
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_says_so_too() {
    let store = MemoryStore::with_capacity(10);
    let layer = wrong_ones(&store, WindowKind::Sliding);
    let limits = layer.checker();
    let mut service = layer
        .refund_if(|answer: &Answer| answer.is_err())
        .layer(service_fn(log_in));
    for _ in 0..9 {
        let answer = service.ready().await.unwrap().call(Outage).await;
        assert_eq!(answer.unwrap_err().to_string(), "the database is out");
    }
    assert_eq!(left(&limits).await, 3);
}

#[tokio::test(start_paused = true)]
async fn who_waits_gets_back_too() {
    let store = MemoryStore::with_capacity(10);
    let layer = RateLimitLayer::new(store.clone())
        .rule(Rule::new("all", Quota::per_second(1)))
        .wait_up_to(Duration::from_secs(5))
        .refund_if(right);
    let mut service = layer.layer(service_fn(log_in));
    let start = tokio::time::Instant::now();
    for _ in 0..9 {
        let answer = service.ready().await.unwrap().call(Right).await;
        assert!(answer.unwrap());
    }
    assert_eq!(start.elapsed(), Duration::from_millis(90));
    service.ready().await.unwrap().call(Wrong).await.unwrap();
    service.ready().await.unwrap().call(Wrong).await.unwrap();
    assert!(start.elapsed() > Duration::from_secs(1));
}

#[cfg(feature = "http")]
#[tokio::test(start_paused = true)]
async fn a_response_says_by_its_status_that_it_does_not_count() {
    use std::convert::Infallible;

    use tower::ServiceBuilder;

    type Request = axum::http::Request<()>;
    type Response = axum::http::Response<String>;

    let layer = RateLimitLayer::new(MemoryStore::with_capacity(10))
        .rule(Rule::new("wrong", Quota::per_minute(2)))
        .http()
        .refund_if(|answer: &Result<Response, Infallible>| match answer {
            Ok(response) => response.status() != 401,
            Err(never) => match *never {},
        });
    let log_in = async |request: Request| {
        let status = if request.uri().path() == "/sesame" {
            200
        } else {
            401
        };
        let mut response = Response::default();
        *response.status_mut() = status.try_into().unwrap();
        Ok::<_, Infallible>(response)
    };
    let mut service = ServiceBuilder::new()
        .layer(layer)
        .service(service_fn(log_in));
    let mut statuses = Vec::new();
    for path in ["/sesame", "/sesame", "/a", "/sesame", "/b", "/sesame"] {
        let mut request = Request::default();
        *request.uri_mut() = path.parse().unwrap();
        let response = service.ready().await.unwrap().call(request).await.unwrap();
        statuses.push(response.status().as_u16());
    }
    assert_eq!(statuses, [200, 200, 401, 200, 401, 429]);
}
