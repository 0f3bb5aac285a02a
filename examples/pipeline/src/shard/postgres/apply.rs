//! What one batch does: the same as in the embedded shard, by sets instead of rows.
//!
//! All operations are inserted at once, in the order of the log, and what was not returned is looked up. Only then
//! is decided, row by row, what each of them met; a poison rolls everything back. So the outcome is that of a row
//! after the other, at the cost of a handful of statements.

mod letters;
mod work;

use std::collections::{BTreeSet, HashSet};
use std::sync::{Mutex, PoisonError};

use futures_util::future;
use seawall_shard_router::{Refusal, Slot};
use tokio_postgres::Error;

use self::letters::Letters;
use self::work::{Met, Work, is_storable};
use super::Failed;
use super::connect::Connection;
use super::query::{bytes, unsigned};
use crate::chaos::failpoint::{Step, reach};
use crate::chaos::sabotage::{self, Sabotage};
use crate::log::{LogId, Position};
use crate::order::Record;
use crate::shard::{Applied, Batch, Fate, Row, ShardError, Watermark};

/// Gives a partition to this shard, at the log's start or where it was left.
pub(super) async fn adopt(
    db: &Connection,
    partition: u16,
    log: LogId,
    epoch: u64,
) -> Result<Watermark, Failed> {
    let state = db.client.query_one(&db.statements.state, &[]).await?;
    let (current, timeline): (u64, i64) = (unsigned(&state, 0), state.get(1));
    // A router that is behind would begin a partition that has left again from the log's start.
    if current > epoch {
        return Err(Failed::Refused(ShardError::StaleEpoch { current }));
    }
    if timeline != db.timeline {
        return Err(Failed::Refused(unconfirmed()));
    }
    let row = db
        .client
        .query_opt(
            &db.statements.adopt,
            &[&i32::from(partition), &&log.0[..], &epoch.cast_signed()],
        )
        .await?;
    let Some(row) = row else {
        return Err(Failed::Refused(ShardError::ForeignLog));
    };
    let known = Watermark {
        log,
        epoch: unsigned(&row, 0),
        position: Position(unsigned(&row, 1)),
    };
    if known.epoch > epoch {
        let current = known.epoch;
        return Err(Failed::Refused(ShardError::StaleEpoch { current }));
    }
    Ok(known)
}

/// Applies a batch in a transaction.
pub(super) async fn apply(
    db: &Connection,
    known: &Mutex<HashSet<String>>,
    batch: &Batch,
) -> Result<Applied, Failed> {
    match in_transaction(db, known, batch).await {
        Err(Failed::Refused(why)) => {
            db.client.batch_execute("ROLLBACK").await?;
            Err(Failed::Refused(why))
        }
        done => done,
    }
}

async fn in_transaction(
    db: &Connection,
    known: &Mutex<HashSet<String>>,
    batch: &Batch,
) -> Result<Applied, Failed> {
    let mark = lock(db, batch).await?;
    let new = |row: &&Row| row.offset >= mark.0 || sabotage::on(Sabotage::NoWatermark);
    let rows: Vec<&Row> = batch.rows.iter().filter(new).collect();
    let mut work = Work::of(&rows);
    let (inserted, products) = future::try_join(
        work.insert(db, batch.partition),
        find_products(db, known, &rows),
    )
    .await?;
    let decided = work.look_up(db, &inserted).await?;
    let mut done = Applied {
        repeats: (batch.rows.len() - rows.len()) as u64,
        position: mark.max(batch.next),
        ..Applied::default()
    };
    let mut letters = Letters::default();
    for row in &rows {
        match &row.fate {
            Fate::Apply(record) => {
                if !is_storable(record) {
                    return Err(poison(
                        row,
                        "unstorable",
                        "its account or item holds a NUL byte".to_owned(),
                    ));
                }
                match work.met(row.offset, record, &inserted, &decided) {
                    Met::Itself => done.repeats += 1,
                    Met::Another => {
                        let why =
                            format!("operation {} was decided for another payload", record.op());
                        return Err(poison(row, "key-reuse", why));
                    }
                    Met::Nobody if !products.contains(&record.item) => {
                        let why = format!("there is no product {:?}", record.item);
                        return Err(poison(row, "unknown-item", why));
                    }
                    Met::Nobody => work.count(row.offset, record, &mut done),
                }
            }
            Fate::Dead(dead) => {
                let met = dead
                    .record
                    .as_ref()
                    .filter(|record| is_storable(record))
                    .map(|record| work.met(row.offset, record, &inserted, &decided));
                // The order counts already, or was written off with its own letter.
                if met == Some(Met::Itself) {
                    done.repeats += 1;
                } else {
                    letters.push(row.offset, dead);
                }
            }
        }
    }
    // One round trip; where one of them fails, the last does not commit.
    let (lettered, (), (), ()) = future::try_join4(
        letters.write(db, batch.partition),
        work.add_up(db),
        move_on(db, batch.partition, mark, done.position),
        commit(db),
    )
    .await?;
    reach(Step::AfterShardCommit);
    done.dead = lettered;
    done.repeats += letters.ids.len() as u64 - lettered;
    Ok(done)
}

