//! What is particular to services: processes that share the work, brokers and servers that go away, the log on
//! Kafka and the shared level of the cache.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "../common/mod.rs"]
mod common;

mod cache;
mod celebrity;
mod connections;
mod holdings;
mod log;
mod outages;
mod reshard;
mod roles;
mod rolling;
