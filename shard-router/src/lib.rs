//! A tower layer that routes by key to stateful shards: versioned slots, minimal moves, no head-of-line blocking.
