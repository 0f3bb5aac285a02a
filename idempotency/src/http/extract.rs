//! The claim as extractors of axum handlers.

use std::{convert::Infallible, future::Future};

use axum_core::extract::{FromRequestParts, OptionalFromRequestParts};
use http::{StatusCode, request::Parts};

use crate::lease::{Fence, Lease};

/// What a handler gets that asks for its claim where there is none: a request without a key passed
/// through. It answers 500; a handler for both kinds of requests takes an `Option`.
type NoClaim = (StatusCode, &'static str);

const NO_CLAIM: NoClaim = (
    StatusCode::INTERNAL_SERVER_ERROR,
    "this request has no idempotency claim",
);

impl<S: Sync> FromRequestParts<S> for Fence {
    type Rejection = NoClaim;

    fn from_request_parts(
        parts: &mut Parts,
        _: &S,
    ) -> impl Future<Output = Result<Self, NoClaim>> + Send {
        std::future::ready(parts.extensions.get().copied().ok_or(NO_CLAIM))
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for Fence {
    type Rejection = Infallible;

    fn from_request_parts(
        parts: &mut Parts,
        _: &S,
    ) -> impl Future<Output = Result<Option<Self>, Infallible>> + Send {
        std::future::ready(Ok(parts.extensions.get().copied()))
    }
}

impl<S: Sync> FromRequestParts<S> for Lease {
    type Rejection = NoClaim;

    fn from_request_parts(
        parts: &mut Parts,
        _: &S,
    ) -> impl Future<Output = Result<Self, NoClaim>> + Send {
        std::future::ready(parts.extensions.get().cloned().ok_or(NO_CLAIM))
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for Lease {
    type Rejection = Infallible;

    fn from_request_parts(
        parts: &mut Parts,
        _: &S,
    ) -> impl Future<Output = Result<Option<Self>, Infallible>> + Send {
        std::future::ready(Ok(parts.extensions.get().cloned()))
    }
}
