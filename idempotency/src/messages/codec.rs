//! How a response is stored.

use bytes::Bytes;

use crate::{error::BoxError, exchange::Keep};

/// Turns a response into bytes and back.
///
/// A pair of closures is a codec, and so is [`()`](unit) for services that answer with nothing:
///
/// ```
/// use seawall_idempotency::{BoxError, Codec, Keep};
/// use bytes::Bytes;
///
/// let codec = (
///     |text: &String| match text.as_str() {
///         "try again" => Keep::Undone,
///         text => Keep::Answer(Bytes::copy_from_slice(text.as_bytes())),
///     },
///     |kept: Bytes| String::from_utf8(kept.into()).map_err(BoxError::from),
/// );
/// assert_eq!(Codec::encode(&codec, &"try again".to_owned()), Keep::Undone);
/// assert_eq!(Codec::decode(&codec, Bytes::from_static(b"done")).unwrap(), "done");
/// ```
pub trait Codec<Res>: Send + Sync + 'static {
    /// What is kept of a response.
    fn encode(&self, response: &Res) -> Keep;

    /// The response that was kept.
    ///
    /// # Errors
    ///
    /// When the bytes are of another response type, or of an older form of this one.
    fn decode(&self, kept: Bytes) -> Result<Res, BoxError>;
}

impl<Res, E, D> Codec<Res> for (E, D)
where
    E: Fn(&Res) -> Keep + Send + Sync + 'static,
    D: Fn(Bytes) -> Result<Res, BoxError> + Send + Sync + 'static,
{
    fn encode(&self, response: &Res) -> Keep {
        (self.0)(response)
    }

    fn decode(&self, kept: Bytes) -> Result<Res, BoxError> {
        (self.1)(kept)
    }
}

impl Codec<()> for () {
    fn encode(&self, (): &()) -> Keep {
        Keep::Answer(Bytes::new())
    }

    fn decode(&self, _: Bytes) -> Result<(), BoxError> {
        Ok(())
    }
}

/// Stores any response that `serde` knows as JSON. One that cannot be written as JSON is kept as a
/// tombstone.
#[cfg(feature = "json")]
#[derive(Debug, Clone, Copy, Default)]
pub struct Json;

#[cfg(feature = "json")]
impl<Res> Codec<Res> for Json
where
    Res: serde::Serialize + serde::de::DeserializeOwned,
{
    fn encode(&self, response: &Res) -> Keep {
        match serde_json::to_vec(response) {
            Ok(json) => Keep::Answer(json.into()),
            Err(_) => Keep::Tombstone(crate::record::Why::NotKept),
        }
    }

    fn decode(&self, kept: Bytes) -> Result<Res, BoxError> {
        Ok(serde_json::from_slice(&kept)?)
    }
}
