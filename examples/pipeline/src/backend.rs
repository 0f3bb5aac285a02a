//! What a pipeline runs on: the embedded data directory, or services. Everything above is the same for both.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use seawall_shard_router::{BoxError, Topology};

use crate::cache::ReadCache;
use crate::data::Data;
use crate::log::{Log, SqliteLog};
use crate::shard::{ShardDb, SqliteShard};
use crate::shards::{Opened, first_topology};

/// Entries of the read cache of a process, tombstones included.
pub(crate) const CACHE: u64 = 200_000;

/// How long the record of a key is kept in memory. It bridges the time until the shard has decided the
/// operation; from then on the operation's row answers for the key, for as long as the data lives.
const KEEP_RECORDS: Duration = Duration::from_secs(60);

/// Records of keys in memory at once.
const RECORDS: usize = 1_000_000;

/// Asks for the newest assignment. The shards that it lists are open when it answers.
pub type Newer = Arc<dyn Fn() -> BoxFuture<'static, Result<Topology, BoxError>> + Send + Sync>;

/// Where the log, the shards and what is remembered for speed lie.
pub trait Backend: Send + 'static {
    /// The log.
    type Log: Log;
    /// A shard.
    type Shard: ShardDb;
    /// The records of idempotency keys.
    type Records: seawall_idempotency::Store;
    /// The windows of limits.
    type Windows: seawall_ratelimit::Store<Scope: Send + Sync, Deciding: Send>
        + Send
        + Sync
        + 'static;

    /// Whether all of it belongs to this process: then whatever is in the log is applied before it ends.
    const ALONE: bool;

    /// The log.
    fn log(&self) -> &Arc<Self::Log>;

    /// The shards that were open at the start, by number.
    fn shards(&self) -> &[Arc<Self::Shard>];

    /// The shards that are open now.
    fn opened(&self) -> Opened<Self::Shard>;

    /// The assignment of slots to shards at the start.
    fn topology(&self) -> Topology;

    /// Where a newer assignment comes from, where slots can move while this process runs.
    fn newer(&self) -> Option<Newer>;

    /// The records of idempotency keys, and how long they are kept.
    fn records(&self) -> (Self::Records, Duration);

    /// The windows of limits, for at most so many keys where they lie in memory.
    fn windows(&self, capacity: usize) -> Self::Windows;

    /// The read cache.
    fn cache(&self) -> ReadCache;

    /// Finishes what was asked and lets go of everything.
    fn close(self) -> impl Future<Output = ()> + Send;
}

impl Backend for Data {
    type Log = SqliteLog;
    type Shard = SqliteShard;
    type Records = seawall_idempotency::MemoryStore;
    type Windows = seawall_ratelimit::MemoryStore;

    const ALONE: bool = true;

    fn log(&self) -> &Arc<SqliteLog> {
        self.log()
    }

    fn shards(&self) -> &[Arc<SqliteShard>] {
        self.shards()
    }

    fn opened(&self) -> Opened<SqliteShard> {
        Opened::new(self.shards())
    }

    fn topology(&self) -> Topology {
        let count = u16::try_from(self.shards().len()).expect("its file counts them so");
        first_topology(count).expect("a directory has shards, each with a name of its own")
    }

    fn newer(&self) -> Option<Newer> {
        None
    }

    fn records(&self) -> (Self::Records, Duration) {
        let records = seawall_idempotency::MemoryStore::with_capacity(RECORDS);
        (records, KEEP_RECORDS)
    }

    fn windows(&self, capacity: usize) -> Self::Windows {
        seawall_ratelimit::MemoryStore::with_capacity(capacity)
    }

    fn cache(&self) -> ReadCache {
        ReadCache::new(CACHE)
    }

    async fn close(self) {
        drop(self);
    }
}
