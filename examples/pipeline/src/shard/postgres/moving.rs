//! What moving slots does on the two shards.
//!
//! An operation's row is never changed, and what it did to its account follows from it. So a copy is the rows, each
//! written with its effect by the same rule as when it was applied: a row that is there already does nothing, and
//! whatever was copied twice, or applied again from the log, counts once.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use seawall_shard_router::{BoxError, Slot};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};

use super::connect::{Connector, Want, followers};
use super::holdings::numbers;
use super::query::unsigned;
use super::{Place, PostgresShard};
use crate::app::PARTITIONS;
use crate::errors::chain;

/// Rows that travel at once.
const TOGETHER: i32 = 2_000;

/// Rows that are deleted in one transaction.
const DELETED: i64 = 5_000;

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

    /// Copies the rows of these slots in one snapshot: all of them, or those since the last copy. Answers how many
    /// orders and letters were new to the target.
    ///
    /// # Errors
    ///
    /// What either side says. The same again goes on from the last copy that was whole.
    pub async fn copy_to(
        &self,
        target: &Self,
        moving: &Moving,
        all: bool,
    ) -> Result<u64, BoxError> {
        let (partitions, positions) = if all {
            (Vec::new(), Vec::new())
        } else {
            target.cursors(&self.name).await?
        };
        self.client
            .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            .await?;
        let marks = "SELECT partition, position FROM watermark WHERE partition = ANY($1)";
        let marks = self.client.query(marks, &[&moving.partitions]).await?;
        let mut new = 0;
        for (read, write) in [(READ_OPS, WRITE_OPS), (READ_LETTERS, WRITE_LETTERS)] {
            // The rows wait on the source's side, so that no table has to fit in memory.
            self.client
                .execute(
                    &format!("DECLARE rows NO SCROLL CURSOR FOR {read}"),
                    &[&moving.slots, &partitions, &positions],
                )
                .await?;
            loop {
                let rows = format!("FETCH {TOGETHER} FROM rows");
                let rows = self.client.query(&rows, &[]).await?;
                if rows.is_empty() {
                    break;
                }
                new += target.write(write, &rows).await?;
            }
            self.client.batch_execute("CLOSE rows").await?;
        }
        self.client.batch_execute("COMMIT").await?;
        // Only now is everything there that lies below.
        let marks: (Vec<i32>, Vec<i64>) = marks
            .iter()
            .map(|mark| (mark.get::<_, i32>(0), mark.get::<_, i64>(1)))
            .unzip();
        target
            .client
            .execute(
                "INSERT INTO copied(source, partition, position)
                 SELECT $1, * FROM unnest($2::int[], $3::bigint[])
                 ON CONFLICT(source, partition) DO UPDATE SET position = excluded.position",
                &[&self.name, &marks.0, &marks.1],
            )
            .await?;
        Ok(new)
    }

    /// How far each partition of a source was copied here.
    async fn cursors(&self, source: &str) -> Result<(Vec<i32>, Vec<i64>), BoxError> {
        let rows = self
            .client
            .query(
                "SELECT partition, position FROM copied WHERE source = $1",
                &[&source],
            )
            .await?;
        Ok(rows
            .iter()
            .map(|row| (row.get::<_, i32>(0), row.get::<_, i64>(1)))
            .unzip())
    }

    /// Rows travel as the text that PostgreSQL itself writes and reads.
    async fn write(&self, write: &str, rows: &[Row]) -> Result<u64, BoxError> {
        let rows: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
        let row = self.client.query_one(write, &[&rows]).await?;
        Ok(unsigned(&row, 0))
    }

    /// Whether the target has the same rows of these slots as this source, as of what was copied last.
    ///
    /// # Errors
    ///
    /// What either side says.
    pub async fn equals(&self, target: &Self, moving: &Moving) -> Result<bool, BoxError> {
        let (partitions, positions) = target.cursors(&self.name).await?;
        let below: [&(dyn ToSql + Sync); 3] = [&moving.slots, &partitions, &positions];
        let mine = self.client.query_one(DIGEST, &below).await?;
        let theirs = target.client.query_one(DIGEST, &below).await?;
        Ok((0..3)
            .all(|at| mine.get::<_, Option<String>>(at) == theirs.get::<_, Option<String>>(at)))
    }

    /// Forgets how far a source was copied here, so that the next copy is of everything.
    ///
    /// # Errors
    ///
    /// PostgreSQL's own.
    pub async fn forget(&self, source: &Self) -> Result<(), BoxError> {
        let forget = "DELETE FROM copied WHERE source = $1";
        self.client.execute(forget, &[&source.name]).await?;
        Ok(())
    }

    /// From this epoch on takes no more writes of these slots, under the lock that every batch takes.
    ///
    /// # Errors
    ///
    /// When the shard knows of a later epoch, and what PostgreSQL says.
    pub async fn close(&self, moving: &Moving, to: &str, epoch: u64) -> Result<(), BoxError> {
        self.begin(moving).await?;
        self.change(moving, to, epoch).await?;
        // Whoever routes by an older assignment is refused, also with what does not move.
        let raise = "UPDATE watermark SET epoch = greatest(epoch, $2) WHERE partition = ANY($1)";
        self.client
            .execute(raise, &[&moving.partitions, &epoch.cast_signed()])
            .await?;
        Ok(self.client.batch_execute("COMMIT").await?)
    }

    /// From this epoch on takes the writes of these slots, each partition from where the source left it or where it
    /// is itself, whichever is lower: what was copied makes it harmless to apply some of it again.
    ///
    /// # Errors
    ///
    /// As [`close`](Self::close).
    pub async fn open(&self, source: &Self, moving: &Moving, epoch: u64) -> Result<(), BoxError> {
        let (partitions, positions) = self.cursors(&source.name).await?;
        self.begin(moving).await?;
        self.change(moving, "owned", epoch).await?;
        let lower = "INSERT INTO watermark AS mine(partition, log, epoch, position)
             SELECT partition, $2, $3, position FROM unnest($4::int[], $5::bigint[]) AS copied(partition, position)
             WHERE partition = ANY($1)
             ON CONFLICT(partition) DO UPDATE SET epoch = greatest(mine.epoch, excluded.epoch),
                 position = least(mine.position, excluded.position)";
        let log = &self.log[..];
        self.client
            .execute(
                lower,
                &[
                    &moving.partitions,
                    &log,
                    &epoch.cast_signed(),
                    &partitions,
                    &positions,
                ],
            )
            .await?;
        Ok(self.client.batch_execute("COMMIT").await?)
    }

    async fn begin(&self, moving: &Moving) -> Result<(), BoxError> {
        self.client.batch_execute("BEGIN").await?;
        let lock =
            "SELECT 1 FROM watermark WHERE partition = ANY($1) ORDER BY partition FOR UPDATE";
        self.client.query(lock, &[&moving.partitions]).await?;
        Ok(())
    }

    /// By the rule of [`Holdings::change`](seawall_shard_router::Holdings::change).
    async fn change(&self, moving: &Moving, to: &str, epoch: u64) -> Result<(), BoxError> {
        let change =
            "UPDATE slots SET holding = $2, epoch = $3, readable = readable OR $2 = 'owned'
             WHERE slot = ANY($1) AND (epoch < $3 OR (epoch = $3
                 AND (holding = $2 OR $2 = 'away' OR (holding = 'away' AND $2 = 'owned'))))";
        let epoch = epoch.cast_signed();
        let changed = self
            .client
            .execute(change, &[&moving.slots, &to, &epoch])
            .await?;
        if changed != moving.slots.len() as u64 {
            let missing = moving.slots.len() as u64 - changed;
            return Err(format!(
                "{} knows of a later epoch than {epoch} for {missing} slots",
                self.name
            )
            .into());
        }
        let raise = "UPDATE state SET epoch = greatest(epoch, $1)";
        self.client.execute(raise, &[&epoch]).await?;
        Ok(())
    }

    /// What is not owned is read here, or not.
    ///
    /// # Errors
    ///
    /// PostgreSQL's own.
    pub async fn read_here(&self, moving: &Moving, readable: bool) -> Result<(), BoxError> {
        let change = "UPDATE slots SET readable = $2 WHERE slot = ANY($1) AND holding <> 'owned'";
        self.client
            .execute(change, &[&moving.slots, &readable])
            .await?;
        Ok(())
    }

    /// Deletes the rows of slots that are away, with what they did to their accounts.
    ///
    /// # Errors
    ///
    /// PostgreSQL's own.
    pub async fn delete(&self, moving: &Moving) -> Result<(), BoxError> {
        loop {
            let row = self
                .client
                .query_one(DELETE, &[&moving.slots, &DELETED])
                .await?;
            if unsigned(&row, 0) == 0 {
                break;
            }
        }
        self.client
            .batch_execute("DELETE FROM account WHERE orders = 0")
            .await?;
        let marks = "DELETE FROM watermark WHERE partition = ANY($1) AND NOT EXISTS(
                 SELECT 1 FROM slots WHERE slot % $2 = partition AND holding <> 'away')";
        self.client
            .execute(marks, &[&moving.partitions, &i32::from(PARTITIONS)])
            .await?;
        Ok(())
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

