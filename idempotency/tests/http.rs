//! The HTTP adapter over plain tower services.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header, request::Parts};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use seawall_idempotency::{
    Fence, Fingerprint, IdempotencyKey, IdempotencyLayer, Key, MemoryStore, Problem, Undone,
};
use support::{Trouble, Troubled, call, settle, spawn};
use tokio::time::{advance, sleep};
use tower::{Layer, Service, service_fn};

const SECOND: Duration = Duration::from_secs(1);

type Plain =
    IdempotencyLayer<MemoryStore, seawall_idempotency::Http<seawall_idempotency::Unscoped>>;

fn once() -> Plain {
    IdempotencyLayer::http(MemoryStore::with_capacity(1_000)).unscoped()
}

/// Answers with the number of its calls.
#[derive(Clone, Default)]
struct Counter(Arc<AtomicU64>);

impl Counter {
    fn calls(&self) -> u64 {
        self.0.load(SeqCst)
    }
}

impl<B> Service<Request<B>> for Counter {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        let call = self.0.fetch_add(1, SeqCst) + 1;
        std::future::ready(Ok(Response::new(Full::from(format!("call {call}")))))
    }
}

fn post(key: Option<&str>) -> Request<Full<Bytes>> {
    let mut request = Request::post("/orders?a=1")
        .body(Full::from("body"))
        .unwrap();
    if let Some(key) = key {
        request.headers_mut().insert(
            "idempotency-key",
            HeaderValue::from_bytes(key.as_bytes()).unwrap(),
        );
    }
    request
}

async fn send<S, B>(
    service: &mut S,
    request: Request<Full<Bytes>>,
) -> (http::response::Parts, Bytes)
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error: std::fmt::Debug>,
    B: Body<Data = Bytes, Error: std::fmt::Debug>,
{
    let (parts, body) = call(service, request).await.unwrap().into_parts();
    (parts, body.collect().await.unwrap().to_bytes())
}

