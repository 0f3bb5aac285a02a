//! The layer, and the settings that every adapter has.

use std::{sync::Arc, time::Duration};

use crate::{
    core::Core,
    error::ConfigError,
    pack::{Packing, Seal},
    policy::{Abandoned, Failed, InFlight, Rules, Unstored},
    records::Records,
    service::Idempotency,
    store::Store,
    tasks::Tasks,
};

/// Executes a call once per key, and repeats its answer after that.
///
/// Made by `http` (with that feature) for services of `http::Request`, or by [`new`](Self::new) for
/// any other; `A` is that adapter with its settings. It is a `Layer` once it has a **scope**: whose keys
/// they are, so that one caller can neither read nor block what another did under the same key.
///
/// # Default
///
/// Records are kept for 24 hours. A claim has a lease of 30 seconds (or the retention, if that is
/// shorter) and is renewed every third of it. A duplicate of a call in flight is
/// [refused](InFlight::Reject), an abandoned call is [not executed again](Abandoned::Reject), an
/// error of the inner service [is final](Failed::Keep), and an answer is given even while it
/// [cannot be stored](Unstored::Answer).
///
/// # Clone
///
/// Clones of the layer, and the services which it makes, share the store and the
/// [`tasks`](Self::tasks); what is set on a clone afterwards is its own.
#[derive(Debug, Clone)]
#[must_use = "a layer does nothing until it is added to a service"]
pub struct IdempotencyLayer<St, A> {
    pub(crate) store: St,
    pub(crate) rules: Rules,
    pub(crate) tasks: Tasks,
    pub(crate) packing: Packing,
    pub(crate) adapter: A,
}

impl<St: Store, A> IdempotencyLayer<St, A> {
    pub(crate) fn with_adapter(store: St, adapter: A) -> Self {
        Self {
            store,
            rules: Rules::default(),
            tasks: Tasks::default(),
            packing: Packing::default(),
            adapter,
        }
    }

    pub(crate) fn adapt<B>(self, change: impl FnOnce(A) -> B) -> IdempotencyLayer<St, B> {
        let Self {
            store,
            rules,
            tasks,
            packing,
            adapter,
        } = self;
        IdempotencyLayer {
            store,
            rules,
            tasks,
            packing,
            adapter: change(adapter),
        }
    }

    pub(crate) fn service<S, B>(&self, inner: S, adapter: B) -> Idempotency<S, St, B> {
        Idempotency {
            inner,
            core: Arc::new(self.core()),
            adapter,
        }
    }

    fn core(&self) -> Core<St> {
        Core {
            store: self.store.clone(),
            rules: self.rules,
            tasks: self.tasks.clone(),
            packing: self.packing.clone(),
        }
    }

    /// The records of the layer's store, to be looked up, expired and completed by hand.
    pub fn records(&self) -> Records<St> {
        Records::new(self.core())
    }
}

impl<St, A> IdempotencyLayer<St, A> {
    /// For how long a key is known, from the end of its call.
    ///
    /// # Panics
    ///
    /// When it is shorter than the lease, or longer than [`ConfigError::LONGEST_RETENTION`].
    pub fn keep_for(self, retention: Duration) -> Self {
        self.try_keep_for(retention)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// As [`keep_for`](Self::keep_for), for a value from a file.
    ///
    /// # Errors
    ///
    /// When it is shorter than the lease, or longer than [`ConfigError::LONGEST_RETENTION`].
    pub fn try_keep_for(mut self, retention: Duration) -> Result<Self, ConfigError> {
        self.rules.set_keep_for(retention)?;
        Ok(self)
    }

    /// For how long a claim is believed without a heartbeat. Longer ones survive longer troubles of
    /// the store; shorter ones notice a dead process sooner.
    ///
    /// # Panics
    ///
    /// When it is shorter than [`ConfigError::SHORTEST_LEASE`], or longer than the retention.
    pub fn lease(self, lease: Duration) -> Self {
        self.try_lease(lease)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// As [`lease`](Self::lease), for a value from a file.
    ///
    /// # Errors
    ///
    /// When it is shorter than [`ConfigError::SHORTEST_LEASE`], or longer than the retention.
    pub fn try_lease(mut self, lease: Duration) -> Result<Self, ConfigError> {
        self.rules.set_lease(lease)?;
        Ok(self)
    }

    /// What a duplicate of a call in flight gets.
    pub fn in_flight(mut self, policy: InFlight) -> Self {
        self.rules.in_flight = policy;
        self
    }

    /// What happens to a call whose handler vanished.
    pub fn abandoned(mut self, policy: Abandoned) -> Self {
        self.rules.abandoned = policy;
        self
    }

    /// What is kept when the inner service answers with an error.
    pub fn failed(mut self, policy: Failed) -> Self {
        self.rules.failed = policy;
        self
    }

    /// What a caller gets while its answer cannot be stored.
    pub fn unstored(mut self, policy: Unstored) -> Self {
        self.rules.unstored = policy;
        self
    }

    /// Answers are encrypted in the store.
    pub fn seal(mut self, seal: impl Seal) -> Self {
        self.packing.seal = Some(Arc::new(seal));
        self
    }

    /// Answers are compressed in the store.
    #[cfg(feature = "compression")]
    pub fn compress(mut self, compression: crate::pack::Compression) -> Self {
        self.packing.compression = Some(compression);
        self
    }

    /// For how long a key is known, from the end of its call: what the documentation of a resource tells
    /// its callers.
    pub fn retention(&self) -> Duration {
        self.rules.keep_for()
    }

    /// The calls that are being handled, to wait for at a shutdown.
    pub fn tasks(&self) -> Tasks {
        self.tasks.clone()
    }
}
