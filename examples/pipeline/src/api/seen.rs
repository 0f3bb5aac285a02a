//! What a reader has seen, as it says itself: a token, so that it reads its own writes and never goes back.
//!
//! An answer about an order or a user says its version. Whoever sends that along with a later read is answered with nothing
//! older. The version of an order that is decided is good for its user too: the sums tell of that order.

use axum::extract::FromRequestParts;
use http::request::Parts;
use http::{HeaderMap, HeaderName, StatusCode};

use super::problem::Problem;

/// The header of a read that names the lowest version that will do.
const AT_LEAST: HeaderName = HeaderName::from_static("x-at-least");

/// The header of an answer that names its version.
pub(super) const VERSION: HeaderName = HeaderName::from_static("x-version");

/// The version that the reader has seen; 0 where it says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen(pub(super) u64);

impl<S: Sync> FromRequestParts<S> for Seen {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        seen(&parts.headers)
    }
}

fn seen(headers: &HeaderMap) -> Result<Seen, Problem> {
    let mut values = headers.get_all(&AT_LEAST).iter();
    let Some(value) = values.next() else {
        return Ok(Seen(0));
    };
    let digits = value.to_str().ok().filter(|text| {
        // No sign, which a number may have when it is parsed.
        text.bytes().all(|byte| byte.is_ascii_digit())
    });
    match (digits.and_then(|text| text.parse().ok()), values.next()) {
        (Some(version), None) => Ok(Seen(version)),
        _ => Err(Problem::new(
            StatusCode::BAD_REQUEST,
            "Malformed request",
            format!("{AT_LEAST} must be one number, as an answer's {VERSION} said it"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn a_token_is_one_number() {
        let of = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(AT_LEAST, HeaderValue::from_static(value));
            }
            seen(&headers).ok().map(|Seen(version)| version)
        };
        assert_eq!(of(&[]), Some(0));
        assert_eq!(of(&["17"]), Some(17));
        assert_eq!(of(&["18446744073709551615"]), Some(u64::MAX));
        for wrong in [
            &[""][..],
            &["x"],
            &["-1"],
            &["+1"],
            &["1.5"],
            &["18446744073709551616"],
            &["1", "1"],
        ] {
            assert_eq!(of(wrong), None, "{wrong:?}");
        }
    }
}
