//! Slots: the fixed number of places a key can be in.
//!
//! A key never belongs to a shard directly. It belongs to a slot for ever, and a slot is owned by
//! a shard for a time. So growing moves whole slots, chosen one by one, and the hash of a key is
//! decided once and pinned by test vectors.

use std::fmt;
use std::str::FromStr;

use xxhash_rust::xxh3::xxh3_64;

use crate::ConfigError;

/// How many slots there are. A slot is never split, so this also bounds the number of shards.
pub const SLOTS: u16 = 16_384;

/// [`SLOTS`], as a length.
pub(crate) const COUNT: usize = SLOTS as usize;

/// The 14 upper bits of the hash name the slot.
pub(crate) const SHIFT: u32 = u64::BITS - SLOTS.trailing_zeros();

/// The slot of the canonical bytes of a key: the upper 14 bits of XXH3-64 with seed 0.
///
/// The same on every platform and in every version of this crate; the vectors in the tests pin it.
/// The hash is not keyed: someone who chooses keys freely can aim them at one slot.
///
/// ```
/// # use seawall_shard_router::slot_of;
/// assert_eq!(slot_of(b"").get(), 2_881);
/// ```
#[inline]
#[must_use]
pub fn slot_of(canonical: &[u8]) -> Slot {
    Slot((xxh3_64(canonical) >> SHIFT) as u16)
}

/// One of the [`SLOTS`] places a key can be in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(into = "u16", try_from = "u16"))]
pub struct Slot(u16);

impl Slot {
    /// The slot with this number, if there is one: numbers run from 0 to 16,383.
    #[must_use]
    pub const fn new(number: u16) -> Option<Self> {
        if number < SLOTS {
            Some(Self(number))
        } else {
            None
        }
    }

    /// Its number, from 0 to 16,383.
    #[inline]
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }

    /// All slots, in order.
    pub fn all() -> impl DoubleEndedIterator<Item = Slot> + ExactSizeIterator {
        (0..SLOTS).map(Slot)
    }

    #[inline]
    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }

    /// For positions in a table of [`COUNT`] entries.
    pub(crate) const fn from_index(index: usize) -> Self {
        debug_assert!(index < COUNT);
        Self(index as u16)
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<Slot> for u16 {
    fn from(slot: Slot) -> u16 {
        slot.0
    }
}

impl TryFrom<u16> for Slot {
    type Error = ConfigError;

    fn try_from(number: u16) -> Result<Self, ConfigError> {
        Self::new(number).ok_or(ConfigError::NoSuchSlot { number })
    }
}

/// A run of slots, both ends included. Written `17` or `17-42`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(into = "String", try_from = "String"))]
pub struct SlotRange {
    first: Slot,
    last: Slot,
}

impl SlotRange {
    /// The slots from `first` to `last`, both included.
    ///
    /// # Errors
    /// [`ConfigError::InvertedRange`] when `last` comes before `first`.
    pub fn new(first: Slot, last: Slot) -> Result<Self, ConfigError> {
        if last < first {
            return Err(ConfigError::InvertedRange { first, last });
        }
        Ok(Self { first, last })
    }

    /// Its first slot.
    #[must_use]
    pub const fn first(self) -> Slot {
        self.first
    }

    /// Its last slot, which belongs to it.
    #[must_use]
    pub const fn last(self) -> Slot {
        self.last
    }

    /// How many slots it holds: one at least.
    #[must_use]
    #[expect(
        clippy::len_without_is_empty,
        reason = "a range holds one slot at least"
    )]
    pub const fn len(self) -> usize {
        (self.last.0 - self.first.0) as usize + 1
    }

    /// Its slots, in order.
    pub fn slots(self) -> impl DoubleEndedIterator<Item = Slot> {
        (self.first.0..=self.last.0).map(Slot)
    }
}

impl From<Slot> for SlotRange {
    fn from(slot: Slot) -> Self {
        Self {
            first: slot,
            last: slot,
        }
    }
}

impl fmt::Display for SlotRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

impl FromStr for SlotRange {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let slot = |part: &str| -> Result<Slot, ConfigError> {
            let number = part
                .parse::<u16>()
                .map_err(|_| ConfigError::UnreadableRange {
                    text: text.to_owned(),
                })?;
            Slot::try_from(number)
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        Self::new(slot(first)?, slot(last)?)
    }
}

impl From<SlotRange> for String {
    fn from(range: SlotRange) -> String {
        range.to_string()
    }
}

impl TryFrom<String> for SlotRange {
    type Error = ConfigError;

    fn try_from(text: String) -> Result<Self, ConfigError> {
        text.parse()
    }
}

/// Ascending slots as the fewest ranges.
pub(crate) fn ranges(ascending: impl IntoIterator<Item = Slot>) -> Vec<SlotRange> {
    let mut ranges: Vec<SlotRange> = Vec::new();
    for slot in ascending {
        match ranges.last_mut() {
            Some(range) if range.last.0 + 1 == slot.0 => range.last = slot,
            _ => ranges.push(slot.into()),
        }
    }
    ranges
}
