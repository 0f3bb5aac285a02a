//! What may happen to the pipeline on services, and when: a plan that follows from its seed.

use std::fmt;
use std::time::Duration;

use fastrand::Rng;

use super::Role;
use crate::strike::Action;

/// What may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    /// SIGKILL of an API, and a start.
    KillApi,
    /// SIGSTOP of an API for a while.
    FreezeApi,
    /// SIGKILL of a worker, and a start.
    KillWorker,
    /// SIGSTOP of a worker for a while: others take its partitions, and then it goes on.
    FreezeWorker,
    /// SIGKILL of both workers, and a start.
    KillWorkers,
    /// Each API and worker is told to drain and started again, one by one.
    Roll,
    /// SIGKILL of a broker, and a start.
    KillBroker,
    /// SIGSTOP of a broker for a while.
    FreezeBroker,
    /// SIGKILL of two brokers, and a start of both.
    KillTwoBrokers,
    /// SIGKILL of Redis, which forgets everything, and a start.
    KillRedis,
    /// SIGKILL of Redis, and a start with what it had written to its file a while before.
    AgeRedis,
    /// SIGSTOP of Redis for a while.
    FreezeRedis,
    /// SIGKILL of the PostgreSQL primary, and a start.
    KillPrimary,
    /// SIGSTOP of the PostgreSQL primary for a while.
    FreezePrimary,
    /// The PostgreSQL replica stops receiving for a while; then the primary dies and the replica takes over.
    FailOver,
    /// Every connection of the load ends, for a while.
    Cut,
    /// Every connection of the load hangs, for a while.
    Stall,
    /// Everything between the load and HAProxy is late, for a while.
    Delay,
    /// SIGKILL of a primary of Redis Cluster, whose replica takes over, and a start. Redis is a cluster in the whole
    /// run, and whatever else befalls Redis in it befalls one of the primaries.
    ClusterFailOver,
    /// SIGKILL of an API or a worker, a start with this step of the write path armed, and a clean one after it.
    Failpoint(&'static str),
}

/// The steps of the write path that there are on services.
const STEPS: [&str; 9] = [
    "api.before-append",
    "api.after-append",
    "worker.after-read",
    "shard.before-commit",
    "shard.after-commit",
    "worker.before-invalidate",
    "worker.before-commit",
    "letter.before-write",
    "letter.after-write",
];

/// How often a step may be passed before something happens there: an API and a worker pass each some dozen times a
/// second in this load, and the two of letters a few times.
fn often(step: &str) -> u64 {
    if step.starts_with("letter.") { 2 } else { 60 }
}

/// How long a failpoint is waited for at least, once the server listens. A worker that was killed must first be
/// missed by its group, which takes some seconds, before it is given partitions.
const REACHED: Duration = Duration::from_secs(10);

impl Blow {
    /// All of them, with their names.
    pub const ALL: &[(&str, Self)] = &[
        ("kill-api", Self::KillApi),
        ("freeze-api", Self::FreezeApi),
        ("kill-worker", Self::KillWorker),
        ("freeze-worker", Self::FreezeWorker),
        ("kill-workers", Self::KillWorkers),
        ("roll", Self::Roll),
        ("kill-broker", Self::KillBroker),
        ("freeze-broker", Self::FreezeBroker),
        ("kill-two-brokers", Self::KillTwoBrokers),
        ("kill-redis", Self::KillRedis),
        ("freeze-redis", Self::FreezeRedis),
        ("kill-primary", Self::KillPrimary),
        ("freeze-primary", Self::FreezePrimary),
        ("fail-over", Self::FailOver),
        ("cut", Self::Cut),
        ("stall", Self::Stall),
        ("delay", Self::Delay),
        ("age-redis", Self::AgeRedis),
        ("cluster-failover", Self::ClusterFailOver),
        (STEPS[0], Self::Failpoint(STEPS[0])),
        (STEPS[1], Self::Failpoint(STEPS[1])),
        (STEPS[2], Self::Failpoint(STEPS[2])),
        (STEPS[3], Self::Failpoint(STEPS[3])),
        (STEPS[4], Self::Failpoint(STEPS[4])),
        (STEPS[5], Self::Failpoint(STEPS[5])),
        (STEPS[6], Self::Failpoint(STEPS[6])),
        (STEPS[7], Self::Failpoint(STEPS[7])),
        (STEPS[8], Self::Failpoint(STEPS[8])),
    ];

    /// The one of this name.
    pub fn by_name(name: &str) -> Option<(&'static str, Self)> {
        Self::ALL.iter().copied().find(|(known, _)| *known == name)
    }
}

/// One blow of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Struck {
    /// Its name.
    pub name: &'static str,
    /// What.
    pub blow: Blow,
    /// How long after the blow before it, or after the load's begin.
    pub after: Duration,
    /// For what lasts, how long.
    pub lasts: Duration,
    /// Which of several, counted round.
    pub which: usize,
    /// For a failpoint: how often it is reached first.
    pub times: u64,
    /// For a failpoint.
    pub action: Action,
}

impl Struck {
    /// For a failpoint: what the environment must say, and whom it is said to.
    pub(super) fn failpoint(&self) -> Option<(String, Role)> {
        let Blow::Failpoint(step) = self.blow else {
            return None;
        };
        let role = match step.split_once('.') {
            Some(("api", _)) => Role::Api,
            _ => Role::Worker,
        };
        let point = format!("{step}:{}:{}", self.times, self.action.name());
        Some((point, role))
    }

    /// For a failpoint: how long it is waited for.
    pub(super) fn patience(&self) -> Duration {
        REACHED + self.lasts
    }

    /// How long all of it may take.
    pub(super) fn whole(&self) -> Duration {
        self.after
            + match self.blow {
                Blow::Failpoint(_) => self.patience(),
                _ => self.lasts,
            }
    }
}

impl fmt::Display for Struck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.failpoint() {
            Some((point, _)) => f.write_str(&point),
            None => f.write_str(self.name),
        }
    }
}

/// The blows of one run.
pub(super) fn plan(seed: u64, blows: &[(&'static str, Blow)]) -> Vec<Struck> {
    let mut rng = Rng::with_seed(seed);
    (0..rng.usize(1..=3))
        .map(|_| {
            let (name, blow) = blows[rng.usize(..blows.len())];
            let often = match blow {
                Blow::Failpoint(step) => often(step),
                _ => 1,
            };
            Struck {
                name,
                blow,
                after: Duration::from_millis(rng.u64(200..1_500)),
                lasts: Duration::from_millis(rng.u64(200..3_000)),
                which: rng.usize(..6),
                times: rng.u64(1..=often),
                action: Action::drawn(&mut rng),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_follows_from_its_seed_and_plans_reach_every_blow() {
        assert_eq!(plan(7, Blow::ALL), plan(7, Blow::ALL));
        let struck: Vec<_> = (0..200)
            .flat_map(|seed| plan(seed, Blow::ALL))
            .map(|struck| struck.blow)
            .collect();
        for (name, blow) in Blow::ALL {
            assert!(struck.contains(blow), "{name}");
            assert_eq!(Blow::by_name(name), Some((*name, *blow)));
        }
    }

    #[test]
    fn a_failpoint_is_armed_where_its_step_is_passed() {
        let blow = Blow::by_name("shard.after-commit").expect("there is one");
        let one = plan(3, &[blow])[0];
        let (point, role) = one.failpoint().expect("it is one");
        assert_eq!(role, Role::Worker);
        assert_eq!(one.to_string(), point);
        assert!(point.starts_with("shard.after-commit:"), "{point}");
    }
}
