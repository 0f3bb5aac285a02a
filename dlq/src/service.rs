//! The service: keeps the envelope, and hands the request on.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    task::{Context, Poll},
};

use tower_service::Service;

use crate::{BoxError, Capture, Outcome, Panicked, ResponseFuture, Sink, layer::Parts};

/// A service whose final failures are written down: see
/// [`DeadLetterLayer`](crate::DeadLetterLayer).
///
/// # Clone
///
/// Clones share the sink and the settings.
pub struct DeadLetter<I, S, C> {
    inner: I,
    parts: Arc<Parts<S, C>>,
}

impl<I, S, C> DeadLetter<I, S, C> {
    pub(crate) fn new(inner: I, parts: Parts<S, C>) -> Self {
        Self {
            inner,
            parts: Arc::new(parts),
        }
    }

    /// The service that is called.
    pub fn get_ref(&self) -> &I {
        &self.inner
    }
}

impl<I: Clone, S, C> Clone for DeadLetter<I, S, C> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            parts: Arc::clone(&self.parts),
        }
    }
}

impl<I: fmt::Debug, S: fmt::Debug, C> fmt::Debug for DeadLetter<I, S, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetter")
            .field("inner", &self.inner)
            .field("sink", &self.parts.sink)
            .finish_non_exhaustive()
    }
}

impl<I, S, C, Req> Service<Req> for DeadLetter<I, S, C>
where
    I: Service<Req>,
    I::Error: Into<BoxError>,
    S: Sink,
    C: Capture<Req>,
{
    type Response = Outcome<I::Response>;
    type Error = BoxError;
    type Future = ResponseFuture<I::Future, S, C>;

    /// An error here concerns no request, so it becomes no letter.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let parts = Arc::clone(&self.parts);
        let Some(envelope) = parts.capture.capture(&request) else {
            return ResponseFuture::handling(self.inner.call(request), None, parts);
        };
        // What the service leaves behind when it panics is the service's affair, as it is when one of
        // its futures does.
        match catch_unwind(AssertUnwindSafe(|| self.inner.call(request))) {
            Ok(handling) => ResponseFuture::handling(handling, Some(envelope), parts),
            Err(panic) => ResponseFuture::panicked(Panicked::new(&*panic), envelope, parts),
        }
    }
}
