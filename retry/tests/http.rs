//! HTTP: statuses, `Retry-After`, methods, and the layer in an axum router.
#![cfg(feature = "http")]
#![allow(clippy::unwrap_used)] // in helpers, which are tests as well

mod support;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{Router, body::Body, error_handling::HandleErrorLayer, routing::get};
use http::{Method, Request, Response, StatusCode};
use seawall_retry::{
    Backoff, BoxError, Budget, Class, Classify, CloneRequest, HttpStatus, IdempotentMethods,
    RetryError, RetryLayer, Stopped, error_response,
};
use support::{Busy, call, seconds};
use tokio::time::Instant;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

fn response(status: u16, retry_after: &[&str]) -> Response<()> {
    let mut builder = Response::builder().status(status);
    for value in retry_after {
        builder = builder.header("retry-after", *value);
    }
    builder.body(()).unwrap()
}

/// The second before `Sun, 06 Nov 1994 08:49:37 GMT`.
fn clock() -> SystemTime {
    UNIX_EPOCH + seconds(784_111_776)
}

fn class(status: u16, retry_after: &[&str]) -> Class {
    HttpStatus::with_clock(clock).classify(Ok(&response(status, retry_after)))
}

#[test]
fn a_status_says_whether_another_attempt_may_go_better() {
    for status in [408, 425, 429, 500, 502, 503, 504] {
        assert_eq!(class(status, &[]), Class::Transient, "{status}");
    }
    for status in [400, 401, 403, 404, 409, 410, 422, 501, 505] {
        assert_eq!(class(status, &[]), Class::Permanent, "{status}");
    }
    for status in [200, 201, 204, 301, 304] {
        assert_eq!(class(status, &[]), Class::Success, "{status}");
    }
    let error: BoxError = Busy.into();
    assert_eq!(
        Classify::<Response<()>>::classify(&HttpStatus::new(), Err(&error)),
        Class::Transient
    );
}

#[test]
fn retry_after_is_read_in_both_forms() {
    let throttled = |secs| Class::Throttled(seconds(secs));
    for (values, expected) in [
        (&["7"][..], throttled(7)),
        (&[" 7 "], throttled(7)),
        (&["0"], throttled(0)),
        (&["Sun, 06 Nov 1994 08:49:37 GMT"], throttled(1)),
        (&["Sun Nov  6 08:49:37 1994"], throttled(1)),
        (&["Sun, 06 Nov 1994 08:49:00 GMT"], throttled(0)), // already over
        (&["3", "9"], throttled(9)),
        (
            &["99999999999999999999999"],
            Class::Throttled(Duration::from_secs(u64::MAX)),
        ),
        (&["-1"], Class::Transient),
        (&["+1"], Class::Transient),
        (&["1.5"], Class::Transient),
        (&[""], Class::Transient),
        (&["soon"], Class::Transient),
    ] {
        assert_eq!(class(503, values), expected, "{values:?}");
    }
    assert_eq!(
        class(404, &["7"]),
        Class::Permanent,
        "it does not make a status transient"
    );
    assert_eq!(class(200, &["7"]), Class::Success);
}

#[test]
fn only_what_may_be_sent_twice_is_repeated() {
    let repeated = |method: Method, key: bool| {
        let mut request = Request::builder().method(method);
        if key {
            request = request.header("Idempotency-Key", "\"k\"");
        }
        IdempotentMethods
            .clone_request(&request.body(()).unwrap())
            .is_some()
    };
    for method in [
        Method::GET,
        Method::HEAD,
        Method::PUT,
        Method::DELETE,
        Method::OPTIONS,
    ] {
        assert!(repeated(method.clone(), false), "{method}");
    }
    for method in [Method::POST, Method::PATCH] {
        assert!(!repeated(method.clone(), false), "{method}");
        assert!(repeated(method, true));
    }
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_never_early_and_the_last_answer_comes_back() {
    let start = Instant::now();
    let times = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&times);
    let backoff = Backoff::exponential(seconds(1)).attempts(3);
    let mut service = RetryLayer::new(backoff)
        .classify(HttpStatus::with_clock(clock))
        .clone_with(IdempotentMethods)
        .layer(service_fn(move |_: Request<()>| {
            noted.lock().unwrap().push(start.elapsed().as_secs());
            std::future::ready(Ok::<_, Busy>(response(503, &["20"])))
        }));
    let answer = call(&mut service, Request::new(())).await.unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(*times.lock().unwrap(), [0, 20, 40]);
}

