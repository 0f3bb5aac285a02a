//! Where the counters are kept.

mod hash;
#[cfg(feature = "redis")]
pub(crate) mod leased;
pub(crate) mod memory;
mod named;
#[cfg(feature = "redis")]
pub(crate) mod redis;
mod table;

use std::future::Future;
use std::time::Duration;

use crate::decision::{Charge, Charges, Decision, Verdict};
use crate::error::StoreError;
use crate::policy::Policy;
use crate::window::{Outcome, WindowKind};

/// Keeps the counters and decides.
///
/// # Contract
///
/// - **All or nothing**: if one rule has no room, nothing is charged under any of them. Except for
///   [shadows](crate::Charge::is_shadow): they keep nobody out, and one without room is not charged.
/// - The quota of a charge is in its [terms](crate::Charge::terms), and may differ from one request to the next.
/// - **Strict**: no trailing window ever holds more than its limit, by the store's own clock.
/// - Keys come from outside. They are hashed together with their rule's name, and what is kept of
///   them is bounded.
/// - Clones share everything.
pub trait Store: Clone {
    /// What the store keeps at hand for each rule: made once, when the layer is applied.
    type Scope;
    /// A decision that is not at hand.
    type Deciding: Future<Output = Result<Decision, StoreError>>;

    /// Makes ready for a rule. Rules of one name share their counters.
    fn scope(&self, policy: &Policy) -> Self::Scope;

    /// Whether it can count in such windows. A layer does not take a rule of another kind.
    fn keeps(&self, kind: WindowKind) -> bool {
        kind == WindowKind::Sliding
    }

    /// Checks all rules, and charges them if all have room.
    fn decide(&self, charges: &Charges<'_, Self::Scope>) -> Verdict<Self::Deciding>;

    /// [`decide`](Store::decide) where there is a place for the decision, which is large: puts it there if it is at
    /// hand, else returns what it comes from.
    fn decide_into(
        &self,
        charges: &Charges<'_, Self::Scope>,
        decision: &mut Decision,
    ) -> Option<Self::Deciding> {
        match self.decide(charges) {
            Verdict::Now(made) => {
                *decision = made;
                None
            }
            Verdict::Later(deciding) => Some(deciding),
        }
    }
}

/// What an operator does to one key of one rule.
///
/// The cost of the [`Charge`] that names the key does not matter.
pub trait Operate: Store {
    /// What the key has left. Changes nothing.
    fn peek(
        &self,
        of: &Charge<'_, Self::Scope>,
    ) -> impl Future<Output = Result<Standing, StoreError>> + Send;

    /// Forgets what was counted. A block stays.
    fn reset(
        &self,
        of: &Charge<'_, Self::Scope>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Refuses all requests of the key for so long, whatever it has left. Their wait is what is left of the
    /// block.
    fn block(
        &self,
        of: &Charge<'_, Self::Scope>,
        time: Duration,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Lifts a block. What was counted stays.
    fn unblock(
        &self,
        of: &Charge<'_, Self::Scope>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// What a decision has charged, kept for [`refund`](Operate::refund).
    type Receipt: Send + 'static;

    /// Makes a receipt of a decision about these charges.
    fn receipt(&self, charges: &Charges<'_, Self::Scope>, decision: &Decision) -> Self::Receipt;

    /// Gives back what was charged, to the buckets that were charged, so that it counts for no window from
    /// now on. It never waits, and is done as soon as it can be.
    ///
    /// What is no longer remembered as it was charged (its bucket is gone, or the rule has another window
    /// by now) is not given back.
    fn refund(&self, receipt: Self::Receipt);
}

/// How a key stands under a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    pub(crate) outcome: Outcome,
    pub(crate) blocked_for: Option<Duration>,
}

impl Standing {
    /// What a request that takes nothing would be told: limit, units left, time until all are back.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// For how long the key is blocked yet.
    #[must_use]
    pub const fn blocked_for(&self) -> Option<Duration> {
        self.blocked_for
    }
}
