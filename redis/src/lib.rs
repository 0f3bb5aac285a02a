//! Connections to Redis for the Seawall layers: a pool taken fairly, a deadline on every call, a breaker.
