//! What is read of a shard.

use rusqlite::{Connection, OptionalExtension, Result};

use crate::log::{LogId, Position};
use crate::order::{OpId, OrderId};
use crate::shard::catalogue::CATALOGUE;
use crate::shard::{
    Decided, Document, Lettered, Query, State, StoredLetter, Sums, Tally, Versioned, Watermark,
};

pub(super) fn document(db: &Connection, query: &Query) -> Result<Versioned> {
    let found = match query {
        Query::Order(id) => order(db, *id),
        Query::Account(id) => db
            .prepare_cached("SELECT orders, units, version FROM account WHERE id = ?1")?
            .query_row([id], |row| {
                let document = Document::Account {
                    orders: row.get(0)?,
                    units: row.get(1)?,
                };
                Ok(Versioned {
                    version: row.get(2)?,
                    document: Some(document),
                })
            })
            .optional(),
        Query::Product(id) => db
            .prepare_cached("SELECT name, price_cents FROM product WHERE id = ?1")?
            .query_row([id], |row| {
                let document = Document::Product {
                    name: row.get(0)?,
                    price_cents: row.get(1)?,
                };
                Ok(Versioned {
                    version: CATALOGUE,
                    document: Some(document),
                })
            })
            .optional(),
    };
    Ok(found?.unwrap_or(Versioned::ABSENT))
}

fn order(db: &Connection, id: OrderId) -> Result<Option<Versioned>> {
    db.prepare_cached(
        "SELECT state = 'applied', class, fingerprint, item, quantity, offset FROM op
         WHERE op = ?1 AND slot = ?2",
    )?
    .query_row((id.op.0, id.slot.get()), |row| {
        let document = Document::Order {
            state: if row.get(0)? {
                State::Applied
            } else {
                State::Dead
            },
            class: row.get(1)?,
            fingerprint: row.get(2)?,
            item: row.get(3)?,
            quantity: row.get(4)?,
        };
        Ok(Versioned {
            version: row.get::<_, u64>(5)? + 1,
            document: Some(document),
        })
    })
    .optional()
}

/// Everything at one moment.
pub(super) fn tally(db: &mut Connection) -> Result<Tally> {
    let moment = db.transaction()?;
    let mut tally = Tally::default();
    {
        let mut select = moment.prepare(
            "SELECT op, state = 'applied', fingerprint, account, quantity, partition, offset FROM op",
        )?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let decided = Decided {
                op: OpId(row.get(0)?),
                fingerprint: row.get(2)?,
                account: row.get(3)?,
                quantity: row.get(4)?,
                partition: row.get(5)?,
                offset: row.get(6)?,
            };
            if row.get(1)? {
                tally.applied.push(decided);
            } else {
                tally.dead.push(decided);
            }
        }
    }
    tally.letters = moment
        .prepare("SELECT op, partition, offset, class FROM letter")?
        .query_map([], |row| {
            Ok(Lettered {
                op: row.get::<_, Option<[u8; 16]>>(0)?.map(OpId),
                partition: row.get(1)?,
                offset: row.get(2)?,
                class: row.get(3)?,
            })
        })?
        .collect::<Result<_>>()?;
    tally.accounts = moment
        .prepare("SELECT id, orders, units FROM account")?
        .query_map([], |row| {
            Ok(Sums {
                account: row.get(0)?,
                orders: row.get(1)?,
                units: row.get(2)?,
            })
        })?
        .collect::<Result<_>>()?;
    tally.watermarks = moment
        .prepare("SELECT partition, log, epoch, position FROM watermark ORDER BY partition")?
        .query_map([], |row| {
            let mark = Watermark {
                log: LogId(row.get(1)?),
                epoch: row.get(2)?,
                position: Position(row.get(3)?),
            };
            Ok((row.get(0)?, mark))
        })?
        .collect::<Result<_>>()?;
    Ok(tally)
}

pub(super) fn letters(db: &Connection) -> Result<u64> {
    db.query_row("SELECT count(*) FROM letter", [], |row| row.get(0))
}

pub(super) fn letters_page(db: &Connection, after: &str, max: usize) -> Result<Vec<StoredLetter>> {
    db.prepare_cached(
        "SELECT id, op, partition, offset, class, body FROM letter WHERE id > ?1 ORDER BY id LIMIT ?2",
    )?
    .query_map((after, max), |row| {
        Ok(StoredLetter {
            id: row.get(0)?,
            op: row.get::<_, Option<[u8; 16]>>(1)?.map(OpId),
            partition: row.get(2)?,
            offset: row.get(3)?,
            class: row.get(4)?,
            body: bytes::Bytes::copy_from_slice(row.get_ref(5)?.as_blob()?),
        })
    })?
    .collect()
}
