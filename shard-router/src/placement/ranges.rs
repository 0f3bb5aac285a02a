//! Ranges: keys that are near lie together.

use super::Placement;
use crate::{ConfigError, ShardId};

/// A range of keys and its shard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyRange {
    from: Vec<u8>,
    to: Option<Vec<u8>>,
    shard: ShardId,
}

impl KeyRange {
    /// Keys from this one, which belongs to it, up to that one, which does not.
    pub fn new(
        from: impl Into<Vec<u8>>,
        to: impl Into<Vec<u8>>,
        shard: impl Into<ShardId>,
    ) -> Self {
        Self {
            from: from.into(),
            to: Some(to.into()),
            shard: shard.into(),
        }
    }

    /// Keys from this one on, to the last there is.
    pub fn on_from(from: impl Into<Vec<u8>>, shard: impl Into<ShardId>) -> Self {
        Self {
            from: from.into(),
            to: None,
            shard: shard.into(),
        }
    }

    /// Whether it begins at or after this bound.
    fn ends_before(&self, key: &[u8]) -> bool {
        self.to.as_deref().is_some_and(|to| to < key)
    }

    fn holds_from(&self, key: &[u8]) -> bool {
        self.to.as_deref().is_none_or(|to| to > key)
    }
}

/// Ranges that hold every key exactly once.
///
/// # Specification, version 1
/// Keys are compared byte by byte, unsigned; a key comes before each longer one that it begins. The
/// first range begins with the empty key, each other where the one before ends, and the last has no
/// end.
///
/// ```
/// # use seawall_shard_router::{ConfigError, placement::{KeyRange, Ranges}};
/// let ranges = Ranges::new([KeyRange::new("", "m", "s0"), KeyRange::on_from("m", "s1")])?;
/// assert_eq!(*ranges.shard_of(b"lemon"), "s0");
/// assert_eq!(*ranges.shard_of(b"m"), "s1");
///
/// let gap = Ranges::new([KeyRange::new("", "k", "s0"), KeyRange::on_from("m", "s1")]);
/// let (from, to) = (b"k".to_vec(), Some(b"m".to_vec()));
/// assert_eq!(gap.unwrap_err(), ConfigError::KeyGap { from, to });
/// # Ok::<(), ConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Ranges {
    /// In ascending order; each ends where the next begins.
    ranges: Box<[(Vec<u8>, ShardId)]>,
}

impl Ranges {
    /// Of these ranges, in any order. Several may belong to one shard.
    ///
    /// # Errors
    /// [`ConfigError::NoShards`] without a range, [`ConfigError::EmptyId`],
    /// [`ConfigError::KeyRange`] for one that holds nothing, [`ConfigError::KeyGap`] and
    /// [`ConfigError::KeyOverlap`] with the keys where it is.
    pub fn new(ranges: impl IntoIterator<Item = KeyRange>) -> Result<Self, ConfigError> {
        let mut ranges: Vec<KeyRange> = ranges.into_iter().collect();
        for (position, range) in ranges.iter().enumerate() {
            if range.shard.as_str().is_empty() {
                return Err(ConfigError::EmptyId { position });
            }
            if !range.holds_from(&range.from) {
                let (from, to) = (range.from.clone(), range.to.clone().unwrap_or_default());
                return Err(ConfigError::KeyRange { from, to });
            }
        }
        ranges.sort_by(|a, b| a.from.cmp(&b.from));
        let (Some(first), Some(last)) = (ranges.first(), ranges.last()) else {
            return Err(ConfigError::NoShards);
        };
        if !first.from.is_empty() {
            let (from, to) = (Vec::new(), Some(first.from.clone()));
            return Err(ConfigError::KeyGap { from, to });
        }
        for pair in ranges.windows(2) {
            let (one, next) = (&pair[0], &pair[1]);
            if one.holds_from(&next.from) {
                return Err(ConfigError::KeyOverlap {
                    from: next.from.clone(),
                    owner: one.shard.clone(),
                    other: next.shard.clone(),
                });
            }
            if one.ends_before(&next.from) {
                let (from, to) = (one.to.clone().unwrap_or_default(), Some(next.from.clone()));
                return Err(ConfigError::KeyGap { from, to });
            }
        }
        if let Some(from) = last.to.clone() {
            return Err(ConfigError::KeyGap { from, to: None });
        }
        let ranges = ranges.into_iter().map(|range| (range.from, range.shard));
        Ok(Self {
            ranges: ranges.collect(),
        })
    }

    /// The shard whose range holds a key.
    #[must_use]
    pub fn shard_of(&self, key: &[u8]) -> &ShardId {
        // The first begins with the empty key, which comes before every other.
        let after = self
            .ranges
            .partition_point(|(from, _)| from.as_slice() <= key);
        &self.ranges[after - 1].1
    }
}

impl Placement for Ranges {
    fn shard_of(&self, key: &[u8]) -> &ShardId {
        Ranges::shard_of(self, key)
    }
}
