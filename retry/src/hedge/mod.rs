//! A second attempt beside one that is slow.

mod future;

use std::{
    fmt,
    task::{Context, Poll},
    time::Duration,
};

pub use future::HedgeFuture;
use future::Spare;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    AnyError, BoxError, Budget, ByClone, Classify, CloneRequest, ConfigError, error::in_code,
};

/// Sends a request once more when its answer is late, and takes the answer that comes first.
///
/// For requests that may run twice at the same time: idempotent ones. It cuts the tail of latencies
/// that single slow servers make, where something inside it routes the second attempt elsewhere. A service that
/// is slow as a whole is kept from being doubled by the budget: a hedge withdraws one retry from it, a
/// success pays in as for [`RetryLayer`](crate::RetryLayer).
///
/// The first outcome that the classifier calls a success ends the call, and the other attempt is dropped.
/// An attempt that fails while the other runs leaves the matter to the other; a single attempt that
/// fails ends the call. What ends it is returned as it is.
///
/// # Together with retry
///
/// Hedge inside retry, so that each attempt may be hedged. They may share a budget, and then one of them
/// has to leave the deposits to the other: see [`without_deposits`](Self::without_deposits).
///
/// # Default
///
/// Any response is a success ([`AnyError`]) and requests are `Clone` ([`ByClone`]).
///
/// # Example
///
/// ```
/// use std::{sync::atomic::{AtomicU32, Ordering::Relaxed}, time::Duration};
/// use seawall_retry::{Budget, HedgeLayer};
/// use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let calls = AtomicU32::new(0);
/// let mut service = ServiceBuilder::new()
///     .layer(HedgeLayer::after(Duration::from_millis(50), Budget::ratio(0.05)))
///     .service(service_fn(|()| {
///         let nth = calls.fetch_add(1, Relaxed) + 1;
///         async move {
///             if nth == 1 {
///                 tokio::time::sleep(Duration::from_secs(10)).await; // a server that has a bad moment
///             }
///             Ok::<_, std::io::Error>(nth)
///         }
///     }));
/// assert_eq!(service.ready().await.unwrap().call(()).await.unwrap(), 2);
/// # }
/// ```
#[derive(Clone)]
#[must_use = "a layer does nothing until a service is put into it"]
pub struct HedgeLayer<C = AnyError, K = ByClone> {
    terms: Terms,
    classify: C,
    clone: K,
}

#[derive(Debug, Clone)]
struct Terms {
    after: Duration,
    budget: Budget,
    deposits: bool,
}

impl HedgeLayer {
    /// Hedges after this time, as far as the budget goes. A good time is one that nineteen of twenty
    /// answers come within.
    ///
    /// # Panics
    ///
    /// If `after` is zero: that would double every request.
    pub fn after(after: Duration, budget: Budget) -> Self {
        in_code!(Self::try_after(after, budget))
    }

    /// [`after`](Self::after) for a value that is not known to be right.
    ///
    /// # Errors
    ///
    /// If `after` is zero.
    pub fn try_after(after: Duration, budget: Budget) -> Result<Self, ConfigError> {
        if after.is_zero() {
            return Err(ConfigError::new(
                "a hedge after no time would double every request",
            ));
        }
        Ok(Self {
            terms: Terms {
                after,
                budget,
                deposits: true,
            },
            classify: AnyError,
            clone: ByClone,
        })
    }
}

impl<C, K> HedgeLayer<C, K> {
    /// Decides by `classify` which outcome ends the call while another attempt runs: a
    /// [`Success`](crate::Class::Success).
    pub fn classify<C2>(self, classify: C2) -> HedgeLayer<C2, K> {
        HedgeLayer {
            terms: self.terms,
            classify,
            clone: self.clone,
        }
    }

    /// Copies requests by `clone`. What gives `None` is sent once.
    pub fn clone_with<K2>(self, clone: K2) -> HedgeLayer<C, K2> {
        HedgeLayer {
            terms: self.terms,
            classify: self.classify,
            clone,
        }
    }

    /// Pays nothing in for a success. For a budget that a [`RetryLayer`](crate::RetryLayer) around or
    /// inside this one pays into: else each success would count twice.
    pub fn without_deposits(mut self) -> Self {
        self.terms.deposits = false;
        self
    }
}

impl<C, K> fmt::Debug for HedgeLayer<C, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HedgeLayer")
            .field("terms", &self.terms)
            .finish_non_exhaustive()
    }
}

impl<S, C: Clone, K: Clone> Layer<S> for HedgeLayer<C, K> {
    type Service = Hedge<S, C, K>;

    fn layer(&self, inner: S) -> Self::Service {
        Hedge {
            inner,
            settings: self.clone(),
        }
    }
}

/// A service whose slow calls are made twice: see [`HedgeLayer`].
///
/// # Clone
///
/// Clones share the budget.
#[derive(Clone)]
pub struct Hedge<S, C, K> {
    inner: S,
    settings: HedgeLayer<C, K>,
}

impl<S: fmt::Debug, C, K> fmt::Debug for Hedge<S, C, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hedge")
            .field("inner", &self.inner)
            .field("settings", &self.settings)
            .finish()
    }
}

impl<S, Req, C, K> Service<Req> for Hedge<S, C, K>
where
    S: Service<Req> + Clone,
    S::Error: Into<BoxError>,
    C: Classify<S::Response> + Clone,
    K: CloneRequest<Req>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = HedgeFuture<S, Req, C>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let HedgeLayer {
            terms,
            classify,
            clone,
        } = &self.settings;
        let copy = clone.clone_request(&request);
        let spare = copy.map(|copy| Spare::new(self.inner.clone(), copy));
        let first = self.inner.call(request);
        HedgeFuture::new(first, spare, classify.clone(), terms.clone())
    }
}
