//! A tonic server whose calls are limited: each client three at a time, which come back evenly over a minute,
//! and each method for everybody. An order with an `idempotency-key` is made once, however often it is sent.

use std::net::SocketAddr;

use anyhow::Result;
use http::Request;
use http::header::AUTHORIZATION;
use seawall_idempotency::{IdempotencyLayer, MemoryStore as Records};
use seawall_ratelimit::{
    ClientIp, MemoryStore, Peer, Quota, RateLimitLayer, Rule, UriPath, WindowKind,
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::body::Body;
use tonic::transport::Server;
use tonic::transport::server::TcpConnectInfo;

pub mod shop;

/// Clients by the address of their connection, as tonic tells it.
fn client() -> ClientIp<impl Peer<Request<Body>> + Clone> {
    ClientIp::direct().peer(|request: &Request<Body>| {
        let connection = request.extensions().get::<TcpConnectInfo>()?;
        connection.remote_addr().as_ref().map(SocketAddr::ip)
    })
}

/// Serves orders and the health check, until it fails.
///
/// # Errors
///
/// When the connection is lost for good.
pub async fn serve(listener: TcpListener) -> Result<()> {
    let limits = RateLimitLayer::new(MemoryStore::with_capacity(100_000))
        .rule(
            Rule::new("client", Quota::per_minute(3))
                .by(client())
                .window(WindowKind::Gcra),
        )
        .rule(Rule::new("method", Quota::per_second(1_000)).by(UriPath))
        .grpc();
    let once = IdempotencyLayer::grpc(Records::with_capacity(100_000))
        .scope(AUTHORIZATION)
        // The health check needs no key.
        .require_key_where(|call| call.uri.path().starts_with("/shop."))
        // UNAVAILABLE is what the handler says where it did nothing.
        .undone_if(|head| {
            head.headers
                .get("grpc-status")
                .is_some_and(|code| code == "14")
        });
    let (_reporter, health) = tonic_health::server::health_reporter();
    Server::builder()
        .layer(limits)
        .layer(once)
        .add_service(health)
        .add_service(shop::OrdersServer::default())
        .serve_with_incoming(TcpListenerStream::new(listener))
        .await?;
    Ok(())
}
