//! The one thread that writes the log: what waits is committed as one group, and answered after it is marked.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::Duration;

use bytes::Bytes;
use rusqlite::{Connection, ErrorCode, TransactionBehavior};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Shared;
use super::check::{Checked, link, sum};
use super::end::EndFile;
use crate::chaos::failpoint::{Step, reach};
use crate::data::DataError;
use crate::log::{AppendError, Position};
use crate::sqlite;

/// Records and bytes at which a group is closed. It bounds what one commit takes, and the memory of it.
const GROUP: usize = 1_024;
const GROUP_BYTES: usize = 4 << 20;

/// How long committed positions may stay in memory only. They are advisory.
const LAZY: Duration = Duration::from_secs(1);

pub(super) enum Job {
    Append {
        partition: u16,
        payload: Bytes,
        answer: oneshot::Sender<Result<u64, AppendError>>,
    },
    Prune {
        below: Position,
        answer: oneshot::Sender<Result<(), AppendError>>,
    },
    Stop,
}

struct Waiting {
    partition: u16,
    payload: Bytes,
    answer: oneshot::Sender<Result<u64, AppendError>>,
}

/// What comes after a group: the job that closed it.
enum Then {
    Continue,
    Prune(Position, oneshot::Sender<Result<(), AppendError>>),
    Stop,
}

pub(super) struct Writer {
    db: Connection,
    end: EndFile,
    shared: Arc<Shared>,
    /// The last committed record and the chain there. The end mark may be behind, never ahead.
    last: u64,
    chain: u64,
    written_off: Instant,
}

impl Writer {
    /// Opens a checked log for writing. What lies beyond the mark is whole and is made durable: it was never
    /// answered, but who sent it may look for it.
    pub(super) fn open(checked: &Checked, shared: Arc<Shared>) -> Result<Self, DataError> {
        let db = sqlite::writer(&checked.files.db, 16)
            .map_err(|why| DataError::sqlite(&checked.files.db, why))?;
        let end = EndFile::open(&checked.files.end, checked.log, checked.mark)
            .map_err(|why| DataError::io(&checked.files.end, why))?;
        let mut writer = Self {
            db,
            end,
            shared,
            last: checked.last,
            chain: checked.chain,
            written_off: Instant::now(),
        };
        if checked.mark.last < checked.last {
            writer
                .mark()
                .map_err(|why| DataError::io(&checked.files.end, why))?;
        }
        Ok(writer)
    }

