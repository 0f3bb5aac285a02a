//! What one batch does, inside a transaction that someone else begins and ends.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, Result};

use super::check::Identity;
use crate::chaos::sabotage::{self, Sabotage};
use crate::log::{LogId, Position};
use crate::order::Record;
use crate::shard::{Applied, Batch, DeadRow, Fate, ShardError, State, Watermark};

/// What a batch or an adoption came to. An error of SQLite itself is kept apart: it may have ended the
/// transaction of everyone.
pub(super) type Outcome<T> = Result<std::result::Result<T, ShardError>>;

pub(super) fn state_name(state: State) -> &'static str {
    match state {
        State::Applied => "applied",
        State::Dead => "dead",
    }
}

/// Gives a partition to this shard, at the log's start or where it was left.
pub(super) fn adopt(
    db: &Connection,
    identity: Identity,
    partition: u16,
    log: LogId,
    epoch: u64,
) -> Outcome<Watermark> {
    if log != identity.log {
        return Ok(Err(ShardError::ForeignLog));
    }
    let given = Watermark {
        log,
        epoch,
        position: Position(0),
    };
    let now = match watermark(db, partition)? {
        Some(known) if known.log != log => return Ok(Err(ShardError::ForeignLog)),
        Some(known) if known.epoch > epoch => {
            return Ok(Err(ShardError::StaleEpoch {
                current: known.epoch,
            }));
        }
        Some(known) => Watermark { epoch, ..known },
        None => given,
    };
    db.prepare_cached(
        "INSERT INTO watermark(partition, log, epoch, position) VALUES(?1, ?2, ?3, ?4)
         ON CONFLICT(partition) DO UPDATE SET epoch = excluded.epoch",
    )?
    .execute((partition, log.0, epoch, now.position.0))?;
    Ok(Ok(now))
}

fn watermark(db: &Connection, partition: u16) -> Result<Option<Watermark>> {
    db.prepare_cached("SELECT log, epoch, position FROM watermark WHERE partition = ?1")?
        .query_row([partition], |row| {
            Ok(Watermark {
                log: LogId(row.get(0)?),
                epoch: row.get(1)?,
                position: Position(row.get(2)?),
            })
        })
        .optional()
}

/// Applies a batch. Whoever called it rolls back what an error leaves.
pub(super) fn apply(db: &Connection, batch: &Batch) -> Outcome<Applied> {
    if !batch.is_in_order() {
        return Ok(Err(ShardError::BadBatch(
            "its rows are out of order, or outside of its range",
        )));
    }
    let known = match watermark(db, batch.partition)? {
        None => {
            return Ok(Err(ShardError::NotAssigned {
                partition: batch.partition,
            }));
        }
        Some(known) if known.log != batch.log => return Ok(Err(ShardError::ForeignLog)),
        Some(known) if known.epoch != batch.epoch => {
            return Ok(Err(ShardError::StaleEpoch {
                current: known.epoch,
            }));
        }
        // What lies between would never be read again.
        Some(known) if known.position < batch.from && !sabotage::on(Sabotage::JumpGaps) => {
            return Ok(Err(ShardError::Gap {
                watermark: known.position,
            }));
        }
        Some(known) => known,
    };
    let mut work = Work {
        db,
        partition: batch.partition,
        done: Applied::default(),
        sums: HashMap::new(),
    };
    for row in &batch.rows {
        if row.offset < known.position.0 && !sabotage::on(Sabotage::NoWatermark) {
            work.done.repeats += 1;
            continue;
        }
        let refused = match &row.fate {
            Fate::Apply(record) => work.order(row.offset, record)?,
            Fate::Dead(dead) => {
                work.dead(row.offset, dead)?;
                None
            }
        };
        if let Some(poison) = refused {
            return Ok(Err(poison));
        }
    }
    work.add_up()?;
    work.done.position = known.position.max(batch.next);
    // Also where no row was for this shard: else its watermark would hold the log for ever.
    if work.done.position > known.position {
        db.prepare_cached("UPDATE watermark SET position = ?2 WHERE partition = ?1")?
            .execute((batch.partition, work.done.position.0))?;
    }
    Ok(Ok(work.done))
}

struct Work<'a> {
    db: &'a Connection,
    partition: u16,
    done: Applied,
    /// What the accounts gain by it.
    sums: HashMap<&'a str, Gain>,
}

