use crate::key::Key;
use crate::quota::Quota;

/// How a rule treats one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Plan {
    /// As all others.
    #[default]
    Regular,
    /// Under a quota of its own. What the key consumed is kept in one record whatever its quota, so a
    /// tenant whose plan changes keeps what it used.
    Quota(Quota),
    /// Not at all: the rule does not apply.
    Unlimited,
    /// It is refused, as [`RateLimitError::Denied`](crate::RateLimitError::Denied), whatever was
    /// consumed.
    Denied,
}

/// Finds the plan of a request. Closures implement it; they go into [`Rule::plan`](crate::Rule::plan).
pub trait PlanFor<Req> {
    /// The plan, given the key that the rule found.
    fn plan(&self, request: &Req, key: Key<'_>) -> Plan;
}

/// All requests are regular ones.
#[derive(Clone, Copy, Debug)]
pub struct SamePlan;

impl<Req> PlanFor<Req> for SamePlan {
    #[inline]
    fn plan(&self, _: &Req, _: Key<'_>) -> Plan {
        Plan::Regular
    }
}

impl<Req, F> PlanFor<Req> for F
where
    F: for<'a> Fn(&'a Req, Key<'a>) -> Plan,
{
    fn plan(&self, request: &Req, key: Key<'_>) -> Plan {
        // One lifetime for both, as the closure has it.
        fn call<'a, Req>(
            plan: &impl Fn(&'a Req, Key<'a>) -> Plan,
            request: &'a Req,
            key: Key<'a>,
        ) -> Plan {
            plan(request, key)
        }
        call(self, request, key)
    }
}
