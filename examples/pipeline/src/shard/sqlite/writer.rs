//! The one thread that writes a shard: batches that wait share a transaction, each in a savepoint of its own.

use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use rusqlite::{Connection, Result, TransactionBehavior};
use tokio::sync::oneshot;

use super::apply::{self, Outcome};
use super::check::Identity;
use super::known::Known;
use crate::chaos::failpoint::{Step, reach};
use crate::log::LogId;
use crate::shard::{Applied, Batch, ShardError, Watermark};
use crate::sqlite;

/// Rows and jobs at which a group is closed. It bounds what one commit takes, and how long the first waits.
const GROUP_ROWS: usize = 2_000;
const GROUP_JOBS: usize = 64;

/// How long a batch waits for those of other partitions, which are read at the same moment. Who sent it waits for the
/// sync in any case, and no client waits for either.
const GATHER: Duration = Duration::from_millis(2);

type Answer<T> = oneshot::Sender<std::result::Result<T, ShardError>>;

pub(super) enum Job {
    Adopt {
        partition: u16,
        log: LogId,
        epoch: u64,
        answer: Answer<Watermark>,
    },
    Apply {
        batch: Arc<Batch>,
        answer: Answer<Applied>,
    },
    Stop,
}

pub(super) struct Writer {
    pub(super) db: Connection,
    pub(super) identity: Identity,
    pub(super) known: Arc<Known>,
}

/// Asleep, and not in the channel, so that each batch that comes does not wake it.
#[expect(
    clippy::disallowed_methods,
    reason = "on a thread of its own, and what it waits for is company: there is no state to wait for"
)]
fn gather() {
    std::thread::sleep(GATHER);
}

impl Writer {
    pub(super) fn run(mut self, jobs: &Receiver<Job>) {
        let mut group = Vec::new();
        while let Ok(first) = jobs.recv() {
            if let Job::Apply { batch, .. } = &first
                && batch.rows.len() < GROUP_ROWS / 10
            {
                gather();
            }
            let stop = collect(first, jobs, &mut group);
            if !group.is_empty() {
                self.commit(&mut group);
            }
            if stop {
                break;
            }
        }
        while let Ok(job) = jobs.try_recv() {
            refuse(job, "it is closed");
        }
        // The shard is durable without it: this only spares the next start a recovery.
        if let Err(why) = sqlite::checkpoint(&self.db) {
            tracing::warn!(%why, shard = self.identity.shard, "the shard was not checkpointed");
        }
    }

    /// Runs a group in one transaction. It answers only after the commit; an error of SQLite itself fails the
    /// whole group, since none of it can be known to be durable.
    fn commit(&mut self, group: &mut Vec<Job>) {
        match self.transact(group) {
            Ok(answers) => answers.into_iter().for_each(Answered::send),
            Err(why) => {
                let why = sqlite::text(why);
                group.drain(..).for_each(|job| refuse(job, &why));
            }
        }
        group.clear();
    }

    fn transact(&mut self, group: &mut Vec<Job>) -> Result<Vec<Answered>> {
        let transaction = self
            .db
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut outcomes = Vec::with_capacity(group.len());
        for job in group.iter() {
            outcomes.push(match job {
                Job::Adopt {
                    partition,
                    log,
                    epoch,
                    ..
                } => Done::Adopted(alone(&transaction, |db| {
                    apply::adopt(db, self.identity, *partition, *log, *epoch)
                })?),
                Job::Apply { batch, .. } => {
                    batch.ops().for_each(|op| self.known.note(op));
                    Done::Applied(alone(&transaction, |db| apply::apply(db, batch))?)
                }
                Job::Stop => continue,
            });
        }
        reach(Step::BeforeShardCommit);
        transaction.commit()?;
        reach(Step::AfterShardCommit);
        Ok(group
            .drain(..)
            .zip(outcomes)
            .map(|(job, done)| Answered { job, done })
            .collect())
    }
}

enum Done {
    Adopted(std::result::Result<Watermark, ShardError>),
    Applied(std::result::Result<Applied, ShardError>),
}

struct Answered {
    job: Job,
    done: Done,
}

impl Answered {
    /// A caller that was dropped does not take its transaction back.
    fn send(self) {
        match (self.job, self.done) {
            (Job::Adopt { answer, .. }, Done::Adopted(done)) => drop(answer.send(done)),
            (Job::Apply { answer, .. }, Done::Applied(done)) => drop(answer.send(done)),
            _ => unreachable!("each outcome was made for the job it stands beside"),
        }
    }
}

/// Runs `work` in a savepoint, so that what is refused rolls back alone.
fn alone<T>(
    db: &Connection,
    work: impl FnOnce(&Connection) -> Outcome<T>,
) -> Result<std::result::Result<T, ShardError>> {
    db.prepare_cached("SAVEPOINT batch")?.execute([])?;
    let outcome = match work(db) {
        Ok(outcome) => outcome,
        // SQLite gave up the whole transaction, and the others' work with it.
        Err(why) if db.is_autocommit() => return Err(why),
        Err(why) => Err(ShardError::Unavailable(sqlite::text(why))),
    };
    if outcome.is_err() {
        db.prepare_cached("ROLLBACK TO batch")?.execute([])?;
    }
    db.prepare_cached("RELEASE batch")?.execute([])?;
    Ok(outcome)
}

/// Takes what waits, up to the size of a group, and says whether to stop after it.
fn collect(first: Job, jobs: &Receiver<Job>, group: &mut Vec<Job>) -> bool {
    let mut next = first;
    let mut rows = 0;
    loop {
        match &next {
            Job::Stop => return true,
            Job::Apply { batch, .. } => rows += batch.rows.len(),
            Job::Adopt { .. } => {}
        }
        group.push(next);
        if rows >= GROUP_ROWS || group.len() >= GROUP_JOBS {
            return false;
        }
        next = match jobs.try_recv() {
            Ok(job) => job,
            Err(_) => return false,
        };
    }
}

fn refuse(job: Job, why: &str) {
    let refused = || ShardError::Unavailable(why.to_owned());
    match job {
        Job::Adopt { answer, .. } => drop(answer.send(Err(refused()))),
        Job::Apply { answer, .. } => drop(answer.send(Err(refused()))),
        Job::Stop => {}
    }
}
