//! Where the counters are kept.

pub(crate) mod memory;
#[cfg(feature = "redis")]
pub(crate) mod redis;
mod table;

use std::future::Future;

use crate::decision::{Charges, Decision, Verdict};
use crate::error::StoreError;
use crate::policy::Policy;

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

    /// Checks all rules, and charges them if all have room.
    fn decide(&self, charges: &Charges<'_, Self::Scope>) -> Verdict<Self::Deciding>;
}
