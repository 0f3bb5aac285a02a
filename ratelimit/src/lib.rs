//! Sliding-window rate limits as a tower layer: strict in memory and on Redis, all rules in one round trip.
//!
//! - **Strict.** A quota of L in a window W means that *no* trailing window of that length ever holds
//!   more than L. Counters that weigh two buckets, and token buckets with a burst of L, let nearly 2 L
//!   through there. The price is that a steady flood gets 16/17 of L; [`window`] tells how.
//! - **All or nothing.** A request meets all its rules at once. If one has no room, it is counted under
//!   none of them, in memory and on Redis alike; there, all rules are one command.
//! - **For any request.** The core knows no HTTP. The `http` feature makes refusals responses (429 with
//!   `Retry-After`, `RateLimit` fields and problem+json) and finds clients behind proxies.
//! - **Bounded.** Whatever keys arrive, memory does not grow beyond the capacity, and what is evicted
//!   does not get its quota back.
//!
//! ```
//! use seawall_ratelimit::{BoxError, MemoryStore, Quota, RateLimitError, RateLimitLayer, Rule};
//! use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let mut github = ServiceBuilder::new()
//!     .layer(
//!         RateLimitLayer::new(MemoryStore::with_capacity(1_000))
//!             .rule(Rule::new("github", Quota::per_hour(2))),
//!     )
//!     .service(service_fn(async |path: &'static str| Ok::<_, BoxError>(path.len())));
//!
//! assert_eq!(github.ready().await?.call("/user").await?, 5);
//! assert_eq!(github.ready().await?.call("/events").await?, 7);
//! let error = github.ready().await?.call("/repos").await.unwrap_err();
//! assert!(matches!(RateLimitError::find(&error), Some(RateLimitError::Refused(_))));
//! # Ok(())
//! # }
//! ```
//!
//! # What a rule can do
//!
//! | it should | by |
//! | --- | --- |
//! | limit each user, tenant, address, route, or combination of them | [`Rule::key`], [`Rule::by`] |
//! | take more units for larger requests | [`Rule::cost`] |
//! | give some another quota, let some pass always, let some never pass | [`Rule::plan`] |
//! | count, and refuse nobody yet | [`Rule::shadow`] |
//! | count only what failed, or give back what was dropped | [`refund_if`](RateLimitLayer::refund_if) |
//! | have outgoing calls wait instead of failing | [`wait_up_to`](RateLimitLayer::wait_up_to) |
//! | change while it is at work, without forgetting anything | [`quotas`](RateLimitLayer::quotas) |
//! | come from a file | [`rules`](RateLimitLayer::rules) |
//! | be looked into, reset, or block a key | [`Checker`], [`TopRefused`] |
//!
//! # Which window
//!
//! | you need | [`WindowKind`] | its price |
//! | --- | --- | --- |
//! | a limit that is never exceeded | `Sliding`, the default | a flood gets 16/17 of it |
//! | that, and all of it under a flood | `Log` | memory for each unit |
//! | what other limiters call a sliding window | `Counter` | up to 2 L in some windows |
//! | calls spaced evenly after a burst | `Gcra` | up to 2 L in some windows |
//!
//! All of them are kept in memory and on Redis. Leases are taken for `Sliding` only; under the other kinds the server decides
//! each request.
//!
//! # Which store
//!
//! | store | counts for | a decision costs | when it cannot decide |
//! | --- | --- | --- | --- |
//! | [`MemoryStore`] | this process | no allocation, no waiting | does not occur |
//! | `RedisStore` (feature `redis`) | all processes on one Redis | a round trip, shared by those under way | what its `Outage` says |
//! | `Leased` over a `RedisStore` | the same | mostly nothing: units are paid for in advance | the same, once its leases are over |
//!
//! Both decide by the same arithmetic: one trace of requests gets the same decisions from both. One process, or a
//! limit for each: memory. A limit over several processes: Redis.
//!
//! # Which outage policy
//!
//! | the limit is there to | `Outage` | while Redis is out |
//! | --- | --- | --- |
//! | protect something that must not be overrun, or costs money | `Closed`, the default | requests are refused (503) |
//! | keep order among friends | `Open` | requests pass, and are not counted |
//! | both, somewhat | `Local { share }` | each process keeps to its share of the quota |
//!
//! # Limits of the limits
//!
//! - At most [`MAX_RULES`] rules to a layer, and quotas of up to `u32::MAX` units in 1 ms to 3,660 days.
//! - In memory, a flood of more keys than the capacity refuses others too early; it never lets more pass.
//! - On Redis, strict means by the server's clock, for what the server remembers: a failover can forget.
//! - A charge is given back when the answer is known, so until then it counts.
//! - Who waits is in no queue: with room for one, any of those who wait may be next.
//!
//! # Features
//!
//! None is on by default: `http`, `grpc` (refusals as statuses, for tonic), `redis`, `quanta` (a quicker [`Clock`] for the
//! store in memory), `tracing` (an event for each
//! refusal and outage) and `metrics` (`seawall_ratelimit_decisions_total{rule, outcome}`, where an outcome is
//! `allowed`, `refused`, `denied`, `cost_above_limit`, `delayed`, `shadow` (would have been refused) or `degraded`
//! (allowed without the shared counters), and `seawall_ratelimit_outages_total{policy}`; install the recorder
//! before the layer is applied).

mod decision;
mod error;
mod future;
#[cfg(feature = "http")]
mod http;
mod key;
mod layer;
mod limiter;
mod operate;
mod plan;
mod policy;
mod quota;
mod refund;
mod rule;
mod rules;
mod service;
mod store;
mod telemetry;
mod top;
mod wait;
pub mod window;

pub use crate::decision::{Charge, Charges, Decision, Verdict};
pub use crate::error::{
    BoxError, ConfigError, CostAboveLimit, RateLimitError, Refused, StoreError, Violation,
};
pub use crate::future::ResponseFuture;
#[cfg(feature = "http")]
pub use crate::http::{
    ClientIp, Fields, FromExtensions, HttpFuture, InExtension, LimitBody, Networks, Peer, Respond,
    UriPath,
};
pub use crate::key::{ByKey, ByKeyIf, Everyone, Extract, Key};
pub use crate::layer::{Checker, Fail, RateLimitLayer};
pub use crate::operate::OperateError;
pub use crate::plan::{Plan, PlanFor, SamePlan};
pub use crate::policy::{Policy, Quotas};
pub use crate::quota::Quota;
pub use crate::refund::{NoRefund, Owed, RefundIf, Refunds};
pub use crate::rule::{Cost, OneUnit, Rule};
pub use crate::rules::{And, Apply, BoxRule, BoxRules, MAX_RULES, Rules};
pub use crate::service::RateLimit;
#[cfg(feature = "redis")]
pub use crate::store::leased::{Leased, LeasedDeciding, LeasedScope};
pub use crate::store::memory::{Clock, MemoryReceipt, MemoryScope, MemoryStore};
#[cfg(feature = "redis")]
pub use crate::store::redis::{Outage, RedisDeciding, RedisReceipt, RedisScope, RedisStore};
pub use crate::store::{Operate, Standing, Store};
pub use crate::top::{KeyHash, RefusedKey, TopRefused};
pub use crate::wait::{WaitFuture, Waiting};
pub use crate::window::WindowKind;