    pub(super) fn run(mut self, jobs: &Receiver<Job>) {
        let mut group = Vec::new();
        loop {
            let first = match jobs.recv_timeout(LAZY) {
                Ok(job) => job,
                Err(RecvTimeoutError::Timeout) => {
                    self.write_off(false);
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            };
            let then = collect(first, jobs, &mut group);
            if !group.is_empty() {
                self.commit(&mut group);
            }
            match then {
                Then::Continue => {}
                Then::Prune(below, answer) => {
                    // Whoever asked may have gone.
                    let _ = answer.send(self.prune(below));
                }
                Then::Stop => break,
            }
            self.write_off(false);
        }
        self.write_off(true);
        refuse_rest(jobs);
        // The log is durable without it: this only spares the next start a recovery.
        if let Err(why) = sqlite::checkpoint(&self.db) {
            tracing::warn!(%why, "the log was not checkpointed");
        }
    }

    fn commit(&mut self, group: &mut Vec<Waiting>) {
        let first = self.last + 1;
        let outcome = self.write(group).and_then(|()| {
            self.mark().map_err(|why| {
                AppendError::Unknown(format!("it is written, but its end is not marked: {why}"))
            })
        });
        if outcome.is_ok() {
            reach(Step::AfterMark);
            self.shared.publish(
                self.last,
                group
                    .iter()
                    .zip(first..)
                    .map(|(waiting, id)| (waiting.partition, id)),
            );
        }
        for (waiting, id) in group.drain(..).zip(first..) {
            let answer = match &outcome {
                Ok(()) => Ok(id),
                Err(AppendError::Refused(why)) => Err(AppendError::Refused(why.clone())),
                Err(AppendError::Unknown(why)) => Err(AppendError::Unknown(why.clone())),
            };
            // A caller that was dropped does not take its record back.
            let _ = waiting.answer.send(answer);
        }
    }

    /// Writes a group in one transaction, so that all of it is durable or none.
    fn write(&mut self, group: &[Waiting]) -> Result<(), AppendError> {
        let refused = |why| AppendError::Refused(sqlite::text(why));
        let (mut last, mut chain) = (self.last, self.chain);
        // Until the commit an error rolls back, and nothing of it can come back.
        let transaction = self
            .db
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(refused)?;
        {
            let mut insert = transaction
                .prepare_cached(
                    "INSERT INTO record(id, partition, payload, sum, chain) VALUES(?1, ?2, ?3, ?4, ?5)",
                )
                .map_err(refused)?;
            for Waiting {
                partition, payload, ..
            } in group
            {
                last += 1;
                let sum = sum(last, *partition, payload);
                chain = link(chain, sum);
                insert
                    .execute((
                        last,
                        partition,
                        &payload[..],
                        sum.cast_signed(),
                        chain.cast_signed(),
                    ))
                    .map_err(refused)?;
            }
        }
        reach(Step::BeforeLogCommit);
        transaction.commit().map_err(uncommitted)?;
        reach(Step::AfterLogCommit);
        (self.last, self.chain) = (last, chain);
        Ok(())
    }

    fn mark(&mut self) -> std::io::Result<()> {
        self.end.advance(self.last, self.chain)
    }

    /// Drops what lies below a position, of all partitions, as far as it is marked.
    fn prune(&mut self, below: Position) -> Result<(), AppendError> {
        let upto = below.0.saturating_sub(1).min(self.end.mark().last);
        let refused = |why| AppendError::Refused(sqlite::text(why));
        let transaction = self
            .db
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(refused)?;
        let starts = (|| {
            let Some(chain) = transaction
                .prepare("SELECT chain FROM record WHERE id = ?1")?
                .query_map([upto], |row| row.get::<_, i64>(0))?
                .next()
                .transpose()?
            else {
                return Ok(Vec::new());
            };
            let starts = transaction
                .prepare(
                    "INSERT INTO pruned(partition, start)
                     SELECT partition, max(id) + 1 FROM record WHERE id <= ?1 GROUP BY partition
                     ON CONFLICT(partition) DO UPDATE SET start = excluded.start
                     RETURNING partition, start",
                )?
                .query_map([upto], |row| Ok((row.get(0)?, Position(row.get(1)?))))?
                .collect::<rusqlite::Result<Vec<(u16, Position)>>>()?;
            transaction.execute("DELETE FROM record WHERE id <= ?1", [upto])?;
            transaction.execute("UPDATE identity SET start = ?1, chain = ?2", (upto, chain))?;
            Ok(starts)
        })()
        .map_err(refused)?;
        // Readers learn it first: a read must not take what is gone for what was never there.
        self.shared.raise_starts(&starts);
        transaction.commit().map_err(uncommitted)
    }

    /// Writes committed positions down, at most once in a while.
    fn write_off(&mut self, now: bool) {
        if !now && self.written_off.elapsed() < LAZY {
            return;
        }
        self.written_off = Instant::now();
        let changed = self.shared.take_committed();
        if changed.is_empty() {
            return;
        }
        let write = || {
            let transaction = self
                .db
                .transaction_with_behavior(TransactionBehavior::Immediate)?;
            for (partition, position) in &changed {
                transaction
                    .prepare_cached(
                        "INSERT INTO committed(partition, position) VALUES(?1, ?2)
                         ON CONFLICT(partition) DO UPDATE SET position = excluded.position",
                    )?
                    .execute((partition, position.0))?;
            }
            transaction.commit()
        };
        let mut write = write;
        if let Err(why) = write() {
            tracing::warn!(%why, "committed positions were not written down");
        }
    }
}

/// Whether a record whose commit failed can be in the log all the same.
///
/// The commit's frame is the last that is written, so with no room for it there is no commit. After any other
/// failure, that of the sync above all, the frame may be found by the recovery that follows a crash.
fn uncommitted(why: rusqlite::Error) -> AppendError {
    match why.sqlite_error_code() {
        Some(ErrorCode::DiskFull | ErrorCode::DatabaseBusy) => {
            AppendError::Refused(sqlite::text(why))
        }
        _ => AppendError::Unknown(sqlite::text(why)),
    }
}

/// Takes what waits, up to the size of a group.
fn collect(first: Job, jobs: &Receiver<Job>, group: &mut Vec<Waiting>) -> Then {
    let mut next = first;
    let mut bytes = 0;
    loop {
        match next {
            Job::Append {
                partition,
                payload,
                answer,
            } => {
                bytes += payload.len();
                group.push(Waiting {
                    partition,
                    payload,
                    answer,
                });
            }
            Job::Prune { below, answer } => return Then::Prune(below, answer),
            Job::Stop => return Then::Stop,
        }
        if group.len() >= GROUP || bytes >= GROUP_BYTES {
            return Then::Continue;
        }
        next = match jobs.try_recv() {
            Ok(job) => job,
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => return Then::Continue,
        };
    }
}

fn refuse_rest(jobs: &Receiver<Job>) {
    while let Ok(job) = jobs.try_recv() {
        let closed = || AppendError::Refused("the log is closed".to_owned());
        match job {
            Job::Append { answer, .. } => drop(answer.send(Err(closed()))),
            Job::Prune { answer, .. } => drop(answer.send(Err(closed()))),
            Job::Stop => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(code: i32) -> AppendError {
        uncommitted(rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(code),
            None,
        ))
    }

    #[test]
    fn a_commit_without_room_wrote_nothing_and_a_failed_sync_is_not_known() {
        use rusqlite::ffi::{SQLITE_BUSY, SQLITE_FULL, SQLITE_IOERR_FSYNC, SQLITE_NOMEM};
        for code in [SQLITE_FULL, SQLITE_BUSY] {
            assert!(matches!(failed(code), AppendError::Refused(_)));
        }
        for code in [SQLITE_IOERR_FSYNC, SQLITE_NOMEM] {
            assert!(matches!(failed(code), AppendError::Unknown(_)));
        }
    }
}
