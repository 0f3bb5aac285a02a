//! What a request is routed by.

use std::fmt;

use xxhash_rust::xxh3::xxh3_64;

use crate::{Slot, slot_of};

/// What a request is routed by: bytes that are hashed to a slot, or a slot that is known already.
///
/// The canonical bytes are those of the text for a `&str`, the bytes themselves for a `&[u8]`, and
/// the eight bytes with the most significant first for a `u64`. So the number 7 and the text `"7"`
/// are two keys; choose one form for a kind of key and keep it. Keys made of several parts need
/// their lengths in front of them, or two of them can collide by moving the border.
///
/// ```
/// # use seawall_shard_router::{Key, Slot, slot_of};
/// assert_eq!(Key::from("tenant-7").slot(), slot_of(b"tenant-7"));
/// assert_eq!(Key::from(7_u64).slot(), slot_of(&[0, 0, 0, 0, 0, 0, 0, 7]));
///
/// // A batch that was collected for one slot says so, and nothing is hashed.
/// let slot = Slot::new(42).expect("there are 16,384 slots");
/// assert_eq!(Key::placed(slot).slot(), slot);
/// ```
#[derive(Clone, Copy)]
pub struct Key<'a>(Repr<'a>);

#[derive(Clone, Copy)]
enum Repr<'a> {
    Bytes(&'a [u8]),
    Word([u8; 8]),
    Placed(Slot),
}

impl Key<'_> {
    /// For a request whose slot is known, as that of a batch collected for one.
    #[must_use]
    pub const fn placed(slot: Slot) -> Key<'static> {
        Key(Repr::Placed(slot))
    }

    /// The slot it lies in.
    #[inline]
    #[must_use]
    pub fn slot(&self) -> Slot {
        match &self.0 {
            Repr::Bytes(bytes) => slot_of(bytes),
            Repr::Word(bytes) => slot_of(bytes),
            Repr::Placed(slot) => *slot,
        }
    }
}

impl Key<'_> {
    /// A number to tell keys apart by, as for [`HotKeys`](crate::HotKeys): XXH3-64 of the canonical bytes,
    /// and for a key of which only the slot is known, that of the slot's number.
    #[inline]
    #[must_use]
    pub fn hash(&self) -> u64 {
        match &self.0 {
            Repr::Bytes(bytes) => xxh3_64(bytes),
            Repr::Word(bytes) => xxh3_64(bytes),
            Repr::Placed(slot) => xxh3_64(&slot.get().to_be_bytes()),
        }
    }
}

/// Shows the slot, never the key: keys come from outside and end in logs.
impl fmt::Debug for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("slot", &self.slot().get())
            .finish_non_exhaustive()
    }
}

impl<'a> From<&'a str> for Key<'a> {
    #[inline]
    fn from(text: &'a str) -> Self {
        Key(Repr::Bytes(text.as_bytes()))
    }
}

impl<'a> From<&'a String> for Key<'a> {
    #[inline]
    fn from(text: &'a String) -> Self {
        Key(Repr::Bytes(text.as_bytes()))
    }
}

impl<'a> From<&'a [u8]> for Key<'a> {
    #[inline]
    fn from(bytes: &'a [u8]) -> Self {
        Key(Repr::Bytes(bytes))
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for Key<'a> {
    #[inline]
    fn from(bytes: &'a [u8; N]) -> Self {
        Key(Repr::Bytes(bytes))
    }
}

impl<'a> From<&'a Vec<u8>> for Key<'a> {
    #[inline]
    fn from(bytes: &'a Vec<u8>) -> Self {
        Key(Repr::Bytes(bytes))
    }
}

impl From<u64> for Key<'_> {
    #[inline]
    fn from(number: u64) -> Self {
        Key(Repr::Word(number.to_be_bytes()))
    }
}

impl From<Slot> for Key<'_> {
    #[inline]
    fn from(slot: Slot) -> Self {
        Key(Repr::Placed(slot))
    }
}
