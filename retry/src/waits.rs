//! Where the waits of one call come from.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use crate::{Delays, policy::Settings};

/// An iterator of the user's, with its type forgotten.
pub(crate) type OwnWaits = Box<dyn Iterator<Item = Duration> + Send + Sync>;
pub(crate) type MakeWaits = Arc<dyn Fn() -> OwnWaits + Send + Sync>;

/// The waits of one call that has come to retry.
pub(crate) enum Waits {
    Backoff(Delays),
    Own {
        waits: OwnWaits,
        cap: Duration,
        left: u32,
    },
}

impl Waits {
    pub(crate) fn new(settings: &Settings, own: Option<&MakeWaits>) -> Self {
        let backoff = &settings.backoff;
        match own {
            Some(make) => Self::Own {
                waits: make(),
                cap: backoff.longest(),
                left: backoff.max_attempts() - 1,
            },
            None => Self::Backoff(match &settings.sessions {
                Some(sessions) => backoff.session(sessions.fetch_add(1, Relaxed)),
                None => backoff.delays(),
            }),
        }
    }

    pub(crate) fn next(&mut self) -> Option<Duration> {
        match self {
            Self::Backoff(delays) => delays.next(),
            Self::Own { waits, cap, left } => {
                *left = left.checked_sub(1)?;
                waits.next().map(|wait| wait.min(*cap))
            }
        }
    }
}
