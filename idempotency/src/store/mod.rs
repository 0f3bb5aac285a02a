//! Where records live.

mod memory;
#[cfg(feature = "redis")]
mod redis;

use std::{future::Future, time::Duration};

use bytes::Bytes;

pub use self::memory::MemoryStore;
#[cfg(feature = "redis")]
pub use self::redis::RedisStore;
use crate::{
    error::StoreError,
    key::RecordKey,
    record::{Swap, Swapped},
};

/// A place that keeps bytes under a key for a time, and can compare and swap them.
///
/// A store knows nothing of what the bytes mean: what may follow on what is decided by
/// [`record`](crate::record), which is why all stores decide alike. Each operation must happen in
/// one step, and must be harmless when it happens twice.
pub trait Store: Clone + Send + Sync + 'static {
    /// Writes `record` for `keep_for` if nothing lies under `key`, and says `None`; else changes
    /// nothing and says what lies there.
    fn claim(
        &self,
        key: &RecordKey,
        record: Bytes,
        keep_for: Duration,
    ) -> impl Future<Output = Result<Option<Bytes>, StoreError>> + Send;

    /// For how long what lies under `key` will still be kept, by the store's own clock.
    fn remaining(
        &self,
        key: &RecordKey,
    ) -> impl Future<Output = Result<Option<Duration>, StoreError>> + Send;

    /// Carries out what [`Swap::judge`] says.
    fn swap(
        &self,
        key: &RecordKey,
        swap: &Swap,
    ) -> impl Future<Output = Result<Swapped, StoreError>> + Send;

    /// Since when the connection to the store has been without trouble: it was opened, failed, or
    /// changed its server that long ago. A store that cannot lose its callers is always steady.
    fn steady_for(&self) -> Duration {
        Duration::MAX
    }
}
