//! hyper's client and tonic's channel as tower services, with the retries that a client should have.

mod grpc;

use std::time::Duration;

use bytes::Bytes;
pub use grpc::{GrpcClient, grpc_client};
use http::{HeaderValue, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use seawall_retry::{
    Attempt, Backoff, BoxError, Budgets, HttpStatus, Jitter, ReplayBody, ReplayRequests, RetryLayer,
};
use tokio::time::Instant;
use tower::{ServiceBuilder, util::BoxCloneService};

/// Any body, streams as well.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;
/// The client, to be cloned for each use.
pub type HttpClient = BoxCloneService<Request<Body>, Response<Incoming>, BoxError>;

/// How much of a body is kept for another attempt. Longer ones are sent once.
const KEPT: usize = 64 * 1024;

/// Retries what may be sent twice: idempotent methods, and others with an `Idempotency-Key`. Each host
/// has a budget of its own in `hosts`, so that one that is down costs the others nothing.
///
/// The call may take `patience` in all and each attempt a third of it, which servers are told: `x-attempt` is
/// the number of the attempt, `x-time-left` the milliseconds after which nobody waits any more.
pub fn http_client(hosts: &Budgets, base: Duration, patience: Duration) -> HttpClient {
    let hosts = hosts.clone();
    let retry = RetryLayer::new(Backoff::exponential(base).attempts(4).jitter(Jitter::Full))
        .classify(HttpStatus::new())
        .clone_with(ReplayRequests::idempotent())
        .stamp(tell_server)
        .budget_by(move |request: &Request<ReplayBody<Body>>| {
            Some(hosts.of(request.uri().authority()?))
        })
        .attempt_timeout(patience / 3)
        .deadline(patience);
    let client = ServiceBuilder::new()
        .map_request(|request: Request<Body>| request.map(|body| ReplayBody::new(body, KEPT)))
        .layer(retry)
        .service(Client::builder(TokioExecutor::new()).build::<_, ReplayBody<Body>>(connector()));
    BoxCloneService::new(client)
}

fn connector() -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector
}

fn tell_server<B>(request: &mut Request<B>, attempt: Attempt) {
    let headers = request.headers_mut();
    headers.insert("x-attempt", HeaderValue::from(attempt.number));
    if let Some(deadline) = attempt.deadline {
        let left = deadline.saturating_duration_since(Instant::now());
        let millis = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        headers.insert("x-time-left", HeaderValue::from(millis));
    }
}
