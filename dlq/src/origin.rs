//! Where a letter came from, and the identity that follows from it.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The place from which a request came: what makes two deliveries of it the same request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Origin {
    /// A record of a partitioned log.
    Log {
        /// The topic.
        topic: Arc<str>,
        /// The partition of the topic.
        partition: u32,
        /// The offset in the partition.
        offset: u64,
    },
    /// An entry of a stream.
    Stream {
        /// The stream.
        stream: Arc<str>,
        /// The id of the entry.
        id: Arc<str>,
    },
    /// Anything else that has a name of its own, such as an operation id.
    Named {
        /// What kind of thing it is. Names of one kind are unique.
        kind: Arc<str>,
        /// The name.
        name: Arc<str>,
    },
}

impl Origin {
    /// The record at `offset` of a topic's partition.
    pub fn log(topic: impl Into<Arc<str>>, partition: u32, offset: u64) -> Self {
        Self::Log {
            topic: topic.into(),
            partition,
            offset,
        }
    }

    /// The entry `id` of a stream.
    pub fn stream(stream: impl Into<Arc<str>>, id: impl Into<Arc<str>>) -> Self {
        Self::Stream {
            stream: stream.into(),
            id: id.into(),
        }
    }

    /// The thing of this kind that has this name.
    pub fn named(kind: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self::Named {
            kind: kind.into(),
            name: name.into(),
        }
    }

    /// The topic, the stream, or the kind: what letters of one source have in common.
    pub fn source(&self) -> &str {
        match self {
            Self::Log { topic: source, .. }
            | Self::Stream { stream: source, .. }
            | Self::Named { kind: source, .. } => source,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Log {
                topic,
                partition,
                offset,
            } => write!(f, "{topic}/{partition}@{offset}"),
            Self::Stream { stream, id } => write!(f, "{stream}@{id}"),
            Self::Named { kind, name } => write!(f, "{kind}:{name}"),
        }
    }
}

/// The identity of a letter: its origin and its redrive generation, hashed.
///
/// The same request that dies twice in one generation, after a crash for one, has one letter. A
/// redriven copy that dies again has another.
///
/// It prints as 32 hexadecimal digits, and is parsed from them; so it does for `serde`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct LetterId([u8; 16]);

impl LetterId {
    /// The id of the letter of this origin and generation.
    pub fn of(origin: &Origin, generation: u32) -> Self {
        let mut hash = Sha256::new();
        // Every part of unknown length comes behind its length, so that no two origins are one text.
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        };
        match origin {
            Origin::Log {
                topic,
                partition,
                offset,
            } => {
                part(b"log");
                part(topic.as_bytes());
                part(&partition.to_be_bytes());
                part(&offset.to_be_bytes());
            }
            Origin::Stream { stream, id } => {
                part(b"stream");
                part(stream.as_bytes());
                part(id.as_bytes());
            }
            Origin::Named { kind, name } => {
                part(b"named");
                part(kind.as_bytes());
                part(name.as_bytes());
            }
        }
        part(&generation.to_be_bytes());
        let digest: [u8; 32] = hash.finalize().into();
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        Self(id)
    }

    /// The id from its 16 bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes of the id.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0
    }
}

impl fmt::Display for LetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for LetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LetterId({self})")
    }
}

impl From<LetterId> for String {
    fn from(id: LetterId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for LetterId {
    type Error = ParseIdError;

    fn try_from(text: String) -> Result<Self, ParseIdError> {
        text.parse()
    }
}

impl FromStr for LetterId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        // The digits are checked first: the parser for numbers would take a sign.
        if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(ParseIdError);
        }
        let number = u128::from_str_radix(text, 16).map_err(|_| ParseIdError)?;
        Ok(Self(number.to_be_bytes()))
    }
}

/// The text is not the id of a letter, which has 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParseIdError;

impl fmt::Display for ParseIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the id of a letter has 32 hexadecimal digits")
    }
}

impl std::error::Error for ParseIdError {}
