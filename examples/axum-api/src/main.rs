//! `cargo run -p axum-api`, and in another terminal:
//!
//! ```sh
//! for n in $(seq 12); do curl -si http://127.0.0.1:8081/orders -H 'x-user: ada' | grep -i '^http\|ratelimit:'; done
//! ```

use std::net::SocketAddr;

use anyhow::Result;
use axum::serve;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:8081").await?;
    println!("http://{}", listener.local_addr()?);
    let app = axum_api::app().into_make_service_with_connect_info::<SocketAddr>();
    serve(listener, app).await?;
    Ok(())
}
