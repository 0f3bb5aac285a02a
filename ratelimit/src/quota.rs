use std::time::Duration;

use crate::error::ConfigError;

/// The shortest window a quota can have.
pub(crate) const MIN_WINDOW: Duration = Duration::from_millis(1);
/// The longest window a quota can have. Beyond a few years the arithmetic in Redis, whose numbers
/// hold 53 bits of microseconds, would come near its end.
pub(crate) const MAX_WINDOW: Duration = Duration::from_secs(10 * 366 * 86_400);

/// At most so many units in any trailing window of this length.
///
/// A request is one unit unless its rule gives it another [cost](crate::Rule::cost).
/// `Quota::per_minute(1_000)` means 1,000 in any 60 seconds: not 1,000 from one full minute of the
/// clock to the next, and not 2,000 around their border.
///
/// ```
/// use seawall_ratelimit::Quota;
/// use std::time::Duration;
///
/// const USERS: Quota = Quota::per_minute(1_000);
/// assert_eq!(USERS, Quota::new(1_000, Duration::from_secs(60)));
/// assert!(Quota::try_per_minute(0).is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Quota {
    limit: u32,
    window: Duration,
}

impl Quota {
    /// `limit` units in any trailing `window`.
    ///
    /// # Panics
    ///
    /// When the limit is zero, or the window is shorter than 1 ms or longer than 3,660 days.
    #[must_use]
    pub const fn new(limit: u32, window: Duration) -> Self {
        match Fault::of(limit, window) {
            None => Self { limit, window },
            Some(Fault::ZeroLimit) => {
                panic!("a quota of 0 admits nothing: its limit must be at least 1")
            }
            Some(Fault::Window) => panic!("a quota's window must be from 1 ms to 3,660 days"),
        }
    }

    /// [`new`](Quota::new) for values that come from outside the code.
    ///
    /// # Errors
    ///
    /// Says what is wrong where `new` panics.
    pub fn try_new(limit: u32, window: Duration) -> Result<Self, ConfigError> {
        match Fault::of(limit, window) {
            None => Ok(Self { limit, window }),
            Some(Fault::ZeroLimit) => Err(ConfigError::ZeroLimit),
            Some(Fault::Window) => Err(ConfigError::Window(window)),
        }
    }

    /// `limit` units in any trailing second.
    ///
    /// # Panics
    ///
    /// When the limit is zero.
    #[must_use]
    pub const fn per_second(limit: u32) -> Self {
        Self::new(limit, Duration::from_secs(1))
    }

    /// `limit` units in any trailing minute.
    ///
    /// # Panics
    ///
    /// When the limit is zero.
    #[must_use]
    pub const fn per_minute(limit: u32) -> Self {
        Self::new(limit, Duration::from_secs(60))
    }

    /// `limit` units in any trailing hour.
    ///
    /// # Panics
    ///
    /// When the limit is zero.
    #[must_use]
    pub const fn per_hour(limit: u32) -> Self {
        Self::new(limit, Duration::from_secs(3_600))
    }

    /// `limit` units in any trailing 24 hours.
    ///
    /// # Panics
    ///
    /// When the limit is zero.
    #[must_use]
    pub const fn per_day(limit: u32) -> Self {
        Self::new(limit, Duration::from_secs(86_400))
    }

    /// [`per_second`](Quota::per_second) for a limit from outside the code.
    ///
    /// # Errors
    ///
    /// When the limit is zero.
    pub fn try_per_second(limit: u32) -> Result<Self, ConfigError> {
        Self::try_new(limit, Duration::from_secs(1))
    }

    /// [`per_minute`](Quota::per_minute) for a limit from outside the code.
    ///
    /// # Errors
    ///
    /// When the limit is zero.
    pub fn try_per_minute(limit: u32) -> Result<Self, ConfigError> {
        Self::try_new(limit, Duration::from_secs(60))
    }

    /// [`per_hour`](Quota::per_hour) for a limit from outside the code.
    ///
    /// # Errors
    ///
    /// When the limit is zero.
    pub fn try_per_hour(limit: u32) -> Result<Self, ConfigError> {
        Self::try_new(limit, Duration::from_secs(3_600))
    }

    /// [`per_day`](Quota::per_day) for a limit from outside the code.
    ///
    /// # Errors
    ///
    /// When the limit is zero.
    pub fn try_per_day(limit: u32) -> Result<Self, ConfigError> {
        Self::try_new(limit, Duration::from_secs(86_400))
    }

    /// Of values that were a quota before.
    pub(crate) const fn of(limit: u32, window: Duration) -> Self {
        Self { limit, window }
    }

    /// How many units any trailing window may hold.
    #[must_use]
    pub const fn limit(&self) -> u32 {
        self.limit
    }

    /// How long the window is.
    #[must_use]
    pub const fn window(&self) -> Duration {
        self.window
    }
}

/// What can be wrong with a quota; without a destructor, so that constants can be checked.
#[derive(Clone, Copy)]
enum Fault {
    ZeroLimit,
    Window,
}

impl Fault {
    const fn of(limit: u32, window: Duration) -> Option<Self> {
        if limit == 0 {
            return Some(Self::ZeroLimit);
        }
        let nanos = window.as_nanos();
        if nanos < MIN_WINDOW.as_nanos() || nanos > MAX_WINDOW.as_nanos() {
            return Some(Self::Window);
        }
        None
    }
}
