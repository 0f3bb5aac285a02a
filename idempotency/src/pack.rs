//! What an answer looks like in its store: as it is, compressed, or sealed.

use std::{error::Error as StdError, fmt, sync::Arc};

use bytes::Bytes;

use crate::{
    error::BoxError,
    key::RecordKey,
    record::{Answer, Packed, Why},
};

/// Encrypts answers before they are stored, and decrypts them for replays: a hook for the cipher and the keys
/// of the application.
///
/// `key` is where the record lies; authenticate it with the answer (as the associated data of an AEAD), so
/// that nobody who can write to the store can move an answer to another key. Pending records hold no
/// payload and are not sealed; neither are fingerprints, which are SHA-256 of the request unless the layer was
/// given another.
///
/// Both are called in the call's task, so they should not block. An answer that cannot be sealed is
/// remembered as a tombstone, never in the open. One that cannot be opened is a 500, or
/// [`Error::Answer`](crate::Error::Answer): it is left as it is, and nothing is executed again.
pub trait Seal: Send + Sync + 'static {
    /// Encrypts an answer.
    ///
    /// # Errors
    ///
    /// When there is no key, for one.
    fn seal(&self, key: &RecordKey, answer: &[u8]) -> Result<Vec<u8>, BoxError>;

    /// Decrypts an answer.
    ///
    /// # Errors
    ///
    /// When it was not sealed by this key, or not for this record.
    fn open(&self, key: &RecordKey, sealed: &[u8]) -> Result<Vec<u8>, BoxError>;

    /// Whether answers that are not sealed are given out too: those from before the layer had a seal. The
    /// default is that they are.
    fn accepts_open_answers(&self) -> bool {
        true
    }
}

/// Which answers are compressed, and how large they may become again.
///
/// Compressing secrets together with what a stranger chooses tells the stranger about the secrets by the
/// length, if he can see that: the store can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg(feature = "compression")]
pub struct Compression {
    above: usize,
    limit: usize,
}

#[cfg(feature = "compression")]
impl Compression {
    /// Answers of more than this many bytes are compressed; smaller ones gain nothing.
    pub const fn above(bytes: usize) -> Self {
        Self {
            above: bytes,
            limit: EXPANDED,
        }
    }

    /// How many bytes a compressed answer may have when it is expanded, 16 MiB by default. Larger ones are
    /// stored as they are, and a record that expands beyond it is an error.
    pub const fn expands_to(mut self, bytes: usize) -> Self {
        self.limit = bytes;
        self
    }
}

#[cfg(feature = "compression")]
impl Default for Compression {
    /// Above 1 KiB, up to 16 MiB.
    fn default() -> Self {
        Self::above(1024)
    }
}

/// How many bytes a compressed answer may have, unless it was said.
#[cfg(feature = "compression")]
const EXPANDED: usize = 16 * 1024 * 1024;

/// Why a packed answer cannot be unpacked.
#[derive(Debug)]
#[non_exhaustive]
pub enum UnpackError {
    /// It is sealed, and the layer has no [`Seal`].
    NoSeal,
    /// It is not sealed, and the layer's [`Seal`] takes no such answers.
    Open,
    /// The layer's [`Seal`] does not open it.
    Seal(BoxError),
    /// It is compressed, and this program was built without the feature `compression`.
    Unsupported,
    /// It is not what compression makes.
    Damaged,
    /// It expands to more bytes than are allowed.
    TooLarge {
        /// So many are.
        limit: usize,
    },
}

impl fmt::Display for UnpackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSeal => {
                f.write_str("the stored answer is sealed, and there is no seal to open it")
            }
            Self::Open => {
                f.write_str("the stored answer is not sealed, and only sealed ones are taken")
            }
            Self::Seal(_) => f.write_str("the stored answer cannot be opened"),
            Self::Unsupported => {
                f.write_str("the stored answer is compressed, and this program cannot expand it")
            }
            Self::Damaged => f.write_str("the stored answer is damaged: it does not expand"),
            Self::TooLarge { limit } => {
                write!(f, "the stored answer expands to more than {limit} bytes")
            }
        }
    }
}

