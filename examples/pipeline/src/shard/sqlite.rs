//! A shard in one SQLite database: one thread writes, the readers of all shards read.
//!
//! A replica is a reader of the same database. It never lags: a commit is seen by every reader at once.

mod apply;
mod check;
mod known;
mod query;
mod writer;

use std::path::Path;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rusqlite::Connection;
use seawall_shard_router::Role;
use tokio::sync::oneshot;

use self::known::Known;
use self::writer::{Job, Writer};
use super::{
    Applied, Batch, Query, ShardDb, ShardError, StoredLetter, Tally, Versioned, Watermark,
};
use crate::data::DataError;
use crate::log::LogId;
use crate::sqlite::{self, Readers};

pub(crate) use self::check::{Checked, Identity, check, create};

/// Batches that may wait for the writer; beyond it they are refused at once.
const WAITING_BATCHES: usize = 1_024;

/// A shard in one SQLite database.
#[derive(Debug)]
pub struct SqliteShard {
    db: Arc<Path>,
    readers: Arc<Readers>,
    known: Arc<Known>,
    queue: SyncSender<Job>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl SqliteShard {
    /// Opens a shard that was checked a moment ago, by who keeps everyone else out of its directory.
    pub(crate) fn open(checked: Checked, readers: Arc<Readers>) -> Result<Self, DataError> {
        let Checked { file, identity } = checked;
        let failed = |why| DataError::sqlite(&file, why);
        let db = sqlite::writer(&file, 32).map_err(failed)?;
        let known = Arc::new(Known::of(&db).map_err(failed)?);
        let (queue, jobs) = sync_channel(WAITING_BATCHES);
        let writer = Writer {
            db,
            identity,
            known: Arc::clone(&known),
        };
        let writer = std::thread::Builder::new()
            .name(format!("shard-{:02}", identity.shard))
            .spawn(move || writer.run(&jobs))
            .map_err(|why| DataError::io(&file, why))?;
        Ok(Self {
            db: file.into(),
            readers,
            known,
            queue,
            writer: Mutex::new(Some(writer)),
        })
    }

    /// Lets the thread end after what was asked before, without waiting for it.
    pub(crate) fn stop(&self) {
        // It fails only when the thread is gone already.
        let _ = self.queue.send(Job::Stop);
    }

    /// Finishes what was asked before and ends the thread. From then on writes are refused.
    pub fn close(&self) {
        let writer = self
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(writer) = writer {
            self.stop();
            // A panic of it was shown; what it had not answered was not answered.
            let _ = writer.join();
        }
    }

    async fn write<T>(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<T, ShardError>>) -> Job,
    ) -> Result<T, ShardError> {
        let (answer, answered) = oneshot::channel();
        self.queue.try_send(job(answer)).map_err(|refused| {
            ShardError::Unavailable(match refused {
                TrySendError::Full(_) => "too many batches wait already".to_owned(),
                TrySendError::Disconnected(_) => "it is closed".to_owned(),
            })
        })?;
        answered.await.unwrap_or_else(|_| {
            Err(ShardError::Unavailable(
                "it ended before it answered".to_owned(),
            ))
        })
    }

    async fn look<T: Send + 'static>(
        &self,
        read: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, ShardError> {
        self.readers
            .run(Arc::clone(&self.db), read)
            .await
            .map_err(|why| ShardError::Unavailable(why.why()))?
            .map_err(|why| ShardError::Unavailable(sqlite::text(why)))
    }
}

impl ShardDb for SqliteShard {
    async fn adopt(&self, partition: u16, log: LogId, epoch: u64) -> Result<Watermark, ShardError> {
        self.write(|answer| Job::Adopt {
            partition,
            log,
            epoch,
            answer,
        })
        .await
    }

    async fn apply(&self, batch: Arc<Batch>) -> Result<Applied, ShardError> {
        self.write(|answer| Job::Apply { batch, answer }).await
    }

    async fn read(&self, _from: Role, query: Query) -> Result<Versioned, ShardError> {
        if let Query::Order(id) = &query
            && !self.known.may_hold(id.op)
        {
            return Ok(Versioned::ABSENT);
        }
        self.look(move |db| query::document(db, &query)).await
    }

    async fn tally(&self) -> Result<Tally, ShardError> {
        self.look(query::tally).await
    }

    async fn letters(&self) -> Result<u64, ShardError> {
        self.look(|db| query::letters(db)).await
    }

    async fn letters_page(
        &self,
        after: String,
        max: usize,
    ) -> Result<Vec<StoredLetter>, ShardError> {
        self.look(move |db| query::letters_page(db, &after, max))
            .await
    }
}

impl Drop for SqliteShard {
    fn drop(&mut self) {
        self.close();
    }
}
