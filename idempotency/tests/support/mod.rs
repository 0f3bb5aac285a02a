//! What the tests share: a store with troubles, and small services.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::{
    collections::VecDeque,
    future::pending,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use seawall_idempotency::{
    BoxError, IdempotencyLayer, Keep, MemoryStore, RecordKey, Store, StoreError,
    record::{Record, Swap, Swapped},
};
use tokio::time::Instant;
use tower::{Service, ServiceExt};

/// What happens to a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// It is carried out, and its reply is lost.
    ReplyLost,
    /// It is lost, and nobody can know.
    CommandLost,
    /// It is carried out when [`Troubled::deliver`] is called; its caller learns nothing.
    Late,
    /// The connection refuses it: it is certain that nothing was done.
    Refused,
    /// It never returns.
    Hangs,
    /// Nothing.
    None,
}

/// Which commands trouble befalls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum On {
    Claim,
    Swap,
    /// A swap to a completed record.
    Complete,
    /// A swap to a pending record of the same owner.
    Renew,
    /// A swap to a released record.
    Release,
}

/// A store over a connection that has troubles.
#[derive(Debug, Clone)]
pub(crate) struct Troubled<St = MemoryStore> {
    pub(crate) inner: St,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    planned: Mutex<VecDeque<(On, Trouble)>>,
    after: Mutex<Option<(u64, Trouble)>>,
    late: Mutex<Vec<Late>>,
    down: AtomicBool,
    steady_since: Mutex<Option<Instant>>,
    claims: AtomicU64,
    swaps: AtomicU64,
}

#[derive(Debug)]
enum Late {
    Claim(RecordKey, Bytes, Duration),
    Swap(RecordKey, Swap),
}

impl Default for Troubled {
    fn default() -> Self {
        Self::over(MemoryStore::with_capacity(10_000))
    }
}

impl Troubled {
    /// A connection of its own to records that others share.
    pub(crate) fn over(inner: MemoryStore) -> Self {
        Self::behind(inner)
    }
}

impl<St: Store> Troubled<St> {
    pub(crate) fn behind(inner: St) -> Self {
        Self {
            inner,
            shared: Arc::new(Shared {
                planned: Mutex::default(),
                after: Mutex::default(),
                late: Mutex::default(),
                down: AtomicBool::new(false),
                steady_since: Mutex::new(None),
                claims: AtomicU64::new(0),
                swaps: AtomicU64::new(0),
            }),
        }
    }

    /// The next command of this kind has this trouble.
    pub(crate) fn plan(&self, on: On, trouble: Trouble) {
        self.shared.planned.lock().unwrap().push_back((on, trouble));
    }

    /// The command after the next `commands` has this trouble.
    pub(crate) fn after(&self, commands: u64, trouble: Trouble) {
        *self.shared.after.lock().unwrap() = Some((commands, trouble));
    }

    /// Refuses everything, as from a server that is gone.
    pub(crate) fn down(&self, down: bool) {
        self.shared.down.store(down, Ordering::SeqCst);
        self.unsteady();
    }

    /// The connection had trouble now.
    pub(crate) fn unsteady(&self) {
        *self.shared.steady_since.lock().unwrap() = Some(Instant::now());
    }

    /// Carries out what was late, and says how much that was.
    pub(crate) async fn deliver(&self) -> usize {
        let late = std::mem::take(&mut *self.shared.late.lock().unwrap());
        for command in &late {
            match command {
                Late::Claim(key, record, keep_for) => {
                    self.inner
                        .claim(key, record.clone(), *keep_for)
                        .await
                        .unwrap();
                }
                Late::Swap(key, swap) => {
                    self.inner.swap(key, swap).await.unwrap();
                }
            }
        }
        late.len()
    }

    pub(crate) fn claims(&self) -> u64 {
        self.shared.claims.load(Ordering::SeqCst)
    }

    pub(crate) fn swaps(&self) -> u64 {
        self.shared.swaps.load(Ordering::SeqCst)
    }