impl StdError for UnpackError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Seal(source) => Some(source.as_ref()),
            _ => None,
        }
    }
}

/// How a layer stores its answers.
#[derive(Clone, Default)]
pub(crate) struct Packing {
    #[cfg(feature = "compression")]
    pub(crate) compression: Option<Compression>,
    pub(crate) seal: Option<Arc<dyn Seal>>,
}

impl Packing {
    pub(crate) fn pack(&self, key: &RecordKey, answer: Bytes) -> Answer {
        let (compressed, bytes) = match self.compress(&answer) {
            Some(smaller) => (true, smaller.into()),
            None => (false, answer),
        };
        match &self.seal {
            None if !compressed => Answer::Whole(bytes),
            None => Answer::Packed(Packed {
                compressed,
                sealed: false,
                bytes,
            }),
            Some(seal) => match seal.seal(key, &bytes) {
                Ok(sealed) => Answer::Packed(Packed {
                    compressed,
                    sealed: true,
                    bytes: sealed.into(),
                }),
                Err(error) => {
                    crate::telemetry::not_sealed(key, &error);
                    Answer::Tombstone(Why::NotSealed)
                }
            },
        }
    }

    /// The answer as its codec wrote it.
    pub(crate) fn unpack(&self, key: &RecordKey, answer: Answer) -> Result<Unpacked, UnpackError> {
        let packed = match answer {
            Answer::Tombstone(why) => return Ok(Unpacked::Tombstone(why)),
            Answer::Whole(bytes) => Packed {
                compressed: false,
                sealed: false,
                bytes,
            },
            Answer::Packed(packed) => packed,
        };
        let bytes = match (&self.seal, packed.sealed) {
            (Some(seal), true) => seal
                .open(key, &packed.bytes)
                .map_err(UnpackError::Seal)?
                .into(),
            (None, true) => return Err(UnpackError::NoSeal),
            (Some(seal), false) if !seal.accepts_open_answers() => return Err(UnpackError::Open),
            (_, false) => packed.bytes,
        };
        Ok(Unpacked::Whole(if packed.compressed {
            self.expand(&bytes)?
        } else {
            bytes
        }))
    }

    #[cfg(feature = "compression")]
    fn compress(&self, answer: &[u8]) -> Option<Vec<u8>> {
        // The level of zlib's default.
        const LEVEL: u8 = 6;
        let compression = self.compression?;
        if answer.len() <= compression.above || answer.len() > compression.limit {
            return None;
        }
        let smaller = miniz_oxide::deflate::compress_to_vec(answer, LEVEL);
        (smaller.len() < answer.len()).then_some(smaller)
    }

    #[cfg(not(feature = "compression"))]
    fn compress(&self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }

    /// A layer that compresses no more still reads what it compressed.
    #[cfg(feature = "compression")]
    fn expand(&self, compressed: &[u8]) -> Result<Bytes, UnpackError> {
        use miniz_oxide::inflate::{TINFLStatus, decompress_to_vec_with_limit};

        let limit = self
            .compression
            .map_or(EXPANDED, |compression| compression.limit);
        match decompress_to_vec_with_limit(compressed, limit) {
            Ok(answer) => Ok(answer.into()),
            Err(error) if error.status == TINFLStatus::HasMoreOutput => {
                Err(UnpackError::TooLarge { limit })
            }
            Err(_) => Err(UnpackError::Damaged),
        }
    }

    #[cfg(not(feature = "compression"))]
    fn expand(&self, _: &[u8]) -> Result<Bytes, UnpackError> {
        Err(UnpackError::Unsupported)
    }
}

impl fmt::Debug for Packing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut packing = f.debug_struct("Packing");
        #[cfg(feature = "compression")]
        packing.field("compression", &self.compression);
        packing.field("sealed", &self.seal.is_some()).finish()
    }
}

/// What is given out of a record.
pub(crate) enum Unpacked {
    Whole(Bytes),
    Tombstone(Why),
}