/// A stack for one `Router`: the error of the layer becomes a response, as axum asks.
#[tokio::test(start_paused = true)]
async fn in_an_axum_router_all_routes_share_one_budget() {
    let calls = Arc::new(AtomicU32::new(0));
    let budget = Budget::ratio(0.1).burst(3);
    let backoff = Backoff::exponential(seconds(1)).attempts(2);
    let retry = RetryLayer::new(backoff)
        .budget(budget.clone())
        .classify(|outcome: Result<&axum::response::Response, &BoxError>| {
            HttpStatus::new().classify(outcome)
        })
        .clone_with(|request: &Request<Body>| {
            // A GET has no body to lose.
            let mut copy = Request::new(Body::empty());
            *copy.method_mut() = request.method().clone();
            *copy.uri_mut() = request.uri().clone();
            *copy.headers_mut() = request.headers().clone();
            *copy.extensions_mut() = request.extensions().clone();
            (request.method() == Method::GET).then_some(copy)
        });
    let handler = {
        let calls = Arc::clone(&calls);
        move || {
            calls.fetch_add(1, SeqCst);
            std::future::ready(StatusCode::SERVICE_UNAVAILABLE)
        }
    };
    // axum calls `layer()` once for each route.
    let mut router: Router = Router::new()
        .route("/a", get(handler.clone()))
        .route("/b", get(handler))
        .layer(
            ServiceBuilder::new()
                .layer(HandleErrorLayer::new(async |error: BoxError| {
                    error_response::<Body>(&error)
                }))
                .layer(retry),
        );
    for path in ["/a", "/b", "/a", "/b", "/a", "/b"] {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let router = ServiceExt::<Request<Body>>::ready(&mut router)
            .await
            .unwrap();
        let answer = router.call(request).await.unwrap();
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
    assert_eq!(
        calls.load(SeqCst),
        6 + 3,
        "three retries for both routes together"
    );
    assert_eq!(budget.balance(), 0.0);
}

#[tokio::test(start_paused = true)]
async fn a_final_error_is_a_response_with_the_right_status() {
    async fn status(layer: RetryLayer<impl Classify<()> + Clone>, hangs: bool) -> Response<()> {
        let mut service = layer.layer(service_fn(move |()| async move {
            if hangs {
                std::future::pending().await
            } else {
                Err::<(), _>(Busy)
            }
        }));
        error_response(&call(&mut service, ()).await.unwrap_err())
    }
    let layer = RetryLayer::new(Backoff::exponential(seconds(1)).attempts(2));
    let throttled = |wait| move |_: Result<&(), &BoxError>| Class::Throttled(wait);
    let permanent = |_: Result<&(), &BoxError>| Class::Permanent;

    assert_eq!(status(layer.clone(), false).await.status(), 503);
    assert_eq!(
        status(layer.clone().deadline(seconds(5)), true)
            .await
            .status(),
        504
    );
    assert_eq!(
        status(layer.clone().classify(permanent), false)
            .await
            .status(),
        502
    );
    let wait = Duration::from_millis(400_500);
    let answer = status(layer.classify(throttled(wait)), false).await;
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["retry-after"]),
        (503, &"401".parse().unwrap())
    );

    let other: BoxError = Busy.into();
    assert!(RetryError::find(&other).is_none());
    assert_eq!(error_response::<()>(&other).status(), 500);
    assert_eq!(Stopped::Throttled(wait).as_str(), "throttled");
}
