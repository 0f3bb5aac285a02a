//! What names a request, and what tells two requests under one name apart.

use std::{fmt, str::FromStr};

use sha2::{Digest, Sha256};

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// A value that names something from outside: an idempotency key, or the scope it lives in.
///
/// It owns its bytes, so a closure that makes one needs no lifetime: `|m: &Message| m.id().into()`.
/// Any bytes are allowed; they are length-prefixed and hashed before they reach a store, and
/// `Debug` shows their length, never what they say.
///
/// ```
/// use seawall_idempotency::Key;
///
/// assert_eq!(Key::from("42"), Key::from(b"42".as_slice()));
/// assert_ne!(Key::from("42"), Key::from(42_u64), "a number is its eight bytes, not its digits");
/// // Several parts are framed, so that moving the border between them gives another key.
/// assert_ne!(Key::of(["ab", "c"]), Key::of(["a", "bc"]));
/// assert_eq!(format!("{:?}", Key::from("secret")), "Key(6 bytes)");
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Key(Box<[u8]>);

impl Key {
    /// A key of several parts, such as tenant and route, each framed by its length.
    pub fn of<P: AsRef<[u8]>>(parts: impl IntoIterator<Item = P>) -> Self {
        Self::framed(parts, Vec::new())
    }

    /// Where a message lies in a log: topic, partition and offset, as Kafka counts them.
    ///
    /// It names what the consumer is given again after a rebalance or a crash. A producer that sends a
    /// message twice gives it two places: against that, key by a field that the producer sets.
    pub fn position(topic: &str, partition: i32, offset: i64) -> Self {
        Self::of([
            topic.as_bytes(),
            &partition.to_be_bytes(),
            &offset.to_be_bytes(),
        ])
    }

    /// As [`of`](Self::of), into a buffer that has the room already.
    pub(crate) fn framed<P: AsRef<[u8]>>(
        parts: impl IntoIterator<Item = P>,
        mut framed: Vec<u8>,
    ) -> Self {
        for part in parts {
            let part = part.as_ref();
            framed.extend_from_slice(&(part.len() as u64).to_be_bytes());
            framed.extend_from_slice(part);
        }
        Self(framed.into())
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({} bytes)", self.0.len())
    }
}

impl From<&str> for Key {
    fn from(key: &str) -> Self {
        Self(key.as_bytes().into())
    }
}

impl From<&String> for Key {
    fn from(key: &String) -> Self {
        Self(key.as_bytes().into())
    }
}

impl From<String> for Key {
    fn from(key: String) -> Self {
        Self(key.into_bytes().into())
    }
}

impl From<&[u8]> for Key {
    fn from(key: &[u8]) -> Self {
        Self(key.into())
    }
}

impl From<Vec<u8>> for Key {
    fn from(key: Vec<u8>) -> Self {
        Self(key.into())
    }
}

impl From<u64> for Key {
    fn from(key: u64) -> Self {
        Self(Box::new(key.to_be_bytes()))
    }
}

impl From<u128> for Key {
    fn from(key: u128) -> Self {
        Self(Box::new(key.to_be_bytes()))
    }
}

/// Where a record lies in its store: SHA-256 over the scope and the key, each framed by its length.
///
/// This is all a store, a log line or a span ever sees of a key. It displays as 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordKey([u8; 32]);

impl RecordKey {
    /// The place of `key` within `scope`; `None` is the one scope of a layer without scopes.
    ///
    /// ```
    /// use seawall_idempotency::{Key, RecordKey};
    ///
    /// let key = Key::from("k");
    /// let alice = RecordKey::new(Some(&Key::from("alice")), &key);
    /// assert_ne!(alice, RecordKey::new(Some(&Key::from("bob")), &key));
    /// assert_ne!(RecordKey::new(Some(&Key::from("")), &key), RecordKey::new(None, &key));
    /// ```
    pub fn new(scope: Option<&Key>, key: &Key) -> Self {
        Self::of(scope, key.as_bytes())
    }

    pub(crate) fn of(scope: Option<&Key>, key: &[u8]) -> Self {
        let mut hash = Sha256::new();
        match scope {
            None => hash.update([0]),
            Some(scope) => {
                hash.update([1]);
                frame(&mut hash, scope.as_bytes());
            }
        }
        frame(&mut hash, key);
        Self(hash.finalize().into())
    }

    /// The hash itself.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // One write of all digits: this names a key of Redis with each command.
        let mut digits = [0; 64];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(self.0) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 0xf)];
        }
        f.write_str(std::str::from_utf8(&digits).map_err(|_| fmt::Error)?)
    }
}

/// Reads the 64 hex digits that it displays as, from a log line for one.
impl FromStr for RecordKey {
    type Err = NotARecordKey;

    fn from_str(digits: &str) -> Result<Self, NotARecordKey> {
        let digits: &[u8; 64] = digits.as_bytes().try_into().map_err(|_| NotARecordKey)?;
        let digit = |digit: u8| char::from(digit).to_digit(16).ok_or(NotARecordKey);
        let mut key = [0; 32];
        for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
            // Two digits are a byte.
            *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
        }
        Ok(Self(key))
    }
}

/// Text that is not the 64 hex digits of a [`RecordKey`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotARecordKey;

impl fmt::Display for NotARecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a record's key is 64 hex digits")
    }
}

impl std::error::Error for NotARecordKey {}

impl fmt::Debug for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecordKey({self})")
    }
}

/// What a request asks for, in 32 bytes: two requests under one key must have the same.
///
/// ```
/// use seawall_idempotency::Fingerprint;
///
/// assert_eq!(Fingerprint::of(["POST", "/orders"]), Fingerprint::of(["POST", "/orders"]));
/// assert_ne!(Fingerprint::of(["POST", "/orders"]), Fingerprint::of(["POST/", "orders"]));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// For requests which their key already describes in full: nothing is compared.
    pub const NONE: Self = Self([0; 32]);

    /// SHA-256 over the parts, each framed by its length.
    pub fn of<P: AsRef<[u8]>>(parts: impl IntoIterator<Item = P>) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            frame(&mut hash, part.as_ref());
        }
        Self(hash.finalize().into())
    }

    /// A hash that was made elsewhere.
    pub const fn from_bytes(hash: [u8; 32]) -> Self {
        Self(hash)
    }

    /// The hash itself.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprint(")?;
        self.0[..4]
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("..)")
    }
}

fn frame(hash: &mut Sha256, part: &[u8]) {
    hash.update((part.len() as u64).to_be_bytes());
    hash.update(part);
}
