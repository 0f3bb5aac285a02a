//! An idempotency key as text: made, written and read.

use std::{
    error::Error as StdError,
    fmt,
    hash::{BuildHasher, RandomState},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{key::Key, structured};

/// The idempotency key of a request or a message: 1 to 255 printable ASCII characters.
///
/// In an HTTP request it is in the extensions: an outer layer that finds the key elsewhere, such as in
/// the body, puts it there (an `Idempotency-Key` header goes before it), and the handler finds it there
/// wherever it came from: for a database that keeps it beside the effect, for one.
///
/// ```
/// use seawall_idempotency::IdempotencyKey;
///
/// let key = IdempotencyKey::fresh();
/// let header = key.to_field().unwrap();
/// assert_eq!(IdempotencyKey::parse(header.as_bytes()), Ok(key));
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(pub String);

impl IdempotencyKey {
    /// How many characters a key may have.
    pub const LONGEST: usize = 255;

    /// A key that was not made before, anywhere: 122 random bits in the form of a UUID of version 4.
    ///
    /// Whoever wants to go on after a restart makes the key before the first attempt and keeps it with
    /// the work.
    pub fn fresh() -> Self {
        static SEED: OnceLock<RandomState> = OnceLock::new();
        static COUNT: AtomicU64 = AtomicU64::new(0);

        // The seed is the system's randomness, and SipHash under a secret seed is a pseudorandom
        // function: a count gives each key bits of its own that do not tell the next ones.
        let seed = SEED.get_or_init(RandomState::new);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let half = |which: u8| u128::from(seed.hash_one((which, count)));
        let bits = half(0) << 64 | half(1);
        // RFC 9562, 5.4: the version in bits 48 to 51, the variant in bits 64 and 65.
        let bits = bits & !(0xf << 76) & !(0b11 << 62) | (4 << 76) | (0b10 << 62);
        let hex = format!("{bits:032x}");
        Self(format!(
            "{}-{}-{}-{}-{}",
            &hex[..8],
            &hex[8..12],
            &hex[12..16],
            &hex[16..20],
            &hex[20..]
        ))
    }

    /// Reads the value of an `Idempotency-Key` field: a String of RFC 9651 in quotes, whose parameters
    /// are dropped.
    ///
    /// # Errors
    ///
    /// When it is not exactly one such String, or not 1 to 255 characters long.
    pub fn parse(field: &[u8]) -> Result<Self, KeyError> {
        match structured::string(field) {
            Ok(key) => Self(key).limited(),
            Err(structured::NotAString) => Err(KeyError::NotAString),
        }
    }

    /// As [`parse`](Self::parse), and takes a value without quotes too: it is the same key as with them.
    ///
    /// # Errors
    ///
    /// When it is neither; a bare value has no spaces, commas or quotes within.
    pub fn parse_bare(field: &[u8]) -> Result<Self, KeyError> {
        let trimmed = field.trim_ascii();
        if trimmed.starts_with(b"\"") {
            return Self::parse(field);
        }
        // A comma or a space inside would be a list, or several fields joined on the way.
        let plain = |&byte: &u8| byte.is_ascii_graphic() && byte != b',' && byte != b'"';
        if !trimmed.iter().all(plain) {
            return Err(KeyError::NotAString);
        }
        String::from_utf8(trimmed.to_vec())
            .map_err(|_| KeyError::NotAString)
            .and_then(|key| Self(key).limited())
    }

    /// The value of an `Idempotency-Key` field: the key as a String of RFC 9651.
    ///
    /// # Errors
    ///
    /// When it is not 1 to 255 printable ASCII characters.
    pub fn to_field(&self) -> Result<String, KeyError> {
        self.clone().limited()?;
        let mut field = String::with_capacity(self.0.len() + 2);
        field.push('"');
        for c in self.0.chars() {
            if matches!(c, '"' | '\\') {
                field.push('\\');
            }
            field.push(c);
        }
        field.push('"');
        Ok(field)
    }

    /// The key itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn limited(self) -> Result<Self, KeyError> {
        if !self.0.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            return Err(KeyError::NotAString);
        }
        match self.0.len() {
            1..=Self::LONGEST => Ok(self),
            length => Err(KeyError::Length(length)),
        }
    }
}

/// Keys are often a caller's secret: only the length is shown.
impl fmt::Debug for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IdempotencyKey({} bytes)", self.0.len())
    }
}

impl From<&IdempotencyKey> for Key {
    fn from(key: &IdempotencyKey) -> Self {
        key.as_str().into()
    }
}

/// Why a value is no idempotency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyError {
    /// It is not one String of printable ASCII characters.
    NotAString,
    /// It has this many characters, which is none or too many.
    Length(usize),
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAString => {
                f.write_str("an idempotency key is one string of printable ASCII characters")
            }
            Self::Length(length) => write!(
                f,
                "an idempotency key has 1 to {} characters, and this one {length}",
                IdempotencyKey::LONGEST
            ),
        }
    }
}

impl StdError for KeyError {}
