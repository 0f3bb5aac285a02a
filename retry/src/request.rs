//! What the layer does with a request: repeat it, mark it, read its deadline, find its budget.

use tokio::time::Instant;

use crate::Budget;

/// Makes the copy of a request that a further attempt would send. Any
/// `Fn(&Req) -> Option<Req>` can.
///
/// One copy is made for each attempt but the last, always before the attempt that it follows.
pub trait CloneRequest<Req> {
    /// The copy, or `None`: then the request at hand is sent for the last time.
    fn clone_request(&self, request: &Req) -> Option<Req>;

    /// Whether a copy that was made before an attempt is still good after it. It always is, unless
    /// the copy depends on what the attempt did, as a body does that is kept up to a bound.
    fn can_send(&self, _copy: &Req) -> bool {
        true
    }
}

impl<Req, F> CloneRequest<Req> for F
where
    F: Fn(&Req) -> Option<Req>,
{
    fn clone_request(&self, request: &Req) -> Option<Req> {
        self(request)
    }
}

/// The default [`CloneRequest`]: for requests that are `Clone`, all of them.
#[derive(Debug, Clone, Copy, Default)]
pub struct ByClone;

impl<Req: Clone> CloneRequest<Req> for ByClone {
    fn clone_request(&self, request: &Req) -> Option<Req> {
        Some(request.clone())
    }
}

/// What an attempt knows about itself: see [`RetryLayer::stamp`](crate::RetryLayer::stamp).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attempt {
    /// 1 for the first call, 2 for the first retry.
    pub number: u32,
    /// When the attempt is cut off, where there is a deadline or an attempt timeout: hand it on, so that
    /// nobody works on an answer that comes too late.
    pub deadline: Option<Instant>,
}

impl Attempt {
    pub(crate) const fn new(number: u32, deadline: Option<Instant>) -> Self {
        Self { number, deadline }
    }
}

/// Marks each request before it is sent. Any `Fn(&mut Req, Attempt)` can; `()` does nothing.
pub trait Stamp<Req> {
    /// Writes what the service should know about the attempt into the request.
    fn stamp(&self, request: &mut Req, attempt: Attempt);
}

impl<Req> Stamp<Req> for () {
    fn stamp(&self, _: &mut Req, _: Attempt) {}
}

impl<Req, F> Stamp<Req> for F
where
    F: Fn(&mut Req, Attempt),
{
    fn stamp(&self, request: &mut Req, attempt: Attempt) {
        self(request, attempt);
    }
}

/// Reads the deadline that a request brings along. Any `Fn(&Req) -> Option<Instant>` can; for `()`
/// there is none.
pub trait RequestDeadline<Req> {
    /// When the answer is of no more use.
    fn deadline(&self, request: &Req) -> Option<Instant>;
}

impl<Req> RequestDeadline<Req> for () {
    fn deadline(&self, _: &Req) -> Option<Instant> {
        None
    }
}

impl<Req, F> RequestDeadline<Req> for F
where
    F: Fn(&Req) -> Option<Instant>,
{
    fn deadline(&self, request: &Req) -> Option<Instant> {
        self(request)
    }
}

/// Chooses the budget that the retries of a request come out of. Any `Fn(&Req) -> Option<Budget>` can,
/// and where it gives `None`, or for `()`, the budget of the layer counts, if it has one.
pub trait PickBudget<Req> {
    /// The budget of this request's call.
    fn pick(&self, request: &Req) -> Option<Budget>;
}

impl<Req> PickBudget<Req> for () {
    fn pick(&self, _: &Req) -> Option<Budget> {
        None
    }
}

impl<Req, F> PickBudget<Req> for F
where
    F: Fn(&Req) -> Option<Budget>,
{
    fn pick(&self, request: &Req) -> Option<Budget> {
        self(request)
    }
}
