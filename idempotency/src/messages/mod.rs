//! The adapter for any request that is not HTTP.

mod codec;
mod exchange;

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use tower_layer::Layer;
use tower_service::Service;

pub use self::codec::Codec;
#[cfg(feature = "json")]
pub use self::codec::Json;
use self::exchange::Coded;
use crate::{
    error::BoxError,
    future::ResponseFuture,
    key::{Fingerprint, Key, RecordKey},
    layer::IdempotencyLayer,
    lease::Claim,
    run::Job,
    scope::{ScopeMissing, Unscoped},
    service::Idempotency,
    store::Store,
};

/// The adapter of [`IdempotencyLayer::new`]: whose keys they are, what names a request, and how a
/// response is stored. It works once all three are set.
#[derive(Debug, Clone)]
pub struct Messages<Sc, K, C> {
    scope: Sc,
    keyed: K,
    codec: C,
    max_answer: usize,
}

/// There is no key yet: call `.key(..)`.
#[derive(Debug, Clone, Copy)]
pub struct KeyMissing;

/// There is no codec yet: call `.codec(..)`.
#[derive(Debug, Clone, Copy)]
pub struct CodecMissing;

/// Each request says whose key its key is.
pub struct ScopedBy<Req>(Extract<Req, Key>);

/// Each request says what its key is.
pub struct KeyedBy<Req> {
    key: Extract<Req, Key>,
    fingerprint: Option<Extract<Req, Fingerprint>>,
    stamp: Option<Stamp<Req>>,
}

type Extract<Req, T> = Arc<dyn Fn(&Req) -> T + Send + Sync>;
type Stamp<Req> = Arc<dyn Fn(&mut Req, &Claim) + Send + Sync>;

/// How a scope is read off a request.
#[diagnostic::on_unimplemented(
    message = "this idempotency layer has no scope for `{Req}`",
    label = "say whose keys they are: call `.scope(..)`, or `.unscoped()` if they are all one's"
)]
pub trait ScopeOf<Req>: sealed::Sealed + Clone + Send + Sync + 'static {
    #[doc(hidden)]
    fn scope(&self, request: &Req) -> Option<Key>;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for crate::Unscoped {}
    impl<Req> Sealed for super::ScopedBy<Req> {}
}

impl<Req> ScopeOf<Req> for Unscoped {
    fn scope(&self, _: &Req) -> Option<Key> {
        None
    }
}

impl<Req: 'static> ScopeOf<Req> for ScopedBy<Req> {
    fn scope(&self, request: &Req) -> Option<Key> {
        Some((self.0)(request))
    }
}

impl<St: Store> IdempotencyLayer<St, Messages<ScopeMissing, KeyMissing, CodecMissing>> {
    /// A layer for any service: a worker of a queue, a client, a remote procedure.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), seawall_idempotency::BoxError> {
    /// use seawall_idempotency::{BoxError, IdempotencyLayer, Keep, MemoryStore};
    /// use tower::{Service, ServiceBuilder, ServiceExt};
    ///
    /// struct Message { id: &'static str }
    ///
    /// let codec = (
    ///     |receipt: &u64| Keep::Answer(receipt.to_be_bytes().to_vec().into()),
    ///     |kept: bytes::Bytes| Ok::<_, BoxError>(u64::from_be_bytes(kept[..].try_into()?)),
    /// );
    /// let layer = IdempotencyLayer::new(MemoryStore::with_capacity(1_000))
    ///     .unscoped()
    ///     .key(|m: &Message| m.id.into())
    ///     .codec(codec);
    /// let counter = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    /// let mut worker = ServiceBuilder::new().layer(layer).service_fn(move |_: Message| {
    ///     let receipt = counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    ///     async move { Ok::<_, BoxError>(receipt) }
    /// });
    ///
    /// assert_eq!(worker.ready().await?.call(Message { id: "a" }).await?, 0);
    /// assert_eq!(worker.ready().await?.call(Message { id: "a" }).await?, 0, "repeated");
    /// assert_eq!(worker.ready().await?.call(Message { id: "b" }).await?, 1);
    /// # Ok(()) }
    /// ```
    pub fn new(store: St) -> Self {
        let adapter = Messages {
            scope: ScopeMissing,
            keyed: KeyMissing,
            codec: CodecMissing,
            max_answer: 1024 * 1024,
        };
        Self::with_adapter(store, adapter)
    }
}

impl<St: Store, K, C> IdempotencyLayer<St, Messages<ScopeMissing, K, C>> {
    /// Keys live within the scope that `scope` reads off the request: a tenant, a topic.
    pub fn scope<Req>(
        self,
        scope: impl Fn(&Req) -> Key + Send + Sync + 'static,
    ) -> IdempotencyLayer<St, Messages<ScopedBy<Req>, K, C>> {
        self.scoped(ScopedBy(Arc::new(scope)))
    }

    /// All keys are of one scope: they are unlike each other whoever made them.
    pub fn unscoped(self) -> IdempotencyLayer<St, Messages<Unscoped, K, C>> {
        self.scoped(Unscoped)
    }

