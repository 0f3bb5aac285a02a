//! The gRPC client against a server of tonic, over a real connection.
#![allow(clippy::unwrap_used)] // in helpers, which are tests as well

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, BufMut, Bytes};
use client::grpc_client;
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use seawall_retry::Budget;
use tonic::{
    Code, Request, Response, Status,
    body::Body,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    server::UnaryService,
    transport::Endpoint,
};
use tower::{Service, service_fn};

/// Messages that are plain bytes: generated code would only hide what happens.
#[derive(Debug, Clone, Copy, Default)]
struct Plain;

impl Codec for Plain {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(item);
        Ok(())
    }
}

impl Decoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// Answers with what it was sent, once it has failed as often as it is to.
#[derive(Clone, Default)]
struct Echo {
    failures: Arc<Mutex<VecDeque<Status>>>,
    seen: Arc<Mutex<Vec<Bytes>>>,
}

impl UnaryService<Bytes> for Echo {
    type Response = Bytes;
    type Future = std::future::Ready<Result<Response<Bytes>, Status>>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let message = request.into_inner();
        self.seen.lock().unwrap().push(message.clone());
        std::future::ready(match self.failures.lock().unwrap().pop_front() {
            Some(failure) => Err(failure),
            None => Ok(Response::new(message)),
        })
    }
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = std::convert::Infallible;
    type Future = futures_util::future::BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let echo = self.clone();
        Box::pin(async move { Ok(tonic::server::Grpc::new(Plain).unary(echo, request).await) })
    }
}

impl tonic::server::NamedService for Echo {
    const NAME: &'static str = "seawall.Echo";
}

/// Calls a server that fails like this first: the answer, and how often it was called.
async fn call(failures: Vec<Status>, budget: Budget) -> (Result<Bytes, Status>, Vec<Bytes>) {
    let echo = Echo {
        failures: Arc::new(Mutex::new(failures.into())),
        ..Echo::default()
    };
    let (here, there) = tokio::io::duplex(1 << 16);
    let server = tonic::transport::Server::builder().add_service(echo.clone());
    let incoming = futures_util::stream::iter([Ok::<_, std::io::Error>(there)]);
    tokio::spawn(server.serve_with_incoming(incoming));

    let mut once = Some(here);
    let channel = Endpoint::from_static("http://echo")
        .connect_with_connector(service_fn(move |_| {
            let here = once.take().map(TokioIo::new);
            std::future::ready(here.ok_or_else(|| std::io::Error::other("connects once")))
        }))
        .await
        .unwrap();
    let mut client = Grpc::new(grpc_client(channel, budget, Duration::from_millis(5)));
    client.ready().await.unwrap();
    let path = PathAndQuery::from_static("/seawall.Echo/Say");
    let message = Request::new(Bytes::from_static(b"hello"));
    let answer = client.unary(message, path, Plain).await;
    let seen = echo.seen.lock().unwrap().clone();
    (answer.map(Response::into_inner), seen)
}

fn exhausted(pushback: &'static str) -> Status {
    let mut status = Status::resource_exhausted("full");
    let pushback = pushback.parse().unwrap();
    status
        .metadata_mut()
        .insert("grpc-retry-pushback-ms", pushback);
    status
}

#[tokio::test]
async fn what_is_unavailable_for_a_moment_is_called_again_with_the_whole_message() {
    let failures = vec![Status::unavailable("restarts"); 2];
    let (answer, seen) = call(failures, Budget::ratio(0.1)).await;
    assert_eq!(answer.unwrap(), "hello");
    assert_eq!(seen, ["hello"; 3]);
}

#[tokio::test]
async fn the_server_says_when_to_come_back_and_when_not_to() {
    let (answer, seen) = call(vec![exhausted("20")], Budget::ratio(0.1)).await;
    assert_eq!((answer.unwrap(), seen.len()), (Bytes::from("hello"), 2));
    let (answer, seen) = call(vec![exhausted("-1")], Budget::ratio(0.1)).await;
    assert_eq!(
        (answer.unwrap_err().code(), seen.len()),
        (Code::ResourceExhausted, 1)
    );
}

#[tokio::test]
async fn what_will_not_get_better_is_called_once() {
    let (answer, seen) = call(vec![Status::not_found("no such order")], Budget::ratio(0.1)).await;
    let status = answer.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::NotFound, "no such order")
    );
    assert_eq!(seen.len(), 1);
}

#[tokio::test]
async fn the_budget_ends_it_and_the_last_status_comes_back() {
    let failures = vec![Status::unavailable("down"); 9];
    let (answer, seen) = call(failures, Budget::ratio(0.1).burst(1)).await;
    assert_eq!(
        (answer.unwrap_err().code(), seen.len()),
        (Code::Unavailable, 2)
    );
}
