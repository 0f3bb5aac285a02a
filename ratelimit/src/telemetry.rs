//! Every `cfg` for tracing and metrics. Labels are names of rules, which come from code, never keys.

use crate::decision::Decision;
use crate::error::CostAboveLimit;
use crate::policy::Policy;

/// `seawall_ratelimit_decisions_total{rule, outcome}` of one rule. The counters are looked up once, when
/// the layer is applied, so that counting allocates nothing.
#[cfg(feature = "metrics")]
struct RuleCounters {
    allowed: metrics::Counter,
    refused: metrics::Counter,
    /// Let through without the shared counters.
    degraded: metrics::Counter,
    cost_above_limit: metrics::Counter,
    denied: metrics::Counter,
    /// Had no room at first, and waits for it.
    delayed: metrics::Counter,
    /// What a shadow would have refused.
    shadow: metrics::Counter,
}

#[cfg(feature = "metrics")]
impl RuleCounters {
    fn of(rule: &Policy) -> Self {
        let counter = |outcome: &'static str| {
            metrics::counter!(
                "seawall_ratelimit_decisions_total",
                "rule" => rule.shared_name(),
                "outcome" => outcome,
            )
        };
        Self {
            allowed: counter("allowed"),
            refused: counter("refused"),
            degraded: counter("degraded"),
            cost_above_limit: counter("cost_above_limit"),
            denied: counter("denied"),
            delayed: counter("delayed"),
            shadow: counter("shadow"),
        }
    }
}

/// What a limiter tells of its decisions.
pub(crate) struct Telemetry {
    #[cfg(feature = "metrics")]
    rules: Box<[RuleCounters]>,
}

impl Telemetry {
    pub(crate) fn of(policies: &[Policy]) -> Self {
        #[cfg(not(feature = "metrics"))]
        let _ = policies;
        Self {
            #[cfg(feature = "metrics")]
            rules: policies.iter().map(RuleCounters::of).collect(),
        }
    }

    #[inline]
    pub(crate) fn decided(&self, policies: &[Policy], decision: &Decision) {
        #[cfg(feature = "metrics")]
        for (rule, outcome) in decision.iter() {
            let rule = &self.rules[rule];
            match (outcome.passes(), decision.is_degraded()) {
                (false, _) if outcome.is_shadow() => rule.shadow.increment(1),
                (false, _) => rule.refused.increment(1),
                // It had room for a request that another rule refuses: nothing was counted.
                (true, _) if !decision.passes() => {}
                (true, true) => rule.degraded.increment(1),
                (true, false) => rule.allowed.increment(1),
            }
        }
        #[cfg(feature = "tracing")]
        for (rule, outcome) in decision.iter().filter(|(_, outcome)| !outcome.passes()) {
            tracing::debug!(
                rule = policies[rule].name(),
                limit = outcome.limit(),
                wait = ?outcome.wait(),
                degraded = decision.is_degraded(),
                shadow = outcome.is_shadow(),
                "over the rate limit"
            );
        }
        let _ = (policies, decision);
    }

    pub(crate) fn delayed(&self, policies: &[Policy], decision: &Decision) {
        let full = decision
            .iter()
            .filter(|(_, outcome)| !outcome.passes() && !outcome.is_shadow());
        for (rule, outcome) in full {
            #[cfg(feature = "metrics")]
            self.rules[rule].delayed.increment(1);
            #[cfg(feature = "tracing")]
            tracing::debug!(
                rule = policies[rule].name(),
                wait = ?outcome.wait(),
                "waits for room under the rate limit"
            );
            let _ = (policies, rule, outcome);
        }
    }

    pub(crate) fn cost_above_limit(&self, rule: usize, policy: &Policy, error: &CostAboveLimit) {
        #[cfg(feature = "metrics")]
        match policy.is_shadow() {
            true => self.rules[rule].shadow.increment(1),
            false => self.rules[rule].cost_above_limit.increment(1),
        }
        #[cfg(feature = "tracing")]
        tracing::debug!(
            rule = policy.name(),
            cost = error.cost,
            limit = error.limit,
            shadow = policy.is_shadow(),
            "the cost is above the limit"
        );
        let _ = (rule, policy, error);
    }

    pub(crate) fn denied(&self, rule: usize, policy: &Policy) {
        #[cfg(feature = "metrics")]
        match policy.is_shadow() {
            true => self.rules[rule].shadow.increment(1),
            false => self.rules[rule].denied.increment(1),
        }
        #[cfg(feature = "tracing")]
        tracing::debug!(
            rule = policy.name(),
            shadow = policy.is_shadow(),
            "denied by its plan"
        );
        let _ = (rule, policy);
    }
}

/// The store did not decide; the outage policy does: `seawall_ratelimit_outages_total{policy}`.
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
