//! Headers and payloads of a record, with what text and bytes alone cannot say.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use bytes::Bytes;
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};

/// A header that says which values of a record are null rather than empty: `payload`, and headers by their place,
/// counted from 0. It is in what is handled and in letters, never in a record that is sent back.
pub const NULLS_HEADER: &str = "seawall-nulls";
/// The word for the payload in it.
const PAYLOAD: &str = "payload";
/// What is said of headers that cannot be read.
const UNREADABLE_HEADER: &str = "seawall-unreadable-headers";

/// Headers as names and values, in order.
pub(crate) type Pairs = Vec<(Arc<str>, Bytes)>;

/// A record's headers and payload; what is null among them is named in a header more.
pub(crate) fn read(record: &impl Message) -> (Pairs, Bytes) {
    let mut pairs = Pairs::new();
    let mut nulls = Vec::new();
    let payload = match record.payload() {
        Some(payload) => Bytes::copy_from_slice(payload),
        None => {
            nulls.push(PAYLOAD.to_owned());
            Bytes::new()
        }
    };
    // A name that is not UTF-8 is no header by the protocol, and the library panics at it.
    let all = catch_unwind(AssertUnwindSafe(|| {
        let headers = record.headers().map(|headers| headers.iter());
        let owned = |header: Header<'_, &[u8]>| {
            (
                Arc::<str>::from(header.key),
                header.value.map(Bytes::copy_from_slice),
            )
        };
        headers.map(|headers| headers.map(owned).collect::<Vec<_>>())
    }));
    match all {
        Ok(headers) => {
            for (place, (name, value)) in headers.unwrap_or_default().into_iter().enumerate() {
                if value.is_none() {
                    nulls.push(place.to_string());
                }
                pairs.push((name, value.unwrap_or_default()));
            }
        }
        Err(_) => pairs.push((UNREADABLE_HEADER.into(), Bytes::new())),
    }
    if !nulls.is_empty() {
        pairs.push((NULLS_HEADER.into(), nulls.join(",").into()));
    }
    (pairs, payload)
}

/// What is sent, where [`read`] has named what is null: the same record again. Fails with the name of a header that
/// Kafka's client cannot carry.
pub(crate) fn to_send(pairs: &[(Arc<str>, Bytes)]) -> Result<(OwnedHeaders, bool), Arc<str>> {
    let nulls = pairs
        .iter()
        .find(|(name, _)| **name == *NULLS_HEADER)
        .and_then(|(_, value)| std::str::from_utf8(value).ok())
        .unwrap_or_default();
    let nulls: Vec<&str> = nulls.split(',').collect();
    let mut headers = OwnedHeaders::new_with_capacity(pairs.len());
    for (place, (name, value)) in pairs.iter().enumerate() {
        if **name == *NULLS_HEADER {
            continue;
        }
        if name.contains('\0') {
            return Err(Arc::clone(name));
        }
        let is_null = value.is_empty() && nulls.contains(&place.to_string().as_str());
        headers = headers.insert(Header {
            key: name,
            value: (!is_null).then_some(&value[..]),
        });
    }
    Ok((headers, nulls.contains(&PAYLOAD)))
}

#[cfg(test)]
mod tests {
    use rdkafka::message::{OwnedMessage, Timestamp};

    use super::*;

    fn record(payload: Option<&[u8]>, headers: &[(&str, Option<&[u8]>)]) -> OwnedMessage {
        let mut owned = OwnedHeaders::new();
        for (key, value) in headers {
            owned = owned.insert(Header { key, value: *value });
        }
        let payload = payload.map(<[u8]>::to_vec);
        let topic = "orders".to_owned();
        OwnedMessage::new(
            payload,
            None,
            topic,
            Timestamp::NotAvailable,
            0,
            0,
            Some(owned),
        )
    }

    #[test]
    fn what_is_null_comes_back_as_null_and_what_is_empty_as_empty() {
        for payload in [None, Some(&b""[..]), Some(&b"x"[..])] {
            let headers = [
                ("a", None),
                ("b", Some(&b""[..])),
                ("a", Some(&[255, 0][..])),
            ];
            let (pairs, bytes) = read(&record(payload, &headers));
            let (sent, null) = to_send(&pairs).unwrap();
            assert_eq!(
                (null, &bytes[..]),
                (payload.is_none(), payload.unwrap_or_default())
            );
            let sent: Vec<_> = sent
                .iter()
                .map(|header| (header.key, header.value))
                .collect();
            assert_eq!(sent, headers);
        }
    }

    #[test]
    fn a_record_without_nulls_has_no_header_more() {
        let (pairs, _) = read(&record(Some(b"x"), &[("a", Some(b"1"))]));
        assert_eq!(pairs, [("a".into(), Bytes::from("1"))]);
    }

    #[test]
    fn a_name_that_cannot_be_sent_is_named() {
        let pairs = [("a\0b".into(), Bytes::new())];
        assert_eq!(&*to_send(&pairs).unwrap_err(), "a\0b");
    }
}