    fn trouble(&self, kinds: &[On]) -> Trouble {
        if self.shared.down.load(Ordering::SeqCst) {
            self.unsteady();
            return Trouble::Refused;
        }
        let mut after = self.shared.after.lock().unwrap();
        match after.take() {
            Some((0, trouble)) => {
                drop(after);
                self.unsteady();
                return trouble;
            }
            Some((left, trouble)) => *after = Some((left - 1, trouble)),
            None => {}
        }
        let mut planned = self.shared.planned.lock().unwrap();
        let at = planned.iter().position(|(on, _)| kinds.contains(on));
        match at.and_then(|at| planned.remove(at)) {
            Some((_, Trouble::None)) | None => Trouble::None,
            Some((_, trouble)) => {
                drop(planned);
                self.unsteady();
                trouble
            }
        }
    }
}

fn lost() -> StoreError {
    StoreError::Unavailable {
        indeterminate: true,
        source: "the reply was lost".into(),
    }
}

impl<St: Store> Store for Troubled<St> {
    async fn claim(
        &self,
        key: &RecordKey,
        record: Bytes,
        keep_for: Duration,
    ) -> Result<Option<Bytes>, StoreError> {
        self.shared.claims.fetch_add(1, Ordering::SeqCst);
        match self.trouble(&[On::Claim]) {
            Trouble::None => self.inner.claim(key, record, keep_for).await,
            Trouble::Hangs => pending().await,
            Trouble::CommandLost => Err(lost()),
            Trouble::ReplyLost => {
                self.inner.claim(key, record, keep_for).await?;
                Err(lost())
            }
            Trouble::Late => {
                let late = Late::Claim(*key, record, keep_for);
                self.shared.late.lock().unwrap().push(late);
                Err(lost())
            }
            Trouble::Refused => Err(refused()),
        }
    }

    async fn remaining(&self, key: &RecordKey) -> Result<Option<Duration>, StoreError> {
        match self.trouble(&[]) {
            Trouble::Refused => Err(refused()),
            _ => self.inner.remaining(key).await,
        }
    }

    async fn swap(&self, key: &RecordKey, swap: &Swap) -> Result<Swapped, StoreError> {
        self.shared.swaps.fetch_add(1, Ordering::SeqCst);
        match self.trouble(&[On::Swap, kind(swap)]) {
            Trouble::None => self.inner.swap(key, swap).await,
            Trouble::Hangs => pending().await,
            Trouble::CommandLost => Err(lost()),
            Trouble::ReplyLost => {
                self.inner.swap(key, swap).await?;
                Err(lost())
            }
            Trouble::Late => {
                self.shared
                    .late
                    .lock()
                    .unwrap()
                    .push(Late::Swap(*key, swap.clone()));
                Err(lost())
            }
            Trouble::Refused => Err(refused()),
        }
    }

    fn steady_for(&self) -> Duration {
        let since = *self.shared.steady_since.lock().unwrap();
        since.map_or(Duration::MAX, |since| since.elapsed())
    }
}

fn kind(swap: &Swap) -> On {
    let decode = |bytes: &Bytes| Record::decode(bytes.clone()).unwrap();
    // A swap from nothing at all is a look.
    let Some(from) = swap.from().first() else {
        return On::Swap;
    };
    match (decode(swap.to()), decode(from)) {
        (Record::Completed(_), _) => On::Complete,
        (Record::Released { .. }, _) => On::Release,
        (Record::Pending(to), Record::Pending(from)) if to.owner == from.owner => On::Renew,
        _ => On::Swap,
    }
}

fn refused() -> StoreError {
    StoreError::Unavailable {
        indeterminate: false,
        source: "connection refused".into(),
    }
}

/// A request of the tests: its key, what it asks for, and what attempt it is told to be.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) key: &'static str,
    pub(crate) payload: &'static str,
    pub(crate) attempt: u64,
}

pub(crate) fn message(key: &'static str) -> Message {
    Message {
        key,
        payload: "",
        attempt: 0,
    }
}

/// Text as it is; "undone" is forgotten.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Text;

impl seawall_idempotency::Codec<String> for Text {
    fn encode(&self, response: &String) -> Keep {
        if response == "undone" {
            Keep::Undone
        } else {
            Keep::Answer(Bytes::copy_from_slice(response.as_bytes()))
        }
    }

    fn decode(&self, kept: Bytes) -> Result<String, BoxError> {
        Ok(String::from_utf8(kept.into())?)
    }
}

