//! A message as a handler sees it, wherever it lies.

use std::sync::Arc;

use bytes::Bytes;

use crate::{Envelope, ORIGIN_HEADER, Origin};

/// The header in which a message that was put off carries how often, as a decimal number.
pub const PARKED_HEADER: &str = "seawall-parked";

/// An entry of a Redis Stream or a record of a Kafka topic.
///
/// Of an entry the first field `key` is the key, the first field `payload` the payload, and all others are headers, in
/// order, repeated ones included. Whoever adds messages writes `XADD {orders} * key 17 payload ...`. The names of
/// fields should be text; what is not is replaced in them, never in their values.
///
/// Of a record the key, the headers and the payload are what they are called. What is null in it is empty here, and named
/// in the header `seawall-nulls`, so that a redrive brings it back as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Message {
    /// The stream, or the topic.
    pub stream: Arc<str>,
    /// The id of the entry, or of the record `topic/partition@offset`.
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
    pub(crate) at: At,
}

impl Message {
    /// What a letter keeps of it, for [`DeadLetterLayer::capture`](crate::DeadLetterLayer::capture).
    pub fn to_letter(&self) -> Envelope {
        let mut envelope = Envelope::new(self.place(), self.payload.clone());
        envelope.key = self.key.clone();
        let headers = self.headers.iter();
        envelope.headers(headers.map(|(name, value)| (Arc::clone(name), value.clone())))
    }

    /// Where this copy lies.
    pub(crate) fn place(&self) -> Origin {
        match self.at {
            At::Entry => Origin::stream(Arc::clone(&self.stream), Arc::clone(&self.id)),
            At::Record { partition, offset } => {
                Origin::log(Arc::clone(&self.stream), partition, offset)
            }
        }
    }

    /// The header by which a copy elsewhere stays this message.
    pub(super) fn origin_header(&self) -> (Arc<str>, Bytes) {
        let json = serde_json::to_vec(&self.place()).expect("an origin is plain text and numbers");
        (ORIGIN_HEADER.into(), json.into())
    }

    /// The header of this message put off once more.
    pub(super) fn parked_header(&self) -> (Arc<str>, Bytes) {
        let parked = self.parked.saturating_add(1).to_string();
        (PARKED_HEADER.into(), parked.into())
    }
}

/// What kind of place a message lies at, beyond its `stream` and `id`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(all(feature = "redis", feature = "kafka")), allow(dead_code))]
pub(crate) enum At {
    /// An entry of a stream.
    Entry,
    /// A record of a topic.
    Record { partition: u32, offset: u64 },
}

pub(super) fn number<N: std::str::FromStr>(value: &[u8]) -> Option<N> {
    std::str::from_utf8(value).ok()?.parse().ok()
}
