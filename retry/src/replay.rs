//! A body that can be sent again, as far as a bound allows.

use std::{
    fmt, mem,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use http::{HeaderMap, Request};
use http_body::{Body, Frame, SizeHint};

use crate::{BoxError, CloneRequest, IdempotentMethods};

/// A body that keeps what it has sent, up to a bound, so that it can be sent again.
///
/// A clone begins at the first byte: it hands out what is kept, and then goes on with what has not been
/// read yet. Nothing is read ahead. A body that turns out to be longer than the bound is sent through
/// once and kept no longer; one that says so beforehand is never kept at all. Either way no attempt ever sends a
/// body that is cut short.
///
/// One clone is read at a time, the one that was made last: when it begins, a body that an earlier attempt
/// left behind somewhere ends with an error. (So hedging needs bodies that are really `Clone`.)
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use http_body_util::{BodyExt, Full};
/// use seawall_retry::{Backoff, HttpStatus, ReplayBody, ReplayRequests, RetryLayer};
/// use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let attempts = std::sync::atomic::AtomicU32::new(0);
/// let mut service = ServiceBuilder::new()
///     .map_request(|request: http::Request<Full<&'static [u8]>>| {
///         request.map(|body| ReplayBody::new(body, 64 * 1024))
///     })
///     .layer(
///         RetryLayer::new(Backoff::exponential(Duration::from_secs(1)))
///             .classify(HttpStatus::new())
///             .clone_with(ReplayRequests::idempotent()),
///     )
///     .service(service_fn(|request: http::Request<ReplayBody<_>>| {
///         let first = attempts.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0;
///         async move {
///             let body = request.into_body().collect().await?.to_bytes();
///             let status = if first { 503 } else { 200 };
///             Ok::<_, seawall_retry::BoxError>(http::Response::builder().status(status).body(body)?)
///         }
///     }));
/// let put = http::Request::put("/").body(Full::new(&b"whole"[..])).unwrap();
/// let answer = service.ready().await.unwrap().call(put).await.unwrap();
/// assert_eq!((answer.status().as_u16(), &answer.body()[..]), (200, &b"whole"[..]));
/// # }
/// ```
pub struct ReplayBody<B> {
    shared: Arc<Shared<B>>,
    /// Of two clones the later one has the higher number.
    reader: u64,
    /// Data frames that were handed out.
    next: usize,
    ended: bool,
}

struct Shared<B> {
    bound: usize,
    readers: AtomicU64,
    source: Mutex<Source<B>>,
}

struct Source<B> {
    /// Nothing once it has ended or failed.
    body: Option<Pin<Box<B>>>,
    /// Data frames that came out of the body.
    read: usize,
    /// All of them, as long as they fit under the bound.
    kept: Vec<Bytes>,
    bytes: usize,
    trailers: Option<HeaderMap>,
    /// Whether everything that was read is kept.
    whole: bool,
    /// The latest reader that has begun.
    reader: u64,
}

impl<B: Body> ReplayBody<B> {
    /// Keeps at most `bound` bytes.
    pub fn new(body: B, bound: usize) -> Self {
        let fits = body.size_hint().lower() <= bound as u64;
        Self {
            shared: Arc::new(Shared {
                bound,
                readers: AtomicU64::new(0),
                source: Mutex::new(Source {
                    body: Some(Box::pin(body)),
                    read: 0,
                    kept: Vec::new(),
                    bytes: 0,
                    trailers: None,
                    whole: fits,
                    reader: 0,
                }),
            }),
            reader: 0,
            next: 0,
            ended: false,
        }
    }
}

impl<B> ReplayBody<B> {
    /// Whether a clone would be sent from its first byte to its last: everything that was read is kept,
    /// and nothing has failed.
    pub fn is_whole(&self) -> bool {
        self.shared.source().whole
    }
}

impl<B> Shared<B> {
    fn source(&self) -> MutexGuard<'_, Source<B>> {
        // After a panic of the body the body is not polled again.
        self.source.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B> Source<B> {
    fn let_go(&mut self) {
        self.whole = false;
        self.kept = Vec::new();
    }
}

impl<B> Clone for ReplayBody<B> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            reader: self.shared.readers.fetch_add(1, Relaxed) + 1,
            next: 0,
            ended: false,
        }
    }
}

