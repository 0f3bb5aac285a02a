use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use crate::error::ConfigError;
use crate::key::{ByKey, ByKeyIf, Everyone, Extract, Key};
use crate::quota::Quota;
use crate::window::Terms;

/// The most rules one layer can hold: a decision lives on the stack.
pub const MAX_RULES: usize = 8;
/// The longest name of a rule.
const MAX_NAME: usize = 64;

/// One limit: a name, a quota, whom it limits and what a request costs.
///
/// Without [`by`](Rule::by), [`key`](Rule::key) or [`key_if`](Rule::key_if) it limits everyone
/// together; without [`cost`](Rule::cost) each request is one unit.
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
pub struct Rule<K = Everyone, C = OneUnit> {
    pub(crate) policy: Policy,
    pub(crate) extract: K,
    pub(crate) cost: C,
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
            policy: Policy {
                name,
                quota,
                version: 0,
                terms: Terms::new(quota, 0),
            },
            extract: Everyone,
            cost: OneUnit,
        })
    }
}

impl<K, C> Rule<K, C> {
    /// Whom the rule limits, by a ready-made extractor: a header name, a client address.
    pub fn by<X>(self, extractor: X) -> Rule<X, C> {
        Rule {
            policy: self.policy,
            extract: extractor,
            cost: self.cost,
        }
    }

    /// Whom the rule limits, by a closure. It has to name the type of its argument.
    pub fn key<Req, F>(self, key: F) -> Rule<ByKey<F>, C>
    where
        F: for<'a> Fn(&'a Req) -> Key<'a>,
    {
        self.by(ByKey(key))
    }

    /// Whom the rule limits, if the request has what it goes by: the rule does not apply to a request
    /// for which the closure finds nothing.
    pub fn key_if<Req, F>(self, key: F) -> Rule<ByKeyIf<F>, C>
    where
        F: for<'a> Fn(&'a Req) -> Option<Key<'a>>,
    {
        self.by(ByKeyIf(key))
    }

    /// How many units a request takes. A cost of 0 is never refused and counts nothing; one above the
    /// limit is refused as [`CostAboveLimit`](crate::CostAboveLimit).
    pub fn cost<Req, F>(self, cost: F) -> Rule<K, F>
    where
        F: Fn(&Req) -> u32,
    {
        Rule {
            policy: self.policy,
            extract: self.extract,
            cost,
        }
    }

    /// The version of the quota, 0 unless set. Raise it when you change the quota of a rule whose
    /// counters outlive the process.
    ///
    /// While nodes disagree, the highest version that has been seen for a key decides on all of them,
    /// and what was counted is carried over. Nodes with different quotas in *one* version each go by
    /// their own; if the windows differ as well, that may refuse too much until they agree.
    pub fn version(mut self, version: u32) -> Self {
        self.policy.version = version;
        self.policy.terms = Terms::new(self.policy.quota, version);
        self
    }
}

impl<K, C> fmt::Debug for Rule<K, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rule")
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

/// The part of a rule that a store needs: its name and quota.
#[derive(Clone, Debug)]
pub struct Policy {
    name: Cow<'static, str>,
    quota: Quota,
    version: u32,
    terms: Terms,
}

impl Policy {
    /// The rule's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The rule's quota.
    #[must_use]
    pub const fn quota(&self) -> Quota {
        self.quota
    }

    /// The rule's version.
    #[must_use]
    pub const fn version(&self) -> u32 {
        self.version
    }

    /// The quota in the units of the arithmetic.
    #[must_use]
    pub const fn terms(&self) -> Terms {
        self.terms
    }

    pub(crate) fn shared_name(&self) -> Cow<'static, str> {
        self.name.clone()
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

/// The rules of a layer: `()`, or a list with one rule more. Sealed.
pub trait Rules: Clone + sealed::Sealed {
    /// How many there are.
    const LEN: usize;
}

/// [`Rules`] that can read requests of this type. Sealed.
pub trait Apply<Req>: Rules {
    /// Calls `visit` with number, policy, key and cost for each rule that applies, in their order,
    /// until it returns an error.
    #[doc(hidden)]
    fn apply<'a, E>(
        &'a self,
        request: &'a Req,
        visit: &mut impl FnMut(usize, &'a Policy, Key<'a>, u32) -> Result<(), E>,
    ) -> Result<(), E>;
}

/// A list with one rule more.
pub type And<Rs, K, C> = (Rs, Arc<Rule<K, C>>);

impl Rules for () {
    const LEN: usize = 0;
}

impl<Req> Apply<Req> for () {
    fn apply<'a, E>(
        &'a self,
        _: &'a Req,
        _: &mut impl FnMut(usize, &'a Policy, Key<'a>, u32) -> Result<(), E>,
    ) -> Result<(), E> {
        Ok(())
    }
}

impl<R: Rules, K, C> Rules for And<R, K, C> {
    const LEN: usize = R::LEN + 1;
}

impl<Req, R, K, C> Apply<Req> for And<R, K, C>
where
    R: Apply<Req>,
    K: Extract<Req>,
    C: Cost<Req>,
{
    fn apply<'a, E>(
        &'a self,
        request: &'a Req,
        visit: &mut impl FnMut(usize, &'a Policy, Key<'a>, u32) -> Result<(), E>,
    ) -> Result<(), E> {
        self.0.apply(request, visit)?;
        let rule = &*self.1;
        match rule.extract.extract(request) {
            Some(key) => visit(R::LEN, &rule.policy, key, rule.cost.cost(request)),
            None => Ok(()),
        }
    }
}

mod sealed {
    use super::And;

    pub trait Sealed {}
    impl Sealed for () {}
    impl<R: Sealed, K, C> Sealed for And<R, K, C> {}
}
