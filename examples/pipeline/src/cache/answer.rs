//! What is cached: answers, each of a class that says how long it is kept.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;

/// What kind of answer it is, and so how long it is kept.
///
/// An answer has a class and no time of its own, so what has no class cannot be kept. What is financial has none: a balance
/// is read past the cache. The sums of an account are no balance, they count orders and units. Sessions have none either:
/// who a client is comes with each request, from whoever let it in, so there is no session here that could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// What is known of a user.
    Profile,
    /// A product of the catalogue.
    Product,
    /// The answer of an API about something that moves.
    Response,
    /// That there is nothing.
    Absent,
    /// An order that is not decided yet, should its end never be heard of.
    Pending,
}

impl Class {
    /// How long it is kept, before the spread.
    pub const fn keep(self) -> Duration {
        Duration::from_secs(match self {
            Self::Profile => 15 * 60,
            Self::Product => 60 * 60,
            Self::Response => 5 * 60,
            Self::Pending => 60,
            Self::Absent => 1,
        })
    }

    /// The same, spread by a tenth either way: what was loaded together must not expire together.
    pub(super) fn spread(self) -> Duration {
        self.keep().mul_f64(fastrand::f64().mul_add(0.2, 0.9))
    }
}

/// An answer as it goes to clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// 200 or 404.
    pub status: StatusCode,
    /// The body.
    pub body: Bytes,
    /// How long it may be kept.
    pub class: Class,
}

/// An answer with the version it holds for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The version it was read at.
    pub version: u64,
    /// The answer.
    pub answer: Answer,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_loaded_together_does_not_expire_together_and_nothing_much_later() {
        for class in [Class::Profile, Class::Product, Class::Absent] {
            let kept: Vec<Duration> = (0..1_000).map(|_| class.spread()).collect();
            let (least, most) = (class.keep().mul_f64(0.9), class.keep().mul_f64(1.1));
            assert!(kept.iter().all(|kept| (least..=most).contains(kept)));
            let early = kept.iter().filter(|kept| **kept < class.keep());
            assert!((300..700).contains(&early.count()), "{class:?}");
        }
    }
}
