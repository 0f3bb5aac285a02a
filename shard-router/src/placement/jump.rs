//! Jump: the smallest function for members that are numbered.

use xxhash_rust::xxh3::xxh3_64;

use super::{Placement, members};
use crate::{ConfigError, ShardId};

/// Jump consistent hashing, of Lamping and Veach (2014), over members in a fixed order.
///
/// **Append only**: a new member goes to the end, and only the last can leave. Put anywhere else,
/// it moves nearly everything.
///
/// # Specification, version 1
/// The member of a key is [`jump`]`(XXH3-64(key), N)`, counted from 0 in the order of the list.
///
/// ```
/// # use seawall_shard_router::placement::Jump;
/// let jump = Jump::over(["s0", "s1", "s2"])?;
/// let grown = Jump::over(["s0", "s1", "s2", "s3"])?;
/// let (before, after) = (jump.shard_of(b"tenant-7"), grown.shard_of(b"tenant-7"));
/// assert!(after == before || *after == "s3");
/// # Ok::<(), seawall_shard_router::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Jump {
    members: Box<[ShardId]>,
}

impl Jump {
    /// Over these members, in this order.
    ///
    /// # Errors
    /// [`ConfigError`]: no member, an empty name, two of one name.
    pub fn over<I: IntoIterator<Item: Into<ShardId>>>(members: I) -> Result<Self, ConfigError> {
        let members = members::listed(members)?;
        Ok(Self { members })
    }

    /// The member on which a key lies.
    #[must_use]
    pub fn shard_of(&self, key: &[u8]) -> &ShardId {
        // A topology, and so a list of members, is never longer than a `u32` counts.
        &self.members[jump(xxh3_64(key), self.members.len() as u32) as usize]
    }
}

impl Placement for Jump {
    fn shard_of(&self, key: &[u8]) -> &ShardId {
        Jump::shard_of(self, key)
    }
}

/// The bucket of a hash among `buckets`, from 0. With no bucket it is 0 as well.
///
/// # Specification, version 1
/// ```text
/// b = -1, j = 0
/// while j < buckets:  b = j
///                     hash = hash * 2862933555777941757 + 1         (mod 2^64)
///                     j = floor((b + 1) * 2^31 / ((hash >> 33) + 1))  (as doubles)
/// return b
/// ```
///
/// ```
/// # use seawall_shard_router::placement::jump;
/// assert_eq!(jump(256, 1_024), 520);
/// ```
#[must_use]
pub fn jump(mut hash: u64, buckets: u32) -> u32 {
    let (mut bucket, mut next) = (0, 0_u64);
    while next < u64::from(buckets) {
        bucket = next;
        hash = hash.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        let stretch = 2_147_483_648.0 / ((hash >> 33) + 1) as f64;
        next = ((bucket + 1) as f64 * stretch) as u64;
    }
    bucket as u32
}
