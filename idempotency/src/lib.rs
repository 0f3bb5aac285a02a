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

#[cfg(feature = "http")]
mod canonical;
mod claim;
mod core;
mod error;
mod exchange;
mod future;
#[cfg(feature = "http")]
mod http;
mod idempotency_key;
mod key;
mod layer;
mod lease;
mod messages;
mod pack;
mod policy;
pub mod record;
mod records;
mod run;
mod scope;
mod service;
mod set_key;
mod store;
mod structured;
mod tasks;
mod telemetry;

#[cfg(feature = "http")]
pub use crate::http::{
    GrpcStatus, Http, HttpFuture, HttpScope, Problem, ProblemJson, RequestBody, ResponseBody,
    Scoped, SetHeader, Undone,
};
#[cfg(feature = "http")]
pub use canonical::canonical_json;
#[cfg(feature = "json")]
pub use messages::Json;
#[cfg(feature = "compression")]
pub use pack::Compression;
#[cfg(feature = "redis")]
pub use store::RedisStore;
pub use {
    error::{BoxError, ConfigError, Error, RecordError, StoreError},
    exchange::Keep,
    future::ResponseFuture,
    idempotency_key::{IdempotencyKey, KeyError},
    key::{Fingerprint, Key, NotARecordKey, RecordKey},
    layer::IdempotencyLayer,
    lease::{Claim, Fence, Lease, LeaseState},
    messages::{Codec, CodecMissing, KeyMissing, KeyedBy, Messages, ScopeOf, ScopedBy},
    pack::{Seal, UnpackError},
    policy::{Abandoned, Failed, InFlight, Unstored},
    records::{Concluded, Expired, Records, Seen, State},
    scope::{ScopeMissing, Unscoped},
    service::Idempotency,
    set_key::{SetKey, SetKeyLayer, SetKeys},
    store::{MemoryStore, Store},
    tasks::{Drain, Tasks},
};
