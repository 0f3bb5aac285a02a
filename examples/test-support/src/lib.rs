//! What the tests of the workspace share: real servers that can be paused, killed and cut off,
//! a harness that drops a future at each of its polls, and an allocation counter.
//!
//! Nothing here skips. A test that needs a server which is not installed fails and says what to
//! install.

mod allocations;
mod drops;
mod haproxy;
mod kafka;
mod observe;
mod port;
mod postgres;
mod proxy;
mod redis;
mod redis_cluster;
mod resp;

pub use allocations::count_allocations;
pub use drops::drop_at_every_poll;
pub use haproxy::Haproxy;
pub use kafka::{KAFKA_VERSION, Kafka, KafkaLayout, kafka_jars};
pub use observe::{Figures, Observed, observe};
pub use port::free_port;
pub use postgres::Postgres;
pub use proxy::Proxy;
pub use redis::Redis;
pub use redis_cluster::RedisCluster;