#[tokio::test(start_paused = true)]
async fn keys_are_structured_field_strings_and_all_else_is_refused() {
    let long = format!("\"{}\"", "x".repeat(255));
    let good: &[(&str, &str)] = &[
        ("\"abc\"", "abc"),
        ("  \"abc\"  ", "abc"),
        ("\"a\\\"b\\\\c\"", "a\"b\\c"),
        ("\"a b,c\"", "a b,c"),
        ("\"abc\";a", "abc"),
        (
            "\"abc\"; a=1;b=-2.5;c=?1;d=:aGk=:;e=to/ken:x;f=\"s\";*g=@17;h=%\"%c3%bc\"",
            "abc",
        ),
        (&long, &"x".repeat(255)),
    ];
    for (header, key) in good {
        let counter = Counter::default();
        let mut service = once().layer(counter.clone());
        send(&mut service, post(Some(header))).await;
        let mut same = post(None);
        same.extensions_mut()
            .insert(IdempotencyKey((*key).to_owned()));
        let (parts, body) = send(&mut service, same).await;
        assert_eq!(
            (parts.status, &body[..]),
            (StatusCode::OK, &b"call 1"[..]),
            "{header}"
        );
        assert_eq!(counter.calls(), 1);
    }
    let longer = format!("\"{}\"", "x".repeat(256));
    let bad = [
        "",
        "\"\"",
        "abc",
        "\"abc",
        "abc\"",
        "\"a\\bc\"",
        "\"abc\" x",
        "\"abc\", \"def\"",
        "'abc'",
        "\"a\tb\"",
        "\"\u{fc}\"",
        "\"abc\";",
        "\"abc\";A=1",
        "\"abc\";a=",
        "\"abc\";a=1.",
        "?1",
        "12",
        "\"abc\";a=1.2345",
        "\"abc\";a=1234567890123456",
        "\"abc\";a=?2",
        "\"abc\";a=:a",
        "(\"abc\")",
        "\"abc\";a=%\"%C3\"",
        "\"abc\" ;a",
        &longer,
    ];
    for header in bad {
        let counter = Counter::default();
        let mut service = once().layer(counter.clone());
        let (parts, _) = send(&mut service, post(Some(header))).await;
        assert_eq!(parts.status, StatusCode::BAD_REQUEST, "{header:?}");
        assert_eq!(parts.extensions.get(), Some(&Problem::KeyMalformed));
        assert_eq!(counter.calls(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn with_bare_keys_the_quoted_and_the_bare_form_are_one_key() {
    let counter = Counter::default();
    let mut service = once().bare_keys().layer(counter.clone());
    for key in [
        "8e03978e-40d5-43dd",
        "\"8e03978e-40d5-43dd\"",
        " 8e03978e-40d5-43dd ",
    ] {
        assert_eq!(send(&mut service, post(Some(key))).await.1, "call 1");
    }
    for bad in [
        "",
        " ",
        "a b",
        "a,b",
        "a\"b",
        "\"a",
        "\u{fc}",
        &"x".repeat(256),
    ] {
        let (parts, _) = send(&mut service, post(Some(bad))).await;
        assert_eq!(parts.status, StatusCode::BAD_REQUEST, "{bad:?}");
    }
    assert_eq!(counter.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_repeated_key_is_refused() {
    let mut service = once().layer(Counter::default());
    let mut request = post(Some("\"a\""));
    request
        .headers_mut()
        .append("idempotency-key", HeaderValue::from_static("\"a\""));
    let (parts, _) = send(&mut service, request).await;
    assert_eq!(parts.status, StatusCode::BAD_REQUEST);
    assert_eq!(parts.extensions.get(), Some(&Problem::KeyRepeated));
}

#[tokio::test(start_paused = true)]
async fn a_missing_key_passes_through_or_is_refused_where_it_is_required() {
    let counter = Counter::default();
    let mut optional = once().layer(counter.clone());
    assert_eq!(send(&mut optional, post(None)).await.1, "call 1");
    assert_eq!(send(&mut optional, post(None)).await.1, "call 2");
    let mut required = once().require_key().layer(counter.clone());
    let (parts, body) = send(&mut required, post(None)).await;
    assert_eq!(parts.status, StatusCode::BAD_REQUEST);
    assert_eq!(
        parts.headers[header::CONTENT_TYPE],
        "application/problem+json"
    );
    let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(problem["title"], "An Idempotency-Key is required");
    let mut get = post(None);
    *get.method_mut() = http::Method::GET;
    assert_eq!(
        send(&mut required, get).await.1,
        "call 3",
        "only of the methods that take part"
    );
}

#[tokio::test(start_paused = true)]
async fn the_header_goes_before_a_key_that_an_outer_layer_found() {
    let counter = Counter::default();
    let mut service = once().require_key().layer(counter.clone());
    let found = |header: Option<&str>, key: &str| {
        let mut request = post(header);
        request
            .extensions_mut()
            .insert(IdempotencyKey(key.to_owned()));
        request
    };
    assert_eq!(send(&mut service, found(None, "body")).await.1, "call 1");
    assert_eq!(
        send(&mut service, found(Some("\"header\""), "body"))
            .await
            .1,
        "call 2"
    );
    assert_eq!(
        send(&mut service, post(Some("\"header\""))).await.1,
        "call 2"
    );
    for bad in ["", "a\n", "\u{fc}"] {
        assert_eq!(
            send(&mut service, found(None, bad)).await.0.status,
            StatusCode::BAD_REQUEST
        );
    }
    assert!(!format!("{:?}", IdempotencyKey("secret".into())).contains("secret"));
}

#[tokio::test(start_paused = true)]
async fn the_handler_finds_the_key_wherever_it_came_from() {
    let mut service =
        once()
            .bare_keys()
            .layer(service_fn(|request: Request<Full<Bytes>>| async move {
                let IdempotencyKey(key) = request.extensions().get().cloned().unwrap();
                Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(key)))
            }));
    assert_eq!(
        send(&mut service, post(Some("\"quoted\""))).await.1,
        "quoted"
    );
    assert_eq!(send(&mut service, post(Some("bare"))).await.1, "bare");
    let mut found = post(None);
    found
        .extensions_mut()
        .insert(IdempotencyKey("body".to_owned()));
    assert_eq!(send(&mut service, found).await.1, "body");
}

#[tokio::test(start_paused = true)]
async fn scopes_keep_callers_apart_and_a_request_without_its_scope_is_refused() {
    let counter = Counter::default();
    let store = MemoryStore::with_capacity(10);
    let mut service = IdempotencyLayer::http(store.clone())
        .scope(header::AUTHORIZATION)
        .layer(counter.clone());
    let of = |who: &'static str| {
        let mut request = post(Some("\"a\""));
        request
            .headers_mut()
            .insert(header::AUTHORIZATION, HeaderValue::from_static(who));
        request
    };
    assert_eq!(send(&mut service, of("alice")).await.1, "call 1");
    assert_eq!(send(&mut service, of("bob")).await.1, "call 2");
    assert_eq!(send(&mut service, of("alice")).await.1, "call 1");
    let (parts, _) = send(&mut service, post(Some("\"a\""))).await;
    assert_eq!(parts.extensions.get(), Some(&Problem::ScopeMissing));
    assert_eq!(parts.status, StatusCode::BAD_REQUEST);

    let mut by_closure = IdempotencyLayer::http(store)
        .scope(|request: &Parts| Key::of([request.uri.path(), "tenant"]))
        .layer(counter);
    assert_eq!(send(&mut by_closure, post(Some("\"a\""))).await.1, "call 3");
}

#[tokio::test(start_paused = true)]
async fn another_payload_under_the_same_key_is_refused_in_every_part() {
    let counter = Counter::default();
    let mut service = once()
        .methods([http::Method::POST, http::Method::PUT])
        .layer(counter.clone());
    send(&mut service, post(Some("\"a\""))).await;
    let mut method = post(Some("\"a\""));
    *method.method_mut() = http::Method::PUT;
    let mut path = post(Some("\"a\""));
    *path.uri_mut() = "/order?s&a=1".parse().unwrap();
    let mut query = post(Some("\"a\""));
    *query.uri_mut() = "/orders?a=2".parse().unwrap();
    let body = post(Some("\"a\"")).map(|_| Full::from("other"));
    for request in [method, path, query, body] {
        let (parts, _) = send(&mut service, request).await;
        assert_eq!(parts.status, StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(parts.extensions.get(), Some(&Problem::Mismatch));
    }
    assert_eq!(counter.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_fingerprint_may_be_the_users() {
    let counter = Counter::default();
    let mut service = once()
        .fingerprint(|parts: &Parts, body: &Bytes| {
            Fingerprint::of([parts.uri.path().as_bytes(), &body.to_ascii_lowercase()])
        })
        .layer(counter.clone());
    send(&mut service, post(Some("\"a\""))).await;
    let same = post(Some("\"a\"")).map(|_| Full::from("BODY"));
    assert_eq!(send(&mut service, same).await.1, "call 1");
}

#[tokio::test(start_paused = true)]
async fn the_handler_is_given_the_body_and_its_fence() {
    let mut service = once().layer(service_fn(|request: Request<Full<Bytes>>| async move {
        let attempt = request.extensions().get::<Fence>().copied().unwrap();
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let text = format!("{attempt:?} {}", std::str::from_utf8(&body).unwrap());
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(text)))
    }));
    assert_eq!(
        send(&mut service, post(Some("\"a\""))).await.1,
        "Fence(1) body"
    );
}

#[tokio::test(start_paused = true)]
async fn a_request_in_flight_is_refused_with_409_and_retry_after() {
    let service = once()
        .documentation("https://example.test/\"docs\"")
        .layer(service_fn(|_: Request<Full<Bytes>>| async {
            sleep(SECOND).await;
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("done")))
        }));
    let first = spawn(service.clone(), post(Some("\"a\"")));
    settle().await;
    let (parts, body) = send(&mut service.clone(), post(Some("\"a\""))).await;
    assert_eq!(parts.status, StatusCode::CONFLICT);
    assert_eq!(parts.headers[header::RETRY_AFTER], "1");
    let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(problem["type"], "https://example.test/\"docs\"#in-flight");
    assert_eq!(problem["status"], 409);
    assert_eq!(first.await.unwrap().unwrap().status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_replay_has_the_answer_and_none_of_its_moment() {
    let mut service = once().layer(service_fn(|_: Request<Full<Bytes>>| async {
        let response = Response::builder()
            .status(StatusCode::CREATED)
            .header(header::LOCATION, "/orders/1")
            .header("x-twice", "1")
            .header("x-twice", "2")
            .header("x-bytes", HeaderValue::from_bytes(b"\xff\xfe").unwrap())
            .header(header::SET_COOKIE, "session=1")
            .header(header::DATE, "Mon, 01 Jan 2024 00:00:00 GMT")
            .header(header::CONNECTION, "x-hop, keep-alive")
            .header("x-hop", "1")
            .header("keep-alive", "timeout=5")
            .body(Full::<Bytes>::from(Bytes::from_static(b"\x00\xffbytes")))
            .unwrap();
        Ok::<_, Infallible>(response)
    }));
    let (first, first_body) = send(&mut service, post(Some("\"a\""))).await;
    assert!(first.headers.contains_key(header::SET_COOKIE));
    assert!(!first.headers.contains_key("idempotency-replayed"));
    let (again, again_body) = send(&mut service, post(Some("\"a\""))).await;
    assert_eq!(again.status, StatusCode::CREATED);
    assert_eq!(first_body, again_body);
    let mut expected = HeaderMap::new();
    expected.insert(header::LOCATION, HeaderValue::from_static("/orders/1"));
    expected.append("x-twice", HeaderValue::from_static("1"));
    expected.append("x-twice", HeaderValue::from_static("2"));
    expected.insert("x-bytes", HeaderValue::from_bytes(b"\xff\xfe").unwrap());
    expected.insert("idempotency-replayed", HeaderValue::from_static("true"));
    assert_eq!(again.headers, expected);
}

/// A body of given frames, of no known length, which may pause between them.
struct Frames(VecDeque<Step>, Option<Pin<Box<tokio::time::Sleep>>>);

enum Step {
    Data(&'static str),
    Trailers(HeaderMap),
    Pause(Duration),
    Broken,
}

impl Frames {
    fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        Self(steps.into_iter().collect(), None)
    }
}

impl From<Bytes> for Frames {
    fn from(_: Bytes) -> Self {
        Self::new([])
    }
}

impl Body for Frames {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        loop {
            if let Some(pause) = &mut self.1 {
                std::task::ready!(pause.as_mut().poll(cx));
                self.1 = None;
            }
            return Poll::Ready(match self.0.pop_front() {
                None => None,
                Some(Step::Data(data)) => {
                    Some(Ok(Frame::data(Bytes::from_static(data.as_bytes()))))
                }
                Some(Step::Trailers(trailers)) => Some(Ok(Frame::trailers(trailers))),
                Some(Step::Broken) => Some(Err(std::io::Error::other("cut off"))),
                Some(Step::Pause(time)) => {
                    self.1 = Some(Box::pin(sleep(time)));
                    continue;
                }
            });
        }
    }
}

fn trailers() -> HeaderMap {
    HeaderMap::from_iter([(header::ETAG, HeaderValue::from_static("\"t\""))])
}

/// A service that answers with a fresh body each time, and counts.
fn frames<F>(
    calls: &Arc<AtomicU64>,
    make: F,
) -> impl Service<Request<Full<Bytes>>, Response = Response<Frames>, Error = Infallible, Future: Send>
+ Clone
+ Send
+ 'static
where
    F: Fn() -> Response<Frames> + Clone + Send + 'static,
{
    let calls = Arc::clone(calls);
    service_fn(move |_: Request<Full<Bytes>>| {
        calls.fetch_add(1, SeqCst);
        std::future::ready(Ok(make()))
    })
}

#[tokio::test(start_paused = true)]
async fn trailers_are_kept_on_the_first_answer_and_on_replays() {
    let calls = Arc::default();
    let mut service = once().layer(frames(&calls, || {
        Response::new(Frames::new([
            Step::Data("one "),
            Step::Pause(SECOND / 10),
            Step::Data("two"),
            Step::Trailers(trailers()),
        ]))
    }));
    for _ in 0..2 {
        let response = call(&mut service, post(Some("\"a\""))).await.unwrap();
        assert_eq!(
            response.body().size_hint().exact(),
            None,
            "room for trailers"
        );
        let all = response.into_body().collect().await.unwrap();
        assert_eq!(all.trailers(), Some(&trailers()));
        assert_eq!(all.to_bytes(), "one two");
    }
    assert_eq!(calls.load(SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn an_oversize_answer_is_sent_through_and_never_executed_again() {
    let calls = Arc::default();
    let mut service = once().max_response(6).layer(frames(&calls, || {
        Response::new(Frames::new([
            Step::Data("one "),
            Step::Data("two "),
            Step::Data("three"),
            Step::Trailers(trailers()),
        ]))
    }));
    let response = call(&mut service, post(Some("\"a\""))).await.unwrap();
    let all = response.into_body().collect().await.unwrap();
    assert_eq!(all.trailers(), Some(&trailers()));
    assert_eq!(all.to_bytes(), "one two three");
    let (parts, _) = send(&mut service, post(Some("\"a\""))).await;
    assert_eq!(parts.status, StatusCode::CONFLICT);
    assert_eq!(parts.extensions.get(), Some(&Problem::AnswerNotKept));
    assert!(
        !parts.headers.contains_key(header::RETRY_AFTER),
        "there is nothing to come back for"
    );
    assert_eq!(calls.load(SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_exactly_the_limit_is_kept() {
    let counter = Counter::default();
    let mut exact = once().max_response(6).layer(counter.clone());
    for _ in 0..2 {
        assert_eq!(send(&mut exact, post(Some("\"a\""))).await.1, "call 1");
    }
    let mut short = once().max_response(5).layer(counter);
    assert_eq!(send(&mut short, post(Some("\"a\""))).await.1, "call 2");
    assert_eq!(
        send(&mut short, post(Some("\"a\""))).await.0.status,
        StatusCode::CONFLICT
    );
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_sent_through_at_once_and_never_executed_again() {
    let calls = Arc::default();
    let events = || {
        let mut response = Response::new(Frames::new([
            Step::Pause(1_000 * SECOND),
            Step::Data("event"),
        ]));
        let kind = HeaderValue::from_static("Text/Event-Stream; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    };
    let mut service = once().layer(frames(&calls, events));
    let began = tokio::time::Instant::now();
    let response = call(&mut service, post(Some("\"a\""))).await.unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(
        response.into_body().collect().await.unwrap().to_bytes(),
        "event"
    );
    assert_eq!(
        send(&mut service, post(Some("\"a\""))).await.0.status,
        StatusCode::CONFLICT
    );
    assert_eq!(calls.load(SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_end_in_time_counts_as_a_stream() {
    let calls = Arc::default();
    let mut service = once().layer(frames(&calls, || {
        Response::new(Frames::new([
            Step::Data("first "),
            Step::Pause(100 * SECOND),
            Step::Data("last"),
        ]))
    }));
    let began = tokio::time::Instant::now();
    let response = call(&mut service, post(Some("\"a\""))).await.unwrap();
    assert_eq!(began.elapsed(), SECOND);
    assert_eq!(
        response.into_body().collect().await.unwrap().to_bytes(),
        "first last"
    );
    assert_eq!(
        send(&mut service, post(Some("\"a\""))).await.0.status,
        StatusCode::CONFLICT
    );
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_breaks_off_breaks_off_for_its_caller_and_is_never_executed_again() {
    let calls = Arc::default();
    let mut service = once().layer(frames(&calls, || {
        Response::new(Frames::new([Step::Data("half"), Step::Broken]))
    }));
    let mut body = call(&mut service, post(Some("\"a\"")))
        .await
        .unwrap()
        .into_body();
    assert_eq!(
        body.frame().await.unwrap().unwrap().into_data().unwrap(),
        "half"
    );
    assert_eq!(
        body.frame().await.unwrap().unwrap_err().to_string(),
        "cut off"
    );
    assert_eq!(
        send(&mut service, post(Some("\"a\""))).await.0.status,
        StatusCode::CONFLICT
    );
    assert_eq!(calls.load(SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_marked_as_undone_is_sent_and_not_kept() {
    let counter = Counter::default();
    let inner = tower::util::MapResponse::new(counter, |mut response: Response<Full<Bytes>>| {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        response.extensions_mut().insert(Undone);
        response
    });
    let mut service = once().layer(inner);
    for answer in ["call 1", "call 2"] {
        let (parts, body) = send(&mut service, post(Some("\"a\""))).await;
        assert_eq!(
            (parts.status, &body[..]),
            (StatusCode::SERVICE_UNAVAILABLE, answer.as_bytes())
        );
        assert!(!parts.headers.contains_key("idempotency-replayed"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_answered_with_500_and_repeated() {
    let calls = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&calls);
    let mut service = once().layer(service_fn(move |_: Request<Full<Bytes>>| {
        count.fetch_add(1, SeqCst);
        async move {
            assert!(std::hint::black_box(false), "secret of the handler");
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
        }
    }));
    let (first, first_body) = send(&mut service, post(Some("\"a\""))).await;
    let (again, again_body) = send(&mut service, post(Some("\"a\""))).await;
    assert_eq!(first.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!((first.status, &first_body), (again.status, &again_body));
    assert_eq!(again.headers["idempotency-replayed"], "true");
    assert!(!String::from_utf8_lossy(&first_body).contains("secret"));
    assert_eq!(calls.load(SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_out_is_a_503_and_a_full_one_too() {
    let store = Troubled::default();
    store.down(true);
    let counter = Counter::default();
    let mut service = IdempotencyLayer::http(store)
        .unscoped()
        .layer(counter.clone());
    let (parts, _) = send(&mut service, post(Some("\"a\""))).await;
    assert_eq!(parts.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(parts.headers[header::RETRY_AFTER], "1");
    assert_eq!(counter.calls(), 0);

    let full = MemoryStore::with_capacity(1);
    let mut service = IdempotencyLayer::http(full)
        .unscoped()
        .layer(counter.clone());
    assert_eq!(
        send(&mut service, post(Some("\"a\""))).await.0.status,
        StatusCode::OK
    );
    let (parts, _) = send(&mut service, post(Some("\"b\""))).await;
    assert_eq!(parts.extensions.get(), Some(&Problem::StoreUnavailable));
    assert_eq!(counter.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_body_is_bounded_before_anything_is_claimed() {
    let store = Troubled::default();
    let counter = Counter::default();
    let layer = IdempotencyLayer::http(store.clone()).unscoped().max_body(4);
    let mut service = layer.clone().layer(counter.clone());
    assert_eq!(
        send(&mut service, post(Some("\"a\""))).await.0.status,
        StatusCode::OK
    );
    let large = post(Some("\"b\"")).map(|_| Full::from("five!"));
    let (parts, _) = send(&mut service, large).await;
    assert_eq!(parts.status, StatusCode::PAYLOAD_TOO_LARGE);

    // Of unknown length, and cut off.
    let mut service = layer.layer(counter.clone());
    for (steps, expected) in [
        (
            vec![Step::Data("on"), Step::Data("e t"), Step::Data("wo")],
            Problem::BodyTooLarge,
        ),
        (
            vec![Step::Data("on"), Step::Broken],
            Problem::BodyIncomplete,
        ),
    ] {
        let request = post(Some("\"c\"")).map(|_| Frames::new(steps));
        let response = call(&mut service, request).await.unwrap();
        assert_eq!(response.extensions().get(), Some(&expected));
        assert_eq!(response.status(), expected.status());
    }
    assert_eq!(counter.calls(), 1);
    assert_eq!(store.claims(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_leaves_while_sending_its_body_has_claimed_nothing() {
    let store = Troubled::default();
    let layer = IdempotencyLayer::http(store.clone()).unscoped();
    let service = layer.layer(Counter::default());
    let request = post(Some("\"a\"")).map(|_| {
        Frames::new([
            Step::Data("half"),
            Step::Pause(10 * SECOND),
            Step::Data("half"),
        ])
    });
    let sending = spawn(service, request);
    advance(SECOND).await;
    sending.abort();
    assert!(sending.await.unwrap_err().is_cancelled());
    advance(100 * SECOND).await;
    assert_eq!(store.claims(), 0);
    assert!(layer.tasks().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_error_of_the_inner_service_stays_its_error() {
    let mut service = once().layer(service_fn(|_: Request<Full<Bytes>>| async {
        Err::<Response<Full<Bytes>>, _>(std::io::Error::other("boom"))
    }));
    let error = call(&mut service, post(Some("\"a\""))).await.unwrap_err();
    assert_eq!(error.to_string(), "boom");
    let (parts, _) = {
        let response = call(&mut service, post(Some("\"a\""))).await.unwrap();
        response.into_parts()
    };
    assert_eq!(parts.extensions.get(), Some(&Problem::AnswerNotKept));
}

#[tokio::test(start_paused = true)]
async fn an_answer_whose_storing_is_delayed_is_the_same_as_its_replay() {
    let store = Troubled::default();
    store.plan(support::On::Complete, Trouble::ReplyLost);
    let layer = IdempotencyLayer::http(store).unscoped();
    let mut service = layer.layer(Counter::default());
    assert_eq!(send(&mut service, post(Some("\"a\""))).await.1, "call 1");
    let _ = layer.tasks().drain(60 * SECOND).await;
    assert_eq!(send(&mut service, post(Some("\"a\""))).await.1, "call 1");
}

#[tokio::test(start_paused = true)]
async fn a_key_is_required_of_those_requests_that_are_said_to_need_one() {
    let counter = Counter::default();
    let mut service = once()
        .require_key_where(|request: &Parts| request.uri.path().starts_with("/orders"))
        .layer(counter.clone());
    let (head, _) = send(&mut service, post(None)).await;
    assert_eq!(head.status, StatusCode::BAD_REQUEST);
    let mut elsewhere = post(None);
    *elsewhere.uri_mut() = "/health".parse().unwrap();
    let (head, _) = send(&mut service, elsewhere).await;
    assert_eq!(head.status, StatusCode::OK);
    assert_eq!(counter.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_says_by_its_head_that_nothing_was_done() {
    let counter = Counter::default();
    let mut service = once()
        .undone_if(|head| head.headers.contains_key("x-nothing-done"))
        .layer(service_fn(move |request: Request<Full<Bytes>>| {
            let answer = Service::call(&mut counter.clone(), request);
            async {
                let mut response = answer.await?;
                let nothing = HeaderValue::from_static("1");
                response.headers_mut().insert("x-nothing-done", nothing);
                Ok::<_, Infallible>(response)
            }
        }));
    for call in ["call 1", "call 2"] {
        assert_eq!(send(&mut service, post(Some("\"k\""))).await.1, call);
    }
}

#[tokio::test(start_paused = true)]
async fn callers_are_told_for_how_long_their_key_is_known() {
    let once = once().keep_for(90 * SECOND).publish_retention();
    assert_eq!(once.retention(), 90 * SECOND);
    let mut service = once.layer(Counter::default());
    for replayed in [false, true] {
        let (head, _) = send(&mut service, post(Some("\"k\""))).await;
        assert_eq!(head.headers["idempotency-retention"], "90");
        assert_eq!(head.headers.contains_key("idempotency-replayed"), replayed);
    }
    let (head, body) = send(&mut service, post(Some("k"))).await;
    assert_eq!(head.status, StatusCode::BAD_REQUEST);
    let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(json["retention"], 90);
    // Requests that take no part are told nothing.
    let (head, _) = send(&mut service, post(None)).await;
    assert!(!head.headers.contains_key("idempotency-retention"));
}

#[tokio::test(start_paused = true)]
async fn json_is_compared_by_what_it_says_if_that_is_asked_for() {
    let json = |kind: &str, body: &str| {
        let mut request = post(Some("\"k\""));
        let kind = HeaderValue::try_from(kind).unwrap();
        request.headers_mut().insert(header::CONTENT_TYPE, kind);
        *request.body_mut() = Full::from(body.to_owned());
        request
    };
    let same = r#"{ "b": [1.0], "a": "\u0041" }"#;
    let first = r#"{"a":"A","b":[1]}"#;
    for (kind, body, status) in [
        ("application/json", same, StatusCode::OK),
        (
            "Application/Vnd.Shop+JSON; charset=utf-8",
            same,
            StatusCode::OK,
        ),
        ("text/plain", same, StatusCode::UNPROCESSABLE_ENTITY),
        (
            "application/json",
            r#"{"a":"A","b":[2]}"#,
            StatusCode::UNPROCESSABLE_ENTITY,
        ),
        // What has two meanings is compared as it is written.
        (
            "application/json",
            r#"{"a":"x","a":"A","b":[1]}"#,
            StatusCode::UNPROCESSABLE_ENTITY,
        ),
    ] {
        let mut service = once().json_fingerprint().layer(Counter::default());
        send(&mut service, json("application/json", first)).await;
        let (head, _) = send(&mut service, json(kind, body)).await;
        assert_eq!(head.status, status, "{kind} {body}");
    }
}

#[test]
fn problems_tell_their_status_and_their_name() {
    assert_eq!(Problem::InFlight.status(), StatusCode::CONFLICT);
    assert_eq!(Problem::KeyMissing.name(), "key-missing");
}
