//! `cargo run -p tonic-api`, and in another terminal, a few times:
//!
//! ```sh
//! grpcurl -plaintext -v 127.0.0.1:8082 grpc.health.v1.Health/Check
//! ```

use anyhow::Result;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:8082").await?;
    println!("{}", listener.local_addr()?);
    tonic_api::serve(listener).await
}
