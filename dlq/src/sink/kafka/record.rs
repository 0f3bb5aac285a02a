//! A letter as a record: the message as it was, and what is known of its death in headers behind its own.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::SystemTime,
};

use bytes::Bytes;
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::{
    BoxError, Failure, Letter, LetterId, Origin,
    letter::{from_millis, to_millis},
};

/// What a letter is beyond its message, as JSON. Behind the message's own headers.
pub(super) const LETTER: &str = "seawall-letter";
/// Says that a letter is removed: its id, and which request of that id. Such a record has neither key nor value.
const REMOVED: &str = "seawall-removed";
/// The version of both.
const SCHEMA: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Death {
    schema: u32,
    id: LetterId,
    /// How many of the headers before this one are the message's.
    headers: usize,
    origin: Origin,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    copy_at: Option<Origin>,
    generation: u32,
    class: String,
    message: String,
    chain: Vec<String>,
    fingerprint: String,
    attempts: u32,
    first_failure_ms: i64,
    last_failure_ms: i64,
}

#[derive(Serialize, Deserialize)]
struct Removal {
    schema: u32,
    id: LetterId,
    request: u64,
}

/// What a record of the topic says.
pub(super) enum Said {
    Letter {
        name: Name,
        died: i64,
    },
    Removed(Name),
    /// It is neither, or of a version this crate does not know.
    Foreign,
}

/// One letter among all. Two requests that claim one origin are two letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Name {
    pub(super) id: LetterId,
    pub(super) request: u64,
}

impl Name {
    pub(super) fn of(letter: &Letter) -> Self {
        Self {
            id: letter.id(),
            request: request(letter.key.as_deref(), &letter.payload),
        }
    }
}

/// Tells a repeat from another request that claims the same origin.
fn request(key: Option<&[u8]>, payload: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(&key.map_or(u64::MAX, |key| key.len() as u64).to_le_bytes());
    hash.update(key.unwrap_or_default());
    hash.update(payload);
    hash.digest()
}

/// The headers of a letter's record. Fails with the name of a header that cannot be sent.
pub(super) fn headers(letter: &Letter) -> Result<OwnedHeaders, Arc<str>> {
    let mut headers = OwnedHeaders::new_with_capacity(letter.headers.len() + 16);
    for (name, value) in &letter.headers {
        if name.contains('\0') {
            return Err(Arc::clone(name));
        }
        headers = headers.insert(Header {
            key: name,
            value: Some(&value[..]),
        });
    }
    let death = Death {
        schema: SCHEMA,
        id: letter.id(),
        headers: letter.headers.len(),
        origin: letter.origin.clone(),
        copy_at: letter.copy_at.clone(),
        generation: letter.generation,
        class: letter.failure.class.clone(),
        message: letter.failure.message.clone(),
        chain: letter.failure.chain.clone(),
        fingerprint: letter.fingerprint.to_string(),
        attempts: letter.failure.attempts,
        first_failure_ms: to_millis(letter.first_failure),
        last_failure_ms: to_millis(letter.last_failure),
    };
    let death = serde_json::to_vec(&death).expect("text and numbers are always JSON");
    let mut add = |key: &str, value: &[u8]| {
        let headers_so_far = std::mem::take(&mut headers);
        headers = headers_so_far.insert(Header {
            key,
            value: Some(value),
        });
    };
    add(LETTER, &death);
    for (name, value) in known_elsewhere(letter) {
        add(name, &value);
    }
    Ok(headers)
}

