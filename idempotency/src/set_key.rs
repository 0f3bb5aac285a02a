//! The caller's side: each outgoing request gets a key, once.

use std::task::{Context, Poll};

use tower_layer::Layer;
use tower_service::Service;

/// Gives outgoing requests an idempotency key, so that they can be sent again.
///
/// **It stands outside the layer that retries**: then the key is made once, and every attempt carries it.
/// Inside, each attempt would be another request to the server, and be executed. Clones of a request have
/// its key, which is what retries send.
///
/// `K` is what sets the key. [`http`](SetKeyLayer::http) (with that feature, and for gRPC too) does it in
/// the header; for anything else a closure does, which leaves a key alone that is there:
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use seawall_idempotency::{IdempotencyKey, SetKeyLayer};
/// use tower::{Service, ServiceBuilder, ServiceExt};
///
/// #[derive(Clone, Default)]
/// struct Message { key: Option<IdempotencyKey> }
///
/// let mut producer = ServiceBuilder::new()
///     .layer(SetKeyLayer::new(|m: &mut Message| { m.key.get_or_insert_with(IdempotencyKey::fresh); }))
///     .service_fn(async |m: Message| Ok::<_, std::convert::Infallible>(m.key));
/// let sent = producer.ready().await.unwrap().call(Message::default()).await.unwrap();
/// assert!(sent.is_some());
/// # }
/// ```
#[derive(Debug, Clone, Copy, Default)]
#[must_use = "a layer does nothing until it is added to a service"]
pub struct SetKeyLayer<K> {
    pub(crate) set: K,
}

/// A service that gives requests a key; made by [`SetKeyLayer`].
#[derive(Debug, Clone, Copy)]
pub struct SetKeys<S, K> {
    inner: S,
    set: K,
}

/// Sets the key of a request that has none. Any `Fn(&mut Req)` is one.
pub trait SetKey<Req> {
    /// Sets it.
    fn set_key(&self, request: &mut Req);
}

impl<Req, F: Fn(&mut Req)> SetKey<Req> for F {
    fn set_key(&self, request: &mut Req) {
        self(request);
    }
}

impl<K> SetKeyLayer<K> {
    /// Sets keys by `set`.
    pub const fn new(set: K) -> Self {
        Self { set }
    }
}

impl<S, K: Clone> Layer<S> for SetKeyLayer<K> {
    type Service = SetKeys<S, K>;

    fn layer(&self, inner: S) -> Self::Service {
        SetKeys {
            inner,
            set: self.set.clone(),
        }
    }
}

impl<S, K, Req> Service<Req> for SetKeys<S, K>
where
    S: Service<Req>,
    K: SetKey<Req>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Req) -> S::Future {
        self.set.set_key(&mut request);
        self.inner.call(request)
    }
}
