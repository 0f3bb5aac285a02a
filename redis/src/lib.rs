//! How the Seawall layers talk to Redis: whatever connection you already have, with a deadline on
//! every call and a breaker in front.
//!
//! - A [`Source`] is a connection: [`Shared`] for one that clones (multiplexed, `ConnectionManager`,
//!   cluster), [`Pooled`] for a `bb8` pool, taken in the order of asking.
//! - A [`Client`] puts a deadline and a [`Breaker`] on a source, so that a Redis that hangs costs
//!   each caller a bounded time, and soon no time at all.
//! - A [`Script`] is known by its digest and sent in full only to a server that has forgotten it.
//!
//! This crate knows no layer: what to do while Redis is out is the caller's choice, and the typed
//! [`Error`] is there to make it.
//!
//! ```
//! # use std::time::Duration;
//! use redis::Value;
//! use seawall_redis::{Breaker, Client, Script};
//!
//! static ADD: Script = Script::new("return redis.call('INCRBY', KEYS[1], ARGV[1])");
//!
//! # async fn add(connection: redis::aio::ConnectionManager) -> Result<(), seawall_redis::Error> {
//! let client = Client::shared(connection)
//!     .deadline(Duration::from_millis(100))
//!     .breaker(Breaker::new(3, Duration::from_secs(1)));
//!
//! assert_eq!(client.script(&ADD, &[b"visits"], &[b"2"]).await?, Value::Int(2));
//! # Ok(())
//! # }
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! #     let server = test_support::Redis::start().await;
//! #     let client = redis::Client::open(server.url()).unwrap();
//! #     add(client.get_connection_manager().await.unwrap()).await.unwrap();
//! # });
//! ```

mod breaker;
mod client;
mod error;
mod script;
mod source;
mod telemetry;

pub use breaker::{Breaker, BreakerState};
pub use client::{Client, DEFAULT_DEADLINE};
pub use error::{ConfigError, Error};
pub use script::Script;
pub use source::{Pooled, Shared, Source};
