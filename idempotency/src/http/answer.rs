//! A response as bytes.
//!
//! ```text
//! status(2) fields length(4) body [fields]      fields = count(4) { length(4) name length(4) value }
//! ```
//! Trailers, if there are any, are the fields at the end.

use std::{error::Error as StdError, fmt};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header, response::Parts};

use super::body::ResponseBody;
use crate::{
    error::BoxError,
    exchange::Keep,
    records::{Seen, State},
};

/// Says that a response is a replay.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// Fields that belong to one connection or one moment, and Set-Cookie: a session that began back
/// then must not begin again. `Trailer` stays, for the trailers do.
const NOT_KEPT: [HeaderName; 10] = [
    header::SET_COOKIE,
    header::DATE,
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

pub(super) fn encode(parts: &Parts, body: &Bytes, trailers: Option<&HeaderMap>) -> Bytes {
    let fields = size(&parts.headers) + trailers.map_or(0, size);
    let mut out = BytesMut::with_capacity(2 + fields + 4 + body.len());
    out.put_u16(parts.status.as_u16());
    put_fields(&mut out, &parts.headers);
    put(&mut out, body);
    if let Some(trailers) = trailers {
        put_fields(&mut out, trailers);
    }
    out.freeze()
}

/// How many bytes the fields take, at most: some are not kept.
fn size(fields: &HeaderMap) -> usize {
    let sizes = fields
        .iter()
        .map(|(name, value)| 8 + name.as_str().len() + value.len());
    4 + sizes.sum::<usize>()
}

fn put_fields(out: &mut BytesMut, fields: &HeaderMap) {
    let named: Vec<HeaderName> = fields
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .collect();
    let kept = || {
        fields
            .iter()
            .filter(|(name, _)| !NOT_KEPT.contains(name) && !named.contains(name))
    };
    out.put_u32(short(kept().count()));
    for (name, value) in kept() {
        put(out, name.as_str().as_bytes());
        put(out, value.as_bytes());
    }
}

fn put(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u32(short(bytes.len()));
    out.put_slice(bytes);
}

/// Nothing that a server holds in memory as one response has four billion of anything.
fn short(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// A stored answer that no longer reads as a response.
#[derive(Debug)]
pub(super) struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the stored bytes are not an HTTP response")
    }
}

impl StdError for Broken {}

impl Keep {
    /// An answer of HTTP, to [complete](crate::Records::complete) a call with by hand.
    ///
    /// ```
    /// use http::Response;
    /// use seawall_idempotency::Keep;
    ///
    /// let created = Response::builder().status(201).body("{}".into()).unwrap();
    /// assert!(matches!(Keep::response(created), Keep::Answer(_)));
    /// ```
    pub fn response(response: Response<Bytes>) -> Self {
        let (parts, body) = response.into_parts();
        Self::Answer(encode(&parts, &body, None))
    }
}

impl Seen {
    /// The answer of HTTP that is kept, without its trailers; `None` if there is none.
    ///
    /// # Errors
    ///
    /// When what is kept is no answer of HTTP.
    pub fn response(&self) -> Result<Option<Response<Bytes>>, BoxError> {
        let State::Completed { answer: Ok(answer) } = &self.state else {
            return Ok(None);
        };
        let (head, body, _) = read(answer.clone())?;
        Ok(Some(Response::from_parts(head, body)))
    }
}

pub(super) fn decode<B, E>(kept: Bytes) -> Result<Response<ResponseBody<B, E>>, Broken> {
    let (mut head, body, trailers) = read(kept)?;
    head.headers
        .insert(REPLAYED, HeaderValue::from_static("true"));
    Ok(Response::from_parts(
        head,
        ResponseBody::whole(body, trailers),
    ))
}

fn read(mut kept: Bytes) -> Result<(Parts, Bytes, Option<HeaderMap>), Broken> {
    let status = kept.try_get_u16().map_err(|_| Broken)?;
    let (mut head, ()) = Response::new(()).into_parts();
    head.status = StatusCode::from_u16(status).map_err(|_| Broken)?;
    head.headers = fields(&mut kept)?;
    let body = take(&mut kept)?;
    let trailers = if kept.is_empty() {
        None
    } else {
        Some(fields(&mut kept)?)
    };
    if !kept.is_empty() {
        return Err(Broken);
    }
    Ok((head, body, trailers))
}

fn fields(kept: &mut Bytes) -> Result<HeaderMap, Broken> {
    let count = kept.try_get_u32().map_err(|_| Broken)?;
    // The count is what a record says: room is made for what its bytes can hold, and for the mark
    // of a replay.
    let room = (count as usize).min(kept.len() / 8) + 1;
    let mut fields = HeaderMap::try_with_capacity(room).map_err(|_| Broken)?;
    for _ in 0..count {
        let name = HeaderName::from_bytes(&take(kept)?).map_err(|_| Broken)?;
        let value = HeaderValue::from_maybe_shared(take(kept)?).map_err(|_| Broken)?;
        fields.try_append(name, value).map_err(|_| Broken)?;
    }
    Ok(fields)
}

fn take(kept: &mut Bytes) -> Result<Bytes, Broken> {
    let length = kept.try_get_u32().map_err(|_| Broken)? as usize;
    if length > kept.len() {
        return Err(Broken);
    }
    Ok(kept.split_to(length))
}
