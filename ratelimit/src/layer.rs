use std::fmt;
use std::sync::Arc;

use tower_layer::Layer;

use crate::decision::{Decision, Verdict};
use crate::error::{ConfigError, RateLimitError};
use crate::limiter::Limiter;
use crate::policy::{Policy, Quotas};
use crate::refund::NoRefund;
use crate::rule::Rule;
use crate::rules::{And, Apply, BoxRule, BoxRules, MAX_RULES, Rules};
use crate::service::RateLimit;
use crate::store::Store;
use crate::top::TopRefused;

/// Refusals are errors: [`RateLimitError`], boxed.
#[derive(Clone, Copy, Debug)]
pub struct Fail;

/// Holds requests to the quotas of its [rules](Rule), in front of any [`Service`](tower_service::Service).
///
/// A request meets all rules at once: it is counted under each of them or, if one has no room, under
/// none. A refused request never reaches the service, and its error is a [`RateLimitError`]; with the
/// `http` feature, `.http()` makes it a response instead.
///
/// The counters live in the store: all services made by one layer, and by its clones, share them.
///
/// ```
/// use seawall_ratelimit::{BoxError, MemoryStore, Quota, RateLimitError, RateLimitLayer, Rule};
/// use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), BoxError> {
/// struct Job { tenant: u64 }
///
/// let mut service = ServiceBuilder::new()
///     .layer(
///         RateLimitLayer::new(MemoryStore::with_capacity(100_000))
///             .rule(Rule::new("tenant", Quota::per_second(2)).key(|job: &Job| job.tenant.into()))
///             .rule(Rule::new("all", Quota::per_second(1_000))),
///     )
///     .service(service_fn(async |job: Job| Ok::<_, BoxError>(job.tenant)));
///
/// assert_eq!(service.ready().await?.call(Job { tenant: 7 }).await?, 7);
/// assert_eq!(service.ready().await?.call(Job { tenant: 7 }).await?, 7);
///
/// let refused = service.ready().await?.call(Job { tenant: 7 }).await.unwrap_err();
/// let Some(RateLimitError::Refused(refused)) = RateLimitError::find(&refused) else { panic!() };
/// assert_eq!(refused.violations()[0].rule, "tenant");
/// assert!(refused.retry_after() > Some(std::time::Duration::from_secs(1)));
///
/// assert_eq!(service.ready().await?.call(Job { tenant: 8 }).await?, 8);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use]
pub struct RateLimitLayer<St, Rs = (), M = Fail, W = NoRefund> {
    pub(crate) store: St,
    pub(crate) rules: Rs,
    pub(crate) policies: Vec<Policy>,
    pub(crate) mode: M,
    pub(crate) refunds: W,
    pub(crate) top: Option<TopRefused>,
}

impl<St: Store> RateLimitLayer<St> {
    /// No rule yet: everything passes.
    pub const fn new(store: St) -> Self {
        Self {
            store,
            rules: (),
            policies: Vec::new(),
            mode: Fail,
            refunds: NoRefund,
            top: None,
        }
    }
}

impl<St: Store, M, W> RateLimitLayer<St, (), M, W> {
    /// Rules that are only known at run time, as from a file. More can be added to them.
    ///
    /// ```
    /// use seawall_ratelimit::{ConfigError, MemoryStore, Quota, RateLimitLayer, Rule};
    /// use std::time::Duration;
    ///
    /// struct Job { tenant: String, queue: String }
    ///
    /// # fn main() -> Result<(), ConfigError> {
    /// // As read from a file.
    /// let lines = [("tenant", 100, 60), ("queue", 1_000, 1)];
    /// let mut rules = Vec::new();
    /// for (name, limit, seconds) in lines {
    ///     let quota = Quota::try_new(limit, Duration::from_secs(seconds))?;
    ///     let rule = Rule::try_new(name, quota)?;
    ///     rules.push(match name {
    ///         "tenant" => rule.key(|job: &Job| job.tenant.as_str().into()).boxed(),
    ///         _ => rule.key(|job: &Job| job.queue.as_str().into()).boxed(),
    ///     });
    /// }
    /// let limits = RateLimitLayer::new(MemoryStore::with_capacity(1_000)).try_rules(rules)?;
    /// assert_eq!(limits.policies()[1].name(), "queue");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Panics
    ///
    /// When two rules have one name, or there are more than [`MAX_RULES`], or the store keeps no windows
    /// of the kind of one of them.
    pub fn rules<Req>(
        self,
        rules: impl IntoIterator<Item = BoxRule<Req>>,
    ) -> RateLimitLayer<St, BoxRules<Req>, M, W> {
        match self.try_rules(rules) {
            Ok(layer) => layer,
            Err(error) => panic!("{error}"),
        }
    }

    /// [`rules`](RateLimitLayer::rules) for rules that come from outside the code.
    ///
    /// # Errors
    ///
    /// Says what is wrong where `rules` panics.
    pub fn try_rules<Req>(
        mut self,
        rules: impl IntoIterator<Item = BoxRule<Req>>,
    ) -> Result<RateLimitLayer<St, BoxRules<Req>, M, W>, ConfigError> {
        let rules: Arc<[BoxRule<Req>]> = rules.into_iter().collect();
        for rule in rules.iter() {
            self.add(rule.policy())?;
        }
        Ok(RateLimitLayer {
            store: self.store,
            rules: BoxRules { rules },
            policies: self.policies,
            mode: self.mode,
            refunds: self.refunds,
            top: self.top,
        })
    }
}

