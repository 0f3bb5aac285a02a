//! What is read of a shard.

use std::collections::HashMap;

use seawall_shard_router::Slot;
use tokio_postgres::{Error, Row};

use super::connect::Connection;
use crate::log::{LogId, Position};
use crate::order::{OpId, OrderId};
use crate::shard::catalogue::CATALOGUE;
use crate::shard::{
    Decided, Document, Lettered, Query, State, StoredLetter, Sums, Tally, Versioned, Watermark,
};

pub(super) async fn document(db: &Connection, query: &Query) -> Result<Versioned, Error> {
    let found = match query {
        Query::Order(id) => orders(db, &[*id]).await.map(|mut found| found.remove(id)),
        // No text of PostgreSQL's holds it, so nothing has such a name.
        Query::Account(id) | Query::Product(id) if id.contains('\0') => Ok(None),
        Query::Account(id) => account(db, id).await,
        Query::Product(id) => product(db, id).await,
    };
    Ok(found?.unwrap_or(Versioned {
        version: 0,
        document: None,
    }))
}

/// Those of the orders that are there.
pub(super) async fn orders(
    db: &Connection,
    ids: &[OrderId],
) -> Result<HashMap<OrderId, Versioned>, Error> {
    let ops: Vec<&[u8]> = ids.iter().map(|id| &id.op.0[..]).collect();
    let rows = db.client.query(&db.statements.orders, &[&ops]).await?;
    // The right operation in a slot that somebody made up is nobody's order, and whoever asks for it does not find it.
    let found = rows.iter().filter_map(|row| {
        let slot = u16::try_from(row.get::<_, i32>(1)).ok()?;
        let id = OrderId {
            slot: Slot::new(slot)?,
            op: OpId(bytes(row, 0)),
        };
        let document = Document::Order {
            state: if row.get(2) {
                State::Applied
            } else {
                State::Dead
            },
            class: row.get(3),
            fingerprint: bytes(row, 4),
            item: row.get(5),
            quantity: units(row, 6),
        };
        Some((
            id,
            Versioned {
                version: unsigned(row, 7) + 1,
                document: Some(document),
            },
        ))
    });
    Ok(found.collect())
}

async fn account(db: &Connection, id: &str) -> Result<Option<Versioned>, Error> {
    let row = db.client.query_opt(&db.statements.account, &[&id]).await?;
    Ok(row.map(|row| Versioned {
        version: unsigned(&row, 2),
        document: Some(Document::Account {
            orders: unsigned(&row, 0),
            units: unsigned(&row, 1),
        }),
    }))
}

async fn product(db: &Connection, id: &str) -> Result<Option<Versioned>, Error> {
    let row = db.client.query_opt(&db.statements.product, &[&id]).await?;
    Ok(row.map(|row| Versioned {
        version: CATALOGUE,
        document: Some(Document::Product {
            name: row.get(0),
            price_cents: unsigned(&row, 1),
        }),
    }))
}

/// How far the server has written or followed its log, in bytes.
pub(super) async fn position(db: &Connection) -> Result<u64, Error> {
    let row = db.client.query_one(&db.statements.position, &[]).await?;
    Ok(row.get::<_, Option<i64>>(0).unwrap_or(0).cast_unsigned())
}

pub(super) async fn letters(db: &Connection) -> Result<u64, Error> {
    let row = db
        .client
        .query_one("SELECT count(*) FROM letter", &[])
        .await?;
    Ok(unsigned(&row, 0))
}

pub(super) async fn letters_page(
    db: &Connection,
    after: &str,
    max: usize,
) -> Result<Vec<StoredLetter>, Error> {
    let max = i64::try_from(max).unwrap_or(i64::MAX);
    let rows = db
        .client
        .query(
            "SELECT id, op, partition, at_offset, class, body FROM letter
             WHERE id COLLATE \"C\" > $1 ORDER BY id COLLATE \"C\" LIMIT $2",
            &[&after, &max],
        )
        .await?;
    let letters = rows.iter().map(|row| StoredLetter {
        id: row.get(0),
        op: op(row, 1),
        partition: partition(row, 2),
        offset: unsigned(row, 3),
        class: row.get(4),
        body: row.get::<_, Vec<u8>>(5).into(),
    });
    Ok(letters.collect())
}

/// Everything at one moment.
pub(super) async fn tally(db: &Connection) -> Result<Tally, Error> {
    let client = &db.client;
    client
        .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        .await?;
    let mut tally = Tally::default();
    let ops = "SELECT op, applied, fingerprint, account, quantity, partition, at_offset FROM op";
    for row in client.query(ops, &[]).await? {
        let decided = Decided {
            op: OpId(bytes(&row, 0)),
            fingerprint: bytes(&row, 2),
            account: row.get(3),
            quantity: units(&row, 4),
            partition: partition(&row, 5),
            offset: unsigned(&row, 6),
        };
        if row.get(1) {
            tally.applied.push(decided);
        } else {
            tally.dead.push(decided);
        }
    }
    let letters = "SELECT op, partition, at_offset, class FROM letter";
    for row in client.query(letters, &[]).await? {
        tally.letters.push(Lettered {
            op: op(&row, 0),
            partition: partition(&row, 1),
            offset: unsigned(&row, 2),
            class: row.get(3),
        });
    }
    for row in client
        .query("SELECT id, orders, units FROM account", &[])
        .await?
    {
        tally.accounts.push(Sums {
            account: row.get(0),
            orders: unsigned(&row, 1),
            units: unsigned(&row, 2),
        });
    }
    let marks = "SELECT partition, log, epoch, position FROM watermark ORDER BY partition";
    for row in client.query(marks, &[]).await? {
        let mark = Watermark {
            log: LogId(bytes(&row, 1)),
            epoch: unsigned(&row, 2),
            position: Position(unsigned(&row, 3)),
        };
        tally.watermarks.push((partition(&row, 0), mark));
    }
    client.batch_execute("COMMIT").await?;
    Ok(tally)
}

fn op(row: &Row, at: usize) -> Option<OpId> {
    row.get::<_, Option<&[u8]>>(at)?.try_into().ok().map(OpId)
}

/// Sixteen bytes; what else stands there was not written by this program, and equals nothing that was.
pub(super) fn bytes(row: &Row, at: usize) -> [u8; 16] {
    row.get::<_, &[u8]>(at).try_into().unwrap_or_default()
}

/// A number that was written from an unsigned one.
pub(super) fn unsigned(row: &Row, at: usize) -> u64 {
    row.get::<_, i64>(at).cast_unsigned()
}

fn units(row: &Row, at: usize) -> u32 {
    unsigned(row, at).try_into().unwrap_or(u32::MAX)
}

fn partition(row: &Row, at: usize) -> u16 {
    row.get::<_, i32>(at).try_into().unwrap_or(u16::MAX)
}
