//! Whose keys they are.

use http::{HeaderName, request::Parts};

use crate::{
    key::Key,
    scope::{ScopeMissing, Unscoped},
};

/// There is a scope.
#[derive(Debug, Clone, Copy)]
pub struct Scoped;

/// Reads the scope of its key off a request: a header's name, or a closure.
pub trait HttpScope: Send + Sync + 'static {
    /// The scope, or `None` if the request does not say; then it is refused.
    fn scope(&self, request: &Parts) -> Option<Key>;
}

impl HttpScope for HeaderName {
    fn scope(&self, request: &Parts) -> Option<Key> {
        let values = request.headers.get_all(self);
        values.iter().next()?;
        let length = values.iter().map(|value| size_of::<u64>() + value.len());
        let room = Vec::with_capacity(length.sum());
        Some(Key::framed(values, room))
    }
}

impl<F> HttpScope for F
where
    F: Fn(&Parts) -> Key + Send + Sync + 'static,
{
    fn scope(&self, request: &Parts) -> Option<Key> {
        Some(self(request))
    }
}

#[diagnostic::on_unimplemented(
    message = "this idempotency layer has no scope",
    label = "say whose keys they are: call `.scope(..)`, or `.unscoped()` if they are all one's"
)]
pub trait Chosen: sealed::Sealed + 'static {}

impl Chosen for Scoped {}
impl Chosen for Unscoped {}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Scoped {}
    impl Sealed for super::Unscoped {}
    impl Sealed for super::ScopeMissing {}
}
