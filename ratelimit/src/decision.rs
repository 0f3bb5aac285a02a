use std::fmt;

use arrayvec::ArrayVec;

use crate::key::Key;
use crate::policy::Policy;
use crate::rules::MAX_RULES;
use crate::window::{Outcome, Terms};

/// What one request asks of one rule.
#[derive(Debug)]
pub struct Charge<'a, S> {
    pub(crate) number: u8,
    pub(crate) policy: &'a Policy,
    pub(crate) scope: &'a S,
    pub(crate) key: Key<'a>,
    pub(crate) cost: u32,
    pub(crate) terms: Terms,
}

// By hand: a copy of the reference needs no copy of the scope.
impl<S> Clone for Charge<'_, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for Charge<'_, S> {}

impl<'a, S> Charge<'a, S> {
    /// The rule's place in its layer.
    #[must_use]
    pub const fn number(&self) -> u8 {
        self.number
    }

    /// The rule's name and its regular quota.
    #[must_use]
    pub const fn policy(&self) -> &'a Policy {
        self.policy
    }

    /// What the store keeps for the rule.
    #[must_use]
    pub const fn scope(&self) -> &'a S {
        self.scope
    }

    /// Whose quota it is.
    #[must_use]
    pub const fn key(&self) -> Key<'a> {
        self.key
    }

    /// Units to take, at most the limit of the terms.
    #[must_use]
    pub const fn cost(&self) -> u32 {
        self.cost
    }

    /// The quota that holds for this request, which need not be the rule's regular one.
    #[must_use]
    pub const fn terms(&self) -> Terms {
        self.terms
    }

    /// Whether the rule only counts: if it has no room, the request may pass all the same. What it says has
    /// to be marked by [`Outcome::in_shadow`].
    #[must_use]
    pub const fn is_shadow(&self) -> bool {
        self.policy.is_shadow()
    }

    /// Whether the request may pass by what the rule says.
    #[inline]
    pub(crate) const fn lets_pass(&self, outcome: &Outcome) -> bool {
        outcome.passes() || self.is_shadow()
    }
}

/// What one request asks of all rules that apply to it. No two are of one rule.
pub struct Charges<'a, S> {
    list: ArrayVec<Charge<'a, S>, MAX_RULES>,
}

impl<'a, S> Charges<'a, S> {
    #[inline]
    pub(crate) const fn new() -> Self {
        Self {
            list: ArrayVec::new_const(),
        }
    }

    #[inline]
    pub(crate) fn push(&mut self, charge: Charge<'a, S>) {
        self.list.push(charge);
    }

    /// How many rules apply.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether no rule applies.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The one rule that applies, if it is one.
    #[inline]
    pub(crate) fn only(&self) -> Option<&Charge<'a, S>> {
        match self.list.as_slice() {
            [only] => Some(only),
            _ => None,
        }
    }

    #[inline]
    pub(crate) fn as_slice(&self) -> &[Charge<'a, S>] {
        &self.list
    }

    pub(crate) fn at(&self, place: u8) -> &Charge<'a, S> {
        &self.list[usize::from(place)]
    }

    /// Each of them, in the order of the layer's rules.
    #[inline]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Charge<'a, S>> {
        self.list.iter().copied()
    }
}

impl<S: fmt::Debug> fmt::Debug for Charges<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// What all rules together say to one request: it passes if it passes each that is no shadow.
///
/// It lies on the stack, with room for all rules that a layer can have, so it is handed on by reference where that
/// can be.
#[derive(Clone)]
pub struct Decision {
    /// By the number of the rule.
    outcomes: ArrayVec<(u8, Outcome), MAX_RULES>,
    passes: bool,
    degraded: bool,
    /// When it was charged, in microseconds of the store's clock, plus one; 0 if there is nothing to give back.
    moment: u64,
}

impl Decision {
    /// The decision for a request to which no rule applies: it passes.
    #[must_use]
    #[inline]
    pub const fn empty() -> Self {
        Self {
            outcomes: ArrayVec::new_const(),
            passes: true,
            degraded: false,
            moment: 0,
        }
    }

    /// Adds what a rule says, by the rule's [number](Charge::number).
    ///
    /// # Panics
    ///
    /// When there are as many as a layer can have rules.
    #[inline]
    pub fn push(&mut self, rule: u8, outcome: Outcome) {
        self.outcomes.push((rule, outcome));
        self.passes &= outcome.passes() || outcome.is_shadow();
    }

    /// Marks a decision that was not made by the shared counters, since those were out of reach.
    #[must_use]
    pub fn degraded(mut self) -> Self {
        self.degraded = true;
        self
    }

    /// Tells when it was charged, if it was, so that it can be given back.
    #[inline]
    pub(crate) const fn charged_at(&mut self, moment: u64) {
        self.moment = if self.passes { moment + 1 } else { 0 };
    }

    /// When it was charged, if there is something to give back.
    pub(crate) const fn moment(&self) -> Option<u64> {
        self.moment.checked_sub(1)
    }

    /// Whether the request passes all rules.
    #[must_use]
    #[inline]
    pub const fn passes(&self) -> bool {
        self.passes
    }

    /// Whether it was made without the shared counters.
    #[must_use]
    pub const fn is_degraded(&self) -> bool {
        self.degraded
    }

    /// The number of each rule that applied, and what it says.
    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = (usize, Outcome)> + '_ {
        let outcomes = self.outcomes.iter();
        outcomes.map(|&(rule, outcome)| (usize::from(rule), outcome))
    }
}

impl fmt::Debug for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decision")
            .field("passes", &self.passes())
            .field("degraded", &self.degraded)
            .field("outcomes", &self.iter().collect::<Vec<_>>())
            .finish()
    }
}

/// A decision, at once where the store has it at hand.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "boxing it would allocate for each decision"
)]
pub enum Verdict<F> {
    /// It is made.
    Now(Decision),
    /// It will be.
    Later(F),
}
