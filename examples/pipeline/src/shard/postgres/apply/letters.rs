//! The letters of a batch: what was written off, for people to read.

use tokio_postgres::Error;

use super::work::at_ms;
use crate::shard::DeadRow;
use crate::shard::postgres::connect::Connection;

/// Letters to be written.
#[derive(Default)]
pub(super) struct Letters<'a> {
    pub(super) ids: Vec<&'a str>,
    ops: Vec<Option<&'a [u8]>>,
    offsets: Vec<i64>,
    classes: Vec<&'a str>,
    bodies: Vec<&'a [u8]>,
    times: Vec<Option<i64>>,
}

impl<'a> Letters<'a> {
    pub(super) fn push(&mut self, offset: u64, dead: &'a DeadRow) {
        self.ids.push(&dead.letter);
        self.ops
            .push(dead.record.as_ref().map(|record| &record.op[..]));
        self.offsets.push(offset.cast_signed());
        self.classes.push(&dead.class);
        self.bodies.push(&dead.body);
        self.times.push(dead.record.as_ref().map(at_ms));
    }

    /// Answers how many are new.
    pub(super) async fn write(&self, db: &Connection, partition: u16) -> Result<u64, Error> {
        if self.ids.is_empty() {
            return Ok(0);
        }
        let rows = db
            .client
            .query(
                &db.statements.letters,
                &[
                    &self.ids,
                    &self.ops,
                    &self.offsets,
                    &self.classes,
                    &self.bodies,
                    &self.times,
                    &i32::from(partition),
                ],
            )
            .await?;
        Ok(rows.len() as u64)
    }
}
