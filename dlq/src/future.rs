//! One call: the request is handled, and if it dies its letter is written.

use std::{
    fmt,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use tokio::time::timeout;

use crate::{
    BoxError, Disposition, Envelope, Letter, LetterId, NotWritten, Outcome, Panicked, Parked, Sink,
    SinkError, Written, layer::Parts, telemetry,
};

pin_project! {
    /// The future of a [`DeadLetter`](crate::DeadLetter) service.
    ///
    /// Dropped while a letter is being written, it leaves open whether it is. The request has not been
    /// acknowledged then: when it comes again, the letter is a repeat or is written.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F, S, C> {
        #[pin]
        state: State<F>,
        parts: Arc<Parts<S, C>>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F> {
        Handling { #[pin] handling: F, envelope: Option<Envelope> },
        // The service panicked before it gave a future.
        Panicked { panicked: Option<(Panicked, Envelope)> },
        Writing { write: Writing, id: LetterId, failure: Option<BoxError> },
        Done,
    }
}

type Writing = Pin<Box<dyn Future<Output = Result<Written, SinkError>> + Send>>;

impl<F, S, C> ResponseFuture<F, S, C> {
    pub(crate) fn handling(
        handling: F,
        envelope: Option<Envelope>,
        parts: Arc<Parts<S, C>>,
    ) -> Self {
        Self {
            state: State::Handling { handling, envelope },
            parts,
        }
    }

    pub(crate) fn panicked(
        panicked: Panicked,
        envelope: Envelope,
        parts: Arc<Parts<S, C>>,
    ) -> Self {
        Self {
            state: State::Panicked {
                panicked: Some((panicked, envelope)),
            },
            parts,
        }
    }
}

impl<F, S, C, R, E> Future for ResponseFuture<F, S, C>
where
    F: Future<Output = Result<R, E>>,
    E: Into<BoxError>,
    S: Sink,
{
    type Output = Result<Outcome<R>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                // ## Handling => (Writing | Done)
                StateProj::Handling {
                    mut handling,
                    envelope,
                } => {
                    let polled = match envelope {
                        None => handling.as_mut().poll(cx).map_err(Into::into),
                        Some(_) => {
                            match catch_unwind(AssertUnwindSafe(|| handling.as_mut().poll(cx))) {
                                Ok(polled) => polled.map_err(Into::into),
                                Err(panic) => Poll::Ready(Err(Panicked::new(&*panic).into())),
                            }
                        }
                    };
                    let outcome = ready!(polled);
                    let envelope = envelope.take();
                    this.state.set(State::Done);
                    match (outcome, envelope) {
                        (Ok(answer), _) => return Poll::Ready(Ok(Outcome::Done(answer))),
                        (Err(error), None) => return Poll::Ready(Err(error)),
                        (Err(error), Some(envelope)) => match this.parts.after.dispose(&error) {
                            Disposition::DeadLetter => {
                                this.state.set(write(this.parts, envelope, error));
                            }
                            Disposition::Propagate => return Poll::Ready(Err(error)),
                            Disposition::Park(wait) => {
                                let parked = Parked::new(wait, error);
                                return Poll::Ready(Err(parked.into()));
                            }
                        },
                    }
                }
                // ## Panicked => Writing
                StateProj::Panicked { panicked } => {
                    let (panicked, envelope) = panicked.take().expect("it is left at once");
                    this.state.set(write(this.parts, envelope, panicked.into()));
                }
                // ## Writing => Done
                StateProj::Writing { write, id, failure } => {
                    let result = ready!(write.as_mut().poll(cx));
                    let id = *id;
                    let failure = failure.take();
                    this.state.set(State::Done);
                    return Poll::Ready(match (result, failure) {
                        (Err(source), Some(failure)) => Err(NotWritten {
                            id,
                            failure,
                            source,
                        }
                        .into()),
                        (Err(source), None) => Err(source.into()),
                        (Ok(_), _) => Ok(Outcome::DeadLettered(id)),
                    });
                }
                StateProj::Done => panic!("polled after it was done"),
            }
        }
    }
}

/// Begins to write the letter of a request that died of `error`.
fn write<F, S: Sink, C>(parts: &Parts<S, C>, envelope: Envelope, error: BoxError) -> State<F> {
    let failure = parts.after.explain(&error);
    let letter = Letter::new(envelope, failure, parts.after.now());
    let id = letter.id();
    let sink = Arc::clone(&parts.sink);
    let limit = parts.after.write_within;
    let write = Box::pin(async move {
        let class = letter.failure.class.clone();
        let result = match timeout(limit, sink.write(letter)).await {
            Ok(result) => result,
            Err(_) => Err(SinkError::TimedOut(limit)),
        };
        telemetry::written(id, &class, &result);
        result
    });
    State::Writing {
        write,
        id,
        failure: Some(error),
    }
}

impl<F, S, C> fmt::Debug for ResponseFuture<F, S, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Handling { .. } => "handling",
            State::Panicked { .. } => "panicked",
            State::Writing { .. } => "writing",
            State::Done => "done",
        };
        f.debug_struct("ResponseFuture")
            .field("state", &state)
            .finish_non_exhaustive()
    }
}
