//! A message as it lies in a stream of Redis.

use std::sync::Arc;

use ::redis::Value;
use bytes::Bytes;

use crate::{Envelope, Letter, ORIGIN_HEADER, Origin};

/// The header in which a message that was put off carries how often, as a decimal number.
pub const PARKED_HEADER: &str = "seawall-parked";

/// The field of an entry that is a message's key.
const KEY: &str = "key";
/// The field of an entry that is a message's payload.
const PAYLOAD: &str = "payload";

/// An entry of a stream: the first field `key` is its key, the first field `payload` its payload, and all
/// others are headers, in order, repeated ones included.
///
/// Whoever adds messages writes `XADD {orders} * key 17 payload ...`. The names of fields should be text;
/// what is not is replaced in them, never in their values.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Message {
    /// The stream.
    pub stream: Arc<str>,
    /// The id of the entry.
    pub id: Arc<str>,
    /// The key, where there is one.
    pub key: Option<Bytes>,
    /// The headers.
    pub headers: Vec<(Arc<str>, Bytes)>,
    /// The payload; empty where the entry has none.
    pub payload: Bytes,
    /// How often the message was put off so far. What is put off for ever never dies: a handler that
    /// gives up after some time looks here.
    pub parked: u32,
}

impl Message {
    /// What a letter keeps of it, for [`DeadLetterLayer::capture`](crate::DeadLetterLayer::capture).
    pub fn to_letter(&self) -> Envelope {
        let origin = Origin::stream(Arc::clone(&self.stream), Arc::clone(&self.id));
        let mut envelope = Envelope::new(origin, self.payload.clone());
        envelope.key = self.key.clone();
        let headers = self.headers.iter();
        envelope.headers(headers.map(|(name, value)| (Arc::clone(name), value.clone())))
    }

    /// Reads an entry's id and fields.
    pub(super) fn read(stream: &Arc<str>, entry: Value) -> Option<Self> {
        let Value::Array(entry) = entry else {
            return None;
        };
        match <[Value; 2]>::try_from(entry) {
            Ok([Value::BulkString(id), Value::Array(fields)]) => {
                let id = String::from_utf8(id).ok()?;
                Self::from_fields(stream, id.into(), fields)
            }
            _ => None,
        }
    }

    pub(super) fn from_fields(stream: &Arc<str>, id: Arc<str>, fields: Vec<Value>) -> Option<Self> {
        let mut message = Self {
            stream: Arc::clone(stream),
            id,
            key: None,
            headers: Vec::new(),
            payload: Bytes::new(),
            parked: 0,
        };
        let mut payload = None;
        let mut fields = fields.into_iter();
        while let Some(name) = fields.next() {
            let (Value::BulkString(name), Some(Value::BulkString(value))) = (name, fields.next())
            else {
                return None;
            };
            let (name, value) = (String::from_utf8_lossy(&name), Bytes::from(value));
            match &*name {
                KEY if message.key.is_none() => message.key = Some(value),
                PAYLOAD if payload.is_none() => payload = Some(value),
                PARKED_HEADER => message.parked = number(&value),
                name => message.headers.push((name.into(), value)),
            }
        }
        message.payload = payload.unwrap_or_default();
        Some(message)
    }

    /// The fields of an entry that comes back as this message, put off once more. It stays the message that
    /// it is at its new place.
    pub(super) fn to_put_off(&self) -> Vec<(Arc<str>, Bytes)> {
        let mut headers = self.headers.clone();
        if !headers.iter().any(|(name, _)| **name == *ORIGIN_HEADER) {
            let origin = Origin::stream(Arc::clone(&self.stream), Arc::clone(&self.id));
            let json = serde_json::to_vec(&origin).expect("an origin is plain text");
            headers.push((ORIGIN_HEADER.into(), json.into()));
        }
        let parked = self.parked.saturating_add(1).to_string();
        headers.push((PARKED_HEADER.into(), parked.into()));
        fields(self.key.as_ref(), &self.payload, headers)
    }
}

/// The fields of an entry that comes back as the copy of this letter.
pub(super) fn copy(letter: &Letter) -> Vec<(Arc<str>, Bytes)> {
    fields(
        letter.key.as_ref(),
        &letter.payload,
        letter.headers_to_send(),
    )
}

fn fields(
    key: Option<&Bytes>,
    payload: &Bytes,
    headers: Vec<(Arc<str>, Bytes)>,
) -> Vec<(Arc<str>, Bytes)> {
    let mut fields = Vec::with_capacity(headers.len() + 2);
    // A header named so is known by a field of that name before it.
    let named = |what: &str| headers.iter().any(|(name, _)| **name == *what);
    if let Some(key) = key {
        fields.push((KEY.into(), key.clone()));
    }
    if !payload.is_empty() || named(PAYLOAD) {
        fields.push((PAYLOAD.into(), payload.clone()));
    }
    fields.extend(headers);
    fields
}

fn number(value: &[u8]) -> u32 {
    std::str::from_utf8(value)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or_default()
}
