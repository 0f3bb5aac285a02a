use std::fmt;

use crate::decision::{Charge, Charges, Decision, Verdict};
use crate::error::{CostAboveLimit, RateLimitError, Refused, Violation};
use crate::key::Key;
use crate::plan::Plan;
use crate::policy::Policy;
use crate::rules::Apply;
use crate::store::{Operate, Store};
use crate::telemetry::Telemetry;
use crate::top::TopRefused;
use crate::window::{Terms, Wait};

/// Whether what is found out about a request is news.
#[derive(Clone, Copy)]
enum Tell {
    All,
    /// It was told when the request came.
    Nothing,
}

/// The store with the rules: what all clones of a service share.
pub struct Limiter<St: Store, Rs> {
    store: St,
    rules: Rs,
    policies: Box<[Policy]>,
    scopes: Box<[St::Scope]>,
    telemetry: Telemetry,
    top: Option<TopRefused>,
    #[cfg(feature = "http")]
    policy_field: crate::http::PolicyField,
}

impl<St: Store, Rs> Limiter<St, Rs> {
    pub(crate) fn new(store: St, rules: Rs, policies: &[Policy], top: Option<TopRefused>) -> Self {
        Self {
            scopes: policies.iter().map(|policy| store.scope(policy)).collect(),
            policies: policies.into(),
            telemetry: Telemetry::of(policies),
            top,
            #[cfg(feature = "http")]
            policy_field: crate::http::PolicyField::new(policies),
            store,
            rules,
        }
    }

    #[cfg(feature = "http")]
    pub(crate) fn policies(&self) -> &[Policy] {
        &self.policies
    }

    #[cfg(feature = "http")]
    pub(crate) const fn policy_field(&self) -> &crate::http::PolicyField {
        &self.policy_field
    }

    #[inline]
    pub(crate) fn decide<Req>(&self, request: &Req) -> Result<Verdict<St::Deciding>, RateLimitError>
    where
        Rs: Apply<Req>,
    {
        // Made where it is returned, for it is large.
        let mut verdict = Ok(Verdict::Now(Decision::empty()));
        if let Ok(Verdict::Now(decision)) = &mut verdict {
            match self.decide_into(request, decision) {
                Ok(None) => {}
                Ok(Some(deciding)) => verdict = Ok(Verdict::Later(deciding)),
                Err(error) => verdict = Err(error),
            }
        }
        verdict
    }

    /// Decides into an empty decision, as [`Store::decide_into`] does.
    #[inline]
    pub(crate) fn decide_into<Req>(
        &self,
        request: &Req,
        decision: &mut Decision,
    ) -> Result<Option<St::Deciding>, RateLimitError>
    where
        Rs: Apply<Req>,
    {
        let mut charges = Charges::new();
        self.charge_all(request, Tell::All, &mut charges)?;
        if charges.is_empty() {
            return Ok(None);
        }
        Ok(self.store.decide_into(&charges, decision))
    }

