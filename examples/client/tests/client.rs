//! The client against a server of its own, over real connections.
#![allow(clippy::unwrap_used)] // in helpers, which are tests as well

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, extract::State, response::IntoResponse};
use bytes::Bytes;
use client::{Body, HttpClient, http_client};
use futures_util::stream;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use seawall_retry::{BoxError, Budgets, RetryError, Stopped};
use tokio::net::TcpListener;
use tower::{Service, ServiceExt};

/// What a server saw of one attempt.
type Seen = (Method, HeaderMap, Bytes);

#[derive(Clone, Default)]
struct Server {
    seen: Arc<Mutex<Vec<Seen>>>,
    /// How many requests are answered with 503 first.
    fails: usize,
}

impl Server {
    fn failing(fails: usize) -> Self {
        Self {
            fails,
            ..Self::default()
        }
    }

    /// Where it listens from now on.
    async fn start(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(answer).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        format!("http://{address}/")
    }

    fn attempts(&self) -> Vec<String> {
        let seen = self.seen.lock().unwrap();
        let attempt = |seen: &Seen| seen.1["x-attempt"].to_str().unwrap().to_owned();
        seen.iter().map(attempt).collect()
    }

    fn bodies(&self) -> Vec<Bytes> {
        self.seen
            .lock()
            .unwrap()
            .iter()
            .map(|seen| seen.2.clone())
            .collect()
    }
}

async fn answer(
    State(server): State<Server>,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
) -> impl IntoResponse {
    let mut seen = server.seen.lock().unwrap();
    seen.push((method, headers, body));
    if seen.len() <= server.fails {
        (StatusCode::SERVICE_UNAVAILABLE, "not now")
    } else {
        (StatusCode::OK, "welcome")
    }
}

fn client(hosts: &Budgets) -> HttpClient {
    http_client(hosts, Duration::from_millis(5), Duration::from_secs(30))
}

/// A body that comes in pieces and does not say how long it is.
fn streamed(pieces: usize) -> Body {
    let piece = Bytes::from(vec![b'x'; 1024]);
    let frames = (0..pieces).map(move |_| Ok::<_, Infallible>(Frame::data(piece.clone())));
    let body = StreamBody::new(stream::iter(frames.collect::<Vec<_>>()));
    Body::new(body.map_err(|never| match never {}))
}

fn text(text: &'static str) -> Body {
    Body::new(Full::from(text).map_err(|never| match never {}))
}

async fn send(
    client: &mut HttpClient,
    request: Request<Body>,
) -> Result<Response<Incoming>, BoxError> {
    client.ready().await?.call(request).await
}

#[tokio::test]
async fn a_server_that_is_out_for_a_moment_is_asked_again_and_told_about_it() {
    let server = Server::failing(2);
    let url = server.start().await;
    let request = Request::get(url).body(text("")).unwrap();
    let answer = send(&mut client(&Budgets::ratio(0.1)), request)
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(
        answer.into_body().collect().await.unwrap().to_bytes(),
        "welcome"
    );
    assert_eq!(server.attempts(), ["1", "2", "3"]);
    for (_, headers, _) in &*server.seen.lock().unwrap() {
        let left: u64 = headers["x-time-left"].to_str().unwrap().parse().unwrap();
        assert!(left <= 10_000, "an attempt may take a third of the time");
    }
}

#[tokio::test]
async fn each_attempt_sends_the_whole_body_and_too_long_a_one_is_sent_once() {
    for (pieces, attempts) in [(64, 3), (65, 1)] {
        let server = Server::failing(2);
        let url = server.start().await;
        let request = Request::put(url).body(streamed(pieces)).unwrap();
        let answer = send(&mut client(&Budgets::ratio(0.1)), request)
            .await
            .unwrap();
        let status = if attempts == 3 { 200 } else { 503 };
        assert_eq!(answer.status(), status);
        let bodies = server.bodies();
        assert_eq!(bodies.len(), attempts);
        assert!(bodies.iter().all(|body| body.len() == pieces * 1024));
    }
}

#[tokio::test]
async fn what_must_not_be_sent_twice_is_sent_once() {
    for (key, attempts) in [(None, 1), (Some("\"order-1\""), 2)] {
        let server = Server::failing(1);
        let mut request = Request::post(server.start().await);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let request = request.body(text("an order")).unwrap();
        send(&mut client(&Budgets::ratio(0.1)), request)
            .await
            .unwrap();
        assert_eq!(server.bodies(), vec!["an order"; attempts]);
    }
}

#[tokio::test]
async fn where_nobody_listens_the_error_says_how_often_and_why() {
    // A port that was free a moment ago.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    drop(listener);
    let request = Request::get(url).body(text("")).unwrap();
    let error = send(&mut client(&Budgets::ratio(0.1)), request)
        .await
        .unwrap_err();
    let why = RetryError::find(&error).unwrap();
    assert_eq!((why.attempts, why.stopped), (4, Stopped::Exhausted));
}

#[tokio::test]
async fn a_connection_that_is_cut_is_made_again() {
    let server = Server::default();
    let url = server.start().await;
    // In front of it: the first connection is closed as soon as something comes.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let front = format!("http://{}/", listener.local_addr().unwrap());
    let behind = url
        .trim_start_matches("http://")
        .trim_end_matches('/')
        .to_owned();
    tokio::spawn(async move {
        let (cut, _) = listener.accept().await.unwrap();
        cut.readable().await.unwrap();
        drop(cut);
        let (mut client, _) = listener.accept().await.unwrap();
        let mut server = tokio::net::TcpStream::connect(behind).await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
    });
    let request = Request::get(front).body(text("")).unwrap();
    let answer = send(&mut client(&Budgets::ratio(0.1)), request)
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(server.attempts(), ["2"]);
}

#[tokio::test]
async fn a_host_that_is_down_does_not_use_up_the_retries_of_another() {
    let hosts = Budgets::ratio(0.01).burst(5);
    let mut client = client(&hosts);
    let (down, passing) = (Server::failing(usize::MAX), Server::failing(2));
    let (down_url, passing_url) = (down.start().await, passing.start().await);
    for _ in 0..20 {
        let request = Request::get(&*down_url).body(text("")).unwrap();
        assert_eq!(send(&mut client, request).await.unwrap().status(), 503);
    }
    assert_eq!(down.attempts().len(), 20 + 5);
    let request = Request::get(passing_url).body(text("")).unwrap();
    assert_eq!(send(&mut client, request).await.unwrap().status(), 200);
}
