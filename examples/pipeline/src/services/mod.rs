//! The pipeline on services that run elsewhere: Kafka, PostgreSQL and Redis.

mod places;

#[cfg(feature = "services")]
mod assignment;
#[cfg(feature = "services")]
mod connected;
#[cfg(feature = "services")]
mod joined;
#[cfg(feature = "services")]
mod redis;

pub(crate) use self::places::one_line;
pub use self::places::{HaproxyPlace, KafkaPlace, Places, PostgresPlace, RedisPlace, ShardPlace};

#[cfg(feature = "services")]
pub use self::assignment::{Assigned, Assignment, Joined, Journal};
#[cfg(feature = "services")]
pub use self::connected::Services;
#[cfg(feature = "services")]
pub use self::redis::Connection;

/// What is said where services are asked for and this program cannot use them.
#[cfg(not(feature = "services"))]
pub(crate) const NOT_BUILT: &str =
    "this program was built without services: build it with `--features services`";
