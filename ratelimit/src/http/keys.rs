//! Keys that HTTP requests carry.

use std::any::type_name;
use std::fmt;
use std::marker::PhantomData;

use http::{HeaderName, Request};

use crate::key::{Extract, Key};

/// The value of this field: its last line, should it be repeated, since that is the one which the
/// nearest proxy wrote. The rule does not apply to requests without the field, so put one by address
/// beside it.
impl<B> Extract<Request<B>> for HeaderName {
    fn extract<'a>(&'a self, request: &'a Request<B>) -> Option<Key<'a>> {
        let lines = request.headers().get_all(self);
        lines
            .iter()
            .next_back()
            .map(|value| value.as_bytes().into())
    }
}

/// The path of a request, byte for byte and without its query.
///
/// A client can invent paths without end, each with a quota of its own: combine it with something that is
/// sure, as in `(UriPath, ClientIp::direct())`, or go by the route instead.
#[derive(Clone, Copy, Debug)]
pub struct UriPath;

impl<B> Extract<Request<B>> for UriPath {
    fn extract<'a>(&'a self, request: &'a Request<B>) -> Option<Key<'a>> {
        Some(request.uri().path().into())
    }
}

/// Something in a request's extensions, as what another layer found out about it. The rule does not apply
/// to requests without it. Made by [`InExtension::new`].
///
/// ```
/// use axum::extract::{MatchedPath, Request};
/// use seawall_ratelimit::{ClientIp, InExtension, MemoryStore, Quota, RateLimitLayer, Rule};
///
/// // Each client on each route of axum.
/// let by_route = InExtension::new(|route: &MatchedPath| route.as_str().into());
/// let limits = RateLimitLayer::new(MemoryStore::with_capacity(100_000))
///     .rule(Rule::new("route", Quota::per_minute(100)).by((by_route, ClientIp::direct())))
///     .checker();
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let request: Request = Request::default();
/// assert!(limits.check(&request).await.is_ok());
/// # });
/// ```
pub struct InExtension<T, F> {
    key: F,
    value: PhantomData<fn(&T)>,
}

impl<T, F> InExtension<T, F>
where
    T: Clone + Send + Sync + 'static,
    F: for<'a> Fn(&'a T) -> Key<'a>,
{
    /// By the value of this type.
    pub const fn new(key: F) -> Self {
        Self {
            key,
            value: PhantomData,
        }
    }
}

impl<B, T, F> Extract<Request<B>> for InExtension<T, F>
where
    T: Clone + Send + Sync + 'static,
    F: for<'a> Fn(&'a T) -> Key<'a>,
{
    fn extract<'a>(&'a self, request: &'a Request<B>) -> Option<Key<'a>> {
        request.extensions().get().map(&self.key)
    }
}

impl<T, F: Clone> Clone for InExtension<T, F> {
    fn clone(&self) -> Self {
        Self {
            key: self.key.clone(),
            value: PhantomData,
        }
    }
}

impl<T, F> fmt::Debug for InExtension<T, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("InExtension")
            .field(&type_name::<T>())
            .finish()
    }
}
