//! A whole queue worker: orders from a Redis Stream, each handled once, with others in a batch, tried three times, then dead.
//!
//! ```text
//! worker redis://127.0.0.1/
//! redis-cli XADD '{orders}' '*' order 4711 key customer-7 payload 'books 12'
//! seawall-dlq stats redis://127.0.0.1/ '{orders}.dead'
//! ```
//!
//! Ctrl-C or SIGTERM ends it when what it has begun is done. Killed in the middle it loses nothing: the
//! next one takes over. A message that comes again, from the stream after a crash or from a producer that sent it
//! twice, is answered by what its first copy was: they have the header `order` in common, or their place.

use std::time::Duration;

use bytes::Bytes;
use seawall_dlq::{
    Batched, BoxError, Consumer, DeadLetterLayer, Failure, Message, Outcome, RedisSink,
};
use seawall_idempotency::{Abandoned, Codec, IdempotencyLayer, Json, Keep, Key, RedisStore};
use seawall_retry::{Backoff, RetryError, RetryLayer};
use tokio::signal::unix::{SignalKind, signal};
use tower::{ServiceBuilder, service_fn};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let url = std::env::args().nth(1);
    let client = redis::Client::open(url.as_deref().unwrap_or("redis://127.0.0.1/"))?;
    let connection = client.get_connection_manager().await?;
    let once = IdempotencyLayer::new(RedisStore::new(connection.clone()))
        .unscoped()
        .key(order)
        .codec((keep, again))
        .lease(Duration::from_secs(10))
        // Adding up does no harm twice. What does, checks the attempt's number.
        .abandoned(Abandoned::Reexecute);
    let letters = RedisSink::new(connection, "{orders}.dead").acknowledging("{orders}", "workers");
    let backoff = Backoff::exponential(Duration::from_millis(20)).attempts(3);
    let handler = ServiceBuilder::new()
        .layer(once)
        .layer(
            DeadLetterLayer::new(letters)
                .capture(Message::to_letter)
                .explain(explain),
        )
        .layer(RetryLayer::new(backoff))
        // What is tried again is in a later batch than those it was with.
        .service(Batched::new(
            service_fn(handle),
            32,
            Duration::from_millis(2),
        ));
    let worker = Consumer::redis(&client, "{orders}", "workers")
        .make_stream()
        .concurrency(64);
    let totals = worker.run(handler, shutdown()?).await?;
    println!("{} done, {} dead", totals.done, totals.dead);
    Ok(())
}

/// What a message is known by: the number that its producer gave it, or else where it lies.
fn order(message: &Message) -> Key {
    let header = message.headers.iter().find(|(name, _)| **name == *"order");
    match header {
        Some((_, number)) => Key::of([b"order", &number[..]]),
        None => Key::of(["entry", &*message.stream, &*message.id]),
    }
}

/// What is done is done. What is dead may be handled again, once it is redriven.
fn keep(outcome: &Outcome<u32>) -> Keep {
    match outcome {
        Outcome::DeadLettered(_) => Keep::Undone,
        Outcome::Done(_) => Json.encode(outcome),
    }
}

fn again(kept: Bytes) -> Result<Outcome<u32>, BoxError> {
    Json.decode(kept)
}

/// Adds up orders, as in one transaction: each has a result of its own.
async fn handle(orders: Vec<Message>) -> Result<Vec<Result<u32, BoxError>>, BoxError> {
    Ok(orders.iter().map(add_up).collect())
}

/// An order is an article and a number of it.
fn add_up(order: &Message) -> Result<u32, BoxError> {
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
