use super::Terms;

/// How a rule counts; goes into [`Rule::window`](crate::Rule::window).
///
/// L is the limit and W the window of a quota.
///
/// | kind | units in a span of length W, at most | of a steady flood it admits | memory for each key |
/// | --- | --- | --- | --- |
/// | `Sliding` | L | 16/17 of L | fixed |
/// | `Log` | L | L | up to L entries |
/// | `Counter` | 2 L | L | fixed |
/// | `Gcra` | 2 L | L, evenly spaced | fixed |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WindowKind {
    /// Sixteen buckets, the oldest counted whole: strict, in fixed memory. The default.
    #[default]
    Sliding,
    /// The moment of each unit: strict and exact, at the price of memory. See [`SlidingLog`](super::SlidingLog).
    Log,
    /// Two buckets, the older one weighed. See [`SlidingCounter`](super::SlidingCounter).
    Counter,
    /// A bucket of tokens that fills evenly. See [`Gcra`](super::Gcra).
    Gcra,
}

/// What becomes of a record when it meets terms that are not its own: the same rules for all kinds of
/// windows.
pub(super) enum Renewal {
    /// The record's terms hold: the others are of an older version.
    Keep,
    /// Nothing counts any more, so there is nothing to carry over.
    Fresh,
    /// The other terms hold, and what was consumed is carried over.
    Take {
        /// They are of a newer version, so that they hold for everybody from now on.
        newer: bool,
    },
}

impl Renewal {
    pub(super) fn of(own: Terms, other: Terms, used: u64) -> Self {
        if used == 0 {
            Self::Fresh
        } else if other.version < own.version {
            Self::Keep
        } else {
            Self::Take {
                newer: other.version > own.version,
            }
        }
    }
}