/// Begins, and waits for the watermark's row. Whatever else is applied of this partition waits for the end.
async fn lock(db: &Connection, batch: &Batch) -> Result<Position, Failed> {
    let partition = i32::from(batch.partition);
    let slots = slots(batch);
    // One round trip. The second looks when the first has its lock, so at what no change of slots can be under way for.
    let (begun, row, refusal) = future::join3(
        db.client.batch_execute("BEGIN"),
        db.client.query_opt(&db.statements.lock, &[&partition]),
        db.client.query_one(&db.statements.refusal, &[&slots]),
    )
    .await;
    begun?;
    let refusal = refused(&refusal?, db.timeline);
    let Some(row) = row? else {
        return Err(Failed::Refused(ShardError::NotAssigned {
            partition: batch.partition,
        }));
    };
    let epoch = unsigned(&row, 1);
    let position = Position(unsigned(&row, 2));
    Err(Failed::Refused(match () {
        () if bytes(&row, 0) != batch.log.0 => ShardError::ForeignLog,
        () if epoch != batch.epoch => ShardError::StaleEpoch { current: epoch },
        // What lies between would never be read again.
        () if position < batch.from && !sabotage::on(Sabotage::JumpGaps) => ShardError::Gap {
            watermark: position,
        },
        () => match refusal {
            Some(refusal) => refusal,
            None => return Ok(position),
        },
    }))
}

/// The slots of a batch's rows.
fn slots(batch: &Batch) -> Vec<i32> {
    let records = batch.rows.iter().filter_map(|row| match &row.fate {
        Fate::Apply(record) => Some(record),
        Fate::Dead(dead) => dead.record.as_ref(),
    });
    let slots: BTreeSet<u16> = records.map(|record| record.slot).collect();
    slots.into_iter().map(i32::from).collect()
}

/// Why the shard does not take the writes of these slots, from what it holds and where it holds it.
fn refused(row: &tokio_postgres::Row, timeline: i64) -> Option<ShardError> {
    if row.get::<_, i64>(1) != timeline {
        return Some(unconfirmed());
    }
    let slot = Slot::new(row.get::<_, Option<i32>>(2)?.try_into().ok()?)?;
    let epoch = unsigned(row, 4);
    Some(ShardError::Refused(match row.get::<_, &str>(3) {
        "frozen" => Refusal::Frozen { slot, epoch },
        _ => Refusal::Moved { slot, epoch },
    }))
}

/// A promoted server may have missed that a slot left. Whoever looks after the assignment confirms it soon.
fn unconfirmed() -> ShardError {
    ShardError::Unavailable("it was promoted, and has not confirmed its slots yet".to_owned())
}

/// Of the items that are ordered, those that are products.
async fn find_products(
    db: &Connection,
    known: &Mutex<HashSet<String>>,
    rows: &[&Row],
) -> Result<HashSet<String>, Error> {
    let lock = || known.lock().unwrap_or_else(PoisonError::into_inner);
    let (mut found, mut unknown) = (HashSet::new(), HashSet::new());
    {
        let known = lock();
        for row in rows {
            let Fate::Apply(Record { item, .. }) = &row.fate else {
                continue;
            };
            if known.contains(item) {
                found.insert(item.clone());
            } else if !item.contains('\0') {
                unknown.insert(item.as_str());
            }
        }
    }
    if !unknown.is_empty() {
        let unknown: Vec<&str> = unknown.into_iter().collect();
        let rows = db.client.query(&db.statements.known, &[&unknown]).await?;
        let mut known = lock();
        for row in rows {
            let id: String = row.get(0);
            known.insert(id.clone());
            found.insert(id);
        }
    }
    Ok(found)
}

async fn move_on(
    db: &Connection,
    partition: u16,
    from: Position,
    to: Position,
) -> Result<(), Error> {
    // Also where no row was for this shard: else its watermark would hold the log for ever.
    if to > from {
        let (partition, to) = (i32::from(partition), to.0.cast_signed());
        db.client
            .execute(&db.statements.move_on, &[&partition, &to])
            .await?;
    }
    Ok(())
}

async fn commit(db: &Connection) -> Result<(), Error> {
    reach(Step::BeforeShardCommit);
    db.client.batch_execute("COMMIT").await
}

fn poison(row: &Row, class: &'static str, reason: String) -> Failed {
    Failed::Refused(ShardError::Poison {
        offset: row.offset,
        class,
        reason,
    })
}
