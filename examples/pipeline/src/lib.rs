//! The full pipeline in one program: API, log, workers, shards, caches, load and accounting.

pub mod accounting;
pub mod api;
pub mod app;
pub mod args;
pub mod backend;
pub mod cache;
pub mod chaos;
pub mod cpu;
pub mod data;
pub mod demo;
pub mod errors;
pub mod load;
pub mod log;
pub mod order;
pub mod outside;
pub mod overload;
pub mod report;
pub mod reshard;
pub mod serve;
pub mod services;
pub mod settings;
pub mod shard;
pub mod shards;
mod sqlite;
pub mod stack;
pub mod telemetry;
pub mod worker;

/// The README's code, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
pub struct Readme;
