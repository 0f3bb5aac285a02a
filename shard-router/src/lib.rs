//! A router for stateful shards, as a [`tower`](https://docs.rs/tower) service: where a key lives
//! is data, not a by-product of a list of hosts.
//!
//! ```
//! use std::time::Duration;
//! use seawall_shard_router::{Access, Bulkhead, Endpoint, ShardRouter, Topology};
//! use tower::{Service, ServiceExt, service_fn};
//!
//! struct Query { tenant: String, writes: bool }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), seawall_shard_router::BoxError> {
//! let topology = Topology::slots(["s00", "s01", "s02"])?;
//! let mut router = ShardRouter::new(topology.clone(), |endpoint: &Endpoint| {
//!         let shard = endpoint.shard().clone();       // a pool of connections, for one
//!         service_fn(move |_: Query| std::future::ready(Ok::<_, std::io::Error>(shard.clone())))
//!     })
//!     .key(|query: &Query| query.tenant.as_str().into())
//!     .access(|query: &Query| if query.writes { Access::Write } else { Access::Read })
//!     .each_shard(Bulkhead::concurrency(64).queue(256).fail_fast(Duration::from_millis(50)));
//!
//! let query = Query { tenant: "tenant-7".into(), writes: true };
//! let served_by = router.ready().await?.call(query).await?;
//! assert_eq!(served_by, *topology.shard_of("tenant-7"));
//! # Ok(()) }
//! ```
//!
//! # Where a key lies
//! A key is hashed to one of 16,384 [slots](Slot), once and for ever; a [`Topology`] says which
//! shard owns which slot, at one epoch. Adding or removing a shard makes a new topology, and the
//! [`Plan`] between the two lists the slots that move: no others do.
//!
//! ```
//! use seawall_shard_router::{Plan, Topology};
//!
//! let topology = Topology::slots((0..50).map(|n| format!("s{n:02}")))?;
//! let plan: Plan = topology.with_shard("s50")?.plan_from(&topology);
//! assert_eq!(plan.slot_count(), 321);                // of 16,384: one 51st, rounded down
//! assert!(plan.moves().iter().all(|a_move| *a_move.to() == "s50"));
//! println!("{plan}");                                // a table: from, to, how many, which
//! # Ok::<(), seawall_shard_router::ConfigError>(())
//! ```
//!
//! A plan moves no data. Whoever moves it puts the new topology in force on the
//! [`TopologyHandle`], and the shards themselves must refuse what they no longer own: two routers
//! can be one epoch apart for a moment.
//!
//! # One shard's trouble
//! The router is always ready. Each endpoint has its own bounded queue, its own concurrency, and a
//! time after which a request that cannot be handed over fails: a [`Bulkhead`]. All of it is
//! refused with a [`RouteError`], which means that the shard never saw the request.
//!
//! # Features
//! None is on by default.
//! - `serde`: topologies and plans as data.
//! - `tracing`: an event for each topology that is followed (info) and each refusal (debug).
//! - `metrics`, for which a recorder is to be installed before the router is made:
//!
//! | name | kind | labels |
//! | --- | --- | --- |
//! | `seawall_shard_router_requests_total` | counter | `shard`, `role`, `outcome` |
//! | `seawall_shard_router_in_flight` | gauge: sent there and not ended | `shard`, `role` |
//! | `seawall_shard_router_queued` | gauge: of those, in the queue | `shard`, `role` |
//! | `seawall_shard_router_overloaded_total` | counter: refused by the cap | |
//! | `seawall_shard_router_epoch` | gauge | |
//! | `seawall_shard_router_slots` | gauge | `shard` |
//!
//! A `role` is `primary` or `replica`; an `outcome` is `ok`, `error`, `queue_full`, `fail_fast` or
//! `dropped`, when the caller did not wait for the answer.

mod access;
mod balance;
mod bulkhead;
mod coalesce;
mod error;
mod ewma;
mod future;
mod gather;
mod handle;
mod health;
mod holdings;
mod hot;
mod key;
mod lane;
mod locate;
mod pick;
pub mod placement;
mod plan;
mod refresh;
mod refusal;
pub mod reload;
mod reshard;
mod router;
mod service;
mod shard;
mod slot;
#[cfg(feature = "serde")]
mod stored;
mod switch;
mod table;
mod telemetry;
mod topology;
mod validate;

pub use access::{Access, Classify, Position, WritesOnly};
pub use bulkhead::Bulkhead;
pub use coalesce::{Coalesce, CoalesceFuture, CoalesceLayer, SharedError, Sharing};
pub use error::{BoxError, ConfigError, RouteError};
pub use future::ResponseFuture;
pub use gather::{Gathered, Missed, Scatter};
pub use handle::TopologyHandle;
pub use health::Ejection;
pub use holdings::{Holding, Holdings};
pub use hot::{Heat, HotKey, HotKeys};
pub use key::Key;
pub use locate::{Locate, Place, PlacedBy, Unplaced};
pub use plan::{Move, Plan};
pub use refresh::{Refresh, RefreshError};
pub use refusal::Refusal;
pub use reshard::{Mover, Outcome, Progress, Reshard, ReshardError, Stage, Step};
pub use router::ShardRouter;
pub use shard::{Endpoint, Role, Shard, ShardId};
pub use slot::{SLOTS, Slot, SlotRange, slot_of};
pub use table::EndpointLoad;
pub use topology::Topology;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
