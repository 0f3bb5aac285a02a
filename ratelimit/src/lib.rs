//! Sliding-window rate limits as a tower layer: strict in memory and on Redis, all rules in one round trip.

mod decision;
mod error;
mod future;
#[cfg(feature = "http")]
mod http;
mod key;
mod layer;
mod limiter;
mod quota;
mod rule;
mod service;
mod store;
mod telemetry;
pub mod window;

pub use crate::decision::{Charge, Charges, Decision, Verdict};
pub use crate::error::{
    BoxError, ConfigError, CostAboveLimit, RateLimitError, Refused, StoreError, Violation,
};
pub use crate::future::ResponseFuture;
#[cfg(feature = "http")]
pub use crate::http::{ClientIp, Fields, FromExtensions, HttpFuture, LimitBody, Peer, Respond};
pub use crate::key::{ByKey, ByKeyIf, Everyone, Extract, Key};
pub use crate::layer::{Checker, Fail, RateLimitLayer};
pub use crate::quota::Quota;
pub use crate::rule::{And, Apply, Cost, MAX_RULES, OneUnit, Policy, Rule, Rules};
pub use crate::service::RateLimit;
pub use crate::store::Store;
pub use crate::store::memory::{MemoryScope, MemoryStore};
#[cfg(feature = "redis")]
pub use crate::store::redis::{Outage, RedisDeciding, RedisScope, RedisStore};
