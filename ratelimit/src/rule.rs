use std::borrow::Cow;
use std::fmt;

use crate::error::ConfigError;
use crate::key::{ByKey, ByKeyIf, Everyone, Extract, Key};
use crate::plan::{Plan, PlanFor, SamePlan};
use crate::policy::Policy;
use crate::quota::Quota;
use crate::rules::{Ask, BoxRule};
use crate::window::WindowKind;

/// The longest name of a rule.
const MAX_NAME: usize = 64;

/// One limit: a name, a quota, whom it limits and what a request costs.
///
/// Without [`by`](Rule::by), [`key`](Rule::key) or [`key_if`](Rule::key_if) it limits everyone
/// together; without [`cost`](Rule::cost) each request is one unit; without [`plan`](Rule::plan) the
/// quota is the same for all.
///
/// ```
/// use seawall_ratelimit::{MemoryStore, Quota, RateLimitLayer, Rule};
///
/// struct Query { tenant: String, rows: u32 }
///
/// let limits = RateLimitLayer::new(MemoryStore::with_capacity(10_000)).rule(
///     Rule::new("rows", Quota::per_minute(100))
///         .key(|query: &Query| query.tenant.as_str().into())
///         .cost(|query: &Query| query.rows),
/// );
/// assert_eq!(limits.policies()[0].quota().limit(), 100);
/// ```
#[derive(Clone)]
#[must_use]
pub struct Rule<K = Everyone, C = OneUnit, P = SamePlan> {
    pub(crate) policy: Policy,
    extract: K,
    cost: C,
    plan: P,
}

impl Rule {
    /// A rule that limits everyone together.
    ///
    /// The name is what errors, headers and metrics call it, and what its counters are kept under.
    ///
    /// # Panics
    ///
    /// When the name is empty, longer than 64 bytes, or holds anything but printable ASCII without
    /// `"` and `\` (it goes into header fields).
    pub fn new(name: impl Into<Cow<'static, str>>, quota: Quota) -> Self {
        match Self::try_new(name, quota) {
            Ok(rule) => rule,
            Err(error) => panic!("{error}"),
        }
    }

    /// [`new`](Rule::new) for a name that comes from outside the code.
    ///
    /// # Errors
    ///
    /// Says what is wrong where `new` panics.
    pub fn try_new(name: impl Into<Cow<'static, str>>, quota: Quota) -> Result<Self, ConfigError> {
        let name = name.into();
        let fits = (1..=MAX_NAME).contains(&name.len());
        let plain = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\';
        if !fits || !name.bytes().all(plain) {
            return Err(ConfigError::RuleName(name.into_owned()));
        }
        Ok(Self {
            policy: Policy::new(name, quota),
            extract: Everyone,
            cost: OneUnit,
            plan: SamePlan,
        })
    }
}

impl<K, C, P> Rule<K, C, P> {
    /// Whom the rule limits, by a ready-made extractor: a header name, a client address, or a tuple
    /// of those.
    pub fn by<X>(self, extractor: X) -> Rule<X, C, P> {
        Rule {
            policy: self.policy,
            extract: extractor,
            cost: self.cost,
            plan: self.plan,
        }
    }

