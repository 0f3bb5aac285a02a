#![cfg_attr(all(feature = "axum", feature = "json"), doc = include_str!("../README.md"))]
#![cfg_attr(
    not(all(feature = "axum", feature = "json")),
    doc = "Idempotency keys as a tower layer: one execution per key, whatever disconnects, crashes or is sent twice."
)]
//! # How it is built
//!
//! [`record`] is the state machine of one key, pure; [`Store`] keeps bytes and compares and swaps
//! them. A call begins its claim, calls the inner service, renews the claim meanwhile and stores the
//! answer. What of that comes at once is done where the request is polled; from the first wait on it
//! runs in a task of its own, which no caller can drop. An adapter ([`Messages`], or `Http` with that feature) says what
//! a request's key is and how a response becomes bytes.

mod claim;
mod core;
mod error;
mod exchange;
mod future;
#[cfg(feature = "http")]
mod http;
mod key;
mod layer;
mod lease;
mod messages;
mod policy;
pub mod record;
mod run;
mod scope;
mod service;
mod store;
mod tasks;
mod telemetry;

#[cfg(feature = "http")]
pub use crate::http::{
    Http, HttpFuture, HttpScope, IdempotencyKey, Problem, ResponseBody, Scoped, Undone,
};
#[cfg(feature = "json")]
pub use messages::Json;
#[cfg(feature = "redis")]
pub use store::RedisStore;
pub use {
    error::{BoxError, ConfigError, Error, RecordError, StoreError},
    exchange::Keep,
    future::ResponseFuture,
    key::{Fingerprint, Key, RecordKey},
    layer::IdempotencyLayer,
    lease::{Claim, Fence, Lease, LeaseState},
    messages::{Codec, CodecMissing, KeyMissing, KeyedBy, Messages, ScopeOf, ScopedBy},
    policy::{Abandoned, Failed, InFlight, Unstored},
    scope::{ScopeMissing, Unscoped},
    service::Idempotency,
    store::{MemoryStore, Store},
    tasks::{Drain, Tasks},
};
