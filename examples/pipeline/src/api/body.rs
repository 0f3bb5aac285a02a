//! Reading an order from a request: strictly, within bounds of size and time, before anything is claimed or
//! written for it.

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use seawall_idempotency::IdempotencyKey;
use serde::Deserialize;

use super::problem::Problem;
use crate::order::{MAX_ITEM, MAX_QUANTITY, Order, Principal};

/// The largest body of an order, in bytes.
const MAX_BODY: usize = 16 * 1024;

/// How long a client may take to send it.
const BODY: Duration = Duration::from_secs(10);

/// The longest name of a user, an API key or a request, in bytes.
const MAX_NAME: usize = 255;

/// The header that names the user, set by a gateway that knows.
pub(super) const USER_ID: http::HeaderName = http::HeaderName::from_static("x-user-id");

/// The header that holds an API key.
pub(super) const API_KEY: http::HeaderName = http::HeaderName::from_static("x-api-key");

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct OrderBody {
    #[serde(default)]
    request_id: Option<String>,
    item: String,
    quantity: serde_json::Number,
}

/// Puts the order and its principal into the request's extensions, and the key from its body where the
/// idempotency layer finds it.
pub(super) async fn read_order(request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let read = async {
        let principal = principal(&parts.headers)?;
        expect_json(&parts.headers)?;
        let bytes = collect(body).await?;
        let order = parse(&bytes)?;
        Ok::<_, Problem>((principal, bytes, order))
    };
    match read.await {
        Ok((principal, bytes, order)) => {
            if let Some(id) = &order.request_id {
                parts.extensions.insert(IdempotencyKey(id.clone()));
            }
            parts.extensions.insert(principal);
            parts.extensions.insert(order);
            next.run(Request::from_parts(parts, Body::from(bytes)))
                .await
        }
        Err(problem) => problem.into_response(),
    }
}

/// Who asks.
fn principal(headers: &HeaderMap) -> Result<Principal, Problem> {
    let one = |name: &http::HeaderName| {
        let mut values = headers.get_all(name).iter();
        let Some(value) = values.next() else {
            return Ok(None);
        };
        let text = value
            .to_str()
            .ok()
            .filter(|text| (1..=MAX_NAME).contains(&text.len()));
        match (text, values.next()) {
            (Some(text), None) => Ok(Some(text.to_owned())),
            _ => Err(bad(format!(
                "{name} must be one value of 1 to {MAX_NAME} visible ASCII characters"
            ))),
        }
    };
    let (user, key) = (one(&USER_ID)?, one(&API_KEY)?);
    Ok(user
        .map(Principal::User)
        .or(key.map(Principal::ApiKey))
        .unwrap_or(Principal::Anonymous))
}

fn expect_json(headers: &HeaderMap) -> Result<(), Problem> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return Ok(());
    };
    let media = value
        .to_str()
        .unwrap_or("")
        .split(';')
        .next()
        .unwrap_or("")
        .trim();
    if media.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "Unsupported media type",
        "an order is sent as application/json",
    ))
}

async fn collect(body: Body) -> Result<Bytes, Problem> {
    match tokio::time::timeout(BODY, Limited::new(body, MAX_BODY).collect()).await {
        Ok(Ok(whole)) => Ok(whole.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "Body too large",
            format!("an order has at most {MAX_BODY} bytes"),
        )),
        Ok(Err(error)) => Err(bad(format!("the body could not be read: {error}"))),
        Err(_) => Err(Problem::new(
            StatusCode::REQUEST_TIMEOUT,
            "Body too slow",
            format!("the body did not arrive within {} s", BODY.as_secs()),
        )),
    }
}

