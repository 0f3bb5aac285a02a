use std::fmt;
use std::sync::Arc;

use crate::key::{Extract, Key};
use crate::plan::{Plan, PlanFor};
use crate::policy::Policy;
use crate::rule::{Cost, Rule};

/// The most rules one layer can hold: a decision lives on the stack.
pub const MAX_RULES: usize = 8;

/// What one rule makes of a request.
#[derive(Debug)]
pub struct Ask<'a> {
    pub(crate) policy: &'a Policy,
    pub(crate) key: Key<'a>,
    pub(crate) cost: u32,
    pub(crate) plan: Plan,
}

/// The rules of a layer: `()`, a [list from outside the code](BoxRules), or a list with one rule more.
/// Sealed.
pub trait Rules: Clone + sealed::Sealed {
    /// How many there are.
    fn count(&self) -> usize;
}

/// [`Rules`] that can read requests of this type. Sealed.
pub trait Apply<Req>: Rules {
    /// Calls `visit` with its number and what it asks for each rule that applies, in their order,
    /// until it returns an error.
    #[doc(hidden)]
    fn apply<'a, E>(
        &'a self,
        request: &'a Req,
        visit: &mut impl FnMut(usize, Ask<'a>) -> Result<(), E>,
    ) -> Result<(), E>;
}

/// A list with one rule more.
pub type And<Rs, K, C, P> = (Rs, Arc<Rule<K, C, P>>);

impl Rules for () {
    #[inline]
    fn count(&self) -> usize {
        0
    }
}

impl<Req> Apply<Req> for () {
    #[inline]
    fn apply<'a, E>(
        &'a self,
        _: &'a Req,
        _: &mut impl FnMut(usize, Ask<'a>) -> Result<(), E>,
    ) -> Result<(), E> {
        Ok(())
    }
}

impl<R: Rules, K, C, P> Rules for And<R, K, C, P> {
    #[inline]
    fn count(&self) -> usize {
        self.0.count() + 1
    }
}

impl<Req, R, K, C, P> Apply<Req> for And<R, K, C, P>
where
    R: Apply<Req>,
    K: Extract<Req>,
    C: Cost<Req>,
    P: PlanFor<Req>,
{
    #[inline]
    fn apply<'a, E>(
        &'a self,
        request: &'a Req,
        visit: &mut impl FnMut(usize, Ask<'a>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.0.apply(request, visit)?;
        match self.1.ask(request) {
            Some(ask) => visit(self.0.count(), ask),
            None => Ok(()),
        }
    }
}

/// A rule without its types. Made by [`Rule::boxed`].
pub struct BoxRule<Req> {
    rule: Arc<dyn Asks<Req> + Send + Sync>,
}

trait Asks<Req> {
    fn ask<'a>(&'a self, request: &'a Req) -> Option<Ask<'a>>;
    fn policy(&self) -> &Policy;
}

impl<Req, K, C, P> Asks<Req> for Rule<K, C, P>
where
    K: Extract<Req>,
    C: Cost<Req>,
    P: PlanFor<Req>,
{
    fn ask<'a>(&'a self, request: &'a Req) -> Option<Ask<'a>> {
        Self::ask(self, request)
    }

    fn policy(&self) -> &Policy {
        &self.policy
    }
}

impl<Req> BoxRule<Req> {
    pub(crate) fn new<K, C, P>(rule: Rule<K, C, P>) -> Self
    where
        K: Extract<Req> + Send + Sync + 'static,
        C: Cost<Req> + Send + Sync + 'static,
        P: PlanFor<Req> + Send + Sync + 'static,
    {
        Self {
            rule: Arc::new(rule),
        }
    }

    pub(crate) fn policy(&self) -> &Policy {
        self.rule.policy()
    }
}

// By hand: a rule is shared, whatever the requests are.
impl<Req> Clone for BoxRule<Req> {
    fn clone(&self) -> Self {
        Self {
            rule: Arc::clone(&self.rule),
        }
    }
}

impl<Req> fmt::Debug for BoxRule<Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BoxRule").field(self.policy()).finish()
    }
}

/// Rules that are only known at run time, as from a file. Made by
/// [`RateLimitLayer::rules`](crate::RateLimitLayer::rules).
pub struct BoxRules<Req> {
    pub(crate) rules: Arc<[BoxRule<Req>]>,
}

impl<Req> Clone for BoxRules<Req> {
    fn clone(&self) -> Self {
        Self {
            rules: Arc::clone(&self.rules),
        }
    }
}

impl<Req> Rules for BoxRules<Req> {
    fn count(&self) -> usize {
        self.rules.len()
    }
}

impl<Req> Apply<Req> for BoxRules<Req> {
    fn apply<'a, E>(
        &'a self,
        request: &'a Req,
        visit: &mut impl FnMut(usize, Ask<'a>) -> Result<(), E>,
    ) -> Result<(), E> {
        for (number, rule) in self.rules.iter().enumerate() {
            if let Some(ask) = rule.rule.ask(request) {
                visit(number, ask)?;
            }
        }
        Ok(())
    }
}

impl<Req> fmt::Debug for BoxRules<Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.rules.iter()).finish()
    }
}

mod sealed {
    use super::{And, BoxRules};

    pub trait Sealed {}
    impl Sealed for () {}
    impl<R: Sealed, K, C, P> Sealed for And<R, K, C, P> {}
    impl<Req> Sealed for BoxRules<Req> {}
}
