//! Which endpoints are left alone because they fail, and how they come back.
//!
//! An endpoint serves until it has failed so many times in a row. Then it is ejected: nothing is
//! sent to it for a while. After that one request is let through to probe it; an answer brings it
//! back, a failure ejects it again for twice as long.

use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::Ejection;
use crate::bulkhead::enter;

/// What the end of a request says of its endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    Alive,
    Failed,
    Unknown,
}

/// Whether an endpoint may be sent a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Entrance {
    Open,
    /// By this one request it is seen whether it is back.
    Probe,
    Closed {
        retry_in: Duration,
    },
}

/// All that are ejected from one router.
#[derive(Debug)]
pub(crate) struct Quarantine {
    ejection: Option<Ejection>,
    held: AtomicUsize,
    most: AtomicUsize,
    /// Changes when an endpoint comes back, and when there are others.
    changes: watch::Sender<()>,
}

impl Quarantine {
    pub(crate) fn new(ejection: Option<Ejection>) -> Self {
        Self {
            ejection,
            held: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            changes: watch::Sender::new(()),
        }
    }

    /// The router has so many endpoints from now on.
    pub(crate) fn over(&self, endpoints: usize) {
        if let Some(ejection) = &self.ejection {
            self.most.store(ejection.most(endpoints), Ordering::Relaxed);
        }
        self.changes.send_replace(());
    }

    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    pub(crate) fn ejection(&self) -> Option<&Ejection> {
        self.ejection.as_ref()
    }

    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    fn take(&self) -> bool {
        enter(&self.held, self.most.load(Ordering::Relaxed))
    }

    fn release(&self) {
        self.held.fetch_sub(1, Ordering::Relaxed);
        self.changes.send_replace(());
    }
}

/// The health of one endpoint.
#[derive(Debug)]
pub(crate) struct Health {
    quarantine: Arc<Quarantine>,
    /// What a request looks at first: mostly there is nothing more to see.
    glance: AtomicU8,
    state: Mutex<State>,
}

const WELL: u8 = 0;
const FAILING: u8 = 1;
const EJECTED: u8 = 2;

#[derive(Clone, Copy, PartialEq, Debug)]
enum State {
    /// `spell` is the last ejection, while it counts: how many in a row, and when it ended.
    Serving {
        failures: u32,
        spell: Option<(u32, Instant)>,
    },
    Ejected {
        until: Instant,
        times: u32,
    },
    /// One request is on its way. If it is not back in time, another may go.
    Probing {
        since: Instant,
        until: Instant,
        times: u32,
    },
    /// The endpoint is no longer listed: whatever becomes of it counts no more.
    Retired,
}

impl Health {
    pub(crate) fn new(quarantine: Arc<Quarantine>) -> Self {
        Self {
            quarantine,
            glance: AtomicU8::new(WELL),
            state: Mutex::new(State::Serving {
                failures: 0,
                spell: None,
            }),
        }
    }

    pub(crate) fn quarantine(&self) -> &Quarantine {
        &self.quarantine
    }

    #[inline]
    pub(crate) fn is_ejected(&self) -> bool {
        self.glance.load(Ordering::Relaxed) == EJECTED
    }

    /// May a request be sent? Whoever is told [`Entrance::Probe`] has to end with a verdict.
    #[inline]
    pub(crate) fn enter(&self) -> Entrance {
        if self.is_ejected() {
            self.enter_at(Instant::now())
        } else {
            Entrance::Open
        }
    }

    fn enter_at(&self, now: Instant) -> Entrance {
        let mut state = self.state();
        match *state {
            State::Serving { .. } | State::Retired => Entrance::Open,
            State::Ejected { until, times } | State::Probing { until, times, .. } => {
                if now < until {
                    let retry_in = until - now;
                    return Entrance::Closed { retry_in };
                }
                let Some(ejection) = self.quarantine.ejection() else {
                    return Entrance::Open;
                };
                *state = State::Probing {
                    since: now,
                    until: now + ejection.length(times),
                    times,
                };
                Entrance::Probe
            }
        }
    }

    /// A request has ended. Says whether the endpoint is ejected by that (true) or back (false).
    #[inline]
    pub(crate) fn ended(&self, verdict: Verdict, was_probe: bool) -> Option<bool> {
        match verdict {
            Verdict::Alive if self.glance.load(Ordering::Relaxed) == WELL => None,
            Verdict::Unknown if !was_probe => None,
            Verdict::Failed if self.quarantine.ejection.is_none() => None,
            _ => self.ended_at(verdict, Instant::now()),
        }
    }

