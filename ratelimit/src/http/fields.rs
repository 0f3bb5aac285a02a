//! The fields of the IETF draft on rate limits, and those of before it.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::decision::Decision;
use crate::limiter::Limiter;
use crate::policy::Policy;
use crate::store::Store;
use crate::window::Outcome;

static RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
static RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
static LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
static REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
static RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");
/// Enough for an item of a usual rule, so that a field is written in one allocation.
const ITEM: usize = 48;

/// What `RateLimit-Policy` says: the same in all responses until a quota changes.
pub(crate) struct PolicyField {
    written: ArcSwap<Written>,
}

struct Written {
    /// How often quotas had been changed when it was written.
    changes: u64,
    value: HeaderValue,
}

impl PolicyField {
    pub(crate) fn new(policies: &[Policy]) -> Self {
        Self {
            written: ArcSwap::from_pointee(Written::new(policies)),
        }
    }

    fn value(&self, policies: &[Policy], decision: &Decision) -> HeaderValue {
        if decision
            .iter()
            .any(|(rule, outcome)| !is_regular(&policies[rule], &outcome))
        {
            return policy_field(policies, decision);
        }
        let written = self.written.load();
        if written.changes == changes(policies) {
            return written.value.clone();
        }
        let anew = Written::new(policies);
        let value = anew.value.clone();
        self.written.store(Arc::new(anew));
        value
    }
}

impl Written {
    fn new(policies: &[Policy]) -> Self {
        Self {
            changes: changes(policies),
            value: policy_field(policies, &Decision::empty()),
        }
    }
}

fn changes(policies: &[Policy]) -> u64 {
    policies.iter().map(Policy::changes).sum()
}

/// Whether the quota by which a request was judged is that of the rule.
fn is_regular(policy: &Policy, outcome: &Outcome) -> bool {
    let terms = policy.terms();
    let window = outcome.window();
    outcome.limit() == terms.limit() && window.is_none_or(|window| window == terms.window())
}

/// Each rule with the quota by which this request was judged, else its regular one.
fn policy_field(policies: &[Policy], decision: &Decision) -> HeaderValue {
    let enforced = policies.iter().enumerate();
    let enforced = enforced.filter(|(_, policy)| !policy.is_shadow());
    field(enforced, |text, (number, policy)| {
        let mut outcomes = decision.iter();
        let judged = outcomes.find(|(rule, _)| *rule == number);
        let (limit, window) = match judged {
            Some((_, outcome)) => (outcome.limit(), outcome.window()),
            None => (policy.quota().limit(), None),
        };
        let window = whole_seconds(window.unwrap_or(policy.quota().window()));
        write!(text, "\"{}\";q={limit};w={window}", policy.name())
    })
}

fn ratelimit_field(policies: &[Policy], decision: &Decision) -> HeaderValue {
    let enforced = decision.iter().filter(|(_, outcome)| !outcome.is_shadow());
    field(enforced, |text, (rule, outcome)| {
        let reset = whole_seconds(outcome.reset());
        write!(
            text,
            "\"{}\";r={};t={reset}",
            policies[rule].name(),
            outcome.remaining()
        )
    })
}

/// A list of structured fields, one item for each.
fn field<T>(
    items: impl Iterator<Item = T>,
    mut write_item: impl FnMut(&mut BytesMut, T) -> std::fmt::Result,
) -> HeaderValue {
    let mut text = BytesMut::with_capacity(items.size_hint().1.unwrap_or(1) * ITEM);
    for item in items {
        if !text.is_empty() {
            text.extend_from_slice(b", ");
        }
        write_item(&mut text, item).expect("a buffer grows as it must");
    }
    HeaderValue::from_maybe_shared(text.freeze()).expect("names of rules are printable ASCII")
}

/// What responses tell of a decision.
pub(crate) struct Told {
    policy: HeaderValue,
    left: HeaderValue,
    legacy: Option<Legacy>,
}

/// Of the one rule that is nearest to its end.
struct Legacy {
    limit: u32,
    remaining: u32,
    /// In seconds.
    reset: u64,
}

impl Told {
    /// Nothing, if no rule applied but shadows.
    pub(super) fn of<St: Store, Rs>(
        limiter: &Limiter<St, Rs>,
        decision: &Decision,
        legacy: bool,
    ) -> Option<Self> {
        let policies = limiter.policies();
        let enforced = decision.iter().filter(|(_, outcome)| !outcome.is_shadow());
        let least = enforced.min_by_key(|(_, outcome)| (outcome.passes(), outcome.remaining()));
        let (_, least) = least?;
        let legacy = legacy.then(|| Legacy {
            limit: least.limit(),
            remaining: least.remaining(),
            reset: whole_seconds(least.reset()),
        });
        Some(Self {
            policy: limiter.policy_field().value(policies, decision),
            left: ratelimit_field(policies, decision),
            legacy,
        })
    }

    /// Adds what is left under each rule. Appended, as a layer further in may have told of its own rules.
    pub(super) fn tell(self, headers: &mut HeaderMap) {
        headers.append(&RATELIMIT_POLICY, self.policy);
        headers.append(&RATELIMIT, self.left);
        if let Some(legacy) = self.legacy {
            headers.insert(&LIMIT, legacy.limit.into());
            headers.insert(&REMAINING, legacy.remaining.into());
            headers.insert(&RESET, legacy.reset.into());
        }
    }
}

/// Rounded up: who comes back after so many seconds is never early.
pub(super) const fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + (duration.subsec_nanos() > 0) as u64
}
