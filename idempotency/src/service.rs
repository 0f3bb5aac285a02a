//! The service. What it does with a request is its adapter's.

use std::sync::Arc;

use crate::core::Core;

/// A service that executes a call once per key; made by
/// [`IdempotencyLayer`](crate::IdempotencyLayer).
///
/// # Readiness
///
/// It is ready when the inner service is, and hands a call to the instance that was readied. A call
/// that [waits](crate::InFlight::Wait) for another one gives its place back first, and readies a
/// fresh instance if it comes to executing.
///
/// # Clone
///
/// Clones share the store, the settings and the tasks.
#[derive(Debug, Clone)]
pub struct Idempotency<S, St, A> {
    pub(crate) inner: S,
    pub(crate) core: Arc<Core<St>>,
    pub(crate) adapter: A,
}
