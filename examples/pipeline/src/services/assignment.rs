//! Which shard owns which slot, as the shards themselves keep it.
//!
//! Every shard keeps the newest assignment, and how far a move of slots is, so each of them can tell those who route.
//! What is newest of all that answer counts: a shard that was promoted may have missed some of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use futures_util::future::{join_all, try_join_all};
use seawall_shard_router::{BoxError, Progress, ShardId, SlotRange, Stage, Topology};
use serde::{Deserialize, Serialize};

use super::{Places, ShardPlace};
use crate::errors::chain;
use crate::log::LogId;
use crate::shard::PostgresShard;
use crate::shard::postgres::{Identity, Patience, Place, Side};
use crate::shards::{Opened, first_topology, shard_id};

/// The name under which shards keep the assignment.
const ASSIGNMENT: &str = "assignment";

/// The name under which they keep how far a move is.
const MOVE: &str = "move";

/// The assignment of slots, and where the shards lie that joined after the first.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assignment {
    /// Which shard owns which slot.
    pub topology: Topology,
    /// The shards that the services' file does not list.
    pub joined: BTreeMap<String, ShardPlace>,
}

/// How far a move is, and where the shards lie that it is for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Journal {
    /// How far it is.
    pub progress: Progress,
    /// As in [`Assignment::joined`], once it is done.
    pub joined: BTreeMap<String, ShardPlace>,
}

/// All shards, and what they keep of the assignment.
#[derive(Debug)]
pub struct Assigned {
    opened: Opened<PostgresShard>,
    first: u16,
    log: LogId,
    schema: String,
    newest: Mutex<Assignment>,
}

impl Assigned {
    /// Opens the shards of a services' file, and those that joined.
    ///
    /// # Errors
    ///
    /// Which shard it is, and what is wrong with it.
    pub async fn open(places: &Places, log: LogId) -> anyhow::Result<Arc<Self>> {
        let first = u16::try_from(places.postgres.shards.len()).context("too many shards")?;
        let assigned = Self {
            opened: Opened::new(&[]),
            first,
            log,
            schema: places.kafka.topic.clone(),
            newest: Mutex::new(Assignment {
                topology: first_topology(first)?,
                joined: BTreeMap::new(),
            }),
        };
        let shards = (0..first).zip(&places.postgres.shards);
        try_join_all(shards.map(|(shard, at)| assigned.join(shard, at))).await?;
        let assigned = Arc::new(assigned);
        if let Err(why) = assigned.look(Patience::Write).await {
            anyhow::bail!("{}", chain(&*why));
        }
        Ok(assigned)
    }

    /// The shards that are open.
    pub fn opened(&self) -> &Opened<PostgresShard> {
        &self.opened
    }

    /// The newest assignment that was heard of.
    pub fn newest(&self) -> Assignment {
        self.lock().clone()
    }

