//! Eight processes with leases on one server.

#![allow(clippy::unwrap_used, reason = "in a test it is the assertion")]

mod nodes;

use test_support::Redis;

/// What the processes run; by itself it is a node alone with its server.
#[tokio::test]
async fn a_node() {
    if let Some((port, seed, requests)) = nodes::orders() {
        nodes::be_a_node(port, seed, requests, std::io::stdout()).await;
        return;
    }
    let server = Redis::start().await;
    let mut told = Vec::new();
    nodes::be_a_node(server.port(), 0, 400, &mut told).await;
    let admitted = told.iter().filter(|&&byte| byte == b'\n').count();
    // The limit is far; what was given back is not told.
    assert!((330..400).contains(&admitted), "{admitted}");
}

#[tokio::test]
async fn strict_in_eight_processes() {
    let (violations, admitted) = nodes::violations("a_node", 3_000).await;
    println!("figure ratelimit/strict-processes: {violations}");
    assert!(admitted > 1_000, "the limits were met: {admitted}");
    assert_eq!(violations, 0);
}
