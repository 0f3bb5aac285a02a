//! An axum API whose `POST /orders` is safe to repeat.
//!
//! ```text
//! cargo run -p seawall-idempotency --example orders --features axum
//! curl -i localhost:8080/orders -H 'Idempotency-Key: "a1"' -d boat      # twice
//! ```
//! The second answer is the first, byte for byte, with `Idempotency-Replayed: true`. Ctrl-C waits
//! for the orders that are being handled.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use axum::{Router, http::StatusCode, routing::post};
use seawall_idempotency::{Drain, Fence, IdempotencyLayer, InFlight, MemoryStore};
use tokio::net::TcpListener;

static ORDERS: AtomicU64 = AtomicU64::new(0);

async fn create(Fence(attempt): Fence, item: String) -> (StatusCode, String) {
    tokio::time::sleep(Duration::from_secs(1)).await; // as a database would take
    let number = ORDERS.fetch_add(1, Ordering::Relaxed) + 1;
    (
        StatusCode::CREATED,
        format!("order {number}: {item} (attempt {attempt})\n"),
    )
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    // `.scope(header::AUTHORIZATION)` where there are users; here everybody is one.
    let once = IdempotencyLayer::http(MemoryStore::with_capacity(100_000))
        .unscoped()
        .keep_for(Duration::from_secs(60 * 60))
        .in_flight(InFlight::Wait(Duration::from_secs(2)))
        .require_key()
        .bare_keys();
    let tasks = once.tasks();
    let app = Router::new().route("/orders", post(create)).layer(once);

    let listener = TcpListener::bind("127.0.0.1:8080").await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app)
        .with_graceful_shutdown(async {
            // Without a signal handler, Ctrl-C ends the process at once, which is right then.
            let _ = tokio::signal::ctrl_c().await;
        })
        .await?;
    if let Drain::Unfinished { tasks } = tasks.drain(Duration::from_secs(10)).await {
        eprintln!("{tasks} orders were left in the middle");
    }
    Ok(())
}
