//! What may happen to the pipeline, and when: a plan that follows from its seed.

use std::fmt;
use std::time::Duration;

use fastrand::Rng;

/// The steps of the write path at which the program can be made to fail, each with how often it may be
/// passed first: a start passes those of shards a hundred times, and a second of the load the others some hundred times,
/// letters a few.
const STEPS: &[(&str, u64)] = &[
    ("api.before-append", 120),
    ("log.before-commit", 120),
    ("log.after-commit", 120),
    ("log.after-mark", 120),
    ("api.after-append", 120),
    ("worker.after-read", 120),
    ("shard.before-commit", 250),
    ("shard.after-commit", 250),
    ("worker.before-invalidate", 120),
    ("worker.before-commit", 120),
    ("letter.before-write", 3),
    ("letter.after-write", 3),
];

/// A kind of strike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// SIGKILL, and a start at once.
    Kill,
    /// SIGSTOP for a while, then SIGCONT.
    Freeze,
    /// SIGSTOP for a while, then SIGKILL and a start.
    FreezeKill,
    /// SIGTERM, and a start when it has drained.
    Restart,
    /// A start with a failpoint armed, and a clean one after it.
    Failpoint(&'static str),
    /// Every connection ends, and none is taken, for a while.
    Cut,
    /// Connections stay and say nothing, for a while.
    Stall,
    /// Everything comes late, for a while.
    Delay,
    /// No file can grow, for a while.
    FullDisk,
    /// No file can grow, and in the middle of it SIGKILL; then there is room again, and a start.
    FullDiskKill,
    /// SIGKILL, and a start with one shard as it was at the run's last stop: a lagging copy takes over.
    OldShard,
}

impl Kind {
    /// All of them.
    pub fn all() -> Vec<Self> {
        let mut all = vec![
            Self::Kill,
            Self::Freeze,
            Self::FreezeKill,
            Self::Restart,
            Self::Cut,
            Self::Stall,
            Self::Delay,
            Self::FullDisk,
            Self::FullDiskKill,
            Self::OldShard,
        ];
        all.extend(STEPS.iter().map(|(step, _)| Self::Failpoint(step)));
        all
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Freeze => "freeze",
            Self::FreezeKill => "freeze-kill",
            Self::Restart => "restart",
            Self::Failpoint(_) => "failpoint",
            Self::Cut => "cut",
            Self::Stall => "stall",
            Self::Delay => "delay",
            Self::FullDisk => "full-disk",
            Self::FullDiskKill => "full-disk-kill",
            Self::OldShard => "old-shard",
        }
    }

    /// The step of the write path, for a failpoint.
    pub fn step(self) -> Option<&'static str> {
        match self {
            Self::Failpoint(step) => Some(step),
            _ => None,
        }
    }
}

/// What a process does at a failpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It ends at once.
    Abort,
    /// It halts, and goes on or is killed.
    Stop,
    /// The thread hangs, until the process is killed.
    Hang,
}

impl Action {
    /// One of them, a crash as often as the others together.
    pub fn drawn(rng: &mut Rng) -> Self {
        let drawn = rng.choice([Self::Abort, Self::Abort, Self::Stop, Self::Hang]);
        drawn.expect("there are four")
    }

    /// As the program reads it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Abort => "abort",
            Self::Stop => "stop",
            Self::Hang => "hang",
        }
    }
}

/// One strike of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strike {
    /// What.
    pub kind: Kind,
    /// How long after the strike before it, or after the load's begin.
    pub after: Duration,
    /// For what lasts, how long; for a failpoint, how long it is waited for.
    pub lasts: Duration,
    /// For a failpoint: how often it is reached first.
    pub times: u64,
    /// For a failpoint.
    pub action: Action,
    /// For an old shard: which.
    pub shard: u16,
}

impl Strike {
    /// What the environment must say for a failpoint.
    pub fn failpoint(&self) -> Option<String> {
        let step = self.kind.step()?;
        Some(format!("{step}:{}:{}", self.times, self.action.name()))
    }
}

impl fmt::Display for Strike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.failpoint() {
            Some(point) => f.write_str(&point),
            None => f.write_str(self.kind.name()),
        }
    }
}

/// The strikes of one run.
pub fn plan(seed: u64, kinds: &[Kind], shards: u16) -> Vec<Strike> {
    let mut rng = Rng::with_seed(seed);
    let strikes = rng.usize(2..=4);
    (0..strikes)
        .map(|_| {
            let kind = kinds[rng.usize(..kinds.len())];
            let often = STEPS
                .iter()
                .find(|(step, _)| Some(*step) == kind.step())
                .map_or(1, |(_, often)| *often);
            Strike {
                kind,
                after: Duration::from_millis(rng.u64(50..900)),
                lasts: Duration::from_millis(rng.u64(50..1_000)),
                times: rng.u64(1..=often),
                action: Action::drawn(&mut rng),
                shard: rng.u16(..shards),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_follows_from_its_seed_and_plans_reach_every_kind() {
        let kinds = Kind::all();
        assert_eq!(plan(7, &kinds, 10), plan(7, &kinds, 10));
        let struck: Vec<_> = (0..200)
            .flat_map(|seed| plan(seed, &kinds, 10))
            .map(|strike| strike.kind)
            .collect();
        for kind in kinds {
            assert!(struck.contains(&kind), "{kind:?}");
        }
    }
}
