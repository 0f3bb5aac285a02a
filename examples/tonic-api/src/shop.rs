//! A service of one method, as it would be generated from
//!
//! ```text
//! package shop;
//! message NewOrder { string article = 1; uint32 number = 2; }
//! message Order { uint64 id = 1; uint64 attempt = 2; }
//! service Orders { rpc Create(NewOrder) returns (Order); }
//! ```
//!
//! by hand, so that the example needs no compiler of Protocol Buffers.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use http::uri::PathAndQuery;
use seawall_idempotency::{BoxError, Fence};
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::server::{NamedService, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower_service::Service;

/// What a customer wants.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NewOrder {
    /// What.
    #[prost(string, tag = "1")]
    pub article: String,
    /// How many of it.
    #[prost(uint32, tag = "2")]
    pub number: u32,
}

/// What was ordered.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Order {
    /// The order's own number.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Which attempt made it: 0 where the call had no key.
    #[prost(uint64, tag = "2")]
    pub attempt: u64,
}

const CREATE: &str = "/shop.Orders/Create";

/// The server; its clones share their orders.
#[derive(Debug, Clone, Default)]
pub struct OrdersServer {
    made: Arc<AtomicU64>,
}

impl NamedService for OrdersServer {
    const NAME: &'static str = "shop.Orders";
}

type Answer<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl<B> Service<http::Request<B>> for OrdersServer
where
    B: http_body::Body<Error: Into<BoxError> + Send> + Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let orders = self.clone();
        Box::pin(async move {
            if request.uri().path() != CREATE {
                return Ok(Status::unimplemented("there is only Create").into_http());
            }
            let mut server = tonic::server::Grpc::new(ProstCodec::default());
            Ok(server.unary(Create(orders), request).await)
        })
    }
}

/// The method.
struct Create(OrdersServer);

impl UnaryService<NewOrder> for Create {
    type Response = Order;
    type Future = Answer<Result<Response<Order>, Status>>;

    fn call(&mut self, request: Request<NewOrder>) -> Self::Future {
        let fence = request.extensions().get::<Fence>().copied();
        let made = Arc::clone(&self.0.made);
        Box::pin(async move {
            let new = request.into_inner();
            if new.number == 0 {
                return Err(Status::invalid_argument("an order is of something"));
            }
            if new.article == "moon" {
                // Nothing was done: the next call with the key asks again.
                return Err(Status::unavailable("the moon is not in stock yet"));
            }
            let id = made.fetch_add(1, Ordering::Relaxed) + 1;
            let attempt = fence.map_or(0, |Fence(attempt)| attempt);
            Ok(Response::new(Order { id, attempt }))
        })
    }
}

/// Creates an order through any channel.
///
/// # Errors
///
/// What the server says, or that it cannot be reached.
pub async fn create<C>(channel: C, order: Request<NewOrder>) -> Result<Response<Order>, Status>
where
    C: GrpcService<Body, Error: Into<BoxError>>,
    C::ResponseBody: http_body::Body<Error: Into<BoxError>> + Send + 'static,
{
    let mut client = tonic::client::Grpc::new(channel);
    let ready = client.ready().await;
    ready.map_err(|error| Status::unavailable(error.into().to_string()))?;
    let path = PathAndQuery::from_static(CREATE);
    client.unary(order, path, ProstCodec::default()).await
}
