//! The steps of a move on PostgreSQL. Each is durable on every server that could be promoted before it counts as done.

use std::sync::Arc;

use seawall_shard_router::{
    BoxError, Move, Mover, Outcome, Progress, ShardId, Stage, Step, Topology,
};

use crate::services::{Assigned, Assignment, Joined, Journal};
use crate::shard::postgres::{Moving, Side};

/// The lock that whoever moves slots holds on the first shard.
const LOCK: i64 = 6_013_520;

/// Moves slots between the shards of a pipeline on PostgreSQL.
#[derive(Debug)]
pub struct PostgresMover {
    shards: Arc<Assigned>,
    joined: Joined,
    moves: Vec<Move>,
    version: u64,
    /// Held as long as this lives, so that no two move slots at once.
    _lock: Side,
}

impl PostgresMover {
    /// For a move after which these shards will have joined.
    ///
    /// # Errors
    ///
    /// When somebody else moves slots now, or the first shard does not answer.
    pub async fn new(shards: &Arc<Assigned>, joined: Joined) -> Result<Self, BoxError> {
        let all = shards.opened().all();
        let (id, first) = all.first().ok_or("there are no shards")?;
        let lock = Side::of(first, id.as_str()).await?;
        if !lock.lock(LOCK).await? {
            return Err("somebody else moves slots now".into());
        }
        Ok(Self {
            shards: Arc::clone(shards),
            joined,
            moves: Vec::new(),
            version: 0,
            _lock: lock,
        })
    }

    async fn side(&self, id: &ShardId) -> Result<Side, BoxError> {
        let shard = self.shards.opened().get(id);
        let shard = shard.ok_or_else(|| format!("shard {id} is not open"))?;
        Side::of(&shard, id.as_str()).await
    }

    /// The source and the target.
    async fn sides(&self, a_move: &Move) -> Result<(Side, Side, Moving), BoxError> {
        let (source, target) = (
            self.side(a_move.from()).await?,
            self.side(a_move.to()).await?,
        );
        Ok((source, target, Moving::new(a_move.slots())))
    }

    async fn publish(&self, topology: &Topology) -> Result<(), BoxError> {
        if topology.reads_elsewhere().next().is_some() {
            for a_move in &self.moves {
                let (_, target, moving) = self.sides(a_move).await?;
                target.read_here(&moving, true).await?;
                // Also what a replica answers is whole then.
                target.everywhere().await?;
            }
        }
        let assignment = Assignment {
            topology: topology.clone(),
            joined: self.joined.clone(),
        };
        self.shards.publish(&assignment).await
    }

    async fn open(&self, a_move: &Move, epoch: u64) -> Result<(), BoxError> {
        let (source, target, moving) = self.sides(a_move).await?;
        // The target may have been promoted since it was compared. The source is frozen, so this is the whole.
        if !source.equals(&target, &moving).await? {
            source.copy_to(&target, &moving, true).await?;
        }
        target.open(&source, &moving, epoch).await?;
        target.everywhere().await?;
        // It keeps its rows, as a copy.
        source.close(&moving, "away", epoch).await?;
        source.everywhere().await
    }

    async fn release(&self, a_move: &Move, epoch: u64) -> Result<(), BoxError> {
        let (source, target, moving) = self.sides(a_move).await?;
        target.everywhere().await?;
        source.close(&moving, "away", epoch).await?;
        source.read_here(&moving, false).await?;
        source.delete(&moving).await?;
        target.forget(&source).await
    }

    async fn discard(&self, a_move: &Move) -> Result<(), BoxError> {
        let (source, target, moving) = self.sides(a_move).await?;
        source.everywhere().await?;
        target.index().await?;
        target.read_here(&moving, false).await?;
        target.delete(&moving).await?;
        target.forget(&source).await?;
        source.forget(&target).await
    }
}

impl Mover for PostgresMover {
    async fn run(&mut self, step: &Step<'_>) -> Result<Outcome, BoxError> {
        match step {
            Step::Copy(a_move) => {
                let (source, target, moving) = self.sides(a_move).await?;
                source.index().await?;
                source.copy_to(&target, &moving, true).await?;
            }
            Step::CatchUp(a_move) => {
                let (source, target, moving) = self.sides(a_move).await?;
                let new = source.copy_to(&target, &moving, false).await?;
                return Ok(Outcome::Behind(new));
            }
            Step::Verify(a_move) => {
                let (source, target, moving) = self.sides(a_move).await?;
                if !source.equals(&target, &moving).await? {
                    target.forget(&source).await?;
                    return Ok(Outcome::Differs);
                }
            }
            Step::Publish(topology) => self.publish(topology).await?,
            Step::Freeze(a_move, epoch) => {
                let (source, _, moving) = self.sides(a_move).await?;
                source.close(&moving, "frozen", *epoch).await?;
                source.everywhere().await?;
            }
            Step::Open(a_move, epoch) => self.open(a_move, *epoch).await?,
            // Rows are never changed: what the target wrote is what the source does not have.
            Step::Follow(_) => {}
            Step::Release(a_move, epoch) => self.release(a_move, *epoch).await?,
            Step::Fence(a_move, epoch) => {
                let (_, target, moving) = self.sides(a_move).await?;
                target.close(&moving, "away", *epoch).await?;
                target.everywhere().await?;
            }
            Step::CatchUpBack(a_move) => {
                let (source, target, moving) = self.sides(a_move).await?;
                target.index().await?;
                let new = target.copy_to(&source, &moving, true).await?;
                return Ok(Outcome::Behind(new));
            }
            Step::Reopen(a_move, epoch) => {
                let (source, target, moving) = self.sides(a_move).await?;
                source.open(&target, &moving, *epoch).await?;
                source.everywhere().await?;
            }
            Step::Discard(a_move) => self.discard(a_move).await?,
            other => return Err(format!("no such step: {other}").into()),
        }
        Ok(Outcome::Done)
    }

    async fn save(&mut self, progress: &Progress) -> Result<(), BoxError> {
        self.moves = progress.plan().moves().to_vec();
        if matches!(progress.stage(), Stage::Done | Stage::RolledBack) {
            for (id, shard) in self.shards.opened().all() {
                Side::of(&shard, id.as_str()).await?.unindex().await?;
            }
        }
        let journal = Journal {
            progress: progress.clone(),
            joined: self.joined.clone(),
        };
        self.version += 1;
        self.shards.keep_journal(self.version, &journal).await
    }

    async fn load(&mut self) -> Result<Option<Progress>, BoxError> {
        let Some((version, journal)) = self.shards.journal().await? else {
            return Ok(None);
        };
        self.version = version;
        self.moves = journal.progress.plan().moves().to_vec();
        Ok(Some(journal.progress))
    }
}