    fn scoped<Sc>(self, scope: Sc) -> IdempotencyLayer<St, Messages<Sc, K, C>> {
        self.adapt(|adapter| Messages {
            scope,
            keyed: adapter.keyed,
            codec: adapter.codec,
            max_answer: adapter.max_answer,
        })
    }
}

impl<St: Store, Sc, C> IdempotencyLayer<St, Messages<Sc, KeyMissing, C>> {
    /// Reads off a request what it is known by.
    pub fn key<Req>(
        self,
        key: impl Fn(&Req) -> Key + Send + Sync + 'static,
    ) -> IdempotencyLayer<St, Messages<Sc, KeyedBy<Req>, C>> {
        self.adapt(|adapter| Messages {
            scope: adapter.scope,
            keyed: KeyedBy {
                key: Arc::new(key),
                fingerprint: None,
                stamp: None,
            },
            codec: adapter.codec,
            max_answer: adapter.max_answer,
        })
    }
}

impl<St: Store, Sc, Req, C> IdempotencyLayer<St, Messages<Sc, KeyedBy<Req>, C>> {
    /// What a request asks for: another request under the same key fails with
    /// [`Error::Mismatch`](crate::Error::Mismatch). Without it, the key is taken to say it all.
    pub fn fingerprint(
        self,
        fingerprint: impl Fn(&Req) -> Fingerprint + Send + Sync + 'static,
    ) -> Self {
        self.adapt(|mut adapter| {
            adapter.keyed.fingerprint = Some(Arc::new(fingerprint));
            adapter
        })
    }

    /// Writes the number of the attempt into a request, before it is handled.
    pub fn stamp(self, stamp: impl Fn(&mut Req, &Claim) + Send + Sync + 'static) -> Self {
        self.adapt(|mut adapter| {
            adapter.keyed.stamp = Some(Arc::new(stamp));
            adapter
        })
    }
}

impl<St: Store, Sc, K> IdempotencyLayer<St, Messages<Sc, K, CodecMissing>> {
    /// How a response is stored and made again.
    pub fn codec<C>(self, codec: C) -> IdempotencyLayer<St, Messages<Sc, K, Arc<C>>> {
        self.adapt(|adapter| Messages {
            scope: adapter.scope,
            keyed: adapter.keyed,
            codec: Arc::new(codec),
            max_answer: adapter.max_answer,
        })
    }
}

impl<St, Sc, K, C> IdempotencyLayer<St, Messages<Sc, K, C>> {
    /// The largest answer that is kept, in bytes as the codec writes it; 1 MiB by default. A larger one is
    /// given to the caller and remembered without its content: the call is not executed again, and its
    /// repetition fails with [`Error::AnswerNotKept`](crate::Error::AnswerNotKept).
    pub fn max_answer(mut self, bytes: usize) -> Self {
        self.adapter.max_answer = bytes;
        self
    }
}

impl<S, St, Sc, Req, C> Layer<S> for IdempotencyLayer<St, Messages<Sc, KeyedBy<Req>, Arc<C>>>
where
    St: Store,
    Sc: ScopeOf<Req>,
{
    type Service = Idempotency<S, St, Messages<Sc, KeyedBy<Req>, Arc<C>>>;

    fn layer(&self, inner: S) -> Self::Service {
        self.service(inner, self.adapter.clone())
    }
}

impl<S, Req, St, Sc, C> Service<Req> for Idempotency<S, St, Messages<Sc, KeyedBy<Req>, Arc<C>>>
where
    S: Service<Req> + Clone + Send + 'static,
    S::Future: Send,
    S::Response: Send + 'static,
    S::Error: Into<BoxError> + Send,
    Req: Send + 'static,
    St: Store,
    Sc: ScopeOf<Req>,
    C: Codec<S::Response>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = ResponseFuture<S::Response, BoxError>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let Messages {
            scope,
            keyed,
            codec,
            max_answer,
        } = &self.adapter;
        let key = RecordKey::new(scope.scope(&request).as_ref(), &(keyed.key)(&request));
        let fingerprint = keyed
            .fingerprint
            .as_ref()
            .map_or(Fingerprint::NONE, |print| print(&request));
        let fresh = self.inner.clone();
        let job = Job {
            core: Arc::clone(&self.core),
            service: std::mem::replace(&mut self.inner, fresh),
            request: Some(request),
            key,
            fingerprint,
            exchange: Coded::new(Arc::clone(codec), keyed.stamp.clone(), *max_answer),
        };
        job.answer(|error| Err(error.into()))
    }
}

impl<Req> Clone for ScopedBy<Req> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<Req> Clone for KeyedBy<Req> {
    fn clone(&self) -> Self {
        Self {
            key: Arc::clone(&self.key),
            fingerprint: self.fingerprint.clone(),
            stamp: self.stamp.clone(),
        }
    }
}

impl<Req> fmt::Debug for ScopedBy<Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScopedBy(..)")
    }
}

impl<Req> fmt::Debug for KeyedBy<Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedBy")
            .field("fingerprint", &self.fingerprint.is_some())
            .field("stamp", &self.stamp.is_some())
            .finish_non_exhaustive()
    }
}
