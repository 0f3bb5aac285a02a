//! The full pipeline: API, log, workers, shards, caches, load and accounting in one binary.

fn main() {}
