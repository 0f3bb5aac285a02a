//! A service that fails often, called through a layer that retries it within a budget.
//!
//! `cargo run -p seawall-retry --example flaky`

use std::time::Duration;

use seawall_retry::{Attempt, Backoff, BoxError, Budget, Jitter, RetryError, RetryLayer};
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};

#[derive(Debug, Clone)]
struct Order {
    id: u32,
    attempt: u32,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let budget = Budget::ratio(0.2).burst(5);
    let backoff = Backoff::exponential(Duration::from_millis(20))
        .cap(Duration::from_millis(200))
        .attempts(4)
        .jitter(Jitter::Full);
    let mut service = ServiceBuilder::new()
        .layer(
            RetryLayer::new(backoff)
                .budget(budget.clone())
                .deadline(Duration::from_secs(2))
                .attempt_timeout(Duration::from_millis(100))
                .stamp(|order: &mut Order, attempt: Attempt| order.attempt = attempt.number),
        )
        .service(service_fn(|order: Order| async move {
            match fastrand::u8(..10) {
                0..=3 => Err(std::io::Error::other("shard is busy")),
                4 => std::future::pending().await,
                _ => Ok(order),
            }
        }));

    for id in 1..=30 {
        match service.ready().await?.call(Order { id, attempt: 0 }).await {
            Ok(order) => println!("order {:2}: done, attempt {}", order.id, order.attempt),
            Err(error) => {
                let why = RetryError::find(&error).map(|error| error.source.to_string());
                println!("order {id:2}: {error} ({})", why.unwrap_or_default());
            }
        }
    }
    println!("{:.1} retries left in the budget", budget.balance());
    Ok(())
}
