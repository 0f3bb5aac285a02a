//! A run: letter by letter, at its rate, each removed when its copy is there.

use std::{
    future::{Future, poll_fn},
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};
use tower_service::Service;

use super::{Redrive, Summary};
use crate::{BoxError, Letter, Queue, RedriveReason, Span, telemetry};

/// How many letters are read at once.
const PAGE: usize = 100;
/// How much of a delay is made up for: more than the tick of the timer, or high rates would be missed.
const CATCH_UP: Duration = Duration::from_millis(50);

impl<Q: Queue> Redrive<Q> {
    pub(super) async fn drive<S>(
        &mut self,
        summary: &mut Summary,
        service: &mut S,
    ) -> Result<(), RedriveReason>
    where
        S: Service<Letter>,
        S::Error: Into<BoxError>,
    {
        let depth = self.queue.depth().await?;
        summary.total = depth.letters;
        let mut span = Span {
            after: None,
            until: depth.end,
        };
        let mut failures = 0;
        let mut next_at = Instant::now();
        // A queue that is empty, and has always been, has no end.
        while span.until.is_some() {
            let page = self.queue.list(&self.filter, &span, PAGE).await?;
            for error in page.unreadable {
                summary.unreadable += 1;
                telemetry::unreadable(&error);
                self.problem(&RedriveReason::Queue(error));
            }
            for letter in page.letters {
                if summary.redriven + summary.failed >= self.limit {
                    return Ok(());
                }
                summary.matched += 1;
                if letter.generation >= self.loop_cap {
                    summary.looping += 1;
                } else if self.dry_run {
                    summary.redriven += 1;
                } else {
                    sleep_until(next_at).await;
                    let now = Instant::now();
                    let made_up = now.checked_sub(CATCH_UP).unwrap_or(now);
                    next_at = next_at.max(made_up) + self.interval;
                    let id = letter.id();
                    match send(service, letter.redriven()).await {
                        Ok(()) => {
                            // Exactly the letter that was read. If somebody else removed it, fine.
                            self.queue.remove(id).await?;
                            telemetry::redriven(id);
                            summary.redriven += 1;
                            failures = 0;
                        }
                        Err(error) => {
                            summary.failed += 1;
                            failures += 1;
                            telemetry::not_redriven(id, &error);
                            let reason = RedriveReason::NotSent { id, error };
                            self.problem(&reason);
                            if failures >= self.give_up_after {
                                return Err(reason);
                            }
                        }
                    }
                }
                if let Some(progress) = &mut self.progress {
                    progress(summary);
                }
            }
            if page.next.is_none() {
                break;
            }
            span.after = page.next;
        }
        Ok(())
    }
}

impl<Q> Redrive<Q> {
    fn problem(&mut self, reason: &RedriveReason) {
        if let Some(problems) = &mut self.problems {
            problems(reason);
        }
    }
}

/// The service is readied for each letter: where the target is out, a letter fails, not the run.
async fn send<S>(service: &mut S, copy: Letter) -> Result<(), BoxError>
where
    S: Service<Letter>,
    S::Error: Into<BoxError>,
{
    poll_fn(|cx| service.poll_ready(cx))
        .await
        .map_err(Into::into)?;
    service.call(copy).await.map(drop).map_err(Into::into)
}

/// A closure as a service that is always ready.
pub(super) struct SendFn<F>(pub(super) F);

impl<F, Fut, T, E> Service<Letter> for SendFn<F>
where
    F: FnMut(Letter) -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    type Response = T;
    type Error = E;
    type Future = Fut;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), E>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, copy: Letter) -> Fut {
        (self.0)(copy)
    }
}
