//! What happens to requests about which Redis does not decide.

use super::batch::Request;
use crate::decision::{Charge, Charges, Decision};
use crate::error::{ConfigError, StoreError};
use crate::policy::Policy;
use crate::store::Store;
use crate::store::memory::{MemoryScope, MemoryStore};
use crate::telemetry;
use crate::window::Terms;

/// How many keys of a rule the local stand-in tells apart.
const LOCAL_KEYS: usize = 100_000;

/// What to do with a request when the store does not decide: it is out of reach or too slow, its breaker
/// is open, or a foreign value lies under a key.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Outage {
    /// Refuse it, as [`RateLimitError::Store`](crate::RateLimitError::Store) or 503: no limit is ever
    /// exceeded. The default, for a limit that protects something.
    #[default]
    Closed,
    /// Let it pass without counting it: nobody is refused because of the limiter.
    Open,
    /// Hold it to a share of each quota in this process: strict here, from an empty window when the
    /// outage begins. With `n` processes, a share of `1 / n` keeps the sum of them within the quotas.
    ///
    /// Up to 100,000 keys of a rule are told apart, as by a [`MemoryStore`].
    Local {
        /// Above 0 and at most 1. The share of a quota is rounded down, but is at least 1 unit; a
        /// request that costs more takes the whole of it.
        share: f64,
    },
}

impl Outage {
    pub(super) fn check(self) -> Result<(), ConfigError> {
        match self {
            Self::Local { share } if !(share > 0.0 && share <= 1.0) => {
                Err(ConfigError::Share(share))
            }
            _ => Ok(()),
        }
    }
}

/// The counters that stand in, where the policy asks for such.
#[derive(Clone, Debug)]
pub(super) struct Standby {
    local: Option<(MemoryStore, f64)>,
}

/// A rule as the stand-in has it.
#[derive(Debug)]
pub(super) struct LocalRule {
    policy: Policy,
    scope: MemoryScope,
}

impl Standby {
    pub(super) fn of(outage: Outage) -> Self {
        Self {
            local: match outage {
                Outage::Local { share } => Some((MemoryStore::with_capacity(LOCAL_KEYS), share)),
                Outage::Closed | Outage::Open => None,
            },
        }
    }

    pub(super) fn rule(&self, policy: &Policy) -> Option<LocalRule> {
        let (store, _) = self.local.as_ref()?;
        Some(LocalRule {
            scope: store.scope(policy),
            policy: policy.clone(),
        })
    }

    pub(super) fn decide(
        &self,
        outage: Outage,
        request: &Request,
        error: StoreError,
    ) -> Result<Decision, StoreError> {
        match (outage, &self.local) {
            (Outage::Open, _) => {
                telemetry::outage("open", &error);
                Ok(Decision::empty().degraded())
            }
            (Outage::Local { .. }, Some((store, share))) => {
                telemetry::outage("local", &error);
                Ok(decide_locally(store, *share, request))
            }
            _ => {
                telemetry::outage("closed", &error);
                Err(error)
            }
        }
    }
}

fn decide_locally(store: &MemoryStore, share: f64, request: &Request) -> Decision {
    let mut charges = Charges::new();
    for asked in request.rules() {
        if let Some(local) = &asked.rule.local {
            let terms = share_of(asked.terms, share);
            charges.push(Charge {
                number: asked.number,
                policy: &local.policy,
                scope: &local.scope,
                key: asked.hash.as_slice().into(),
                cost: asked.cost.min(terms.limit()),
                terms,
            });
        }
    }
    store.decide_now(&charges).degraded()
}

fn share_of(terms: Terms, share: f64) -> Terms {
    let limit = (f64::from(terms.limit) * share) as u32;
    Terms {
        limit: limit.max(1),
        ..terms
    }
}
