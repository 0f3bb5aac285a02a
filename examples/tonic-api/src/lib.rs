//! A tonic server whose calls are limited: each client three at a time, which come back evenly over a minute,
//! and each method for everybody.

use std::net::SocketAddr;

use anyhow::Result;
use http::Request;
use seawall_ratelimit::{
    ClientIp, MemoryStore, Peer, Quota, RateLimitLayer, Rule, UriPath, WindowKind,
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::body::Body;
use tonic::transport::Server;
use tonic::transport::server::TcpConnectInfo;

/// Clients by the address of their connection, as tonic tells it.
fn client() -> ClientIp<impl Peer<Request<Body>> + Clone> {
    ClientIp::direct().peer(|request: &Request<Body>| {
        let connection = request.extensions().get::<TcpConnectInfo>()?;
        connection.remote_addr().as_ref().map(SocketAddr::ip)
    })
}

/// Serves the health check, until it fails.
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
    let (_reporter, health) = tonic_health::server::health_reporter();
    Server::builder()
        .layer(limits)
        .add_service(health)
        .serve_with_incoming(TcpListenerStream::new(listener))
        .await?;
    Ok(())
}
