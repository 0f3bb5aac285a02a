//! What is asked of the server, and what it says: without I/O.

use super::asked::Asked;
use crate::decision::Decision;
use crate::error::StoreError;
use crate::window::{Terms, WindowKind};

/// What is to be done with the keys of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Decide,
    Reset,
    /// For so many microseconds.
    Block(u64),
    Unblock,
    /// Only lease.
    Lease,
}

/// Units to lease beside a request, if it passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeaseAsk {
    pub(crate) units: u32,
    /// For how long, in microseconds.
    pub(crate) time: u64,
}

/// What was leased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leased {
    pub(crate) units: u32,
    /// The bucket that was charged.
    pub(crate) bucket: u64,
    /// When, by the server's clock, in microseconds.
    pub(crate) now: u64,
    /// What the key had left then.
    pub(crate) left: u32,
}

/// One request: all of its rules, or one key for an operator.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) first: Asked,
    pub(super) more: Vec<Asked>,
    pub(super) act: Act,
    pub(super) lease: Option<LeaseAsk>,
}

/// Units to give back.
#[derive(Clone, Debug)]
pub(crate) struct Refund {
    pub(super) key: Vec<u8>,
    pub(super) terms: Terms,
    pub(super) kind: WindowKind,
    /// The bucket that was charged; of a window that has none, the moment.
    pub(super) charged: u64,
    pub(super) units: u32,
}

/// What the script says of one request.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) decision: Result<Decision, StoreError>,
    /// Whether the key of the first rule is blocked.
    pub(super) blocked: bool,
    pub(super) leased: Option<Leased>,
}

impl Refund {
    /// The same for what was leased.
    pub(crate) fn of(&self, leased: Leased) -> Self {
        Self {
            charged: leased.bucket,
            units: leased.units,
            ..self.clone()
        }
    }
}

impl Request {
    pub(super) fn rules(&self) -> impl Iterator<Item = &Asked> {
        std::iter::once(&self.first).chain(&self.more)
    }

    /// Whether both are told the same but for the units left. An operator's is like no other.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.act == Act::Decide
            && other.act == Act::Decide
            && self.more.len() == other.more.len()
            && self.rules().zip(other.rules()).all(|(one, other)| {
                one.hash == other.hash
                    && one.cost == other.cost
                    && one.terms == other.terms
                    && one.shadow == other.shadow
                    // Each token that is taken there makes the time longer until all are back.
                    && one.kind() != WindowKind::Gcra
            })
    }
}

impl Answer {
    pub(super) const fn of(decision: Result<Decision, StoreError>) -> Self {
        Self {
            decision,
            blocked: false,
            leased: None,
        }
    }
}
