use std::time::Duration;

use super::{BUCKETS, REACH};
use crate::quota::Quota;

/// What a rule asks for, in the units of the arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    pub(crate) version: u32,
    pub(crate) limit: u32,
    /// Microseconds to a bucket.
    pub(crate) width: u64,
}

impl Terms {
    /// The terms of a quota, in the given version of its rule.
    ///
    /// A window that is no multiple of 16 µs is lengthened to the next one.
    #[must_use]
    pub fn new(quota: Quota, version: u32) -> Self {
        let micros = quota.window().as_nanos().div_ceil(1_000);
        let micros = u64::try_from(micros).expect("a quota's window fits, by its upper bound");
        Self {
            version,
            limit: quota.limit(),
            width: micros.div_ceil(BUCKETS),
        }
    }

    /// Units per window.
    #[must_use]
    pub const fn limit(&self) -> u32 {
        self.limit
    }

    /// The length of the window.
    #[must_use]
    pub const fn window(&self) -> Duration {
        Duration::from_micros(self.width * BUCKETS)
    }

    /// The moment from which what was charged to this bucket no longer counts.
    pub(crate) const fn free_at(&self, bucket: u64) -> u64 {
        (bucket + 1 + REACH) * self.width
    }
}