    fn ended_at(&self, verdict: Verdict, now: Instant) -> Option<bool> {
        let ejection = self.quarantine.ejection()?;
        let mut state = self.state();
        let next = match (*state, verdict) {
            (State::Retired, _) => return None,
            (State::Serving { spell, .. }, Verdict::Alive) => State::Serving { failures: 0, spell },
            // Whoever answers is back, probed or not.
            (State::Ejected { times, .. } | State::Probing { times, .. }, Verdict::Alive) => {
                State::Serving {
                    failures: 0,
                    spell: Some((times, now)),
                }
            }
            (State::Serving { failures, spell }, Verdict::Failed) => {
                // Long after the last ejection the next is a first one again.
                let times = match spell {
                    Some((times, ended)) if now - ended < ejection.length(times) * 2 => times + 1,
                    _ => 1,
                };
                if failures + 1 < ejection.failures {
                    let failures = failures + 1;
                    State::Serving { failures, spell }
                } else if self.quarantine.take() {
                    let until = now + ejection.length(times);
                    State::Ejected { until, times }
                } else {
                    return None;
                }
            }
            (State::Probing { times, .. }, Verdict::Failed) => {
                let times = times.saturating_add(1);
                let until = now + ejection.length(times);
                State::Ejected { until, times }
            }
            // It was dropped, or its end says nothing: the next one probes.
            (State::Probing { since, times, .. }, Verdict::Unknown) => State::Ejected {
                until: since,
                times,
            },
            // Those that were sent before fail as well.
            (State::Ejected { .. }, Verdict::Failed) | (_, Verdict::Unknown) => return None,
        };
        let before = std::mem::replace(&mut *state, next);
        self.glance.store(next.glance(), Ordering::Relaxed);
        drop(state);
        match (before.glance() == EJECTED, next.glance() == EJECTED) {
            (true, false) => {
                self.quarantine.release();
                Some(false)
            }
            (false, true) => Some(true),
            _ => None,
        }
    }

    /// The endpoint is listed no more, and takes no room from those that are. Says whether it was
    /// ejected.
    pub(crate) fn retire(&self) -> bool {
        let before = std::mem::replace(&mut *self.state(), State::Retired);
        self.glance.store(WELL, Ordering::Relaxed);
        let was_ejected = before.glance() == EJECTED;
        if was_ejected {
            self.quarantine.release();
        }
        was_ejected
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn glance(self) -> u8 {
        match self {
            State::Serving { failures: 0, .. } | State::Retired => WELL,
            State::Serving { .. } => FAILING,
            State::Ejected { .. } | State::Probing { .. } => EJECTED,
        }
    }
}

impl Drop for Health {
    fn drop(&mut self) {
        self.retire();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn of(endpoints: usize) -> Arc<Quarantine> {
        let ejection = Ejection::after(3).lasting(SECOND, 4 * SECOND).at_most(0.5);
        let quarantine = Arc::new(Quarantine::new(Some(ejection)));
        quarantine.over(endpoints);
        quarantine
    }

    fn fail(health: &Health, times: usize, now: Instant) {
        for _ in 0..times {
            health.ended_at(Verdict::Failed, now);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_takes_so_many_failures_in_a_row() {
        let (health, now) = (Health::new(of(2)), Instant::now());
        fail(&health, 2, now);
        health.ended_at(Verdict::Alive, now);
        fail(&health, 2, now);
        assert_eq!(health.enter_at(now), Entrance::Open);
        fail(&health, 1, now);
        assert_eq!(health.enter_at(now), Entrance::Closed { retry_in: SECOND });
    }

    #[tokio::test(start_paused = true)]
    async fn one_request_probes_and_the_time_doubles_up_to_the_longest() {
        let (health, mut now) = (Health::new(of(2)), Instant::now());
        fail(&health, 3, now);
        for length in [SECOND, 2 * SECOND, 4 * SECOND, 4 * SECOND] {
            assert_eq!(health.enter_at(now), Entrance::Closed { retry_in: length });
            now += length;
            assert_eq!(health.enter_at(now), Entrance::Probe);
            assert!(matches!(health.enter_at(now), Entrance::Closed { .. }));
            fail(&health, 1, now);
        }
        now += 4 * SECOND;
        assert_eq!(health.enter_at(now), Entrance::Probe);
        health.ended_at(Verdict::Alive, now);
        assert_eq!(health.enter_at(now), Entrance::Open);
        assert_eq!(health.quarantine.held(), 0);
        // Soon after, it counts on; long after, it starts again.
        fail(&health, 3, now + SECOND);
        let again = health.enter_at(now + SECOND);
        assert_eq!(
            again,
            Entrance::Closed {
                retry_in: 4 * SECOND
            }
        );
        health.ended_at(Verdict::Alive, now + SECOND);
        fail(&health, 3, now + 100 * SECOND);
        let first = health.enter_at(now + 100 * SECOND);
        assert_eq!(first, Entrance::Closed { retry_in: SECOND });
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_is_dropped_or_lost_leaves_room_for_another() {
        let (health, now) = (Health::new(of(2)), Instant::now());
        fail(&health, 3, now);
        let now = now + SECOND;
        assert_eq!(health.enter_at(now), Entrance::Probe);
        health.ended_at(Verdict::Unknown, now);
        assert_eq!(health.enter_at(now), Entrance::Probe);
        // This one hangs.
        assert!(matches!(health.enter_at(now), Entrance::Closed { .. }));
        assert_eq!(health.enter_at(now + SECOND), Entrance::Probe);
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_than_the_share_and_always_one() {
        let (quarantine, now) = (of(4), Instant::now());
        let all: Vec<_> = (0..4)
            .map(|_| Health::new(Arc::clone(&quarantine)))
            .collect();
        all.iter().for_each(|health| fail(health, 9, now));
        assert_eq!(quarantine.held(), 2);
        assert!(!all[2].is_ejected() && !all[3].is_ejected());
        // Room comes free when one is back, or is listed no more.
        all[0].ended_at(Verdict::Alive, now);
        fail(&all[3], 1, now);
        assert!(all[3].is_ejected());
        all[1].retire();
        fail(&all[1], 9, now);
        assert_eq!(quarantine.held(), 1);
        drop(all);
        assert_eq!(quarantine.held(), 0);

        let alone = Health::new(of(1));
        fail(&alone, 3, now);
        assert!(alone.is_ejected(), "half of one is one");
    }
}