#[derive(Default)]
struct Gain {
    orders: u64,
    units: u64,
    version: u64,
}

/// What an operation met.
enum Met {
    /// It is new, and is written now.
    Nobody,
    /// It was decided before.
    Itself,
    /// Its id was decided for another payload.
    Another,
}

impl<'a> Work<'a> {
    fn order(&mut self, offset: u64, record: &'a Record) -> Result<Option<ShardError>> {
        match self.insert(offset, record, State::Applied, None)? {
            Met::Itself => {
                self.done.repeats += 1;
                return Ok(None);
            }
            Met::Another => {
                return Ok(Some(ShardError::Poison {
                    offset,
                    class: "key-reuse",
                    reason: format!("operation {} was decided for another payload", record.op()),
                }));
            }
            Met::Nobody => {}
        }
        let known = self
            .db
            .prepare_cached("SELECT 1 FROM product WHERE id = ?1")?
            .exists([&record.item])?;
        if !known {
            return Ok(Some(ShardError::Poison {
                offset,
                class: "unknown-item",
                reason: format!("there is no product {:?}", record.item),
            }));
        }
        // Only for what the insert returned: one operation twice in a batch counts once.
        self.done
            .orders
            .push((record.op(), offset, record.account.clone()));
        let gain = self.sums.entry(&record.account).or_default();
        gain.orders += 1;
        gain.units += u64::from(record.quantity);
        gain.version = offset + 1;
        Ok(None)
    }

    fn dead(&mut self, offset: u64, dead: &DeadRow) -> Result<()> {
        if let Some(record) = &dead.record
            && let Met::Itself = self.insert(offset, record, State::Dead, Some(&dead.class))?
        {
            // The order counts already, or was written off with its own letter.
            self.done.repeats += 1;
            return Ok(());
        }
        let written = self
            .db
            .prepare_cached(
                "INSERT INTO letter(id, op, partition, offset, class, body, at_ms)
                 VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT(id) DO NOTHING",
            )?
            .execute((
                &dead.letter,
                dead.record.as_ref().map(|record| record.op),
                self.partition,
                offset,
                &dead.class,
                &dead.body[..],
                dead.record.as_ref().map(at_ms),
            ))?;
        if written == 1 {
            self.done.dead += 1;
        } else {
            self.done.repeats += 1;
        }
        Ok(())
    }

    /// Writes the operation's row unless there is one.
    fn insert(
        &self,
        offset: u64,
        record: &Record,
        state: State,
        class: Option<&str>,
    ) -> Result<Met> {
        let written: Option<u64> = self
            .db
            .prepare_cached(
                "INSERT INTO op(op, state, class, fingerprint, slot, partition, offset,
                                account, item, quantity, at_ms)
                 VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
                 ON CONFLICT(op) DO NOTHING RETURNING offset",
            )?
            .query_row(
                (
                    record.op,
                    state_name(state),
                    class,
                    record.fingerprint,
                    record.slot,
                    self.partition,
                    offset,
                    &record.account,
                    &record.item,
                    record.quantity,
                    at_ms(record),
                ),
                |row| row.get(0),
            )
            .optional()?;
        if written.is_some() || sabotage::on(Sabotage::NoConflict) {
            return Ok(Met::Nobody);
        }
        let fingerprint: [u8; 16] = self
            .db
            .prepare_cached("SELECT fingerprint FROM op WHERE op = ?1")?
            .query_row([record.op], |row| row.get(0))?;
        Ok(if fingerprint == record.fingerprint {
            Met::Itself
        } else {
            Met::Another
        })
    }

    /// Adds what was applied to the accounts, once for each.
    fn add_up(&self) -> Result<()> {
        for (account, gain) in &self.sums {
            self.db
                .prepare_cached(
                    "INSERT INTO account(id, orders, units, version) VALUES(?1, ?2, ?3, ?4)
                     ON CONFLICT(id) DO UPDATE SET
                         orders = orders + excluded.orders,
                         units = units + excluded.units,
                         version = max(version, excluded.version)",
                )?
                .execute((account, gain.orders, gain.units, gain.version))?;
        }
        Ok(())
    }
}

/// It decides nothing, so a time that SQLite cannot hold does not stop its order.
fn at_ms(record: &Record) -> i64 {
    record.at_ms.try_into().unwrap_or(i64::MAX)
}
