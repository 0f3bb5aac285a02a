//! The key of a request.

use http::HeaderName;

use super::problem::Problem;
use crate::idempotency_key::{IdempotencyKey, KeyError};

pub(super) static HEADER: HeaderName = HeaderName::from_static("idempotency-key");

/// The key of a request, if it has one.
pub(super) fn read<B>(
    request: &http::Request<B>,
    bare: bool,
) -> Result<Option<IdempotencyKey>, Problem> {
    let malformed = |_: KeyError| Problem::KeyMalformed;
    let mut values = request.headers().get_all(&HEADER).iter();
    if let Some(value) = values.next() {
        if values.next().is_some() {
            return Err(Problem::KeyRepeated);
        }
        let parse = if bare {
            IdempotencyKey::parse_bare
        } else {
            IdempotencyKey::parse
        };
        return parse(value.as_bytes()).map(Some).map_err(malformed);
    }
    match request.extensions().get::<IdempotencyKey>() {
        Some(key) => key.clone().limited().map(Some).map_err(malformed),
        None => Ok(None),
    }
}
