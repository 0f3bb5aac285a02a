//! One call, from its claim to its stored answer, out of its caller's reach.

use std::{
    any::Any,
    future::{Future, poll_fn},
    mem,
    panic::{self, AssertUnwindSafe},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};

use tokio::{
    sync::oneshot,
    time::{Instant, sleep, timeout},
};
use tower_service::Service;

use crate::{
    claim::Held,
    core::{Begun, Core},
    error::Error,
    exchange::{Exchange, Keep},
    future::ResponseFuture,
    key::{Fingerprint, RecordKey},
    pack::{Packing, Unpacked},
    policy::{Failed, InFlight, Unstored},
    record::{Answer, Record, Swapped, Why},
    store::Store,
    telemetry,
};

/// Everything that a call needs, so that its caller may go away.
pub(crate) struct Job<St, S, Req, X> {
    pub(crate) core: Arc<Core<St>>,
    /// The instance that was readied.
    pub(crate) service: S,
    pub(crate) request: Req,
    pub(crate) key: RecordKey,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) exchange: X,
}

type Reply<Out, Err> = oneshot::Sender<Result<Out, Err>>;

/// How the work on a call ended.
enum Ended<Out, Err> {
    /// The inner service was not called.
    NotBegun(Result<Out, Err>),
    Answered(Keep, Out),
    Failed(Err),
}

impl<St, S, Req, X> Job<St, S, Req, X>
where
    St: Store,
    S: Service<Req> + Clone + Send + 'static,
    S::Future: Send,
    S::Response: Send,
    S::Error: Send,
    Req: Send + 'static,
    X: Exchange<Req, S::Response, S::Error>,
{
    /// The call, as its caller sees it. The claim is made within the work that ends in a task:
    /// between a claim and a spawn the caller could vanish, and leave a key that nobody works for.
    pub(crate) fn answer(
        self,
        stopped: fn(Error) -> Result<X::Out, X::Err>,
    ) -> ResponseFuture<X::Out, X::Err> {
        let (reply, answer) = oneshot::channel();
        let tasks = self.core.tasks.clone();
        let key = self.key;
        let work = Box::pin(telemetry::within(&key, self.run(reply)));
        ResponseFuture::new(tasks, work, answer, stopped)
    }

    async fn run(mut self, mut reply: Reply<X::Out, X::Err>) {
        let give_up = match self.core.rules.in_flight {
            InFlight::Reject => None,
            InFlight::Wait(longest) => Instant::now().checked_add(longest),
        };
        let mut readied = true;
        let mut pause = Duration::from_millis(5);
        let begun = loop {
            if reply.is_closed() {
                return;
            }
            match self.core.begin(self.key, self.fingerprint).await {
                Err(Error::InFlight { .. }) if let Some(left) = give_up.and_then(until) => {
                    // Nobody waits with a place in the inner service in its hands.
                    if mem::take(&mut readied) {
                        self.service = self.service.clone();
                    }
                    tokio::select! {
                        () = sleep(pause.min(left)) => {}
                        () = reply.closed() => return,
                    }
                    pause = (pause * 2).min(Duration::from_millis(250));
                }
                begun => break begun,
            }
        };
        let refused = match begun {
            Ok(Begun::Run(held)) => return self.execute(held, readied, reply).await,
            Ok(Begun::Done(answer)) => {
                match replay(&self.core.packing, &self.key, &self.exchange, answer) {
                    Ok(answer) => {
                        telemetry::outcome(telemetry::REPLAYED);
                        // The caller may have gone; nobody misses the answer then, here and below.
                        let _ = reply.send(Ok(answer));
                        return;
                    }
                    Err(error) => error,
                }
            }
            Err(error) => error,
        };
        telemetry::refused(&self.key, &refused);
        let _ = reply.send(self.exchange.refuse(refused));
    }

    async fn execute(self, mut held: Held<St>, readied: bool, reply: Reply<X::Out, X::Err>) {
        let Self {
            core,
            mut service,
            mut request,
            key,
            fingerprint,
            mut exchange,
        } = self;
        let lease = core.rules.lease();
        let called = AtomicBool::new(false);
        let claim = held.claim();
        let work = async {
            if !readied {
                match timeout(lease, poll_fn(|cx| service.poll_ready(cx))).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => return Ended::NotBegun(Err(exchange.failed(error))),
                    Err(_) => {
                        let error = Error::NotReady { waited: lease };
                        return Ended::NotBegun(exchange.refuse(error));
                    }
                }
            }
            exchange.stamp(&mut request, &claim);
            called.store(true, Ordering::Relaxed);
            match service.call(request).await {
                Ok(response) => {
                    let (keep, out) = exchange.capture(response).await;
                    Ended::Answered(keep, out)
                }
                Err(error) => Ended::Failed(exchange.failed(error)),
            }
        };
        let ended = tokio::select! {
            biased;
            ended = caught(work) => ended,
            never = held.keep() => match never {},
        };
        let (keep, out) = match ended {
            Ok(Ended::Answered(keep, out)) => (keep, Ok(out)),
            Ok(Ended::NotBegun(out)) => (Keep::Undone, out),
            Ok(Ended::Failed(error)) => match core.rules.failed {
                Failed::Keep => (Keep::Tombstone(Why::Failed), Err(error)),
                Failed::Release => (Keep::Undone, Err(error)),
            },
            Err(message) => {
                telemetry::panicked(&key, held.attempt());
                let (keep, out) = exchange.panicked(message);
                (
                    if called.load(Ordering::Relaxed) {
                        keep
                    } else {
                        Keep::Undone
                    },
                    out,
                )
            }
        };
        let last = Last {
            out: Some(out),
            reply: Some(reply),
        };
        finish(&core, held, keep, fingerprint, &exchange, last).await;
    }
}

