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
use tokio_postgres::Config;

use super::joined::with_password_of;
use super::{Places, ShardPlace};
use crate::errors::chain;
use crate::log::LogId;
use crate::shard::PostgresShard;
use crate::shard::postgres::{Identity, Patience, Place};
use crate::shards::{Opened, first_topology, shard_id};

/// The name under which shards keep the assignment.
const ASSIGNMENT: &str = "assignment";

/// The name under which they keep how far a move is.
const MOVE: &str = "move";

/// Where the shards lie that joined, by name.
pub type Joined = BTreeMap<String, ShardPlace>;

/// The assignment of slots, and where the shards lie that joined after the first.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assignment {
    /// Which shard owns which slot.
    pub topology: Topology,
    /// The shards that the services' file does not list.
    pub joined: Joined,
}

/// How far a move is, and where the shards lie that it is for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Journal {
    /// How far it is.
    pub progress: Progress,
    /// As in [`Assignment::joined`], once it is done.
    pub joined: Joined,
}

/// All shards, and what they keep of the assignment.
#[derive(Debug)]
pub struct Assigned {
    opened: Opened<PostgresShard>,
    first: u16,
    log: LogId,
    schema: String,
    /// The address of the first shard, whose password is that of all who join.
    credentials: Config,
    newest: Mutex<Assignment>,
}

impl Assigned {
    /// Opens the shards of a services' file, and those that joined.
    ///
    /// # Errors
    ///
    /// Which shard it is, and what is wrong with it.
    pub async fn open(places: &Places, log: LogId) -> anyhow::Result<Arc<Self>> {
        let shards = &places.postgres.shards;
        let first = u16::try_from(shards.len()).context("too many shards")?;
        let servers = shards.iter().zip(0_u16..).map(|(at, shard)| {
            let servers = at.servers().with_context(|| format!("shard {shard}"))?;
            Ok((shard, servers))
        });
        let servers: Vec<(u16, Vec<Config>)> = servers.collect::<anyhow::Result<_>>()?;
        let credentials = servers.first().and_then(|(_, servers)| servers.first());
        let assigned = Self {
            opened: Opened::new(&[]),
            first,
            log,
            schema: places.kafka.topic.clone(),
            credentials: credentials.context("there are no shards")?.clone(),
            newest: Mutex::new(Assignment {
                topology: first_topology(first)?,
                joined: Joined::new(),
            }),
        };
        let opened = servers
            .into_iter()
            .map(|(shard, servers)| assigned.open_shard(shard, servers));
        try_join_all(opened).await?;
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

    /// Opens a shard that joins, and makes its tables where there are none. Its password is that of the first.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub async fn join(&self, shard: u16, at: &ShardPlace) -> anyhow::Result<()> {
        let kept = at.servers().with_context(|| format!("shard {shard}"))?;
        let server = |kept| with_password_of(&self.credentials, kept);
        self.open_shard(shard, kept.iter().map(server).collect())
            .await
    }

    /// Makes sure that every process could open a shard that joins.
    ///
    /// # Errors
    ///
    /// When it has a password of its own.
    pub fn admits(&self, at: &ShardPlace) -> anyhow::Result<()> {
        at.joins(&self.credentials)
    }

    async fn open_shard(&self, shard: u16, servers: Vec<Config>) -> anyhow::Result<()> {
        let name = format!("shard {shard}");
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
    pub async fn join_all(&self, joined: &Joined) -> anyhow::Result<()> {
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
        let Asked {
            newest,
            unconfirmed,
        } = self.ask(ASSIGNMENT, known, patience).await?;
        if let Some(newest) = newest {
            let newest: Assignment = serde_json::from_str(&newest)?;
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
                    leaving(&journal.progress, &id)
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
        let asked = self.ask(MOVE, 0, Patience::Write).await?;
        let said = asked.newest.map(|said| serde_json::from_str(&said));
        Ok(said.transpose()?)
    }

    /// Asks all shards for what they keep under a name of a version above `above`.
    async fn ask(
        &self,
        name: &'static str,
        above: u64,
        patience: Patience,
    ) -> Result<Asked, BoxError> {
        let shards = self.opened.all();
        let looks = shards
            .iter()
            .map(|(_, shard)| shard.look(name, above, patience));
        let looks = join_all(looks).await;
        let mut newest: Option<(u64, String)> = None;
        let (mut refused, mut answered, mut unconfirmed) = (None, false, Vec::new());
        for (shard, looked) in shards.into_iter().zip(looks) {
            match looked {
                Err(why) => refused = Some(why),
                Ok(looked) => {
                    answered = true;
                    if !looked.is_confirmed {
                        unconfirmed.push(shard);
                    }
                    newest = newest.max(looked.newer);
                }
            }
        }
        match refused {
            Some(why) if !answered => Err(why.into()),
            _ => Ok(Asked {
                newest: newest.map(|(_, body)| body),
                unconfirmed,
            }),
        }
    }

    /// Has every shard keep how far a move is.
    ///
    /// # Errors
    ///
    /// When one of them does not.
    pub async fn keep_journal(&self, version: u64, journal: &Journal) -> Result<(), BoxError> {
        let journal = Journal {
            progress: journal.progress.clone(),
            joined: without_passwords(&journal.joined)?,
        };
        let body = serde_json::to_string(&(version, journal))?;
        self.keep(MOVE, version, &body).await
    }

    /// Has every shard keep an assignment, so that each tells of it.
    ///
    /// # Errors
    ///
    /// When one of them does not. Whoever asks the others may follow it already.
    pub async fn publish(&self, assignment: &Assignment) -> Result<(), BoxError> {
        let epoch = assignment.topology.epoch();
        let assignment = Assignment {
            topology: assignment.topology.clone(),
            joined: without_passwords(&assignment.joined)?,
        };
        let body = serde_json::to_string(&assignment)?;
        self.keep(ASSIGNMENT, epoch, &body).await
    }

    async fn keep(&self, name: &'static str, version: u64, body: &str) -> Result<(), BoxError> {
        let shards = self.opened.all();
        let kept = shards
            .iter()
            .map(|(_, shard)| shard.keep(name, version, body));
        try_join_all(kept).await?;
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Assignment> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What shards say that were asked for what they keep.
struct Asked {
    /// The newest of it.
    newest: Option<String>,
    /// Those that are on a server on which their slots were not confirmed.
    unconfirmed: Vec<(ShardId, Arc<PostgresShard>)>,
}

/// As it may be kept in a table.
fn without_passwords(joined: &Joined) -> anyhow::Result<Joined> {
    let places = joined.iter();
    places
        .map(|(id, at)| Ok((id.clone(), at.without_password()?)))
        .collect()
}

/// The slots that a shard takes no more writes of, by a move that is this far, and since which epoch. Where the next
/// step may have been done already, it counts as done.
fn leaving(progress: &Progress, shard: &ShardId) -> (Vec<SlotRange>, u64) {
    let came_to = progress.rolled_back_from().unwrap_or(progress.stage());
    let froze = progress.stage() != Stage::RolledBack
        && !matches!(came_to, Stage::Planned | Stage::Copying | Stage::CatchingUp);
    let moves = progress.plan().moves().iter();
    let from_here = moves.filter(|a_move| froze && a_move.from() == shard);
    let slots = from_here.flat_map(|a_move| a_move.ranges().iter().copied());
    (slots.collect(), progress.base().epoch() + 2)
}