fn parse(bytes: &[u8]) -> Result<Order, Problem> {
    let body: OrderBody = serde_json::from_slice(bytes).map_err(|error| bad(error.to_string()))?;
    let quantity = body.quantity.as_u64().and_then(|n| u32::try_from(n).ok());
    let Some(quantity) = quantity.filter(|n| (1..=MAX_QUANTITY).contains(n)) else {
        return Err(bad(format!(
            "quantity must be a whole number from 1 to {MAX_QUANTITY}"
        )));
    };
    if !(1..=MAX_ITEM).contains(&body.item.len()) || body.item.chars().any(char::is_control) {
        return Err(bad(format!(
            "item must be 1 to {MAX_ITEM} bytes without control characters"
        )));
    }
    if let Some(id) = &body.request_id {
        let visible = id.bytes().all(|b| (0x20..0x7f).contains(&b));
        if !(1..=MAX_NAME).contains(&id.len()) || !visible {
            return Err(bad(format!(
                "requestId must be 1 to {MAX_NAME} visible ASCII characters"
            )));
        }
    }
    Ok(Order {
        request_id: body.request_id,
        item: body.item,
        quantity,
    })
}

fn bad(detail: String) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "Invalid order", detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_given_up() {
        let never = futures_util::stream::pending::<Result<Bytes, std::io::Error>>();
        let problem = collect(Body::from_stream(never))
            .await
            .expect_err("it never ends");
        assert_eq!(
            problem.into_response().status(),
            StatusCode::REQUEST_TIMEOUT
        );
    }

    #[tokio::test]
    async fn a_body_that_does_not_end_is_cut_at_the_limit() {
        let chunk = Bytes::from_static(&[b'x'; 1024]);
        let endless = futures_util::stream::repeat(Ok::<_, std::convert::Infallible>(chunk));
        let problem = collect(Body::from_stream(endless))
            .await
            .expect_err("it is too large");
        assert_eq!(
            problem.into_response().status(),
            StatusCode::PAYLOAD_TOO_LARGE
        );
    }

    #[test]
    fn the_articles_body_is_an_order() {
        let order = parse(br#"{"requestId": "7b1c", "item": "product-789", "quantity": 1}"#).ok();
        let expected = Order {
            request_id: Some("7b1c".into()),
            item: "product-789".into(),
            quantity: 1,
        };
        assert_eq!(order, Some(expected));
    }

    #[test]
    fn bad_bodies_are_refused() {
        let long = format!(r#"{{"item":"{}","quantity":1}}"#, "x".repeat(MAX_ITEM + 1));
        let deep = "[".repeat(10_000);
        for body in [
            "",
            "{",
            "[]",
            "null",
            r#"{"item":"product-1"}"#,
            r#"{"quantity":1}"#,
            r#"{"item":"product-1","quantity":0}"#,
            r#"{"item":"product-1","quantity":-1}"#,
            r#"{"item":"product-1","quantity":1.5}"#,
            r#"{"item":"product-1","quantity":1e9}"#,
            r#"{"item":"product-1","quantity":"1"}"#,
            r#"{"item":"product-1","quantity":10001}"#,
            r#"{"item":"product-1","quantity":99999999999999999999}"#,
            r#"{"item":"product-1","quantity":1,"quantity":2}"#,
            r#"{"item":"product-1","quantity":1,"price":0}"#,
            r#"{"item":"","quantity":1}"#,
            r#"{"item":"a\u0000b","quantity":1}"#,
            r#"{"requestId":"","item":"product-1","quantity":1}"#,
            r#"{"requestId":7,"item":"product-1","quantity":1}"#,
            r#"{"item":"product-1","quantity":1} trailing"#,
            &long,
            &deep,
        ] {
            assert!(parse(body.as_bytes()).is_err(), "{body}");
        }
    }

    #[test]
    fn a_repeated_or_empty_name_is_nobody() {
        let mut headers = HeaderMap::new();
        assert_eq!(principal(&headers).ok(), Some(Principal::Anonymous));
        headers.insert(API_KEY, "k".parse().expect("a value"));
        assert_eq!(
            principal(&headers).ok(),
            Some(Principal::ApiKey("k".into()))
        );
        headers.insert(USER_ID, "u".parse().expect("a value"));
        assert_eq!(principal(&headers).ok(), Some(Principal::User("u".into())));
        headers.append(USER_ID, "v".parse().expect("a value"));
        assert!(principal(&headers).is_err());
        headers.insert(USER_ID, "".parse().expect("a value"));
        assert!(principal(&headers).is_err());
    }
}