/// The answer of a call and whom it goes to, until it is sent.
struct Last<Out, Err> {
    out: Option<Result<Out, Err>>,
    reply: Option<Reply<Out, Err>>,
}

impl<Out, Err> Last<Out, Err> {
    fn send(&mut self) {
        if let (Some(out), Some(reply)) = (self.out.take(), self.reply.take()) {
            let _ = reply.send(out);
        }
    }

    /// Another answer counts.
    fn send_instead(&mut self, out: impl FnOnce() -> Result<Out, Err>) {
        if let Some(reply) = self.reply.take() {
            let _ = reply.send(out());
        }
    }
}

/// Stores the end of a call, and answers it.
async fn finish<St, Req, Res, E, X>(
    core: &Core<St>,
    held: Held<St>,
    keep: Keep,
    fingerprint: Fingerprint,
    exchange: &X,
    mut last: Last<X::Out, X::Err>,
) where
    St: Store,
    X: Exchange<Req, Res, E>,
{
    let delayed = |last: &mut Last<X::Out, X::Err>| {
        if core.rules.unstored == Unstored::Answer {
            last.send();
        }
    };
    let answer = match keep {
        Keep::Answer(answer) => core.packing.pack(held.key(), answer),
        Keep::Tombstone(why) => Answer::Tombstone(why),
        Keep::Undone => {
            // Whoever holds the key now, nothing was done here, and the answer says so.
            telemetry::outcome(telemetry::UNDONE);
            held.release(|| delayed(&mut last)).await;
            return last.send();
        }
    };
    match held.complete(answer, || delayed(&mut last)).await {
        Some(Swapped::Applied | Swapped::Already) => {
            telemetry::outcome(telemetry::EXECUTED);
            last.send();
        }
        Some(Swapped::Lost(winner)) => {
            telemetry::outcome(telemetry::SUPERSEDED);
            last.send_instead(|| match winner.map(Record::decode) {
                Some(Ok(Record::Completed(winner))) if winner.fingerprint == fingerprint => {
                    replay(&core.packing, held.key(), exchange, winner.answer)
                        .or_else(|error| exchange.refuse(error))
                }
                _ => exchange.refuse(Error::Superseded {
                    attempt: held.attempt(),
                }),
            });
        }
        // The store could not be told for as long as the record would have lived.
        None => last.send(),
    }
}

/// The answer of an earlier call.
fn replay<Req, Res, E, X>(
    packing: &Packing,
    key: &RecordKey,
    exchange: &X,
    answer: Answer,
) -> Result<X::Out, Error>
where
    X: Exchange<Req, Res, E>,
{
    match packing.unpack(key, answer) {
        Ok(Unpacked::Whole(answer)) => exchange.replay(answer).map_err(Error::Answer),
        Ok(Unpacked::Tombstone(why)) => Err(Error::AnswerNotKept { why }),
        Err(error) => Err(Error::Answer(error.into())),
    }
}

/// What is left until `end`, if anything.
fn until(end: Instant) -> Option<Duration> {
    let left = end.saturating_duration_since(Instant::now());
    (!left.is_zero()).then_some(left)
}

/// Runs `work`, and turns a panic into its message.
async fn caught<F: Future>(work: F) -> Result<F::Output, String> {
    let mut work = pin!(work);
    poll_fn(|cx| {
        // After a panic the work is dropped without another look at it.
        match panic::catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
            Err(panic) => Poll::Ready(Err(message(panic.as_ref()))),
        }
    })
    .await
}

fn message(panic: &(dyn Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "not a text".to_owned()
    }
}