/// The headers by which other programs know where a dead record came from: those of Spring's
/// `DeadLetterPublishingRecoverer`, whose numbers are big-endian, and those of Kafka Connect's sink connectors,
/// whose numbers are text.
fn known_elsewhere(letter: &Letter) -> Vec<(&'static str, Vec<u8>)> {
    let failure = &letter.failure;
    let chain: Vec<_> = std::iter::once(&failure.message)
        .chain(&failure.chain)
        .map(String::as_str)
        .collect();
    let trace = chain.join("\ncaused by: ").into_bytes();
    let mut headers = Vec::new();
    if let Origin::Log {
        topic,
        partition,
        offset,
    } = letter.copy_at.as_ref().unwrap_or(&letter.origin)
    {
        let in_spring = i32::try_from(*partition).unwrap_or(i32::MAX);
        let at = i64::try_from(*offset).unwrap_or(i64::MAX);
        headers.extend([
            ("kafka_dlt-original-topic", topic.as_bytes().to_vec()),
            (
                "kafka_dlt-original-partition",
                in_spring.to_be_bytes().to_vec(),
            ),
            ("kafka_dlt-original-offset", at.to_be_bytes().to_vec()),
            ("__connect.errors.topic", topic.as_bytes().to_vec()),
            (
                "__connect.errors.partition",
                partition.to_string().into_bytes(),
            ),
            ("__connect.errors.offset", offset.to_string().into_bytes()),
        ]);
    }
    headers.extend([
        ("kafka_dlt-exception-fqcn", failure.class.clone().into()),
        (
            "kafka_dlt-exception-message",
            failure.message.clone().into(),
        ),
        ("kafka_dlt-exception-stacktrace", trace.clone()),
        (
            "__connect.errors.exception.class.name",
            failure.class.clone().into(),
        ),
        (
            "__connect.errors.exception.message",
            failure.message.clone().into(),
        ),
        ("__connect.errors.exception.stacktrace", trace),
    ]);
    headers
}

/// The header of a record that removes a letter.
pub(super) fn removal(name: Name) -> OwnedHeaders {
    let removal = Removal {
        schema: SCHEMA,
        id: name.id,
        request: name.request,
    };
    let removal = serde_json::to_vec(&removal).expect("text and numbers are always JSON");
    OwnedHeaders::new().insert(Header {
        key: REMOVED,
        value: Some(&removal[..]),
    })
}

/// What a record says, without its payload being kept.
pub(super) fn said(record: &impl Message) -> Said {
    if let Some(value) = last(record, REMOVED)
        && record.payload().is_none()
    {
        return match serde_json::from_slice::<Removal>(value) {
            Ok(Removal {
                schema: SCHEMA,
                id,
                request,
            }) => Said::Removed(Name { id, request }),
            _ => Said::Foreign,
        };
    }
    match death(record) {
        Ok(death) => Said::Letter {
            name: Name {
                id: death.id,
                request: request(record.key(), record.payload().unwrap_or_default()),
            },
            died: death.last_failure_ms,
        },
        Err(_) => Said::Foreign,
    }
}

/// The letter in a record.
pub(super) fn letter(record: &impl Message) -> Result<Letter, BoxError> {
    let death = death(record)?;
    let headers = record.headers().ok_or("it has no headers")?;
    let headers = headers.iter().take(death.headers);
    let time = |millis| from_millis(millis).ok_or_else(|| format!("{millis} ms is no time"));
    let (first_failure, last_failure): (SystemTime, SystemTime) =
        (time(death.first_failure_ms)?, time(death.last_failure_ms)?);
    let letter = Letter {
        origin: death.origin,
        copy_at: death.copy_at,
        generation: death.generation,
        key: record.key().map(Bytes::copy_from_slice),
        headers: headers
            .map(|header| {
                let value = header.value.unwrap_or_default();
                (header.key.into(), Bytes::copy_from_slice(value))
            })
            .collect(),
        payload: Bytes::copy_from_slice(record.payload().unwrap_or_default()),
        failure: Failure {
            class: death.class,
            message: death.message,
            chain: death.chain,
            attempts: death.attempts,
            lasted: last_failure
                .duration_since(first_failure)
                .unwrap_or_default(),
        },
        fingerprint: death.fingerprint.parse()?,
        first_failure,
        last_failure,
    };
    if letter.id() != death.id {
        return Err(format!("the id is {}, the origin's is {}", death.id, letter.id()).into());
    }
    Ok(letter)
}

fn death(record: &impl Message) -> Result<Death, BoxError> {
    let value = last(record, LETTER).ok_or("it has no header `seawall-letter`")?;
    let death: Death = serde_json::from_slice(value)?;
    if death.schema != SCHEMA {
        let found = death.schema;
        return Err(format!("schema {found} is not {SCHEMA}, the one this program knows").into());
    }
    Ok(death)
}

/// The last header of this name: a message that was a letter once has another before it.
fn last<'a>(record: &'a impl Message, name: &str) -> Option<&'a [u8]> {
    // A name that is not UTF-8 is no header by the protocol, and the library panics at it.
    catch_unwind(AssertUnwindSafe(|| {
        let headers = record.headers()?;
        let places = (0..headers.count()).rev();
        places
            .map(|place| headers.get(place))
            .find(|header| header.key == name)
            .and_then(|header| header.value)
    }))
    .unwrap_or_default()
}