const READ_OPS: &str = "
    SELECT o::text FROM op AS o
    LEFT JOIN unnest($2::int[], $3::bigint[]) AS copied(partition, position) ON copied.partition = o.partition
    WHERE o.slot = ANY($1) AND o.at_offset >= coalesce(copied.position, 0)";

/// With its effect, as when it was applied.
const WRITE_OPS: &str = "
    WITH new AS (
        INSERT INTO op
        SELECT (o).* FROM (SELECT line::op AS o FROM unnest($1::text[]) AS line OFFSET 0) AS read
        ON CONFLICT(op) DO NOTHING
        RETURNING applied, account, quantity, at_offset
    ), sums AS (
        INSERT INTO account AS mine(id, orders, units, version)
        SELECT account, count(*), sum(quantity)::bigint, max(at_offset) + 1 FROM new WHERE applied
        GROUP BY account ORDER BY account
        ON CONFLICT(id) DO UPDATE SET orders = mine.orders + excluded.orders,
            units = mine.units + excluded.units, version = greatest(mine.version, excluded.version)
    )
    SELECT count(*) FROM new";

const READ_LETTERS: &str = "
    SELECT l::text FROM letter AS l JOIN op ON op.op = l.op
    LEFT JOIN unnest($2::int[], $3::bigint[]) AS copied(partition, position) ON copied.partition = l.partition
    WHERE op.slot = ANY($1) AND l.at_offset >= coalesce(copied.position, 0)";

