//! Calls that are made at the same time, handled together.

use std::{
    any::Any,
    fmt,
    future::{Future, poll_fn},
    panic::resume_unwind,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    sync::{Notify, oneshot},
    time::timeout,
};
use tower_service::Service;

use crate::{BoxError, ConfigError, error::in_code, telemetry};

/// Hands messages that a [`Consumer`](crate::Consumer) begins at the same time to one call of a service: as a `Vec` of
/// them, which is answered by a `Vec` of as many results, in the same order.
///
/// It is a service for one message, and so stands where the handler of one would: what is around it, dead letters
/// and retries, sees each message with its own result, and each is acknowledged by itself. So what the consumer promises
/// holds for batches: the messages of one key are never in one batch where [order is
/// kept](crate::Consumer::ordered_by_key), and a suspect is a batch of its own.
///
/// **Where a call fails as a whole, or panics, its messages are handled again one by one**, so that none is dead for another's
/// sake. Like any handler behind a queue it has to bear that a message comes twice.
///
/// A batch is begun when it has `most` messages, or the first in it has waited for `linger`. Give the consumer at least as much
/// [concurrency](crate::Consumer::concurrency) as a batch may have messages, or batches never fill: the metric
/// `seawall_dlq_batch_messages` shows how full they are. Clones fill the same batches.
///
/// ```
/// use std::time::Duration;
/// use seawall_dlq::{Batched, BoxError, DeadLetterLayer, MemorySink, Message};
/// use tower::{Layer, service_fn};
///
/// let insert = service_fn(|orders: Vec<Message>| async move {
///     // One transaction for all of them; one result for each.
///     let results = orders.iter().map(|order| match order.payload.is_empty() {
///         true => Err(BoxError::from("an order is not empty")),
///         false => Ok(()),
///     });
///     Ok::<_, BoxError>(results.collect::<Vec<_>>())
/// });
/// let handler = DeadLetterLayer::new(MemorySink::with_capacity(100))
///     .capture(Message::to_letter)
///     .layer(Batched::new(insert, 100, Duration::from_millis(5)));
/// # fn is_a_handler(_: impl tower::Service<Message>) {}
/// # is_a_handler(handler);
/// ```
pub struct Batched<S, Req, R> {
    service: S,
    most: usize,
    linger: Duration,
    gathering: Gathering<Req, R>,
}

/// The batch that may still grow, if there is one. Whoever adds to it holds the lock.
type Gathering<Req, R> = Arc<Mutex<Option<Arc<Batch<Req, R>>>>>;

struct Batch<Req, R> {
    calls: Mutex<Vec<Call<Req, R>>>,
    full: Notify,
}

struct Call<Req, R> {
    request: Req,
    answer: oneshot::Sender<Result<R, Failed>>,
}

enum Failed {
    Error(BoxError),
    Panic(Box<dyn Any + Send>),
}

impl Failed {
    /// `None` of a panic.
    fn error(&self) -> Option<&BoxError> {
        match self {
            Self::Error(error) => Some(error),
            Self::Panic(_) => None,
        }
    }
}

impl<S, Req, R> Batched<S, Req, R> {
    /// Batches of at most so many messages, begun after `linger` at the latest.
    ///
    /// # Panics
    ///
    /// If a batch could have no message.
    pub fn new(service: S, most: usize, linger: Duration) -> Self {
        in_code!(Self::try_new(service, most, linger))
    }

    /// [`new`](Self::new) for values that are not known to be right.
    ///
    /// # Errors
    ///
    /// If a batch could have no message.
    pub fn try_new(service: S, most: usize, linger: Duration) -> Result<Self, ConfigError> {
        if most == 0 {
            return Err(ConfigError::new("a batch has at least one message"));
        }
        Ok(Self {
            service,
            most,
            linger,
            gathering: Arc::default(),
        })
    }
}

impl<S, Req, R, E> Service<Req> for Batched<S, Req, R>
where
    S: Service<Vec<Req>, Response = Vec<Result<R, E>>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    E: Into<BoxError> + Send,
    Req: Clone + Send + 'static,
    R: Send + 'static,
{
    type Response = R;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<R, BoxError>> + Send>>;

    /// Each batch readies a clone of the service for itself.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let (answer, answered) = oneshot::channel();
        self.add(Call { request, answer });
        Box::pin(async move {
            match answered.await {
                Ok(Ok(answer)) => Ok(answer),
                Ok(Err(Failed::Error(error))) => Err(error),
                // A panic is one here too: it is for whoever is outside to say what that means.
                Ok(Err(Failed::Panic(panic))) => resume_unwind(panic),
                Err(_) => Err("the runtime ended before the batch".into()),
            }
        })
    }
}

