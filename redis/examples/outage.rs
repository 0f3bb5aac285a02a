//! What a call costs while Redis hangs: at first its deadline, then nothing.
//!
//! ```text
//! cargo run -p seawall-redis --example outage
//! ```
//!
//! It starts a redis-server of its own, stops it with SIGSTOP and lets it go on again.

use std::time::Duration;

use redis::Cmd;
use seawall_redis::{Breaker, Client};
use test_support::Redis;
use tokio::time::Instant;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = Redis::start().await;
    let connection = redis::Client::open(server.url())?
        .get_connection_manager()
        .await?;
    let client = Client::shared(connection)
        .deadline(Duration::from_millis(100))
        .breaker(Breaker::new(3, Duration::from_millis(500)));

    for call in 0..24 {
        match call {
            4 => server.pause(),
            12 => server.resume(),
            _ => {}
        }
        let start = Instant::now();
        let outcome = match client.command(&Cmd::ping()).await {
            Ok(_) => "answered".to_owned(),
            Err(error) => error.to_string(),
        };
        let took = start.elapsed();
        println!(
            "{call:>2}  {took:>12.1?}  {:<9}  {outcome}",
            client.state().name()
        );
        tokio::time::sleep(Duration::from_millis(75)).await;
    }
    Ok(())
}