const WRITE_LETTERS: &str = "
    WITH new AS (
        INSERT INTO letter
        SELECT (l).* FROM (SELECT line::letter AS l FROM unnest($1::text[]) AS line OFFSET 0) AS read
        ON CONFLICT(id) DO NOTHING RETURNING 1
    )
    SELECT count(*) FROM new";

/// Of all rows below what was copied: what they hold, without regard to their order.
const DIGEST: &str = "
    WITH decided AS (
        SELECT o.applied, o.quantity, ('x' || md5(o::text))::bit(64)::bigint AS digest
        FROM op AS o
        JOIN unnest($2::int[], $3::bigint[]) AS copied(partition, position) ON copied.partition = o.partition
        WHERE o.slot = ANY($1) AND o.at_offset < copied.position
    ), said AS (
        SELECT ('x' || md5(l::text))::bit(64)::bigint AS digest
        FROM letter AS l JOIN op ON op.op = l.op
        JOIN unnest($2::int[], $3::bigint[]) AS copied(partition, position) ON copied.partition = l.partition
        WHERE op.slot = ANY($1) AND l.at_offset < copied.position
    )
    SELECT (SELECT count(*)::text || ' ' || sum(digest)::text FROM decided),
           (SELECT count(*)::text || ' ' || sum(digest)::text FROM said),
           (SELECT sum(quantity)::text FROM decided WHERE applied)";

const DELETE: &str = "
    WITH gone AS (
        DELETE FROM op WHERE op IN (
            SELECT op FROM op JOIN slots USING (slot) WHERE slot = ANY($1) AND holding = 'away' LIMIT $2
        ) RETURNING op, applied, account, quantity
    ), less AS (
        UPDATE account SET orders = account.orders - gone.orders, units = account.units - gone.units
        FROM (SELECT account AS id, count(*) AS orders, sum(quantity)::bigint AS units
              FROM gone WHERE applied GROUP BY account) AS gone
        WHERE account.id = gone.id
    ), silenced AS (
        DELETE FROM letter WHERE op IN (SELECT op FROM gone)
    )
    SELECT count(*) FROM gone";
