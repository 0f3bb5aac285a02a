//! A channel of tonic that retries below the generated client.

use std::time::Duration;

use http::{Request, Response};
use seawall_retry::{
    Backoff, BoxError, Budget, GrpcStatus, Jitter, ReplayBody, ReplayRequests, RetryLayer,
};
use tonic::{body::Body, transport::Channel};
use tower::{ServiceBuilder, util::BoxCloneService};

use crate::KEPT;

/// What a generated client is built on: `OrdersClient::new(grpc_client(...))`.
pub type GrpcClient = BoxCloneService<Request<Body>, Response<Body>, BoxError>;

/// Retries what the server calls unavailable, and what it has no room for. For calls that may be made
/// twice: a server that goes away in the middle of one is unavailable, too.
pub fn grpc_client(channel: Channel, budget: Budget, base: Duration) -> GrpcClient {
    let codes = GrpcStatus::new().retry_on(GrpcStatus::RESOURCE_EXHAUSTED);
    let retry = RetryLayer::new(Backoff::exponential(base).attempts(4).jitter(Jitter::Full))
        .classify(codes)
        .clone_with(ReplayRequests::any_method())
        .budget(budget);
    let client = ServiceBuilder::new()
        .map_request(|request: Request<Body>| request.map(|body| ReplayBody::new(body, KEPT)))
        .layer(retry)
        .map_request(|request: Request<ReplayBody<Body>>| request.map(Body::new))
        .service(channel);
    BoxCloneService::new(client)
}
