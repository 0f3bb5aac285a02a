//! What is measured: one entry for each name.

mod dlq;
mod idempotency;
mod ratelimit;
mod retry;
mod shard_router;

use crate::keys;
use crate::measure::Row;

/// A name, whom ours meets under it, and how.
pub(crate) struct Entry {
    /// crate/what/keys/threads
    pub(crate) name: &'static str,
    pub(crate) peers: &'static [&'static str],
    pub(crate) measure: fn(&Entry) -> Vec<Row>,
}

const GOVERNOR: &[&str] = &["governor", "tokio-clock"];
const TOWER_GOVERNOR: &[&str] = &["tower_governor"];
const SCRIPTS: &[&str] = &["multiplexed-script", "bb8-script"];
const MULTIPLEXED_SCRIPT: &[&str] = &["multiplexed-script"];
const SCRIPT_AND_STRICT: &[&str] = &["multiplexed-script", "strict"];
const SET_NX: &[&str] = &["raw-set-nx-get", "bb8-set-nx-get"];
const RETRIES: &[&str] = &[
    "tower-retry",
    "tower-retry-tps-budget",
    "tower-resilience",
    "backon",
];
const HASHES: &[&str] = &[
    "hash-only",
    "hashring",
    "consistent_hash_ring",
    "maglev",
    "jumphash",
];
const BARE: &[&str] = &["bare"];

/// All of them, in the order in which they are measured.
pub(crate) const ALL: &[Entry] = &[
    Entry {
        name: "ratelimit/store/zipf/1t",
        peers: GOVERNOR,
        measure: |entry| ratelimit::store(entry, keys::zipf_many(), 1),
    },
    Entry {
        name: "ratelimit/store/zipf/2t",
        peers: GOVERNOR,
        measure: |entry| ratelimit::store(entry, keys::zipf_many(), 2),
    },
    Entry {
        name: "ratelimit/store/hot/1t",
        peers: GOVERNOR,
        measure: |entry| ratelimit::store(entry, keys::hot(), 1),
    },
    Entry {
        name: "ratelimit/store/hot/2t",
        peers: GOVERNOR,
        measure: |entry| ratelimit::store(entry, keys::hot(), 2),
    },
    Entry {
        name: "ratelimit/layer/zipf/1t",
        peers: TOWER_GOVERNOR,
        measure: ratelimit::layer,
    },
    Entry {
        name: "ratelimit/layer-3-rules/zipf/1t",
        peers: TOWER_GOVERNOR,
        measure: ratelimit::layer_3_rules,
    },
    Entry {
        name: "ratelimit/redis-strict/zipf",
        peers: SCRIPTS,
        measure: |entry| ratelimit::redis_strict(entry, keys::zipf_fewer()),
    },
    Entry {
        name: "ratelimit/redis-strict/even",
        peers: SCRIPTS,
        measure: |entry| ratelimit::redis_strict(entry, keys::even_many()),
    },
    Entry {
        name: "ratelimit/redis-strict/hot",
        peers: SCRIPTS,
        measure: |entry| ratelimit::redis_strict(entry, keys::hot()),
    },
    Entry {
        name: "ratelimit/redis-strict/p99/zipf",
        peers: MULTIPLEXED_SCRIPT,
        measure: |entry| ratelimit::redis_p99(entry, keys::zipf_fewer()),
    },
    Entry {
        name: "ratelimit/redis-leased/zipf",
        peers: MULTIPLEXED_SCRIPT,
        measure: |entry| ratelimit::redis_leased(entry, keys::zipf_fewer()),
    },
    Entry {
        name: "ratelimit/redis-leased/even",
        peers: SCRIPT_AND_STRICT,
        measure: |entry| ratelimit::redis_leased(entry, keys::even_many()),
    },
    Entry {
        name: "ratelimit/redis-leased/hot",
        peers: MULTIPLEXED_SCRIPT,
        measure: |entry| ratelimit::redis_leased(entry, keys::hot()),
    },
    Entry {
        name: "idempotency/redis-begin/first",
        peers: SET_NX,
        measure: idempotency::redis_first,
    },
    Entry {
        name: "idempotency/redis-begin/replay",
        peers: SET_NX,
        measure: idempotency::redis_replay,
    },
    Entry {
        name: "idempotency/memory/first/1t",
        peers: BARE,
        measure: idempotency::memory_first,
    },
    Entry {
        name: "idempotency/memory/replay/1t",
        peers: BARE,
        measure: idempotency::memory_replay,
    },
    Entry {
        name: "idempotency/memory/no-key/1t",
        peers: BARE,
        measure: idempotency::memory_no_key,
    },
    Entry {
        name: "retry/layer/1t",
        peers: RETRIES,
        measure: |entry| retry::layer(entry, 1),
    },
    Entry {
        name: "retry/layer/2t",
        peers: RETRIES,
        measure: |entry| retry::layer(entry, 2),
    },
    Entry {
        name: "dlq/layer/1t",
        peers: BARE,
        measure: dlq::layer,
    },
    Entry {
        name: "dlq/file-write",
        peers: &["append-fsync-each"],
        measure: dlq::file_write,
    },
    Entry {
        name: "dlq/redis-write",
        peers: &["xadd-then-xack"],
        measure: dlq::redis_write,
    },
    Entry {
        name: "dlq/kafka-write",
        peers: &["produce-json"],
        measure: dlq::kafka_write,
    },
    Entry {
        name: "shard-router/lookup/50",
        peers: HASHES,
        measure: |entry| shard_router::lookup(entry, 50),
    },
    Entry {
        name: "shard-router/lookup/1000",
        peers: HASHES,
        measure: |entry| shard_router::lookup(entry, 1_000),
    },
    Entry {
        name: "shard-router/lookup-2-threads/50",
        peers: &["hash-only"],
        measure: |entry| shard_router::lookup_at_once(entry, 50, 2),
    },
    Entry {
        name: "shard-router/plan-add-one/50",
        peers: &["hashring"],
        measure: |entry| shard_router::plan_add_one(entry, 50),
    },
    Entry {
        name: "shard-router/layer/50",
        peers: &["tower-steer"],
        measure: |entry| shard_router::layer(entry, 50, 1),
    },
    Entry {
        name: "shard-router/layer-2-threads/50",
        peers: &["tower-steer"],
        measure: |entry| shard_router::layer(entry, 50, 2),
    },
    Entry {
        name: "shard-router/hot-keys/record",
        peers: &["hash-only"],
        measure: shard_router::hot_keys,
    },
];

#[cfg(test)]
mod tests;
