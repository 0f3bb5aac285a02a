//! What an outcome means: is it worth another attempt?

use std::time::Duration;

use crate::{BoxError, RetryError};

/// What an outcome means for the call that led to it, and for the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// The service did its work. The outcome is passed on as it is, an error unwrapped as well, and
    /// the budget is credited.
    Success,
    /// It may go better after a wait.
    Transient,
    /// It may go better after the wait that the server asked for. The wait is never cut short: where
    /// it does not fit under the backoff's cap or the deadline, the call ends at once. A backoff that
    /// is longer still wins.
    Throttled(Duration),
    /// It will not get better.
    Permanent,
}

impl Class {
    /// What holds where nothing is known about responses: one is a success and an error is
    /// transient, unless an inner retry layer has already given up on it (attempts of nested layers
    /// would multiply).
    pub fn of<Res>(outcome: Result<&Res, &BoxError>) -> Self {
        match outcome {
            Ok(_) => Self::Success,
            Err(error) if RetryError::find(error).is_some() => Self::Permanent,
            Err(_) => Self::Transient,
        }
    }
}

/// Decides what an outcome means. Any `Fn(Result<&Res, &BoxError>) -> Class` is a classifier.
///
/// An attempt that ran into the attempt timeout comes as an
/// [`Interrupted::AttemptTimeout`](crate::Interrupted::AttemptTimeout) error.
pub trait Classify<Res> {
    /// The class of one attempt's outcome.
    fn classify(&self, outcome: Result<&Res, &BoxError>) -> Class;
}

impl<Res, F> Classify<Res> for F
where
    F: Fn(Result<&Res, &BoxError>) -> Class,
{
    fn classify(&self, outcome: Result<&Res, &BoxError>) -> Class {
        self(outcome)
    }
}

/// The default classifier: [`Class::of`].
#[derive(Debug, Clone, Copy, Default)]
pub struct AnyError;

impl<Res> Classify<Res> for AnyError {
    fn classify(&self, outcome: Result<&Res, &BoxError>) -> Class {
        Class::of(outcome)
    }
}
