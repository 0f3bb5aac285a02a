//! The operations of a batch: written at once, and what each of them met.

use std::collections::{BTreeMap, HashMap, HashSet};

use futures_util::FutureExt;
use tokio_postgres::Error;

use crate::chaos::sabotage::{self, Sabotage};
use crate::order::{OpId, Record};
use crate::shard::postgres::connect::Connection;
use crate::shard::postgres::query::{bytes, unsigned};
use crate::shard::{Applied, DeadRow, Fate, Row};

/// Whether PostgreSQL's texts hold what it names.
pub(super) fn is_storable(record: &Record) -> bool {
    !record.account.contains('\0') && !record.item.contains('\0')
}

/// What an operation met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Met {
    /// It is new, and is written now.
    Nobody,
    /// It was decided before.
    Itself,
    /// Its id was decided for another payload.
    Another,
}

/// The operations of a batch, each at its first place.
#[derive(Default)]
pub(super) struct Work<'a> {
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
    pub(super) fn of(rows: &[&'a Row]) -> Self {
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
    pub(super) async fn insert(
        &self,
        db: &Connection,
        partition: u16,
    ) -> Result<HashSet<u64>, Error> {
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
    pub(super) async fn look_up(
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

    pub(super) fn met(
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
    pub(super) fn count(&mut self, offset: u64, record: &'a Record, done: &mut Applied) {
        done.orders
            .push((record.op(), offset, record.account.clone()));
        let gain = self.sums.entry(&record.account).or_default();
        gain.orders += 1;
        gain.units += i64::from(record.quantity);
        gain.version = (offset + 1).cast_signed();
    }

    pub(super) async fn add_up(&self, db: &Connection) -> Result<(), Error> {
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

/// It decides nothing, so a time that PostgreSQL cannot hold does not stop its order.
pub(super) fn at_ms(record: &Record) -> i64 {
    record.at_ms.try_into().unwrap_or(i64::MAX)
}
