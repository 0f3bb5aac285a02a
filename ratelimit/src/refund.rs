//! Charges that are given back, once the answer says that they should not have counted.

use std::fmt;
use std::sync::Arc;

use crate::decision::Decision;
use crate::layer::RateLimitLayer;
use crate::limiter::Limiter;
use crate::rules::Apply;
use crate::store::{Operate, Store};

/// Whether calls get back what they were charged: never ([`NoRefund`]), or if their answer says so
/// ([`RefundIf`]). Sealed.
pub trait Refunds<St: Store, T, E>: sealed::Refunds<St, T, E> {}

/// What was charged stays charged, whatever becomes of the call.
#[derive(Clone, Copy, Debug)]
pub struct NoRefund;

/// Calls get back what they were charged if a closure says so of their answer. Made by
/// [`RateLimitLayer::refund_if`].
pub struct RefundIf<F> {
    answer: Arc<F>,
    dropped: bool,
}

impl<St: Store, Rs, M> RateLimitLayer<St, Rs, M> {
    /// Gives back what a call was charged, under all rules of the layer, if the closure says so of its
    /// answer: to count only failures, for one.
    ///
    /// The charge comes first, so that no more calls are under way than the quota has room for, and is given
    /// back when the answer is there. Rules that are to count everything belong into a layer of their
    /// own, around this one.
    ///
    /// ```
    /// use seawall_ratelimit::{BoxError, MemoryStore, Quota, RateLimitLayer, Rule};
    /// use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), BoxError> {
    /// // Three wrong passwords a minute, and as many right ones as you like.
    /// let mut login = ServiceBuilder::new()
    ///     .layer(
    ///         RateLimitLayer::new(MemoryStore::with_capacity(1_000))
    ///             .rule(Rule::new("wrong", Quota::per_minute(3)))
    ///             .refund_if(|answer: &Result<bool, BoxError>| matches!(answer, Ok(true))),
    ///     )
    ///     .service(service_fn(async |password: &'static str| {
    ///         Ok::<_, BoxError>(password == "sesame")
    ///     }));
    ///
    /// for _ in 0..9 {
    ///     assert!(login.ready().await?.call("sesame").await?);
    /// }
    /// for _ in 0..3 {
    ///     assert!(!login.ready().await?.call("guess").await?);
    /// }
    /// assert!(login.ready().await?.call("guess").await.is_err());
    /// # Ok(())
    /// # }
    /// ```
    pub fn refund_if<T, E, F>(self, answer: F) -> RateLimitLayer<St, Rs, M, RefundIf<F>>
    where
        St: Operate,
        F: Fn(&Result<T, E>) -> bool,
    {
        RateLimitLayer {
            store: self.store,
            rules: self.rules,
            policies: self.policies,
            mode: self.mode,
            refunds: RefundIf {
                answer: Arc::new(answer),
                dropped: false,
            },
            top: self.top,
        }
    }
}

impl<St, Rs, M, F> RateLimitLayer<St, Rs, M, RefundIf<F>> {
    /// Gives back what a call was charged that is dropped before it has an answer, too: as when its client
    /// went away. Only for work that ends with the call; who counts what was begun leaves it. A call that is
    /// dropped while a store far away decides has no receipt yet, so its charge stays.
    pub fn refund_dropped(mut self) -> Self {
        self.refunds.dropped = true;
        self
    }
}

/// What a call gets back if it is dropped, or its answer says so.
pub struct Owed<St: Operate> {
    store: St,
    receipt: Option<St::Receipt>,
    if_dropped: bool,
}

impl<St: Operate> Drop for Owed<St> {
    fn drop(&mut self) {
        if let (Some(receipt), true) = (self.receipt.take(), self.if_dropped) {
            self.store.refund(receipt);
        }
    }
}

impl<St: Operate> fmt::Debug for Owed<St> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Owed").finish_non_exhaustive()
    }
}

impl<St: Store, T, E> Refunds<St, T, E> for NoRefund {}

impl<St: Store, T, E> sealed::Refunds<St, T, E> for NoRefund {
    type Owed = ();

    fn owe<Req, Rs: Apply<Req>>(&self, _: &Limiter<St, Rs>, _: &Req, _: &Decision) {}

    fn answered(&self, (): (), _: &Result<T, E>) {}
}

impl<St: Operate, T, E, F: Fn(&Result<T, E>) -> bool> Refunds<St, T, E> for RefundIf<F> {}

impl<St, T, E, F> sealed::Refunds<St, T, E> for RefundIf<F>
where
    St: Operate,
    F: Fn(&Result<T, E>) -> bool,
{
    type Owed = Owed<St>;

    fn owe<Req, Rs: Apply<Req>>(
        &self,
        limiter: &Limiter<St, Rs>,
        request: &Req,
        decision: &Decision,
    ) -> Owed<St> {
        Owed {
            store: limiter.store().clone(),
            receipt: limiter.receipt(request, decision),
            if_dropped: self.dropped,
        }
    }

    fn answered(&self, mut owed: Owed<St>, answer: &Result<T, E>) {
        owed.if_dropped = (self.answer)(answer);
    }
}

// By hand: the closure is shared.
impl<F> Clone for RefundIf<F> {
    fn clone(&self) -> Self {
        Self {
            answer: Arc::clone(&self.answer),
            dropped: self.dropped,
        }
    }
}

impl<F> fmt::Debug for RefundIf<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RefundIf")
            .field("dropped", &self.dropped)
            .finish_non_exhaustive()
    }
}

mod sealed {
    use crate::decision::Decision;
    use crate::limiter::Limiter;
    use crate::rules::Apply;
    use crate::store::Store;

    pub trait Refunds<St: Store, T, E>: Clone {
        /// What one call may get back. To drop it is to drop the call.
        type Owed;

        fn owe<Req, Rs: Apply<Req>>(
            &self,
            limiter: &Limiter<St, Rs>,
            request: &Req,
            decision: &Decision,
        ) -> Self::Owed;

        fn answered(&self, owed: Self::Owed, answer: &Result<T, E>);
    }
}
