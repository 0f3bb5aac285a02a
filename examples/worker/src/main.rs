//! A whole queue worker: orders from a Redis Stream, each tried three times, then dead.
//!
//! ```text
//! worker redis://127.0.0.1/
//! redis-cli XADD '{orders}' '*' key customer-7 payload 'books 12'
//! seawall-dlq stats redis://127.0.0.1/ '{orders}.dead'
//! ```
//!
//! Ctrl-C or SIGTERM ends it when what it has begun is done. Killed in the middle it loses nothing: the
//! next one takes over.

use std::time::Duration;

use seawall_dlq::{BoxError, Consumer, DeadLetterLayer, Failure, Message, RedisSink};
use seawall_retry::{Backoff, RetryError, RetryLayer};
use tokio::signal::unix::{SignalKind, signal};
use tower::{ServiceBuilder, service_fn};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let url = std::env::args().nth(1);
    let client = redis::Client::open(url.as_deref().unwrap_or("redis://127.0.0.1/"))?;
    let letters = RedisSink::new(client.get_connection_manager().await?, "{orders}.dead")
        .acknowledging("{orders}", "workers");
    let backoff = Backoff::exponential(Duration::from_millis(20)).attempts(3);
    let handler = ServiceBuilder::new()
        .layer(
            DeadLetterLayer::new(letters)
                .capture(Message::to_letter)
                .explain(explain),
        )
        .layer(RetryLayer::new(backoff))
        .service(service_fn(handle));
    let worker = Consumer::redis(&client, "{orders}", "workers")
        .make_stream()
        .concurrency(64);
    let totals = worker.run(handler, shutdown()?).await?;
    println!("{} done, {} dead", totals.done, totals.dead);
    Ok(())
}

/// Adds up an order: an article and a number of it.
async fn handle(order: Message) -> Result<u32, BoxError> {
    let text = std::str::from_utf8(&order.payload)?;
    let (_, number) = text
        .split_once(' ')
        .ok_or("an order is an article and a number")?;
    Ok(number.parse()?)
}

/// What retry knows about a failure, for the letter.
fn explain(error: &BoxError) -> Option<Failure> {
    let retry = RetryError::find(error)?;
    let failure = Failure::of(&retry.source).class(retry.stopped.as_str());
    Some(failure.attempts(retry.attempts).lasted(retry.elapsed))
}

fn shutdown() -> Result<impl Future<Output = ()>, BoxError> {
    let (mut interrupt, mut terminate) = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
    );
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
