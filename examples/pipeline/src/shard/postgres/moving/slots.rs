//! What a side holds of the slots: taken, closed, opened, deleted.

use seawall_shard_router::BoxError;

use super::{Moving, Side};
use crate::app::PARTITIONS;
use crate::shard::postgres::query::unsigned;

/// Rows that are deleted in one transaction.
const DELETED: i64 = 5_000;

impl Side {
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
}

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
