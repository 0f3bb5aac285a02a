//! Which failures are the same failure: messages without what differs each time.

use std::{fmt, str::FromStr};

use sha2::{Digest, Sha256};

/// What failures of one cause have in common, however many orders they hit.
///
/// It is a hash of the class, the message and the chain, with every number, identifier and
/// hexadecimal string taken out: `order 17 not found` and `order 18 not found` are one. It prints as
/// 16 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint(u64);

impl Fingerprint {
    /// The fingerprint of a failure of this class with these messages, outermost first.
    pub fn of<'a>(class: &str, messages: impl IntoIterator<Item = &'a str>) -> Self {
        let mut hash = Sha256::new();
        let mut part = |text: &str| {
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text.as_bytes());
        };
        part(class);
        for message in messages {
            part(&normalise(message));
        }
        let digest: [u8; 32] = hash.finalize().into();
        let [a, b, c, d, e, f, g, h, ..] = digest;
        Self(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

impl FromStr for Fingerprint {
    type Err = ParseFingerprintError;

    fn from_str(text: &str) -> Result<Self, ParseFingerprintError> {
        if text.len() != 16 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(ParseFingerprintError);
        }
        u64::from_str_radix(text, 16)
            .map(Self)
            .map_err(|_| ParseFingerprintError)
    }
}

/// The text is not a fingerprint, which has 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParseFingerprintError;

impl fmt::Display for ParseFingerprintError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a fingerprint has 16 hexadecimal digits")
    }
}

impl std::error::Error for ParseFingerprintError {}

/// The message with `#` for each word that has a digit in it or is a hexadecimal string of 8 or more,
/// and one `#` for several with nothing but punctuation of numbers between them (addresses, times,
/// UUIDs, amounts).
fn normalise(message: &str) -> String {
    let mut out = String::with_capacity(message.len());
    let mut rest = message;
    while let Some(first) = rest.chars().next() {
        let is_word = first.is_alphanumeric();
        let end = rest
            .find(|c: char| c.is_alphanumeric() != is_word)
            .unwrap_or(rest.len());
        let (run, tail) = rest.split_at(end);
        if is_word && varies(run) {
            // Joins the number before, if only punctuation of numbers lies between.
            let joined = out.trim_end_matches(['-', '.', ':', ',', '+']);
            if joined.ends_with('#') {
                out.truncate(joined.len());
            } else {
                out.push('#');
            }
        } else {
            out.push_str(run);
        }
        rest = tail;
    }
    out
}

fn varies(word: &str) -> bool {
    word.chars().any(char::is_numeric)
        || (word.len() >= 8 && word.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_each_time_is_taken_out() {
        for (message, normal) in [
            ("order 17 not found", "order # not found"),
            (
                "user 550e8400-e29b-41d4-a716-446655440000 is gone",
                "user # is gone",
            ),
            ("connect 10.0.0.1:443: refused", "connect #: refused"),
            ("at 2024-01-31T10:00:00.123Z", "at #"),
            ("took 1.5s, limit 1s", "took #, limit #"),
            ("block deadbeefcafe is bad", "block # is bad"),
            ("a bad facade", "a bad facade"),
            ("partition-3 of topic-7", "partition-# of topic-#"),
            ("größe ٣", "größe #"),
            ("", ""),
        ] {
            assert_eq!(normalise(message), normal);
        }
    }

    #[test]
    fn the_class_and_the_chain_tell_failures_apart() {
        let one = Fingerprint::of("timeout", ["write", "shard 3"]);
        assert_eq!(one, Fingerprint::of("timeout", ["write", "shard 4"]));
        assert_ne!(one, Fingerprint::of("refused", ["write", "shard 3"]));
        assert_ne!(one, Fingerprint::of("timeout", ["write shard 3"]));
        assert_eq!(one.to_string().parse(), Ok(one));
    }
}
