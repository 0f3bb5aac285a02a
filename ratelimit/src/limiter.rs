use std::fmt;

use crate::decision::{Charge, Charges, Decision, Verdict};
use crate::error::{CostAboveLimit, RateLimitError, Refused, Violation};
use crate::rule::{Apply, Policy};
use crate::store::Store;
use crate::telemetry::Telemetry;
use crate::window::Wait;

/// The store with the rules: what all clones of a service share.
pub(crate) struct Limiter<St: Store, Rs> {
    store: St,
    rules: Rs,
    policies: Box<[Policy]>,
    scopes: Box<[St::Scope]>,
    telemetry: Telemetry,
    #[cfg(feature = "http")]
    policy_field: http::HeaderValue,
}

impl<St: Store, Rs> Limiter<St, Rs> {
    pub(crate) fn new(store: St, rules: Rs, policies: &[Policy]) -> Self {
        Self {
            scopes: policies.iter().map(|policy| store.scope(policy)).collect(),
            policies: policies.into(),
            telemetry: Telemetry::of(policies),
            #[cfg(feature = "http")]
            policy_field: crate::http::policy_field(policies),
            store,
            rules,
        }
    }

    #[cfg(feature = "http")]
    pub(crate) fn policies(&self) -> &[Policy] {
        &self.policies
    }

    #[cfg(feature = "http")]
    pub(crate) const fn policy_field(&self) -> &http::HeaderValue {
        &self.policy_field
    }

    pub(crate) fn decide<Req>(&self, request: &Req) -> Result<Verdict<St::Deciding>, RateLimitError>
    where
        Rs: Apply<Req>,
    {
        let mut charges = Charges::new();
        self.rules
            .apply(request, &mut |number, policy, key, cost| {
                if cost > policy.quota().limit() {
                    let error = CostAboveLimit {
                        rule: policy.shared_name(),
                        cost,
                        limit: policy.quota().limit(),
                    };
                    self.telemetry.cost_above_limit(number, &error);
                    return Err(RateLimitError::CostAboveLimit(error));
                }
                charges.push(Charge {
                    number: number as u8,
                    policy,
                    scope: &self.scopes[number],
                    key,
                    cost,
                });
                Ok(())
            })?;
        if charges.is_empty() {
            return Ok(Verdict::Now(Decision::empty()));
        }
        Ok(self.store.decide(&charges))
    }

    /// Nothing if the request passes, else the error that says why not.
    pub(crate) fn judge(&self, decision: &Decision) -> Result<(), RateLimitError> {
        self.telemetry.decided(&self.policies, decision);
        if decision.passes() {
            return Ok(());
        }
        let violations = decision.iter().filter_map(|(rule, outcome)| {
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
        Err(RateLimitError::Refused(Refused {
            violations: violations.collect(),
        }))
    }
}

impl<St: Store, Rs> fmt::Debug for Limiter<St, Rs> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.policies.iter()).finish()
    }
}
