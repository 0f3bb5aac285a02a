//! What one batch does: the same as in the embedded shard, by sets instead of rows.
//!
//! All operations are inserted at once, in the order of the log, and what was not returned is looked up. Only then
//! is decided, row by row, what each of them met; a poison rolls everything back. So the outcome is that of a row
//! after the other, at the cost of a handful of statements.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use futures_util::{FutureExt, future};
use seawall_shard_router::{Refusal, Slot};
use tokio_postgres::Error;

use super::Failed;
use super::connect::Connection;
use super::query::{bytes, unsigned};
use crate::chaos::failpoint::{Step, reach};
use crate::chaos::sabotage::{self, Sabotage};
use crate::log::{LogId, Position};
use crate::order::{OpId, Record};
use crate::shard::{Applied, Batch, DeadRow, Fate, Row, ShardError, Watermark};

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

/// Whether PostgreSQL's texts hold what it names.
fn is_storable(record: &Record) -> bool {
    !record.account.contains('\0') && !record.item.contains('\0')
}

/// What an operation met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Met {
    /// It is new, and is written now.
    Nobody,
    /// It was decided before.
    Itself,
    /// Its id was decided for another payload.
    Another,
}

/// The operations of a batch, each at its first place.
#[derive(Default)]
struct Work<'a> {
    first: HashMap<[u8; 16], (u64, [u8; 16])>,
    ops: Vec<&'a [u8]>,
    applied: Vec<bool>,
    classes: Vec<Option<&'a str>>,
    fingerprints: Vec<&'a [u8]>,
    slots: Vec<i32>,
    offsets: Vec<i64>,
    accounts: Vec<&'a str>,
    items: Vec<&'a str>,
    quantities: Vec<i64>,
    times: Vec<i64>,
    /// What the accounts gain. In order, so that two transactions lock them in the same one.
    sums: BTreeMap<&'a str, Gain>,
}

#[derive(Default)]
struct Gain {
    orders: i64,
    units: i64,
    version: i64,
}

impl<'a> Work<'a> {
    fn of(rows: &[&'a Row]) -> Self {
        let mut work = Self::default();
        for row in rows {
            let (record, class) = match &row.fate {
                Fate::Apply(record) => (record, None),
                Fate::Dead(DeadRow {
                    record: Some(record),
                    class,
                    ..
                }) => (record, Some(class.as_str())),
                Fate::Dead(_) => continue,
            };
            if !is_storable(record) || work.first.contains_key(&record.op) {
                continue;
            }
            work.first
                .insert(record.op, (row.offset, record.fingerprint));
            work.ops.push(&record.op);
            work.applied.push(class.is_none());
            work.classes.push(class);
            work.fingerprints.push(&record.fingerprint);
            work.slots.push(record.slot.into());
            work.offsets.push(row.offset.cast_signed());
            work.accounts.push(&record.account);
            work.items.push(&record.item);
            work.quantities.push(record.quantity.into());
            work.times.push(at_ms(record));
        }
        work
    }

    /// Writes the operations that have no row yet and answers their offsets.
    async fn insert(&self, db: &Connection, partition: u16) -> Result<HashSet<u64>, Error> {
        if self.ops.is_empty() {
            return Ok(HashSet::new());
        }
        let rows = db
            .client
            .query(
                &db.statements.insert,
                &[
                    &self.ops,
                    &self.applied,
                    &self.classes,
                    &self.fingerprints,
                    &self.slots,
                    &self.offsets,
                    &self.accounts,
                    &self.items,
                    &self.quantities,
                    &self.times,
                    &i32::from(partition),
                ],
            )
            .await?;
        Ok(rows.iter().map(|row| unsigned(row, 0)).collect())
    }

    /// The fingerprints of the operations that had a row.
    async fn look_up(
        &self,
        db: &Connection,
        inserted: &HashSet<u64>,
    ) -> Result<HashMap<OpId, [u8; 16]>, Error> {
        let ops = self.ops.iter().zip(&self.offsets);
        let had: Vec<&[u8]> = ops
            .filter(|(_, offset)| !inserted.contains(&offset.cast_unsigned()))
            .map(|(op, _)| *op)
            .collect();
        if had.is_empty() {
            return Ok(HashMap::new());
        }
        let rows = db
            .client
            .query(&db.statements.fingerprints, &[&had])
            .await?;
        let found = rows.iter().map(|row| (OpId(bytes(row, 0)), bytes(row, 1)));
        Ok(found.collect())
    }

    fn met(
        &self,
        offset: u64,
        record: &Record,
        inserted: &HashSet<u64>,
        decided: &HashMap<OpId, [u8; 16]>,
    ) -> Met {
        if sabotage::on(Sabotage::NoConflict) {
            return Met::Nobody;
        }
        let (first, fingerprint) = self.first[&record.op];
        let fingerprint = match decided.get(&record.op()) {
            Some(earlier) => *earlier,
            None if first == offset && inserted.contains(&offset) => return Met::Nobody,
            None => fingerprint,
        };
        if fingerprint == record.fingerprint {
            Met::Itself
        } else {
            Met::Another
        }
    }

    /// Only for what the insert returned: one operation twice in a batch counts once.
    fn count(&mut self, offset: u64, record: &'a Record, done: &mut Applied) {
        done.orders
            .push((record.op(), offset, record.account.clone()));
        let gain = self.sums.entry(&record.account).or_default();
        gain.orders += 1;
        gain.units += i64::from(record.quantity);
        gain.version = (offset + 1).cast_signed();
    }

    async fn add_up(&self, db: &Connection) -> Result<(), Error> {
        if self.sums.is_empty() {
            return Ok(());
        }
        let accounts: Vec<&str> = self.sums.keys().copied().collect();
        let of = |what: fn(&Gain) -> i64| self.sums.values().map(what).collect::<Vec<i64>>();
        let (orders, units, versions) = (
            of(|gain| gain.orders),
            of(|gain| gain.units),
            of(|gain| gain.version),
        );
        db.client
            .execute(
                &db.statements.add_up,
                &[&accounts, &orders, &units, &versions],
            )
            .map(|done| done.map(drop))
            .await
    }
}

/// Letters to be written.
#[derive(Default)]
struct Letters<'a> {
    ids: Vec<&'a str>,
    ops: Vec<Option<&'a [u8]>>,
    offsets: Vec<i64>,
    classes: Vec<&'a str>,
    bodies: Vec<&'a [u8]>,
    times: Vec<Option<i64>>,
}

impl<'a> Letters<'a> {
    fn push(&mut self, offset: u64, dead: &'a DeadRow) {
        self.ids.push(&dead.letter);
        self.ops
            .push(dead.record.as_ref().map(|record| &record.op[..]));
        self.offsets.push(offset.cast_signed());
        self.classes.push(&dead.class);
        self.bodies.push(&dead.body);
        self.times.push(dead.record.as_ref().map(at_ms));
    }

    /// Answers how many are new.
    async fn write(&self, db: &Connection, partition: u16) -> Result<u64, Error> {
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

/// It decides nothing, so a time that PostgreSQL cannot hold does not stop its order.
fn at_ms(record: &Record) -> i64 {
    record.at_ms.try_into().unwrap_or(i64::MAX)
}
