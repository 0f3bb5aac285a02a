//! The log in one SQLite database: one thread writes groups, a few read.
//!
//! A record's offset is its id in the whole log, so the offsets of one partition have holes. A group is committed,
//! then its end is marked in a second file, then readers see it, then its appends are answered. Each
//! step waits for the sync of the one before.
//!
//! # What is found, and what is not
//!
//! Opening reads the whole log: a record that is missing or changed, and an end below the mark, are refused, a
//! damaged WAL among them. Reading checks each record again. Not found is damage that takes the database and the
//! mark back to the same earlier moment, as restoring an old copy of both does (the shards' watermarks tell
//! then), and a newest mark that is damaged along with the group that it marks.

mod check;
mod end;
mod writer;

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use bytes::Bytes;
use tokio::sync::{oneshot, watch};

use self::writer::{Job, Writer};
use super::{AppendError, Chunk, Entry, Log, LogId, Position, ReadError};
use crate::data::DataError;
use crate::sqlite::{self, Readers};

pub(crate) use self::check::{Checked, Files, check, create};

/// Appends that may wait for the writer; beyond it they are refused at once.
const WAITING_APPENDS: usize = 8_192;

/// How many threads read. What they read is nearly always in the page cache.
const READERS: usize = 2;

/// A log in one SQLite database, with its end marked in a second file.
pub struct SqliteLog {
    id: LogId,
    db: Arc<Path>,
    shared: Arc<Shared>,
    readers: Readers,
    queue: SyncSender<Job>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// What the writer tells everyone else.
struct Shared {
    /// The last record that is durable and marked.
    published: AtomicU64,
    partitions: Vec<Partition>,
}

struct Partition {
    end: watch::Sender<Position>,
    start: AtomicU64,
    committed: AtomicU64,
    /// Whether the committed position was not written down yet.
    dirty: AtomicBool,
}

impl Shared {
    fn publish(&self, last: u64, records: impl Iterator<Item = (u16, u64)>) {
        self.published.store(last, Ordering::Release);
        for (partition, id) in records {
            self.partitions[usize::from(partition)]
                .end
                .send_replace(Position(id + 1));
        }
    }

    fn raise_starts(&self, starts: &[(u16, Position)]) {
        for (partition, start) in starts {
            self.partitions[usize::from(*partition)]
                .start
                .fetch_max(start.0, Ordering::AcqRel);
        }
    }

    fn take_committed(&self) -> Vec<(u16, Position)> {
        let mut changed = Vec::new();
        for (partition, state) in (0..).zip(&self.partitions) {
            if state.dirty.swap(false, Ordering::AcqRel) {
                changed.push((partition, Position(state.committed.load(Ordering::Acquire))));
            }
        }
        changed
    }

    fn start(&self, partition: u16) -> Position {
        Position(
            self.partitions[usize::from(partition)]
                .start
                .load(Ordering::Acquire),
        )
    }
}

impl SqliteLog {
    /// Opens a log that was checked a moment ago, by who keeps everyone else out of its directory.
    pub(crate) fn open(checked: Checked) -> Result<Self, DataError> {
        let partitions = checked
            .ends
            .iter()
            .zip(&checked.starts)
            .zip(&checked.committed)
            .map(|((end, start), committed)| Partition {
                end: watch::Sender::new(*end),
                start: AtomicU64::new(start.0),
                committed: AtomicU64::new(committed.0),
                dirty: AtomicBool::new(false),
            })
            .collect();
        let shared = Arc::new(Shared {
            published: AtomicU64::new(checked.last),
            partitions,
        });
        let writer = Writer::open(&checked, Arc::clone(&shared))?;
        let io = |why| DataError::io(&checked.files.db, why);
        let readers = Readers::start("log-reader", READERS).map_err(io)?;
        let (queue, jobs) = sync_channel(WAITING_APPENDS);
        let writer = std::thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn(move || writer.run(&jobs))
            .map_err(io)?;
        Ok(Self {
            id: checked.log,
            db: checked.files.db.into(),
            shared,
            readers,
            queue,
            writer: Mutex::new(Some(writer)),
        })
    }

    /// Finishes what was asked before and ends the threads. From then on everything is refused.
    pub fn close(&self) {
        let writer = self
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(writer) = writer {
            self.readers.close();
            // It fails only when the thread is gone already.
            let _ = self.queue.send(Job::Stop);
            // A panic of it was shown, and what it had not answered is unknown to its callers.
            let _ = writer.join();
        }
    }

