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
//! Why slots: with N equal shards each holds `16,384 / N` of them, rounded down or up, so the
//! fullest holds at most `1 + N / 16,384` times the mean: 0.1% more at 50 shards, where a ring of 100
//! points for each has 20% more, and jump or rendezvous hashing about 1% by chance. An owner is two
//! bytes, the whole assignment 32 KiB; finding a key's shard is one hash and one look. Where
//! something else decides where keys lie, there are other [placements](placement).
//!
//! # One shard's trouble
//! The router is always ready. Each endpoint has its own bounded queue, its own concurrency, and a
//! time after which a request that cannot be handed over fails: a [`Bulkhead`]. One that keeps
//! failing is left alone for a while, if you ask for [`Ejection`]: what comes for it is refused at
//! once, or [held](ShardRouter::hold) while its primary fails over. All of it is refused with a
//! [`RouteError`], which means that the shard never saw the request.
//!
//! # A topology that changes
//! A [`TopologyHandle`] puts newer ones in force, from wherever they come: a call, a
//! [file, a closure, a channel](reload). Replicas that come and go by themselves need no new
//! topology: [`TopologyHandle::set_replicas`]. Two routers can be an epoch apart for a moment, so **the
//! shards themselves refuse** what they do not own, by [`Holdings`]; a router that gets such a
//! [`Refusal`] fetches the newest topology, once for all who were refused: [`Refresh`].
//!
//! # Growing, step by step
//! A plan moves no data. [`Reshard`] does, through a [`Mover`] that you write for your kind of shard:
//! 1. Start the new shard, empty. Make the plan (`topology.with_shard(..)?.plan_from(&topology)`)
//!    and read it; [`Progress::dry_run`] lists the steps.
//! 2. [`Reshard::begin`], then [`Reshard::run`]: copy, catch up, compare; plain reads switch; writes of
//!    the moving slots are frozen for the length of the last catch-up; writes switch; the old owners
//!    follow the new ones.
//! 3. Now it is [reversible](Stage::Reversible). Look at it for as long as you like.
//!    [`Reshard::roll_back`] takes all of it back, without losing what was written meanwhile.
//! 4. [`Reshard::finish`]: the old owners let go of what has moved.
//!
//! Whatever is killed in between, [`Reshard::resume`] goes on from the journal. The steps of all
//! moves of one plan go together; to move less at once, make several plans.
//!
//! # Hot keys
//! A key that everyone asks for lies on one shard, however well the others are spread. [`HotKeys`]
//! finds such keys. Then, by what is asked:
//! - plain reads spread over all replicas of the shard by themselves;
//! - identical reads share one call by a [`CoalesceLayer`] around the router, and get an answer of
//!   a moment ago by a [`ShortCache`] in it, or another [`Recall`];
//! - writes that need not see each other go to several slots by a [`Salt`];
//! - a slot can be moved to a shard of its own.
//!
//! For questions to all shards there is [`ShardRouter::scatter`].
//!
//! # Features
//! None is on by default.
//! - `serde`: topologies and plans as data.
//! - `discover`: replicas from a `tower::discover::Discover`.
//! - `tracing`: an event for each topology that is followed (info), each refusal (debug), each
//!   ejection (warn), each step of a move and each key that becomes hot (info).
//! - `metrics`, for which a recorder is to be installed before the router is made:
//!
//! | name | kind | labels |
//! | --- | --- | --- |
//! | `seawall_shard_router_requests_total` | counter | `shard`, `role`, `outcome` |
//! | `seawall_shard_router_in_flight` | gauge: sent there and not ended | `shard`, `role` |
//! | `seawall_shard_router_queued` | gauge: of those, in the queue | `shard`, `role` |
//! | `seawall_shard_router_call_seconds` | histogram: from the call to its end | `shard`, `role` |
//! | `seawall_shard_router_ejected` | gauge: endpoints that are left alone | `shard`, `role` |
//! | `seawall_shard_router_ejections_total` | counter | `shard`, `role` |
//! | `seawall_shard_router_lag` | gauge: positions behind the primary, as reported | `shard`, `replica` |
//! | `seawall_shard_router_overloaded_total` | counter: refused by the cap | |
//! | `seawall_shard_router_hot_keys_total` | counter: keys that became hot, by thread and window | |
//! | `seawall_shard_router_epoch` | gauge | |
//! | `seawall_shard_router_slots` | gauge | `shard` |
//!
//! A `role` is `primary` or `replica`; an `outcome` is `ok`, `error`, `queue_full`, `fail_fast` or
//! `dropped`, when the caller did not wait for the answer.

mod access;
mod balance;
mod bulkhead;
mod coalesce;
#[cfg(feature = "discover")]
mod discover;
mod discovered;
mod ejection;
mod error;
mod ewma;
mod future;
mod gather;
mod handle;
mod health;
mod holdings;
mod hot;
mod index;
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
mod shared;
mod slot;
#[cfg(feature = "serde")]
mod stored;
mod switch;
mod table;
mod telemetry;
mod topology;
mod validate;
mod way;

pub use access::{Access, Classify, Position, WritesOnly};
pub use bulkhead::Bulkhead;
pub use coalesce::{
    Coalesce, CoalesceFuture, CoalesceLayer, Recall, SharedError, Sharing, ShortCache,
};
pub use discovered::Discovered;
pub use ejection::Ejection;
pub use error::{BoxError, ConfigError, RouteError};
pub use future::ResponseFuture;
pub use gather::{Gathered, Missed, Scatter};
pub use handle::TopologyHandle;
pub use holdings::{Holding, Holdings};
pub use hot::{Heat, HotKey, HotKeys, Salt};
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