    /// What the request asks of each rule, into a place that the caller has, as it is large.
    #[inline]
    fn charge_all<'a, Req>(
        &'a self,
        request: &'a Req,
        tell: Tell,
        charges: &mut Charges<'a, St::Scope>,
    ) -> Result<(), RateLimitError>
    where
        Rs: Apply<Req>,
    {
        self.rules.apply(request, &mut |number, ask| {
            let policy = ask.policy;
            let terms = match ask.plan {
                Plan::Regular => policy.terms(),
                Plan::Quota(quota) => Terms::new(quota, policy.version()),
                Plan::Unlimited => return Ok(()),
                Plan::Denied => return self.denied(number, policy, tell),
            };
            if ask.cost > terms.limit() {
                let (cost, limit) = (ask.cost, terms.limit());
                return self.cost_above_limit(number, policy, cost, limit, tell);
            }
            charges.push(Charge {
                number: number as u8,
                policy,
                scope: &self.scopes[number],
                key: ask.key,
                cost: ask.cost,
                terms,
            });
            Ok(())
        })
    }

    /// What a decision about this request has charged, to be given back.
    pub(crate) fn receipt<Req>(&self, request: &Req, decision: &Decision) -> Option<St::Receipt>
    where
        Rs: Apply<Req>,
        St: Operate,
    {
        let mut charges = Charges::new();
        self.charge_all(request, Tell::Nothing, &mut charges).ok()?;
        Some(self.store.receipt(&charges, decision))
    }

    /// What names a key of a rule to the store.
    pub(crate) fn charge<'a>(&'a self, rule: &str, key: Key<'a>) -> Option<Charge<'a, St::Scope>> {
        let mut policies = self.policies.iter();
        let number = policies.position(|policy| policy.name() == rule)?;
        let policy = &self.policies[number];
        Some(Charge {
            number: number as u8,
            policy,
            scope: &self.scopes[number],
            key,
            cost: 0,
            terms: policy.terms(),
        })
    }

    pub(crate) const fn store(&self) -> &St {
        &self.store
    }

    #[cold]
    fn denied(&self, number: usize, policy: &Policy, tell: Tell) -> Result<(), RateLimitError> {
        if let Tell::All = tell {
            self.telemetry.denied(number, policy);
        }
        if policy.is_shadow() {
            return Ok(());
        }
        let rule = policy.shared_name();
        Err(RateLimitError::Denied { rule })
    }

    #[cold]
    fn cost_above_limit(
        &self,
        number: usize,
        policy: &Policy,
        cost: u32,
        limit: u32,
        tell: Tell,
    ) -> Result<(), RateLimitError> {
        let error = CostAboveLimit {
            rule: policy.shared_name(),
            cost,
            limit,
        };
        if let Tell::All = tell {
            self.telemetry.cost_above_limit(number, policy, &error);
        }
        if policy.is_shadow() {
            return Ok(());
        }
        Err(RateLimitError::CostAboveLimit(error))
    }

    /// Nothing if the request passes, else the error that says why not.
    #[inline]
    pub(crate) fn judge<Req>(
        &self,
        request: &Req,
        decision: &Decision,
    ) -> Result<(), RateLimitError>
    where
        Rs: Apply<Req>,
    {
        self.telemetry.decided(&self.policies, decision);
        match self.refused(decision) {
            None => Ok(()),
            Some(refused) => {
                self.count_refused(request, decision);
                Err(RateLimitError::Refused(refused))
            }
        }
    }

    /// Counts whom the request was refused for. Its keys are looked for again: only a refusal has to know
    /// them once the store has decided.
    fn count_refused<Req>(&self, request: &Req, decision: &Decision)
    where
        Rs: Apply<Req>,
    {
        let Some(top) = &self.top else {
            return;
        };
        let mut charges = Charges::new();
        if self
            .charge_all(request, Tell::Nothing, &mut charges)
            .is_err()
        {
            return;
        }
        for charge in charges.iter() {
            let number = usize::from(charge.number);
            let mut outcomes = decision.iter();
            let outcome = outcomes.find(|(rule, _)| *rule == number);
            if outcome.is_some_and(|(_, outcome)| !outcome.passes() && !outcome.is_shadow()) {
                top.count(charge.policy.shared_name(), charge.key);
            }
        }
    }

    /// The rules that have no room, unless the request passes.
    pub(crate) fn refused(&self, decision: &Decision) -> Option<Refused> {
        if decision.passes() {
            return None;
        }
        let enforced = decision.iter().filter(|(_, outcome)| !outcome.is_shadow());
        let violations = enforced.filter_map(|(rule, outcome)| {
            let retry_after = match outcome.wait() {
                Wait::None => return None,
                Wait::Micros(micros) => Some(std::time::Duration::from_micros(micros)),
                Wait::Forever => None,
            };
            Some(Violation {
                rule: self.policies[rule].shared_name(),
                limit: outcome.limit(),
                remaining: outcome.remaining(),
                retry_after,
            })
        });
        Some(Refused {
            violations: violations.collect(),
        })
    }

    /// Tells of a request that begins to wait for room.
    pub(crate) fn delayed(&self, decision: &Decision) {
        self.telemetry.delayed(&self.policies, decision);
    }
}

impl<St: Store, Rs> fmt::Debug for Limiter<St, Rs> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.policies.iter()).finish()
    }
}
