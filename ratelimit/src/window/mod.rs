//! The strict sliding window: pure arithmetic on microseconds, without a clock and without I/O.
//!
//! Time is cut into buckets, 16 to a window. What is charged goes into the bucket of its moment, and
//! a decision sums **every bucket that the trailing window can touch**: the oldest one whole, although
//! the window covers only a part of it. So the sum is never less than what was really admitted in the
//! window, and a limit L is never exceeded in any of them. The price is that under a steady flood
//! about one part in seventeen of L stays unused.
//!
//! Leases are charged ahead, to the bucket in which they end, and that is never more than one bucket
//! from the present. So a window holds 16 buckets of the past, the current one, and the next.
//!
//! Both stores decide by these rules; the script that Redis runs is their image, line by line.

mod counter;
mod gcra;
mod kind;
mod log;
mod outcome;
mod renew;
mod sliding;
mod terms;

pub use self::counter::SlidingCounter;
pub use self::gcra::Gcra;
pub use self::kind::WindowKind;
pub use self::log::SlidingLog;
pub use self::outcome::{Outcome, Wait};
pub use self::sliding::SlidingWindow;
pub use self::terms::Terms;

/// Buckets to a window.
pub const BUCKETS: u64 = 16;
/// Buckets before the one of the moment that a trailing window can touch.
pub(crate) const PAST: usize = BUCKETS as usize;
/// What the window holds beside the bucket of the moment, as a distance between bucket numbers.
const REACH: u64 = BUCKETS;

/// What is left of a limit is no more than the limit.
fn narrow(left: u64) -> u32 {
    u32::try_from(left).unwrap_or(u32::MAX)
}
