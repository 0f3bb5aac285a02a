//! Bodies of responses: whole ones, kept or problems, and those that are only passed on.

use std::{
    collections::VecDeque,
    fmt,
    future::poll_fn,
    mem,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::{Instant, timeout_at};

use crate::record::Why;

/// For how long a body of unknown length may take to end before it counts as a stream.
const STREAM_AFTER: Duration = Duration::from_secs(1);

pin_project! {
    /// The body of a response behind the layer: `B`, the inner service's, or one that was kept.
    pub struct ResponseBody<B, E = <B as Body>::Error> {
        #[pin]
        kind: Kind<B, E>,
    }
}

pin_project! {
    #[project = KindProj]
    enum Kind<B, E> {
        /// As the inner service sent it.
        Passed { #[pin] body: B },
        /// From memory.
        Whole { data: Bytes, trailers: Option<HeaderMap> },
        /// The beginning was read by the layer already.
        Resumed { read: VecDeque<Frame<Bytes>>, failed: Option<E>, rest: Option<Pin<Box<B>>> },
    }
}

impl<B, E> ResponseBody<B, E> {
    pub(super) fn passed(body: B) -> Self {
        Self {
            kind: Kind::Passed { body },
        }
    }

    pub(super) fn whole(data: Bytes, trailers: Option<HeaderMap>) -> Self {
        Self {
            kind: Kind::Whole { data, trailers },
        }
    }
}

impl<B> Body for ResponseBody<B, B::Error>
where
    B: Body<Data = Bytes>,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project().kind.project() {
            KindProj::Passed { body } => body.poll_frame(cx),
            KindProj::Whole { data, trailers } => {
                if !data.is_empty() {
                    return Poll::Ready(Some(Ok(Frame::data(mem::take(data)))));
                }
                Poll::Ready(
                    trailers
                        .take()
                        .map(|trailers| Ok(Frame::trailers(trailers))),
                )
            }
            KindProj::Resumed { read, failed, rest } => {
                if let Some(frame) = read.pop_front() {
                    return Poll::Ready(Some(Ok(frame)));
                }
                if let Some(error) = failed.take() {
                    return Poll::Ready(Some(Err(error)));
                }
                match rest {
                    Some(rest) => rest.as_mut().poll_frame(cx),
                    None => Poll::Ready(None),
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Passed { body } => body.is_end_stream(),
            Kind::Whole { data, trailers } => data.is_empty() && trailers.is_none(),
            Kind::Resumed { read, failed, rest } => {
                read.is_empty()
                    && failed.is_none()
                    && rest.as_ref().is_none_or(|rest| rest.is_end_stream())
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Passed { body } => body.size_hint(),
            // An exact length would become a Content-Length, and that leaves no room for trailers.
            Kind::Whole {
                data,
                trailers: Some(_),
            } => {
                let mut hint = SizeHint::new();
                hint.set_lower(data.len() as u64);
                hint
            }
            Kind::Whole {
                data,
                trailers: None,
            } => SizeHint::with_exact(data.len() as u64),
            Kind::Resumed { read, rest, .. } => {
                let read: u64 = read
                    .iter()
                    .filter_map(Frame::data_ref)
                    .map(|d| d.len() as u64)
                    .sum();
                let mut hint = rest
                    .as_ref()
                    .map_or_else(SizeHint::default, |r| r.size_hint());
                let (lower, upper) = (hint.lower(), hint.upper());
                hint = SizeHint::new();
                hint.set_lower(lower.saturating_add(read));
                if let Some(upper) = upper.and_then(|upper| upper.checked_add(read)) {
                    hint.set_upper(upper);
                }
                hint
            }
        }
    }
}

impl<B, E> fmt::Debug for ResponseBody<B, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.kind {
            Kind::Passed { .. } => "ResponseBody::Passed",
            Kind::Whole { .. } => "ResponseBody::Whole",
            Kind::Resumed { .. } => "ResponseBody::Resumed",
        })
    }
}

pin_project! {
    /// The body of a request behind a layer for gRPC: `B`, as the caller sends it, or what the layer has read.
    pub struct RequestBody<B, E = <B as Body>::Error> {
        #[pin]
        body: ResponseBody<B, E>,
    }
}

impl<B, E> RequestBody<B, E> {
    pub(super) fn passed(body: B) -> Self {
        let body = ResponseBody::passed(body);
        Self { body }
    }

    pub(super) fn whole(data: Bytes) -> Self {
        let body = ResponseBody::whole(data, None);
        Self { body }
    }
}

impl<B> Body for RequestBody<B, B::Error>
where
    B: Body<Data = Bytes>,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        self.project().body.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B, E> fmt::Debug for RequestBody<B, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RequestBody").field(&self.body).finish()
    }
}

/// What became of reading a body.
pub(super) enum Read<B: Body> {
    /// All of it.
    Whole(Bytes, Option<HeaderMap>),
    /// It is not to be kept; here it is, from its beginning.
    Not(Why, ResponseBody<B>),
}

/// Reads `body` to its end, unless it is longer than `most` bytes or turns out to be a stream.
pub(super) async fn read<B>(body: B, most: usize) -> Read<B>
where
    B: Body<Data = Bytes>,
{
    let hint = body.size_hint();
    if hint.lower() > most as u64 {
        return Read::Not(Why::Oversize, ResponseBody::passed(body));
    }
    let end = hint
        .exact()
        .is_none()
        .then(|| Instant::now() + STREAM_AFTER);
    let mut body = Box::pin(body);
    // Most bodies are of one piece, which needs no queue.
    let mut first = None;
    let mut read = VecDeque::new();
    let mut length = 0_usize;
    let (why, failed) = loop {
        let next = poll_fn(|cx| body.as_mut().poll_frame(cx));
        let frame = match end {
            None => next.await,
            Some(end) => match Box::pin(timeout_at(end, next)).await {
                Ok(frame) => frame,
                Err(_) => break (Why::Streaming, None),
            },
        };
        match frame {
            None => return whole(first.into_iter().chain(read), length),
            Some(Err(error)) => break (Why::Failed, Some(error)),
            Some(Ok(frame)) => {
                length = length.saturating_add(frame.data_ref().map_or(0, Bytes::len));
                match first {
                    None => first = Some(frame),
                    Some(_) => read.push_back(frame),
                }
                if length > most {
                    break (Why::Oversize, None);
                }
            }
        }
    };
    if let Some(first) = first {
        read.push_front(first);
    }
    let rest = failed.is_none().then_some(body);
    Read::Not(
        why,
        ResponseBody {
            kind: Kind::Resumed { read, failed, rest },
        },
    )
}

fn whole<B: Body>(frames: impl Iterator<Item = Frame<Bytes>>, length: usize) -> Read<B> {
    let mut trailers: Option<HeaderMap> = None;
    let mut first = Bytes::new();
    let mut joined = BytesMut::new();
    for frame in frames {
        match frame.into_data() {
            Ok(data) if data.is_empty() => {}
            Ok(data) if first.is_empty() => first = data,
            Ok(data) => {
                if joined.is_empty() {
                    joined.reserve(length);
                    joined.extend_from_slice(&first);
                }
                joined.extend_from_slice(&data);
            }
            Err(frame) => {
                if let Ok(more) = frame.into_trailers() {
                    trailers.get_or_insert_default().extend(more);
                }
            }
        }
    }
    let data = if joined.is_empty() {
        first
    } else {
        joined.freeze()
    };
    Read::Whole(data, trailers)
}
