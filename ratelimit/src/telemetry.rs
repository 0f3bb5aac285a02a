//! Every `cfg` for tracing and metrics. Labels are names of rules, which come from code, never keys.

use crate::decision::Decision;
use crate::error::CostAboveLimit;
use crate::rule::Policy;

/// `seawall_ratelimit_decisions_total{rule, outcome}`: `allowed`, `refused`, or `degraded` for what
/// was let through without the shared counters.
#[cfg(feature = "metrics")]
fn count(rule: &Policy, outcome: &'static str) {
    metrics::counter!(
        "seawall_ratelimit_decisions_total",
        "rule" => rule.shared_name(),
        "outcome" => outcome,
    )
    .increment(1);
}

#[cfg(any(feature = "tracing", feature = "metrics"))]
pub(crate) fn decided(policies: &[Policy], decision: &Decision) {
    for (rule, outcome) in decision.iter() {
        let rule = &policies[rule];
        #[cfg(feature = "metrics")]
        count(
            rule,
            match (outcome.passes(), decision.is_degraded()) {
                (false, _) => "refused",
                (true, true) => "degraded",
                (true, false) => "allowed",
            },
        );
        #[cfg(feature = "tracing")]
        if !outcome.passes() {
            tracing::debug!(
                rule = rule.name(),
                limit = outcome.limit(),
                wait = ?outcome.wait(),
                degraded = decision.is_degraded(),
                "over the rate limit"
            );
        }
    }
}

#[cfg(not(any(feature = "tracing", feature = "metrics")))]
pub(crate) fn decided(_: &[Policy], _: &Decision) {}

pub(crate) fn cost_above_limit(error: &CostAboveLimit) {
    #[cfg(feature = "metrics")]
    metrics::counter!(
        "seawall_ratelimit_decisions_total",
        "rule" => error.rule.clone(),
        "outcome" => "cost_above_limit",
    )
    .increment(1);
    #[cfg(feature = "tracing")]
    tracing::debug!(
        rule = &*error.rule,
        cost = error.cost,
        "the cost is above the limit"
    );
    let _ = error;
}

/// The store did not decide; the outage policy does.
#[cfg(feature = "redis")]
pub(crate) fn outage(policy: &'static str, error: &crate::error::StoreError) {
    #[cfg(feature = "metrics")]
    metrics::counter!("seawall_ratelimit_outages_total", "policy" => policy).increment(1);
    #[cfg(feature = "tracing")]
    tracing::warn!(
        policy,
        error = error as &(dyn std::error::Error + 'static),
        "the store of the rate limits did not decide"
    );
    let _ = (policy, error);
}
