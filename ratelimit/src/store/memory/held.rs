use std::time::Duration;

use crate::store::Standing;
use crate::store::named::NamedHeld;
use crate::store::table::Whole;
use crate::window::{Outcome, SlidingWindow, Terms, WindowKind};

/// One key under one rule, which nobody else changes meanwhile.
pub(super) enum Held<'a> {
    Strict {
        whole: Whole<'a>,
        /// Under the terms that hold.
        window: SlidingWindow,
    },
    Named(NamedHeld<'a>),
}

impl<'a> Held<'a> {
    pub(super) fn strict(mut whole: Whole<'a>, terms: Terms, now: u64) -> Self {
        let mut window = whole.window(terms, now);
        if window.renew(terms, now) && whole.is_known() {
            // The newest version holds for all from now on, whatever becomes of this request.
            whole.put(&window, now);
        }
        Self::Strict { whole, window }
    }

    /// What it would be told for a request of this cost.
    pub(super) fn decide(&self, now: u64, cost: u32) -> Outcome {
        match self {
            Self::Strict { whole, window } => match rest_of_block(whole, now) {
                0 => window.decide(now, cost),
                rest => window.decide(now, 0).blocked_for(rest),
            },
            Self::Named(held) => held.decide(now, cost),
        }
    }

    /// Decides, and charges if it passes.
    pub(super) fn admit(&mut self, now: u64, cost: u32) -> Outcome {
        match self {
            Self::Strict { whole, window } => {
                let rest = rest_of_block(whole, now);
                if rest > 0 {
                    return window.decide(now, 0).blocked_for(rest);
                }
                let outcome = window.admit(now, cost);
                if outcome.passes() && cost > 0 {
                    whole.put(window, now);
                }
                outcome
            }
            Self::Named(held) => held.admit(now, cost),
        }
    }

    /// Charges what has been decided.
    pub(super) fn charge(&mut self, now: u64, cost: u32) {
        match self {
            _ if cost == 0 => {}
            Self::Strict { whole, window } => {
                window.charge(now, cost);
                whole.put(window, now);
            }
            Self::Named(held) => held.charge(now, cost),
        }
    }

    pub(super) fn standing(&self, now: u64) -> Standing {
        match self {
            Self::Strict { whole, window } => {
                let rest = rest_of_block(whole, now);
                Standing {
                    outcome: window.decide(now, 0),
                    blocked_for: (rest > 0).then(|| Duration::from_micros(rest)),
                }
            }
            Self::Named(held) => held.standing(now),
        }
    }

    /// Forgets what was counted. A key that is not known begins from what was forgotten in its place, so it is made
    /// known.
    pub(super) fn reset(&mut self, kind: WindowKind, terms: Terms, now: u64) {
        match self {
            Self::Strict { whole, .. } => whole.put(&SlidingWindow::new(terms), now),
            Self::Named(held) => held.reset(kind, terms, now),
        }
    }

    pub(super) fn block_until(&mut self, until: u64, now: u64) {
        match self {
            Self::Strict { whole, window } => whole.block_until(until, window, now),
            Self::Named(held) => held.block_until(until, now),
        }
    }

    pub(super) fn unblock(&mut self, now: u64) {
        match self {
            Self::Strict { whole, window } if whole.is_known() => whole.block_until(0, window, now),
            Self::Strict { .. } => {}
            Self::Named(held) => held.unblock(),
        }
    }
}

fn rest_of_block(whole: &Whole<'_>, now: u64) -> u64 {
    whole.blocked_until().saturating_sub(now)
}
