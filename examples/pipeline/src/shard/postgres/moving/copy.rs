//! Copying the rows of slots, and comparing both sides.

use seawall_shard_router::BoxError;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::{Moving, Side};
use crate::shard::postgres::query::unsigned;

/// Rows that travel at once.
const TOGETHER: i32 = 2_000;

impl Side {
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
    pub(super) async fn cursors(&self, source: &str) -> Result<(Vec<i32>, Vec<i64>), BoxError> {
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
