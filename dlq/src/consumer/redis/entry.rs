//! A message as an entry of a stream of Redis.

use std::sync::Arc;

use ::redis::Value;
use bytes::Bytes;

use crate::{
    Letter, Message, ORIGIN_HEADER, PARKED_HEADER,
    consumer::message::{At, number},
};

/// The field of an entry that is a message's key.
const KEY: &str = "key";
/// The field of an entry that is a message's payload.
const PAYLOAD: &str = "payload";

/// Reads an entry's id and fields.
pub(super) fn read(stream: &Arc<str>, entry: Value) -> Option<Message> {
    let Value::Array(entry) = entry else {
        return None;
    };
    match <[Value; 2]>::try_from(entry) {
        Ok([Value::BulkString(id), Value::Array(fields)]) => {
            let id = String::from_utf8(id).ok()?;
            from_fields(stream, id.into(), fields)
        }
        _ => None,
    }
}

pub(super) fn from_fields(stream: &Arc<str>, id: Arc<str>, fields: Vec<Value>) -> Option<Message> {
    let mut message = Message {
        stream: Arc::clone(stream),
        id,
        key: None,
        headers: Vec::new(),
        payload: Bytes::new(),
        parked: 0,
        at: At::Entry,
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
            PARKED_HEADER => message.parked = number(&value).unwrap_or_default(),
            name => message.headers.push((name.into(), value)),
        }
    }
    message.payload = payload.unwrap_or_default();
    Some(message)
}

/// The fields of an entry that comes back as this message, put off once more. It stays the message that
/// it is at its new place.
pub(super) fn to_put_off(message: &Message) -> Vec<(Arc<str>, Bytes)> {
    let mut fields = with_origin(message);
    fields.push(message.parked_header());
    fields
}

/// The same of one that is set aside, which is not put off for it.
pub(super) fn to_set_aside(message: &Message) -> Vec<(Arc<str>, Bytes)> {
    let mut fields = with_origin(message);
    if message.parked > 0 {
        fields.push((PARKED_HEADER.into(), message.parked.to_string().into()));
    }
    fields
}

fn with_origin(message: &Message) -> Vec<(Arc<str>, Bytes)> {
    let mut headers = message.headers.clone();
    if !headers.iter().any(|(name, _)| **name == *ORIGIN_HEADER) {
        headers.push(message.origin_header());
    }
    fields(message.key.as_ref(), &message.payload, headers)
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
