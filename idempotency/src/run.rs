//! One call, from its claim to its stored answer, out of its caller's reach.

use std::{
    any::Any,
    future::{Future, poll_fn},
    mem,
    panic::{self, AssertUnwindSafe},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
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
    /// Until it is executed.
    pub(crate) request: Option<Req>,
    pub(crate) key: RecordKey,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) exchange: X,
}

/// A wait that nobody lives to see the end of.
const FOR_EVER: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

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

    // What a call keeps across an await is what its task is allocated for and copied into. So the job
    // stays where it is, and whatever is only needed when something has to wait is boxed then.
    async fn run(mut self, mut reply: Reply<X::Out, X::Err>) {
        if reply.is_closed() {
            return;
        }
        let give_up = match self.core.rules.in_flight {
            InFlight::Reject => None,
            InFlight::Wait(longest) => Some(Instant::now() + longest.min(FOR_EVER)),
        };
        let mut readied = true;
        let begun = match (self.core.begin(self.key, self.fingerprint).await, give_up) {
            (Err(refused @ Error::InFlight { .. }), Some(give_up)) => {
                let wait = self.wait(refused, give_up, &mut readied, &mut reply);
                match Box::pin(wait).await {
                    Some(begun) => begun,
                    None => return,
                }
            }
            (begun, _) => begun,
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

    /// Begins once the other call has ended, or says what the last try was refused for. `None`: the
    /// caller has gone.
    async fn wait(
        &mut self,
        mut refused: Error,
        give_up: Instant,
        readied: &mut bool,
        reply: &mut Reply<X::Out, X::Err>,
    ) -> Option<Result<Begun<St>, Error>> {
        let mut pause = Duration::from_millis(5);
        while let Some(left) = until(give_up) {
            // Nobody waits with a place in the inner service in its hands.
            if mem::take(readied) {
                self.service = self.service.clone();
            }
            tokio::select! {
                () = sleep(pause.min(left)) => {}
                () = reply.closed() => return None,
            }
            pause = (pause * 2).min(Duration::from_millis(250));
            if reply.is_closed() {
                return None;
            }
            match self.core.begin(self.key, self.fingerprint).await {
                Err(again @ Error::InFlight { .. }) => refused = again,
                begun => return Some(begun),
            }
        }
        Some(Err(refused))
    }

    async fn execute(&mut self, mut held: Held<St>, readied: bool, reply: Reply<X::Out, X::Err>) {
        let Self {
            core,
            service,
            request,
            key,
            fingerprint,
            exchange,
        } = self;
        let lease = core.rules.lease();
        let mut request = request.take().expect("a call is executed once");
        let called = AtomicBool::new(false);
        let claim = held.claim();
        let ended = {
            let mut work = pin!(async {
                if !readied {
                    let ready = timeout(lease, poll_fn(|cx| service.poll_ready(cx)));
                    match Box::pin(ready).await {
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
            });
            let (mut held, mut keeping) = (Some(&mut held), None);
            poll_fn(|cx| {
                if let Poll::Ready(ended) = caught(work.as_mut(), cx) {
                    return Poll::Ready(ended);
                }
                // The claim is kept for as long as the work has to wait.
                let keeping = keeping
                    .get_or_insert_with(|| Box::pin(held.take().expect("it is kept once").keep()));
                match keeping.as_mut().poll(cx) {
                    Poll::Pending => Poll::Pending,
                    Poll::Ready(never) => match never {},
                }
            })
            .await
        };
        let (keep, out) = match ended {
            Ok(Ended::Answered(keep, out)) => (keep, Ok(out)),
            Ok(Ended::NotBegun(out)) => (Keep::Undone, out),
            Ok(Ended::Failed(error)) => match core.rules.failed {
                Failed::Keep => (Keep::Tombstone(Why::Failed), Err(error)),
                Failed::Release => (Keep::Undone, Err(error)),
            },
            Err(message) => {
                telemetry::panicked(key, held.attempt());
                let (keep, out) = exchange.panicked(message);
                let was_called = called.load(Ordering::Relaxed);
                (if was_called { keep } else { Keep::Undone }, out)
            }
        };
        let mut last = Last {
            out: Some(out),
            reply: Some(reply),
        };
        finish(core, &held, keep, *fingerprint, exchange, &mut last).await;
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
    held: &Held<St>,
    keep: Keep,
    fingerprint: Fingerprint,
    exchange: &X,
    last: &mut Last<X::Out, X::Err>,
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
            held.release(|| delayed(last)).await;
            return last.send();
        }
    };
    match held.complete(answer, || delayed(last)).await {
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

/// Polls `work`, and turns a panic into its message. After one, it is not to be polled again.
fn caught<F: Future>(
    mut work: Pin<&mut F>,
    cx: &mut Context<'_>,
) -> Poll<Result<F::Output, String>> {
    match panic::catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
        Err(panic) => Poll::Ready(Err(message(panic.as_ref()))),
    }
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
