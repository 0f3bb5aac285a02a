use std::collections::BTreeSet;

use super::ALL;

/// Names and peers that others rely on: they may become more, and none may go.
const PROMISED: &[(&str, &[&str])] = &[
    ("ratelimit/store/zipf/1t", &["governor", "tokio-clock"]),
    ("ratelimit/store/zipf/2t", &["governor", "tokio-clock"]),
    ("ratelimit/store/hot/1t", &["governor", "tokio-clock"]),
    ("ratelimit/store/hot/2t", &["governor", "tokio-clock"]),
    ("ratelimit/layer/zipf/1t", &["tower_governor"]),
    ("ratelimit/layer-3-rules/zipf/1t", &["tower_governor"]),
    (
        "ratelimit/redis-strict/zipf",
        &["multiplexed-script", "bb8-script"],
    ),
    (
        "ratelimit/redis-strict/even",
        &["multiplexed-script", "bb8-script"],
    ),
    (
        "ratelimit/redis-strict/hot",
        &["multiplexed-script", "bb8-script"],
    ),
    (
        "idempotency/redis-begin/first",
        &["raw-set-nx-get", "bb8-set-nx-get"],
    ),
    (
        "idempotency/redis-begin/replay",
        &["raw-set-nx-get", "bb8-set-nx-get"],
    ),
    ("idempotency/memory/first/1t", &["bare"]),
    ("idempotency/memory/replay/1t", &["bare"]),
    ("idempotency/memory/no-key/1t", &["bare"]),
    (
        "retry/layer/1t",
        &[
            "tower-retry",
            "tower-retry-tps-budget",
            "tower-resilience",
            "backon",
        ],
    ),
    (
        "retry/layer/2t",
        &[
            "tower-retry",
            "tower-retry-tps-budget",
            "tower-resilience",
            "backon",
        ],
    ),
    ("dlq/layer/1t", &["bare"]),
    ("dlq/file-write", &["append-fsync-each"]),
    (
        "shard-router/lookup/50",
        &[
            "hash-only",
            "hashring",
            "consistent_hash_ring",
            "maglev",
            "jumphash",
        ],
    ),
    (
        "shard-router/lookup/1000",
        &[
            "hash-only",
            "hashring",
            "consistent_hash_ring",
            "maglev",
            "jumphash",
        ],
    ),
    ("shard-router/lookup-2-threads/50", &["hash-only"]),
    ("shard-router/plan-add-one/50", &["hashring"]),
    ("shard-router/layer/50", &["tower-steer"]),
    ("shard-router/layer-2-threads/50", &["tower-steer"]),
    ("shard-router/hot-keys/record", &["hash-only"]),
];

#[test]
fn every_promised_row_is_there() {
    for (name, peers) in PROMISED {
        let entry = ALL.iter().find(|entry| entry.name == *name);
        let entry = entry.unwrap_or_else(|| panic!("{name} is missing"));
        for peer in *peers {
            assert!(entry.peers.contains(peer), "{name} has no {peer}");
        }
    }
}

#[test]
fn there_is_one_row_for_each_name_and_peer() {
    let rows: Vec<_> = ALL
        .iter()
        .flat_map(|entry| entry.peers.iter().map(|peer| (entry.name, peer)))
        .collect();
    let different: BTreeSet<_> = rows.iter().collect();
    assert_eq!(different.len(), rows.len());
}

#[test]
fn every_name_begins_with_a_crate() {
    let crates = ["ratelimit", "idempotency", "retry", "dlq", "shard-router"];
    for entry in ALL {
        let (of, _) = entry.name.split_once('/').expect("a crate and what of it");
        assert!(crates.contains(&of), "{}", entry.name);
    }
    for of in crates {
        assert!(ALL.iter().any(|entry| entry.name.starts_with(of)), "{of}");
    }
}
