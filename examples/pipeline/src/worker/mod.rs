//! The workers: one task for each partition reads batches from the log and has its shard apply them.
//!
//! A batch either applies whole, or the worker finds out what to do about it:
//! - *behind*: the shard's watermark lies below the batch. Read again from there; a gap is never jumped.
//! - *another epoch*: take the partition anew, then go on.
//! - *poison*: the shard names a record that can never apply. It is taken out of the batch and becomes a letter
//!   in the shard's own transaction; what was before and after it applies as usual.
//! - *anything else* is passing: the partition waits, the others go on. A batch that keeps failing while its shard
//!   serves others is cut in half, and a record that keeps failing alone is written off.
//!
//! A worker may hold a partition that another process has taken meanwhile, and two may be at it at once for a
//! moment. They meet at the lock of the watermark's row, and who comes second finds its records skipped.

mod beat;
mod part;
mod partition;
mod shared;
mod size;

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::partition::PartitionWorker;
use crate::log::Log;

pub use self::shared::{Counters, Shared, WorkerSettings};

/// When the workers are to end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ending {
    /// At the end of their partitions.
    pub(crate) at_the_end: CancellationToken,
    /// After the batch that they are at.
    pub(crate) now: CancellationToken,
}

/// Running workers.
#[derive(Debug)]
pub struct Workers {
    tasks: JoinSet<()>,
    ending: Ending,
}

impl Workers {
    /// Starts a worker for each partition on the current runtime.
    pub fn start<L: Log>(shared: &Arc<Shared<L>>) -> Self {
        let ending = Ending::default();
        let mut tasks = JoinSet::new();
        for partition in 0..shared.log.partitions() {
            tasks.spawn(PartitionWorker::new(shared, partition, ending.clone()).run());
        }
        Self { tasks, ending }
    }

    /// Lets each worker go on to the end of its partition and waits for them, at most so long. Answers
    /// whether all of them got there.
    pub async fn finish(self, within: Duration) -> bool {
        self.ending.at_the_end.cancel();
        self.wait(within).await
    }

    /// Lets each worker end the batch that it is at and waits for them, at most so long. What is left in the log
    /// is for whoever takes the partitions next. Answers whether all of them ended.
    pub async fn leave(self, within: Duration) -> bool {
        self.ending.now.cancel();
        self.wait(within).await
    }

    async fn wait(mut self, within: Duration) -> bool {
        let all = async { while self.tasks.join_next().await.is_some() {} };
        tokio::time::timeout(within, all).await.is_ok()
    }
}
