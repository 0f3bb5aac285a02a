//! What moving slots does on the two shards.
//!
//! An operation's row is never changed, and what it did to its account follows from it. So a copy is the rows, each
//! written with its effect by the same rule as when it was applied: a row that is there already does nothing, and
//! whatever was copied twice, or applied again from the log, counts once.

mod copy;
mod slots;

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use seawall_shard_router::{BoxError, Slot};
use tokio_postgres::Client;

use super::connect::{Connector, Want, followers};
use super::holdings::numbers;
use super::{Place, PostgresShard};
use crate::app::PARTITIONS;
use crate::errors::chain;

/// How long the servers that follow may take to have what the one that writes has.
const FOLLOWS: Duration = Duration::from_secs(60);

/// How often they are asked.
const LOOK: Duration = Duration::from_millis(20);

/// One of the two shards of a move, on a connection of its own. It ends with the first thing that fails on it.
pub struct Side {
    pub(super) client: Client,
    name: String,
    log: [u8; 16],
    place: Place,
}

/// Slots on the way, and the partitions that they are of.
pub struct Moving {
    slots: Vec<i32>,
    partitions: Vec<i32>,
}

impl Moving {
    /// These slots.
    pub fn new(slots: impl IntoIterator<Item = Slot>) -> Self {
        let slots = numbers(slots);
        let partitions: BTreeSet<i32> = slots
            .iter()
            .map(|slot| slot % i32::from(PARTITIONS))
            .collect();
        Self {
            slots,
            partitions: partitions.into_iter().collect(),
        }
    }
}

impl Side {
    /// Connects to the server of a shard that writes; `name` is what the other side calls it.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub async fn of(shard: &PostgresShard, name: &str) -> Result<Self, BoxError> {
        let place = shard.place().clone();
        let (client, _) = Connector::new(&place, Want::Primary).plain().await?;
        Ok(Self {
            client,
            name: name.to_owned(),
            log: shard.inner.log.0,
            place,
        })
    }

    /// Holds a lock by this name as long as this connection lives. Answers whether nobody else did.
    ///
    /// # Errors
    ///
    /// PostgreSQL's own.
    pub async fn lock(&self, number: i64) -> Result<bool, BoxError> {
        let row = self
            .client
            .query_one("SELECT pg_try_advisory_lock($1)", &[&number])
            .await?;
        Ok(row.get(0))
    }

    /// Makes what finds rows by slot, for as long as slots move.
    ///
    /// # Errors
    ///
    /// PostgreSQL's own.
    pub async fn index(&self) -> Result<(), BoxError> {
        // One that was left half made counts for nothing.
        let half_made =
            "SELECT 1 FROM pg_index WHERE indexrelid = to_regclass('op_slot') AND NOT indisvalid";
        if self.client.query_opt(half_made, &[]).await?.is_some() {
            self.unindex().await?;
        }
        let make =
            "CREATE INDEX CONCURRENTLY IF NOT EXISTS op_slot ON op(slot, partition, at_offset)";
        Ok(self.client.batch_execute(make).await?)
    }

    /// Removes it: it costs every write.
    ///
    /// # Errors
    ///
    /// PostgreSQL's own.
    pub async fn unindex(&self) -> Result<(), BoxError> {
        let drop = "DROP INDEX CONCURRENTLY IF EXISTS op_slot";
        Ok(self.client.batch_execute(drop).await?)
    }

    /// Waits until every server that follows has what the one that writes has now, so that a promotion forgets
    /// nothing of it.
    ///
    /// # Errors
    ///
    /// When one of them cannot be reached, or does not come that far in a minute.
    pub async fn everywhere(&self) -> Result<(), BoxError> {
        let row = self
            .client
            .query_one("SELECT (pg_current_wal_lsn() - '0/0'::pg_lsn)::bigint", &[])
            .await?;
        let written: i64 = row.get(0);
        let wait = async {
            for follower in followers(&self.place).await? {
                loop {
                    let row = follower
                        .query_one(
                            "SELECT (pg_last_wal_replay_lsn() - '0/0'::pg_lsn)::bigint",
                            &[],
                        )
                        .await?;
                    if row
                        .get::<_, Option<i64>>(0)
                        .is_some_and(|has| has >= written)
                    {
                        break;
                    }
                    tokio::time::sleep(LOOK).await;
                }
            }
            Ok::<(), BoxError>(())
        };
        match tokio::time::timeout(FOLLOWS, wait).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(why)) => Err(format!("a replica of {}: {}", self.name, chain(&*why)).into()),
            Err(_) => Err(format!("a replica of {} does not come up to it", self.name).into()),
        }
    }
}

impl fmt::Debug for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Side")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Moving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Moving")
            .field("slots", &self.slots.len())
            .finish_non_exhaustive()
    }
}