    /// Whom the rule limits, by a closure. It has to name the type of its argument.
    pub fn key<Req, F>(self, key: F) -> Rule<ByKey<F>, C, P>
    where
        F: for<'a> Fn(&'a Req) -> Key<'a>,
    {
        self.by(ByKey(key))
    }

    /// Whom the rule limits, if the request has what it goes by: the rule does not apply to a request
    /// for which the closure finds nothing.
    pub fn key_if<Req, F>(self, key: F) -> Rule<ByKeyIf<F>, C, P>
    where
        F: for<'a> Fn(&'a Req) -> Option<Key<'a>>,
    {
        self.by(ByKeyIf(key))
    }

    /// How many units a request takes. A cost of 0 is never refused and counts nothing; one above the
    /// limit is refused as [`CostAboveLimit`](crate::CostAboveLimit).
    pub fn cost<Req, F>(self, cost: F) -> Rule<K, F, P>
    where
        F: Fn(&Req) -> u32,
    {
        Rule {
            policy: self.policy,
            extract: self.extract,
            cost,
            plan: self.plan,
        }
    }

    /// Treats some requests differently: another quota for a tenant, none at all for those on a list of
    /// exceptions, nothing for those who are banned. The closure is given the request and the key that
    /// was found in it.
    ///
    /// ```
    /// use seawall_ratelimit::{MemoryStore, Plan, Quota, RateLimitLayer, Rule};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let limits = RateLimitLayer::new(MemoryStore::with_capacity(1_000))
    ///     .rule(
    ///         Rule::new("tenant", Quota::per_minute(1))
    ///             .key(|tenant: &String| tenant.into())
    ///             .plan(|tenant: &String, _| match tenant.as_str() {
    ///                 "gold" => Plan::Quota(Quota::per_minute(2)),
    ///                 "monitor" => Plan::Unlimited,
    ///                 "mallory" => Plan::Denied,
    ///                 _ => Plan::Regular,
    ///             }),
    ///     )
    ///     .checker();
    /// let passes = async |tenant: &str| limits.check(&tenant.to_owned()).await.is_ok();
    ///
    /// assert_eq!([passes("ada").await, passes("ada").await], [true, false]);
    /// assert_eq!([passes("gold").await, passes("gold").await], [true, true]);
    /// assert!(!passes("gold").await);
    /// assert!(passes("monitor").await);
    /// assert!(!passes("mallory").await);
    /// # }
    /// ```
    pub fn plan<Req, F>(self, plan: F) -> Rule<K, C, F>
    where
        F: for<'a> Fn(&'a Req, Key<'a>) -> Plan,
    {
        Rule {
            policy: self.policy,
            extract: self.extract,
            cost: self.cost,
            plan,
        }
    }

    /// Only counts what the rule would do, and refuses nobody: to see the effect of a quota before it
    /// has one. Metrics and the decision tell of it; header fields do not.
    ///
    /// It counts as if it were enforced: a request that it would refuse takes nothing from its quota, nor does
    /// one that another rule refuses.
    pub fn shadow(self) -> Self {
        Self {
            policy: self.policy.in_shadow(),
            ..self
        }
    }

    /// How the rule counts: strictly, in a [sliding window](WindowKind::Sliding), unless set.
    ///
    /// A layer only takes what its store [keeps](crate::Store::keeps). All stores of this crate keep all of them, and
    /// decide alike.
    ///
    /// ```
    /// use seawall_ratelimit::{MemoryStore, Quota, RateLimitLayer, Rule, WindowKind};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// let evenly = RateLimitLayer::new(MemoryStore::with_capacity(1))
    ///     .rule(Rule::new("all", Quota::per_second(10)).window(WindowKind::Gcra))
    ///     .checker();
    /// for _ in 0..10 {
    ///     assert!(evenly.check(&()).await.is_ok());
    /// }
    /// assert!(evenly.check(&()).await.is_err());
    /// tokio::time::advance(std::time::Duration::from_millis(100)).await;
    /// assert!(evenly.check(&()).await.is_ok());
    /// # }
    /// ```
    pub fn window(self, kind: WindowKind) -> Self {
        Self {
            policy: self.policy.with_window(kind),
            ..self
        }
    }

    /// The version of the quota, 0 unless set. Raise it when you change the quota of a rule whose
    /// counters outlive the process.
    ///
    /// While nodes disagree, the highest version that has been seen for a key decides on all of them,
    /// and what was counted is carried over. Nodes with different quotas in *one* version each go by
    /// their own; if the windows differ as well, that may refuse too much until they agree.
    pub fn version(self, version: u32) -> Self {
        Self {
            policy: self.policy.with_version(version),
            ..self
        }
    }

    /// The rule without its types, for a list of rules whose length and kinds are only known at run time.
    pub fn boxed<Req>(self) -> BoxRule<Req>
    where
        K: Extract<Req> + Send + Sync + 'static,
        C: Cost<Req> + Send + Sync + 'static,
        P: PlanFor<Req> + Send + Sync + 'static,
    {
        BoxRule::new(self)
    }

    /// What the rule makes of a request, if it applies.
    #[inline]
    pub(crate) fn ask<'a, Req>(&'a self, request: &'a Req) -> Option<Ask<'a>>
    where
        K: Extract<Req>,
        C: Cost<Req>,
        P: PlanFor<Req>,
    {
        let key = self.extract.extract(request)?;
        Some(Ask {
            policy: &self.policy,
            key,
            cost: self.cost.cost(request),
            plan: self.plan.plan(request, key),
        })
    }
}

impl<K, C, P> fmt::Debug for Rule<K, C, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rule")
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

/// What a request costs under a rule. Closures implement it.
pub trait Cost<Req> {
    /// Units to take.
    fn cost(&self, request: &Req) -> u32;
}

/// Each request is one unit.
#[derive(Clone, Copy, Debug)]
pub struct OneUnit;

impl<Req> Cost<Req> for OneUnit {
    fn cost(&self, _: &Req) -> u32 {
        1
    }
}

impl<Req, F: Fn(&Req) -> u32> Cost<Req> for F {
    fn cost(&self, request: &Req) -> u32 {
        self(request)
    }
}
