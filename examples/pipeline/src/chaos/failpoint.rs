//! The steps of the write path, at each of which a campaign can make the process fail.
//!
//! Without the feature `failpoints` a step costs nothing. With it, `SEAWALL_FAILPOINT=STEP:N:ACTION` names one
//! step, how often it is to be reached, and what happens then: `abort` ends the process as a crash would, `stop`
//! halts all of it until it is sent SIGCONT, `hang` stops the thread or task that came by, for ever.

#[cfg(feature = "failpoints")]
pub(super) use armed::arm;

super::named! {
    /// A step of the write path.
    Step:
    /// The API has decided to append an order.
    BeforeAppend = "api.before-append",
    /// A group of records is written, its transaction not committed.
    BeforeLogCommit = "log.before-commit",
    /// The group is committed, its end not marked.
    AfterLogCommit = "log.after-commit",
    /// The end is marked, and nobody knows yet.
    AfterMark = "log.after-mark",
    /// The API knows that the order is durable, the client does not.
    AfterAppend = "api.after-append",
    /// A worker has read records and done nothing about them.
    AfterRead = "worker.after-read",
    /// A shard's transaction is complete, and not committed.
    BeforeShardCommit = "shard.before-commit",
    /// It is committed, and nobody knows yet.
    AfterShardCommit = "shard.after-commit",
    /// The worker knows, and has not told the cache.
    BeforeInvalidate = "worker.before-invalidate",
    /// The cache is told, the position not committed.
    BeforeCommit = "worker.before-commit",
    /// A record is to be written off, its letter not written.
    BeforeLetter = "letter.before-write",
    /// The letter is written, and nobody knows yet.
    AfterLetter = "letter.after-write",
}

/// Passes a step, if the process may go on.
#[inline]
pub fn reach(step: Step) {
    #[cfg(feature = "failpoints")]
    armed::reach(step);
    #[cfg(not(feature = "failpoints"))]
    let _ = step;
}

#[cfg(feature = "failpoints")]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use rustix::process::{Signal, getpid, kill_process};

    use super::Step;

    const VARIABLE: &str = "SEAWALL_FAILPOINT";

    static POINT: OnceLock<Option<Point>> = OnceLock::new();
    static REACHED: AtomicU64 = AtomicU64::new(0);

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct Point {
        pub(super) step: Step,
        pub(super) times: u64,
        pub(super) action: Action,
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum Action {
        Abort,
        Stop,
        Hang,
    }

    pub(in crate::chaos) fn arm() -> Result<(), String> {
        let point = match std::env::var(VARIABLE) {
            Ok(text) => Some(read(&text).map_err(|why| format!("{VARIABLE}={text}: {why}"))?),
            Err(_) => None,
        };
        // Whoever was first has read the same environment.
        let _ = POINT.set(point);
        Ok(())
    }

    pub(super) fn read(text: &str) -> Result<Point, String> {
        let parts: Vec<&str> = text.split(':').collect();
        let [step, times, action] = parts[..] else {
            return Err("give STEP:N:ACTION".to_owned());
        };
        let step = Step::by_name(step)?;
        let times = times
            .parse()
            .ok()
            .filter(|times| *times > 0)
            .ok_or("N counts from 1")?;
        let action = match action {
            "abort" => Action::Abort,
            "stop" => Action::Stop,
            "hang" => Action::Hang,
            _ => return Err("no such action: abort, stop, hang".to_owned()),
        };
        Ok(Point {
            step,
            times,
            action,
        })
    }

    pub(super) fn reach(step: Step) {
        let Some(Some(point)) = POINT.get() else {
            return;
        };
        if point.step != step {
            return;
        }
        let times = REACHED.fetch_add(1, Ordering::SeqCst) + 1;
        // Whoever comes by a step at which another hangs, hangs beside it.
        let hangs = point.action == Action::Hang && times > point.times;
        if times != point.times && !hangs {
            return;
        }
        if !hangs {
            let (step, action) = (step.name(), point.action);
            eprintln!("failpoint {step} was reached {times} times: {action:?}");
        }
        match point.action {
            Action::Abort => std::process::abort(),
            Action::Stop => {
                // A process may always signal itself. It returns when somebody sends SIGCONT.
                let _ = kill_process(getpid(), Signal::STOP);
            }
            Action::Hang => loop {
                std::thread::park();
            },
        }
    }
}

#[cfg(all(test, feature = "failpoints"))]
mod tests {
    use super::armed::{Action, Point, read};
    use super::*;

    #[test]
    fn a_point_is_a_step_a_count_and_an_action() {
        let point = Point {
            step: Step::AfterShardCommit,
            times: 12,
            action: Action::Hang,
        };
        assert_eq!(read("shard.after-commit:12:hang"), Ok(point));
        for (text, says) in [
            ("shard.after-commit", "STEP:N:ACTION"),
            (
                "shard.nowhere:1:abort",
                "api.before-append, log.before-commit",
            ),
            ("log.after-mark:0:abort", "counts from 1"),
            ("log.after-mark:x:abort", "counts from 1"),
            ("log.after-mark:1:explode", "abort, stop, hang"),
        ] {
            let why = read(text).expect_err(text);
            assert!(why.contains(says), "{text}: {why}");
        }
    }
}