impl<St: Store, Rs: Rules, M, W> RateLimitLayer<St, Rs, M, W> {
    /// Adds a rule.
    ///
    /// # Panics
    ///
    /// When the layer has a rule of that name, or [`MAX_RULES`] rules, or its store keeps no windows of
    /// the rule's kind.
    pub fn rule<K, C, P>(self, rule: Rule<K, C, P>) -> RateLimitLayer<St, And<Rs, K, C, P>, M, W> {
        match self.try_rule(rule) {
            Ok(layer) => layer,
            Err(error) => panic!("{error}"),
        }
    }

    /// [`rule`](RateLimitLayer::rule) for rules that come from outside the code.
    ///
    /// # Errors
    ///
    /// Says what is wrong where `rule` panics.
    #[expect(
        clippy::type_complexity,
        reason = "it is the type that `rule` returns, in a Result"
    )]
    pub fn try_rule<K, C, P>(
        mut self,
        rule: Rule<K, C, P>,
    ) -> Result<RateLimitLayer<St, And<Rs, K, C, P>, M, W>, ConfigError> {
        self.add(&rule.policy)?;
        Ok(RateLimitLayer {
            store: self.store,
            rules: (self.rules, Arc::new(rule)),
            policies: self.policies,
            mode: self.mode,
            refunds: self.refunds,
            top: self.top,
        })
    }

    fn add(&mut self, policy: &Policy) -> Result<(), ConfigError> {
        let name = policy.name();
        if self.policies.iter().any(|policy| policy.name() == name) {
            return Err(ConfigError::DuplicateRule(name.to_owned()));
        }
        if self.policies.len() == MAX_RULES {
            return Err(ConfigError::TooManyRules);
        }
        if !self.store.keeps(policy.window()) {
            return Err(ConfigError::WindowKind(policy.window()));
        }
        self.policies.push(policy.clone());
        Ok(())
    }

    /// A handle that changes the quotas of the rules there are now, while the layer is at work.
    #[must_use]
    pub fn quotas(&self) -> Quotas {
        Quotas {
            policies: self.policies.as_slice().into(),
        }
    }

    /// Counts there who is refused most. Several layers may count in one place.
    pub fn top_refused(mut self, top: &TopRefused) -> Self {
        self.top = Some(top.clone());
        self
    }

    /// Name and quota of each rule, in their order.
    pub fn policies(&self) -> &[Policy] {
        &self.policies
    }

    pub(crate) fn with_mode<N>(self, mode: N) -> RateLimitLayer<St, Rs, N, W> {
        RateLimitLayer {
            store: self.store,
            rules: self.rules,
            policies: self.policies,
            mode,
            refunds: self.refunds,
            top: self.top,
        }
    }

    pub(crate) fn limiter(&self) -> Limiter<St, Rs> {
        Limiter::new(
            self.store.clone(),
            self.rules.clone(),
            &self.policies,
            self.top.clone(),
        )
    }

    /// The decisions of this layer without a service behind them.
    pub fn checker(&self) -> Checker<St, Rs> {
        Checker {
            limiter: Arc::new(self.limiter()),
        }
    }
}

impl<S, St: Store, Rs: Rules, M: Clone, W: Clone> Layer<S> for RateLimitLayer<St, Rs, M, W> {
    type Service = RateLimit<S, St, Rs, M, W>;

    fn layer(&self, inner: S) -> Self::Service {
        RateLimit {
            inner,
            limiter: Arc::new(self.limiter()),
            mode: self.mode.clone(),
            refunds: self.refunds.clone(),
        }
    }
}

impl<St, Rs, M, W> fmt::Debug for RateLimitLayer<St, Rs, M, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimitLayer")
            .field("policies", &self.policies)
            .finish_non_exhaustive()
    }
}

/// Decides about requests on its own, for those who have no [`Service`](tower_service::Service) to
/// put a layer around. Made by [`RateLimitLayer::checker`]; shares the counters of its layer.
///
/// ```
/// use seawall_ratelimit::{MemoryStore, Quota, RateLimitLayer, Rule};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let logins = RateLimitLayer::new(MemoryStore::with_capacity(10_000))
///     .rule(Rule::new("login", Quota::per_minute(1)).key(|name: &String| name.into()))
///     .checker();
/// let name = String::from("ada");
/// assert!(logins.check(&name).await.is_ok());
/// assert!(logins.check(&name).await.is_err());
/// # }
/// ```
pub struct Checker<St: Store, Rs> {
    pub(crate) limiter: Arc<Limiter<St, Rs>>,
}

impl<St: Store, Rs> Checker<St, Rs> {
    /// Counts the request, or says why it is refused.
    ///
    /// # Errors
    ///
    /// The error of the layer: over a limit, a cost above the limit, or a store that does not answer.
    pub async fn check<Req>(&self, request: &Req) -> Result<(), RateLimitError>
    where
        Rs: Apply<Req>,
    {
        let deciding = {
            let mut decision = Decision::empty();
            match self.limiter.decide_into(request, &mut decision)? {
                None => return self.limiter.judge(request, &decision),
                Some(deciding) => deciding,
            }
        };
        let decision = deciding.await.map_err(RateLimitError::Store)?;
        self.limiter.judge(request, &decision)
    }

    /// The store's verdict, at once where it is at hand.
    ///
    /// # Errors
    ///
    /// A cost above the limit; then nothing was counted.
    #[inline]
    pub fn decide<Req>(&self, request: &Req) -> Result<Verdict<St::Deciding>, RateLimitError>
    where
        Rs: Apply<Req>,
    {
        self.limiter.decide(request)
    }
}

// By hand: nothing behind the pointer needs to be cloned.
impl<St: Store, Rs> Clone for Checker<St, Rs> {
    fn clone(&self) -> Self {
        Self {
            limiter: Arc::clone(&self.limiter),
        }
    }
}

impl<St: Store, Rs> fmt::Debug for Checker<St, Rs> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Checker").field(&self.limiter).finish()
    }
}
