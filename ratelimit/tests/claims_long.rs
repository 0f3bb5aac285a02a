//! The claims that take minutes.

#![allow(clippy::unwrap_used, reason = "in a test it is the assertion")]

mod nodes;
mod strict;

use seawall_ratelimit::{MemoryStore, Quota, RateLimitLayer, Rule};

#[tokio::test]
async fn a_node() {
    if let Some((port, seed, requests)) = nodes::orders() {
        nodes::be_a_node(port, seed, requests, std::io::stdout()).await;
    }
}

#[test]
fn strict_memory_for_long() {
    let violations = strict::memory(7_000_000, 3_000_000);
    println!("figure ratelimit/strict-memory-10m: {violations}");
    assert_eq!(violations, 0);
}

#[tokio::test]
async fn strict_in_eight_processes_for_long() {
    let (violations, admitted) = nodes::violations("a_node", 1_250_000).await;
    println!("figure ratelimit/strict-processes-10m: {violations}");
    assert!(admitted > 10_000, "the limits were met: {admitted}");
    assert_eq!(violations, 0);
}

/// Of this process, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kilobytes = line.unwrap().split_whitespace().nth(1).unwrap();
    1024 * kilobytes.parse::<u64>().unwrap()
}

// Ten million keys come by once each, in a store for a million: what it takes after two million is what it takes.
#[test]
fn memory_stays_flat() {
    let limits = RateLimitLayer::new(MemoryStore::with_capacity(1_000_000))
        .rule(Rule::new("key", Quota::per_hour(5)).key(|key: &u64| (*key).into()))
        .checker();
    let flood = |keys: std::ops::Range<u64>| {
        for key in keys {
            assert!(limits.decide(&key).is_ok());
        }
        resident()
    };
    let full = flood(0..4_000_000);
    let after = flood(4_000_000..10_000_000);
    let grown = after as f64 / full as f64;
    println!("figure ratelimit/memory-of-10m-keys: {grown:.3}");
    assert!(grown <= 1.02, "{full} bytes grew to {after}");
}