pub(crate) type MessageLayer<St> = IdempotencyLayer<
    St,
    seawall_idempotency::Messages<
        seawall_idempotency::Unscoped,
        seawall_idempotency::KeyedBy<Message>,
        Arc<Text>,
    >,
>;

/// A layer for [`Message`]s with a lease of 3 s.
pub(crate) fn layer<St: Store>(store: St) -> MessageLayer<St> {
    IdempotencyLayer::new(store)
        .unscoped()
        .key(|m: &Message| m.key.into())
        .fingerprint(|m: &Message| seawall_idempotency::Fingerprint::of([m.payload]))
        .stamp(|m: &mut Message, claim| m.attempt = claim.fence().0)
        .codec(Text)
        .lease(Duration::from_secs(3))
}

/// Readies a service and calls it.
pub(crate) async fn call<S, Req>(service: &mut S, request: Req) -> Result<S::Response, S::Error>
where
    S: Service<Req>,
{
    service.ready().await?.call(request).await
}

/// The layer's own error in a [`BoxError`].
#[track_caller]
pub(crate) fn ours(error: BoxError) -> seawall_idempotency::Error {
    *error
        .downcast::<seawall_idempotency::Error>()
        .expect("it is an error of the layer")
}

/// Lets everything run that can, without time passing.
pub(crate) async fn settle() {
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
}

/// Calls a service in a task of its own.
pub(crate) fn spawn<S, Req>(mut service: S, request: Req) -> tokio::task::JoinHandle<Answer<S, Req>>
where
    S: Service<Req, Future: Send> + Send + 'static,
    S::Response: Send,
    S::Error: Send,
    Req: Send + 'static,
{
    tokio::spawn(async move { call(&mut service, request).await })
}

/// What a service answers.
pub(crate) type Answer<S, Req> = Result<<S as Service<Req>>::Response, <S as Service<Req>>::Error>;

/// Calls that are dropped at each of their polls, each with a key of its own.
#[derive(Debug, Default)]
pub(crate) struct Drops {
    store: Troubled,
    trouble: Mutex<Option<(On, Trouble)>>,
    wedged: AtomicU64,
}

impl Drops {
    /// This befalls every call.
    pub(crate) fn trouble_each(&self, on: On, trouble: Trouble) {
        *self.trouble.lock().unwrap() = Some((on, trouble));
    }

    /// Keys that were not answered afterwards, or were not executed exactly once.
    pub(crate) fn wedged(&self) -> u64 {
        self.wedged.load(Ordering::SeqCst)
    }

    /// Says how many polls a call takes.
    pub(crate) async fn run(&self) -> usize {
        let executed: Arc<Mutex<Vec<&'static str>>> = Arc::default();
        let log = Arc::clone(&executed);
        let layer = layer(self.store.clone());
        let service = tower::Layer::layer(
            &layer,
            tower::service_fn(move |m: Message| {
                log.lock().unwrap().push(m.key);
                async {
                    for _ in 0..3 {
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                    Ok::<_, BoxError>("done".to_owned())
                }
            }),
        );
        let last = Mutex::new("");
        let most = AtomicU64::new(0);
        let answer = test_support::drop_at_every_poll(
            || {
                let key: &'static str = format!("key {}", most.load(Ordering::SeqCst)).leak();
                *last.lock().unwrap() = key;
                if let Some((on, trouble)) = self.trouble.lock().unwrap().clone() {
                    self.store.plan(on, trouble);
                }
                let mut service = service.clone();
                async move { call(&mut service, message(key)).await }
            },
            async |polls| {
                most.store(polls as u64 + 1, Ordering::SeqCst);
                let key = *last.lock().unwrap();
                let drained = layer.tasks().drain(Duration::from_secs(60)).await;
                let again = call(&mut service.clone(), message(key)).await;
                let times = executed
                    .lock()
                    .unwrap()
                    .iter()
                    .filter(|&&k| k == key)
                    .count();
                let fine = drained == seawall_idempotency::Drain::Finished
                    && again.is_ok_and(|answer| answer == "done")
                    && times == 1;
                self.wedged.fetch_add(u64::from(!fine), Ordering::SeqCst);
            },
        )
        .await;
        assert_eq!(answer.unwrap(), "done");
        usize::try_from(most.load(Ordering::SeqCst)).unwrap()
    }
}
