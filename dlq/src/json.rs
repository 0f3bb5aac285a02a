//! The JSON form of a letter: what every sink stores, and what a person reads.

use std::{error::Error, fmt, sync::Arc, time::SystemTime};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::{
    Failure, Letter, Origin,
    letter::{from_millis, to_millis},
};

/// The version of the form that this crate writes. It reads this one only.
const SCHEMA: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Wire {
    schema: u32,
    id: String,
    origin: Origin,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    copy_at: Option<Origin>,
    generation: u32,
    key: Option<Base64>,
    headers: Vec<(Arc<str>, Base64)>,
    payload: Base64,
    class: String,
    message: String,
    chain: Vec<String>,
    fingerprint: String,
    attempts: u32,
    first_failure_ms: i64,
    last_failure_ms: i64,
}

struct Base64(Bytes);

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64_STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = BASE64_STANDARD.decode(text).map_err(D::Error::custom)?;
        Ok(Self(bytes.into()))
    }
}

impl Serialize for Letter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let encode = |bytes: &Bytes| Base64(bytes.clone());
        Wire {
            schema: SCHEMA,
            id: self.id().to_string(),
            origin: self.origin.clone(),
            copy_at: self.copy_at.clone(),
            generation: self.generation,
            key: self.key.as_ref().map(encode),
            headers: self
                .headers
                .iter()
                .map(|(name, value)| (name.clone(), encode(value)))
                .collect(),
            payload: encode(&self.payload),
            class: self.failure.class.clone(),
            message: self.failure.message.clone(),
            chain: self.failure.chain.clone(),
            fingerprint: self.fingerprint.to_string(),
            attempts: self.failure.attempts,
            first_failure_ms: to_millis(self.first_failure),
            last_failure_ms: to_millis(self.last_failure),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Letter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wire = Wire::deserialize(deserializer)?;
        if wire.schema != SCHEMA {
            let what = format!(
                "schema {} is not {SCHEMA}, the one this program knows",
                wire.schema
            );
            return Err(D::Error::custom(what));
        }
        let time = |millis: i64| -> Result<SystemTime, D::Error> {
            from_millis(millis).ok_or_else(|| D::Error::custom(format!("{millis} ms is no time")))
        };
        let first_failure = time(wire.first_failure_ms)?;
        let last_failure = time(wire.last_failure_ms)?;
        let letter = Self {
            origin: wire.origin,
            copy_at: wire.copy_at,
            generation: wire.generation,
            key: wire.key.map(|key| key.0),
            headers: wire
                .headers
                .into_iter()
                .map(|(name, value)| (name, value.0))
                .collect(),
            payload: wire.payload.0,
            failure: Failure {
                class: wire.class,
                message: wire.message,
                chain: wire.chain,
                attempts: wire.attempts,
                lasted: last_failure
                    .duration_since(first_failure)
                    .unwrap_or_default(),
            },
            fingerprint: wire.fingerprint.parse().map_err(D::Error::custom)?,
            first_failure,
            last_failure,
        };
        let id = letter.id().to_string();
        if id != wire.id {
            return Err(D::Error::custom(format!(
                "the id is {}, the origin's is {id}",
                wire.id
            )));
        }
        Ok(letter)
    }
}

impl Letter {
    /// The letter as JSON:
    ///
    /// | field | what |
    /// | --- | --- |
    /// | `schema` | the version of this form, 1 |
    /// | `id`, `fingerprint` | hexadecimal digits |
    /// | `origin` | `{"log": {topic, partition, offset}}`, `{"stream": {stream, id}}` or `{"named": {kind, name}}` |
    /// | `copy_at` | in the same form where the copy lay that died; left out for the first |
    /// | `generation`, `attempts` | numbers |
    /// | `key`, `payload` | base64; no key is `null` |
    /// | `headers` | pairs of name and base64 value |
    /// | `class`, `message`, `chain` | text |
    /// | `first_failure_ms`, `last_failure_ms` | milliseconds since 1970 |
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self)
            .expect("text, numbers and lists: nothing in a letter fails to be JSON")
    }

    /// Reads a letter from its JSON form.
    ///
    /// # Errors
    ///
    /// If it is not a letter, of a version this crate does not know, or its id is not that of its
    /// origin and generation.
    pub fn from_json(json: &[u8]) -> Result<Self, DecodeError> {
        serde_json::from_slice(json).map_err(DecodeError)
    }
}

/// The bytes are not a letter.
#[derive(Debug)]
pub struct DecodeError(serde_json::Error);

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a letter")
    }
}

impl Error for DecodeError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}