    async fn ask<T>(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<T, AppendError>>) -> Job,
    ) -> Result<T, AppendError> {
        let (answer, answered) = oneshot::channel();
        self.queue.try_send(job(answer)).map_err(|refused| {
            AppendError::Refused(match refused {
                TrySendError::Full(_) => "too many appends wait already".to_owned(),
                TrySendError::Disconnected(_) => "the log is closed".to_owned(),
            })
        })?;
        answered.await.unwrap_or_else(|_| {
            Err(AppendError::Unknown(
                "the log ended before it answered".to_owned(),
            ))
        })
    }

    fn partition(&self, partition: u16) -> &Partition {
        self.shared
            .partitions
            .get(usize::from(partition))
            .expect("the log has the partition")
    }
}

impl Log for SqliteLog {
    fn id(&self) -> LogId {
        self.id
    }

    fn partitions(&self) -> u16 {
        self.shared
            .partitions
            .len()
            .try_into()
            .expect("made with fewer than 65,536")
    }

    async fn append(&self, partition: u16, payload: Bytes) -> Result<u64, AppendError> {
        if partition >= self.partitions() {
            return Err(AppendError::Refused(format!(
                "there is no partition {partition}"
            )));
        }
        self.ask(|answer| Job::Append {
            partition,
            payload,
            answer,
        })
        .await
    }

    async fn read(&self, partition: u16, from: Position, max: usize) -> Result<Chunk, ReadError> {
        let below = |start| ReadError::BelowStart { partition, start };
        let start = self.shared.start(partition);
        if from < start {
            return Err(below(start));
        }
        let empty = Chunk {
            entries: Vec::new(),
            next: from,
        };
        if from >= *self.partition(partition).end.borrow() || max == 0 {
            return Ok(empty);
        }
        let max = i64::try_from(max).unwrap_or(i64::MAX);
        // Only what is marked: a commit that is not may be gone after a crash.
        let published = self.shared.published.load(Ordering::Acquire);
        let rows = self
            .readers
            .run(Arc::clone(&self.db), move |db| {
                db.prepare_cached(
                    "SELECT id, payload, sum FROM record
                     WHERE partition = ?1 AND id >= ?2 AND id <= ?3 ORDER BY id LIMIT ?4",
                )?
                .query_map((partition, from.0, published, max), |row| {
                    let payload = Bytes::copy_from_slice(row.get_ref(1)?.as_blob()?);
                    Ok((
                        Entry {
                            offset: row.get(0)?,
                            payload,
                        },
                        row.get::<_, i64>(2)?,
                    ))
                })?
                .collect::<rusqlite::Result<Vec<_>>>()
            })
            .await
            .map_err(|why| ReadError::Unavailable(why.why()))?
            .map_err(|why| ReadError::Unavailable(sqlite::text(why)))?;
        // It may have been pruned meanwhile, and the rows begin behind the hole.
        let start = self.shared.start(partition);
        if from < start {
            return Err(below(start));
        }
        let mut chunk = empty;
        for (entry, sum) in rows {
            if check::sum(entry.offset, partition, &entry.payload) != sum.cast_unsigned() {
                return Err(ReadError::Damaged {
                    partition,
                    offset: entry.offset,
                });
            }
            chunk.next = Position(entry.offset + 1);
            chunk.entries.push(entry);
        }
        Ok(chunk)
    }

    fn end(&self, partition: u16) -> watch::Receiver<Position> {
        self.partition(partition).end.subscribe()
    }

    fn commit(&self, partition: u16, position: Position) {
        let state = self.partition(partition);
        state.committed.store(position.0, Ordering::Release);
        state.dirty.store(true, Ordering::Release);
    }

    async fn committed(&self, partition: u16) -> Result<Position, ReadError> {
        let committed = &self.partition(partition).committed;
        Ok(Position(committed.load(Ordering::Acquire)))
    }

    /// A read below what is left of its partition is refused from then on; the offsets are never given out
    /// again.
    async fn prune(&self, below: Position) -> Result<(), AppendError> {
        self.ask(|answer| Job::Prune { below, answer }).await
    }
}

impl Drop for SqliteLog {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for SqliteLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteLog")
            .field("id", &self.id)
            .field("db", &self.db)
            .field("partitions", &self.shared.partitions.len())
            .finish_non_exhaustive()
    }
}
