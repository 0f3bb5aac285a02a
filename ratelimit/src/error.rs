use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::time::Duration;

use crate::window::WindowKind;

/// Any error; what layers hand on.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Why the layer answered in place of the service behind it.
///
/// ```
/// # use seawall_ratelimit::{BoxError, RateLimitError};
/// fn pause(error: &BoxError) -> Option<std::time::Duration> {
///     match RateLimitError::find(error)? {
///         RateLimitError::Refused(refused) => refused.retry_after(),
///         _ => None,
///     }
/// }
/// # let error: BoxError = "another".into();
/// # assert_eq!(pause(&error), None);
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum RateLimitError {
    /// One or more rules have no room for the request. Nothing was counted anywhere.
    Refused(Refused),
    /// The request costs more than a whole quota, so no waiting helps. Nothing was counted anywhere.
    CostAboveLimit(CostAboveLimit),
    /// The rule of this name admits nothing at all from whoever sent the request. Nothing was counted
    /// anywhere.
    Denied {
        /// The rule's name.
        rule: Cow<'static, str>,
    },
    /// The store could not decide, and its outage policy is to refuse then.
    Store(StoreError),
}

impl RateLimitError {
    /// Finds it in an error or in what caused the error.
    #[must_use]
    pub fn find(error: &BoxError) -> Option<&Self> {
        let mut next: Option<&(dyn Error + 'static)> = Some(&**error);
        while let Some(error) = next {
            if let Some(found) = error.downcast_ref() {
                return Some(found);
            }
            next = error.source();
        }
        None
    }
}

impl fmt::Display for RateLimitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refused) => refused.fmt(f),
            Self::CostAboveLimit(cost) => cost.fmt(f),
            Self::Denied { rule } => write!(f, "denied by {rule}"),
            Self::Store(_) => f.write_str("the rate limit could not be checked"),
        }
    }
}

impl Error for RateLimitError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Store(error) => Some(error),
            Self::Refused(_) | Self::CostAboveLimit(_) | Self::Denied { .. } => None,
        }
    }
}

/// The rules that had no room for a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub(crate) violations: Box<[Violation]>,
}

impl Refused {
    /// The rules, in the order of the layer. There is at least one.
    #[must_use]
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// After how long the same request would pass all rules if nothing else were counted meanwhile,
    /// and no sooner; `None` if it never would, because a newer version of a rule has a limit below
    /// the request's cost.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        let mut longest = Duration::ZERO;
        for violation in &self.violations {
            longest = longest.max(violation.retry_after?);
        }
        Some(longest)
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("over the rate limit of")?;
        for (n, violation) in self.violations.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            write!(f, "{comma} {}", violation.rule)?;
        }
        match self.retry_after() {
            Some(wait) => write!(f, "; there is room in {wait:?}"),
            None => f.write_str("; the request costs more than the limit"),
        }
    }
}

impl Error for Refused {}

/// One rule that had no room.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Violation {
    /// The rule's name.
    pub rule: Cow<'static, str>,
    /// The limit in force, in units per window.
    pub limit: u32,
    /// Units that were left, too few for the request.
    pub remaining: u32,
    /// After how long this rule would let the request pass; `None` if never.
    pub retry_after: Option<Duration>,
}

/// A request that costs more than a whole quota.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CostAboveLimit {
    /// The rule's name.
    pub rule: Cow<'static, str>,
    /// What the request costs, in units.
    pub cost: u32,
    /// The rule's limit, in units per window.
    pub limit: u32,
}

impl fmt::Display for CostAboveLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rule, cost, limit } = self;
        write!(
            f,
            "a cost of {cost} can never pass the limit of {rule}, which is {limit}"
        )
    }
}

impl Error for CostAboveLimit {}

/// Why a store could not decide.
#[derive(Debug)]
#[non_exhaustive]
pub enum StoreError {
    /// It did not answer, or not in time.
    Unavailable(BoxError),
    /// Under the key of this rule lies a value that no limiter wrote. It was left as it is.
    ForeignValue {
        /// The rule's name.
        rule: Cow<'static, str>,
    },
    /// It answered something that is no decision.
    UnexpectedReply(String),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable(_) => f.write_str("the store of the rate limits is not available"),
            Self::ForeignValue { rule } => {
                write!(
                    f,
                    "a value of something else lies under the key of rule {rule}"
                )
            }
            Self::UnexpectedReply(reply) => write!(f, "the store answered {reply}, no decision"),
        }
    }
}

impl Error for StoreError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Unavailable(error) => Some(&**error),
            Self::ForeignValue { .. } | Self::UnexpectedReply(_) => None,
        }
    }
}

/// A setting that cannot be.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ConfigError {
    /// A quota of nothing.
    ZeroLimit,
    /// A quota's window is shorter than 1 ms or longer than 3,660 days.
    Window(Duration),
    /// A rule's name is empty, too long, or cannot stand in a header field.
    RuleName(String),
    /// Two rules of one layer have this name.
    DuplicateRule(String),
    /// A layer holds as many rules as it can.
    TooManyRules,
    /// The layer's store cannot count in windows of this kind.
    WindowKind(WindowKind),
    /// A layer has no rule of this name.
    UnknownRule(String),
    /// A range of addresses is not written as `address/bits`, or has bits set beyond those.
    Network(String),
    /// A store for no key at all.
    ZeroCapacity,
    /// A share of a quota is not above 0 and at most 1.
    Share(f64),
    /// A prefix of stored keys is empty or holds a brace.
    Prefix(String),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ZeroLimit => {
                f.write_str("a quota of 0 admits nothing: its limit must be at least 1")
            }
            Self::Window(window) => {
                write!(
                    f,
                    "a quota's window must be from 1 ms to 3,660 days, not {window:?}"
                )
            }
            Self::RuleName(name) => write!(
                f,
                "a rule's name must be 1 to 64 bytes of printable ASCII without quotes and \
                 backslashes, not {name:?}"
            ),
            Self::DuplicateRule(name) => {
                write!(
                    f,
                    "two rules are named {name:?}: they would share their counters"
                )
            }
            Self::TooManyRules => {
                write!(f, "a layer holds at most {} rules", crate::MAX_RULES)
            }
            Self::WindowKind(kind) => {
                write!(
                    f,
                    "the store of this layer keeps no windows of the kind {kind:?}"
                )
            }
            Self::UnknownRule(name) => write!(f, "no rule is named {name:?}"),
            Self::Network(range) => write!(
                f,
                "a network is an address and the number of its bits, as 10.0.0.0/8, with no bit set \
                 beyond those, unlike {range:?}"
            ),
            Self::ZeroCapacity => f.write_str("a store needs room for at least 1 key"),
            Self::Share(share) => {
                write!(
                    f,
                    "a share of a quota must be above 0 and at most 1, not {share}"
                )
            }
            Self::Prefix(prefix) => {
                write!(
                    f,
                    "a prefix of keys must not be empty or hold a brace, unlike {prefix:?}"
                )
            }
        }
    }
}

impl Error for ConfigError {}