    /// Opens a shard, and makes its tables where there are none.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub async fn join(&self, shard: u16, at: &ShardPlace) -> anyhow::Result<()> {
        let name = format!("shard {shard}");
        let servers = std::iter::once(&at.primary)
            .chain(&at.replica)
            .chain(&at.replicas)
            .map(|url| url.parse())
            .collect::<Result<_, tokio_postgres::Error>>();
        let servers = servers.with_context(|| format!("{name}: an address is none"))?;
        let place = Place {
            name: name.clone(),
            servers,
            schema: self.schema.clone(),
        };
        let identity = Identity {
            log: self.log,
            shard,
            shards: self.first,
        };
        let opened = PostgresShard::open(place, identity).await.context(name)?;
        let id = ShardId::from(shard_id(shard));
        self.opened.add(id, Arc::new(opened));
        Ok(())
    }

    /// Opens shards that joined, by their names.
    ///
    /// # Errors
    ///
    /// As [`join`](Self::join).
    pub async fn join_all(&self, joined: &BTreeMap<String, ShardPlace>) -> anyhow::Result<()> {
        for (id, at) in joined {
            if self.opened.get(&ShardId::from(id.as_str())).is_none() {
                let number = id.strip_prefix('s').and_then(|number| number.parse().ok());
                let number = number.with_context(|| format!("{id:?} is no shard's name"))?;
                self.join(number, at).await?;
            }
        }
        Ok(())
    }

    /// Learns the newest assignment from all shards that answer, and confirms what a shard holds that was promoted.
    ///
    /// # Errors
    ///
    /// When no shard answers, or one that joined cannot be opened.
    pub async fn look(&self, patience: Patience) -> Result<Topology, BoxError> {
        let known = self.lock().topology.epoch();
        let shards = self.opened.all();
        let looks = shards
            .iter()
            .map(|(_, shard)| shard.look(ASSIGNMENT, known, patience));
        let looks = join_all(looks).await;
        let mut newest: Option<Assignment> = None;
        let (mut refused, mut answered, mut unconfirmed) = (None, 0, Vec::new());
        for ((id, shard), looked) in shards.iter().zip(looks) {
            match looked {
                Err(why) => refused = Some(why),
                Ok(looked) => {
                    answered += 1;
                    if !looked.is_confirmed {
                        unconfirmed.push((id, shard));
                    }
                    if let Some(said) = looked.newer {
                        let said: Assignment = serde_json::from_str(&said)?;
                        let newer =
                            |other: &Assignment| other.topology.epoch() < said.topology.epoch();
                        if newest.as_ref().is_none_or(newer) {
                            newest = Some(said);
                        }
                    }
                }
            }
        }
        if let Some(why) = refused.filter(|_| answered == 0) {
            return Err(why.into());
        }
        if let Some(newest) = newest {
            self.join_all(&newest.joined).await?;
            let mut known = self.lock();
            if newest.topology.epoch() > known.topology.epoch() {
                *known = newest;
            }
        }
        if !unconfirmed.is_empty() {
            let journal = self.journal().await?;
            for (id, shard) in unconfirmed {
                let (leaving, epoch) = journal.as_ref().map_or((Vec::new(), 0), |(_, journal)| {
                    leaving(&journal.progress, id)
                });
                shard.confirm(&leaving, epoch).await?;
                tracing::info!(shard = %id, "a shard was promoted, and its slots are confirmed");
            }
        }
        Ok(self.lock().topology.clone())
    }

    /// How far a move is, as the shard has it that knows most.
    ///
    /// # Errors
    ///
    /// When no shard answers.
    pub async fn journal(&self) -> Result<Option<(u64, Journal)>, BoxError> {
        let shards = self.opened.all();
        let looks = join_all(
            shards
                .iter()
                .map(|(_, shard)| shard.look(MOVE, 0, Patience::Write)),
        )
        .await;
        let mut newest: Option<(u64, Journal)> = None;
        let (mut refused, mut answered) = (None, 0);
        for looked in looks {
            match looked {
                Err(why) => refused = Some(why),
                Ok(looked) => {
                    answered += 1;
                    let Some(said) = looked.newer else { continue };
                    let (version, journal): (u64, Journal) = serde_json::from_str(&said)?;
                    if newest.as_ref().is_none_or(|(known, _)| *known < version) {
                        newest = Some((version, journal));
                    }
                }
            }
        }
        match refused {
            Some(why) if answered == 0 => Err(why.into()),
            _ => Ok(newest),
        }
    }

    /// Has every shard keep how far a move is.
    ///
    /// # Errors
    ///
    /// When one of them does not.
    pub async fn keep_journal(&self, version: u64, journal: &Journal) -> Result<(), BoxError> {
        let body = serde_json::to_string(&(version, journal))?;
        self.keep(MOVE, version, &body).await
    }

    /// Has every shard keep an assignment, so that each tells of it.
    ///
    /// # Errors
    ///
    /// When one of them does not. Whoever asks the others may follow it already.
    pub async fn publish(&self, assignment: &Assignment) -> Result<(), BoxError> {
        let body = serde_json::to_string(assignment)?;
        let epoch = assignment.topology.epoch();
        self.keep(ASSIGNMENT, epoch, &body).await
    }

    async fn keep(&self, name: &str, version: u64, body: &str) -> Result<(), BoxError> {
        let shards = self.opened.all();
        let kept = shards.iter().map(|(id, shard)| async move {
            let side = Side::of(shard, id.as_str()).await?;
            side.keep(name, version, body).await?;
            Ok::<(), BoxError>(())
        });
        try_join_all(kept).await.map(drop)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Assignment> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The slots that a shard takes no more writes of, by a move that is this far, and since which epoch. Where the next
/// step may have been done already, it counts as done.
fn leaving(progress: &Progress, shard: &ShardId) -> (Vec<SlotRange>, u64) {
    let froze = match progress.rolled_back_from().unwrap_or(progress.stage()) {
        Stage::Planned | Stage::Copying | Stage::CatchingUp | Stage::RolledBack => false,
        _ => progress.stage() != Stage::RolledBack,
    };
    let moves = progress.plan().moves().iter();
    let from_here = moves.filter(|a_move| froze && a_move.from() == shard);
    let slots = from_here.flat_map(|a_move| a_move.ranges().iter().copied());
    (slots.collect(), progress.base().epoch() + 2)
}