impl<B> Body for ReplayBody<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        let source = &mut *this.shared.source();
        if this.reader < source.reader {
            this.ended = true;
            return Poll::Ready(Some(Err(ReplayError::Superseded.into())));
        }
        source.reader = this.reader;
        if let Some(data) = source.kept.get(this.next) {
            this.next += 1;
            return Poll::Ready(Some(Ok(Frame::data(data.clone()))));
        }
        if this.next < source.read {
            this.ended = true;
            return Poll::Ready(Some(Err(ReplayError::TooLong(this.shared.bound).into())));
        }
        // Out of its place while it is polled: a panic leaves nothing behind that is polled again.
        let Some(mut body) = source.body.take() else {
            this.ended = true;
            let trailers = source.trailers.clone();
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        };
        let whole = mem::replace(&mut source.whole, false);
        let Poll::Ready(frame) = body.as_mut().poll_frame(cx) else {
            source.body = Some(body);
            source.whole = whole;
            return Poll::Pending;
        };
        let frame = match frame {
            None => {
                this.ended = true;
                source.whole = whole;
                return Poll::Ready(None);
            }
            Some(Err(error)) => {
                this.ended = true;
                source.let_go();
                return Poll::Ready(Some(Err(error.into())));
            }
            Some(Ok(frame)) => frame,
        };
        source.whole = whole;
        let frame = match frame.into_data() {
            Ok(mut data) => {
                source.body = Some(body);
                let data = data.copy_to_bytes(data.remaining());
                this.next += 1;
                source.read += 1;
                source.bytes = source.bytes.saturating_add(data.len());
                if source.bytes > this.shared.bound {
                    source.let_go();
                } else if whole {
                    source.kept.push(data.clone());
                }
                Frame::data(data)
            }
            Err(frame) => match frame.into_trailers() {
                Ok(trailers) => {
                    this.ended = true;
                    source.trailers = Some(trailers.clone());
                    Frame::trailers(trailers)
                }
                // A frame of a kind that did not exist yet. It cannot be sent again.
                Err(_) => {
                    source.body = Some(body);
                    source.let_go();
                    return Poll::Ready(Some(Err(ReplayError::UnknownFrame.into())));
                }
            },
        };
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        let source = self.shared.source();
        let read = self.next >= source.read;
        self.ended
            || match &source.body {
                Some(body) => read && body.is_end_stream(),
                None => read && source.trailers.is_none(),
            }
    }

    fn size_hint(&self) -> SizeHint {
        let source = self.shared.source();
        if self.next < source.read && !source.whole {
            return SizeHint::default();
        }
        let kept = source.kept.iter().skip(self.next);
        let kept = kept.map(|data| data.len() as u64).sum::<u64>();
        let rest = source.body.as_ref().map(|body| body.size_hint());
        let rest = rest.unwrap_or_else(|| SizeHint::with_exact(0));
        let mut hint = SizeHint::new();
        hint.set_lower(kept.saturating_add(rest.lower()));
        if let Some(upper) = rest.upper() {
            hint.set_upper(kept.saturating_add(upper));
        }
        hint
    }
}

impl<B> fmt::Debug for ReplayBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplayBody")
            .field("bound", &self.shared.bound)
            .field("reader", &self.reader)
            .finish_non_exhaustive()
    }
}

/// Why a [`ReplayBody`] could not be read on. The errors of the body inside come as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReplayError {
    /// More than this bound was sent before, and is not kept.
    TooLong(usize),
    /// A later attempt has begun to send the body.
    Superseded,
    /// The body gave a frame that is neither data nor trailers.
    UnknownFrame,
}

impl fmt::Display for ReplayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong(bound) => write!(f, "the body is longer than the {bound} bytes kept"),
            Self::Superseded => f.write_str("a later attempt sends this body"),
            Self::UnknownFrame => f.write_str("the body has a frame that cannot be sent again"),
        }
    }
}

impl std::error::Error for ReplayError {}

/// Repeats requests with bodies that are kept as they are sent. When a body has grown over its bound,
/// the request is not sent again: the call ends as [`Unrepeatable`](crate::Stopped::Unrepeatable).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplayRequests {
    whatever: bool,
}

impl ReplayRequests {
    /// What [`IdempotentMethods`] would repeat.
    pub const fn idempotent() -> Self {
        Self { whatever: false }
    }

    /// Whatever the method says: for requests that may all be sent twice, or where the classifier retries
    /// only what the server has not begun. Those of gRPC are all `POST`.
    pub const fn any_method() -> Self {
        Self { whatever: true }
    }
}

impl<B> CloneRequest<Request<ReplayBody<B>>> for ReplayRequests {
    fn clone_request(&self, request: &Request<ReplayBody<B>>) -> Option<Request<ReplayBody<B>>> {
        if !request.body().is_whole() {
            return None;
        }
        if self.whatever {
            Some(request.clone())
        } else {
            IdempotentMethods.clone_request(request)
        }
    }

    fn can_send(&self, copy: &Request<ReplayBody<B>>) -> bool {
        copy.body().is_whole()
    }
}
