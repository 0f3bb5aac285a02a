//! The caller's side of a request: its body is read here, so that a caller who goes away while
//! sending it has claimed nothing.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use super::{body::ResponseBody, problem::Problem, voice::Voice};
use crate::future::ResponseFuture;

type Answer<B, BE> = Response<ResponseBody<B, BE>>;
type Start<B, BE, E> = Box<dyn FnOnce(Bytes) -> ResponseFuture<Answer<B, BE>, E> + Send>;

pin_project! {
    /// The answer to a request. `F` is the inner service's future, for requests that pass through.
    pub struct HttpFuture<F, Q, B, BE, E> {
        #[pin]
        state: State<F, Q, B, BE, E>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F, Q, B, BE, E> {
        Pass { #[pin] inner: F },
        Answer { answer: Option<Answer<B, BE>> },
        Read { #[pin] body: Q, reading: Reading, start: Option<Start<B, BE, E>> },
        Run { run: ResponseFuture<Answer<B, BE>, E> },
    }
}

/// What was read of a request's body.
struct Reading {
    first: Bytes,
    more: Option<BytesMut>,
    voice: Voice,
}

impl<F, Q, B, BE, E> HttpFuture<F, Q, B, BE, E> {
    pub(super) fn pass(inner: F) -> Self {
        Self {
            state: State::Pass { inner },
        }
    }

    pub(super) fn answer(answer: Answer<B, BE>) -> Self {
        Self {
            state: State::Answer {
                answer: Some(answer),
            },
        }
    }

    pub(super) fn read(
        body: Q,
        voice: Voice,
        start: impl FnOnce(Bytes) -> ResponseFuture<Answer<B, BE>, E> + Send + 'static,
    ) -> Self {
        let reading = Reading {
            first: Bytes::new(),
            more: None,
            voice,
        };
        Self {
            state: State::Read {
                body,
                reading,
                start: Some(Box::new(start)),
            },
        }
    }
}

impl<F, Q, B, BE, E> Future for HttpFuture<F, Q, B, BE, E>
where
    F: Future<Output = Result<Response<B>, E>>,
    Q: Body<Data = Bytes>,
{
    type Output = Result<Answer<B, BE>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let next = match this.state.as_mut().project() {
                StateProj::Pass { inner } => {
                    let response = ready!(inner.poll(cx))?;
                    return Poll::Ready(Ok(response.map(ResponseBody::passed)));
                }
                StateProj::Answer { answer } => {
                    let answer = answer.take().expect("a future is not polled after its end");
                    return Poll::Ready(Ok(answer));
                }
                StateProj::Run { run } => return Pin::new(run).poll(cx),
                StateProj::Read {
                    mut body,
                    reading,
                    start,
                } => {
                    match ready!(body.as_mut().poll_frame(cx)) {
                        // Trailers are not handed on: no body can be made of them.
                        Some(Ok(frame)) => match frame.into_data() {
                            Ok(data) => match reading.take(data) {
                                Ok(()) => continue,
                                Err(problem) => reading.refuse(problem),
                            },
                            Err(_) => continue,
                        },
                        Some(Err(_)) => reading.refuse(Problem::BodyIncomplete),
                        None => {
                            let start = start.take().expect("it is taken on the way to Run");
                            State::Run {
                                run: start(reading.whole()),
                            }
                        }
                    }
                }
            };
            this.state.set(next);
        }
    }
}

impl Reading {
    /// Adds `data`, unless that is more than is taken.
    fn take(&mut self, data: Bytes) -> Result<(), Problem> {
        let length = self.more.as_ref().map_or(self.first.len(), BytesMut::len);
        if length.saturating_add(data.len()) > self.voice.settings.max_body {
            return Err(Problem::BodyTooLarge);
        }
        match &mut self.more {
            Some(more) => more.extend_from_slice(&data),
            None if self.first.is_empty() => self.first = data,
            None => {
                let mut more = BytesMut::from(&self.first[..]);
                more.extend_from_slice(&data);
                self.more = Some(more);
            }
        }
        Ok(())
    }

    fn refuse<F, Q, B, BE, E>(&self, problem: Problem) -> State<F, Q, B, BE, E> {
        State::Answer {
            answer: Some(self.voice.reject(problem)),
        }
    }

    fn whole(&mut self) -> Bytes {
        match self.more.take() {
            Some(more) => more.freeze(),
            None => std::mem::take(&mut self.first),
        }
    }
}

impl<F, Q, B, BE, E> fmt::Debug for HttpFuture<F, Q, B, BE, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Pass { .. } => "Pass",
            State::Answer { .. } => "Answer",
            State::Read { .. } => "Read",
            State::Run { .. } => "Run",
        };
        f.debug_struct("HttpFuture")
            .field("state", &state)
            .finish_non_exhaustive()
    }
}
