//! One message through the handler, and how that can end.

use std::{
    future::{Future, poll_fn},
    time::{Duration, SystemTime},
};

use tower_service::Service;

use super::WriteLetter;
use crate::{BoxError, Failure, Letter, Message, Outcome, Parked, telemetry};

/// How a message ended.
pub(super) enum End {
    Done,
    Dead,
    Parked(Duration, BoxError),
    Failed(BoxError),
}

/// An [`Outcome`], whatever the answer in it: a task must not depend on how long that lives.
pub(super) trait Ended {
    fn end(self) -> End;
}

impl<R> Ended for Outcome<R> {
    fn end(self) -> End {
        match self {
            Self::Done(_) => End::Done,
            Self::DeadLettered(_) => End::Dead,
        }
    }
}

/// Hands a message to its handler, once that is ready.
pub(super) async fn handled<S>(mut handler: S, message: Message) -> End
where
    S: Service<Message, Response: Ended>,
    S::Error: Into<BoxError>,
{
    let span = telemetry::Span::of(&message);
    let handled = span.around(async {
        poll_fn(|cx| handler.poll_ready(cx)).await?;
        handler.call(message).await
    });
    match handled.await.map_err(Into::into) {
        Ok(outcome) => outcome.end(),
        Err(error) => match Parked::find(&error) {
            Some(parked) => End::Parked(parked.wait, error),
            None => End::Failed(error),
        },
    }
}

/// Writes the letter of a message that ended its worker so often.
pub(super) fn condemned(
    write: &WriteLetter,
    message: &Message,
    starts: u32,
) -> impl Future<Output = End> + Send + 'static {
    let failure = Failure::new(
        "poison",
        format!("its worker ended {starts} times while it handled this message"),
    );
    let letter = Letter::new(
        message.to_letter(),
        failure.attempts(starts),
        SystemTime::now(),
    );
    let write = write(letter);
    async move {
        match write.await {
            Ok(_) => End::Dead,
            Err(error) => End::Failed(error.into()),
        }
    }
}