impl<S, Req, R, E> Batched<S, Req, R>
where
    S: Service<Vec<Req>, Response = Vec<Result<R, E>>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    E: Into<BoxError> + Send,
    Req: Clone + Send + 'static,
    R: Send + 'static,
{
    fn add(&self, call: Call<Req, R>) {
        let mut gathering = lock(&self.gathering);
        let batch = match &*gathering {
            Some(batch) => Arc::clone(batch),
            None => {
                let batch = Arc::new(Batch {
                    calls: Mutex::default(),
                    full: Notify::new(),
                });
                *gathering = Some(Arc::clone(&batch));
                let (service, linger) = (self.service.clone(), self.linger);
                let (gathered, ours) = (Arc::clone(&self.gathering), Arc::clone(&batch));
                // Whoever began it may go away; the others are not to wait for that.
                tokio::spawn(async move {
                    // Full, or late: both begin it.
                    let _ = timeout(linger, ours.full.notified()).await;
                    let calls = close(&gathered, &ours);
                    handle(service, calls).await;
                });
                batch
            }
        };
        let mut calls = lock(&batch.calls);
        calls.push(call);
        if calls.len() >= self.most {
            *gathering = None;
            batch.full.notify_one();
        }
    }
}

/// Nothing is added to a batch from now on.
fn close<Req, R>(gathering: &Gathering<Req, R>, batch: &Arc<Batch<Req, R>>) -> Vec<Call<Req, R>> {
    let mut gathering = lock(gathering);
    if { gathering.as_ref() }.is_some_and(|growing| Arc::ptr_eq(growing, batch)) {
        *gathering = None;
    }
    std::mem::take(&mut *lock(&batch.calls))
}

async fn handle<S, Req, R, E>(service: S, mut calls: Vec<Call<Req, R>>)
where
    S: Service<Vec<Req>, Response = Vec<Result<R, E>>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    E: Into<BoxError> + Send,
    Req: Clone + Send + 'static,
    R: Send + 'static,
{
    // Nobody waits for these any more, and nobody will acknowledge them.
    calls.retain(|call| !call.answer.is_closed());
    if calls.is_empty() {
        return;
    }
    telemetry::batch(calls.len());
    let requests = calls.iter().map(|call| call.request.clone()).collect();
    match together(service.clone(), requests).await {
        Ok(results) => {
            for (call, result) in calls.into_iter().zip(results) {
                // Whoever has gone away meanwhile does not acknowledge it.
                drop(call.answer.send(result.map_err(Failed::Error)));
            }
        }
        Err(failed) if calls.len() == 1 => {
            let call = calls.pop().expect("there is one");
            drop(call.answer.send(Err(failed)));
        }
        Err(failed) => {
            telemetry::batch_split(calls.len(), failed.error());
            for call in calls {
                if !call.answer.is_closed() {
                    let alone = together(service.clone(), vec![call.request]).await;
                    let ended = alone.and_then(|mut results| {
                        let result = results.pop().expect("as many results as messages");
                        result.map_err(Failed::Error)
                    });
                    drop(call.answer.send(ended));
                }
            }
        }
    }
}

/// The results of a batch, as many as it has messages, unless it failed as a whole.
async fn together<S, Req, R, E>(
    mut service: S,
    requests: Vec<Req>,
) -> Result<Vec<Result<R, BoxError>>, Failed>
where
    S: Service<Vec<Req>, Response = Vec<Result<R, E>>> + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    E: Into<BoxError> + Send,
    Req: Send + 'static,
    R: Send + 'static,
{
    let wanted = requests.len();
    let handling = tokio::spawn(async move {
        poll_fn(|cx| service.poll_ready(cx))
            .await
            .map_err(Into::into)?;
        let results = service.call(requests).await.map_err(Into::into)?;
        let results = results.into_iter().map(|result| result.map_err(Into::into));
        Ok::<Vec<Result<R, BoxError>>, BoxError>(results.collect())
    });
    match handling.await {
        Ok(Ok(results)) if results.len() == wanted => Ok(results),
        Ok(Ok(results)) => Err(Failed::Error(
            format!("{} results for a batch of {wanted}", results.len()).into(),
        )),
        Ok(Err(error)) => Err(Failed::Error(error)),
        Err(ended) => Err(match ended.try_into_panic() {
            Ok(panic) => Failed::Panic(panic),
            Err(ended) => Failed::Error(ended.into()),
        }),
    }
}

/// What is held under these locks is never left half done.
fn lock<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: Clone, Req, R> Clone for Batched<S, Req, R> {
    fn clone(&self) -> Self {
        Self {
            service: self.service.clone(),
            gathering: Arc::clone(&self.gathering),
            ..*self
        }
    }
}

impl<S: fmt::Debug, Req, R> fmt::Debug for Batched<S, Req, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batched")
            .field("service", &self.service)
            .field("most", &self.most)
            .field("linger", &self.linger)
            .finish_non_exhaustive()
    }
}
