//! What is read of a shard.

use std::collections::HashMap;

use futures_util::future;
use seawall_shard_router::{Refusal, Slot};
use tokio_postgres::{Error, Row};

use super::Failed;
use super::connect::Connection;
use crate::app::PARTITIONS;
use crate::log::{LogId, Position};
use crate::order::{OpId, OrderId};
use crate::shard::catalogue::CATALOGUE;
use crate::shard::{
    Decided, Document, Lettered, Query, ShardError, State, StoredLetter, Sums, Tally, Versioned,
    Watermark,
};

/// What a look for orders finds; what it does not name is not there.
pub(super) type Orders = HashMap<OrderId, Result<Versioned, Refusal>>;

pub(super) async fn document(db: &Connection, query: &Query) -> Result<Versioned, Failed> {
    if let Some(refusal) = unreadable(db, query.slot()).await?.into_values().next() {
        return Err(Failed::Refused(ShardError::Refused(refusal)));
    }
    let found = match query {
        Query::Order(id) => match orders(db, &[*id]).await?.remove(id) {
            Some(found) => found
                .map(Some)
                .map_err(|why| Failed::Refused(ShardError::Refused(why))),
            None => Ok(None),
        },
        // No text of PostgreSQL's holds it, so nothing has such a name.
        Query::Account(id) | Query::Product(id) if id.contains('\0') => Ok(None),
        Query::Account(id) => Ok(account(db, id).await?),
        Query::Product(id) => Ok(product(db, id).await?),
    };
    Ok(found?.unwrap_or(Versioned::ABSENT))
}

/// Of these slots, those whose reads are not for this shard: it has them no more, or not yet all of them.
async fn unreadable(
    db: &Connection,
    slots: impl IntoIterator<Item = Slot>,
) -> Result<HashMap<Slot, Refusal>, Error> {
    let slots: Vec<i32> = slots.into_iter().map(|slot| slot.get().into()).collect();
    if slots.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = db
        .client
        .query(&db.statements.unreadable, &[&slots])
        .await?;
    let refused = rows.iter().filter_map(|row| {
        let slot = Slot::new(row.get::<_, i32>(0).try_into().ok()?)?;
        let epoch = unsigned(row, 1);
        Some((slot, Refusal::Moved { slot, epoch }))
    });
    Ok(refused.collect())
}

/// Those of the orders that are there, and those that this shard is not to be asked for.
pub(super) async fn orders(db: &Connection, ids: &[OrderId]) -> Result<Orders, Error> {
    let ops: Vec<&[u8]> = ids.iter().map(|id| &id.op.0[..]).collect();
    let (rows, unreadable) = future::try_join(
        db.client.query(&db.statements.orders, &[&ops]),
        unreadable(db, ids.iter().map(|id| id.slot)),
    )
    .await?;
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
    let mut found: Orders = found.map(|(id, order)| (id, Ok(order))).collect();
    for id in ids {
        if let Some(refusal) = unreadable.get(&id.slot) {
            found.insert(*id, Err(refusal.clone()));
        }
    }
    Ok(found)
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
        .query_one(&format!("SELECT count(*) {LETTERS_HERE}"), &[])
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
            &format!(
                "SELECT letter.id, letter.op, letter.partition, letter.at_offset, letter.class, letter.body
                 {LETTERS_HERE} AND letter.id COLLATE \"C\" > $1
                 ORDER BY letter.id COLLATE \"C\" LIMIT $2"
            ),
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

/// Letters, but for those that this shard only has a copy of. One whose record could not be read has no slot, and stays
/// where it was written.
const LETTERS_HERE: &str = "FROM letter LEFT JOIN op ON op.op = letter.op
    LEFT JOIN slots ON slots.slot = op.slot WHERE slots.holding IS DISTINCT FROM 'away'";

/// Everything at one moment, but for what this shard only has a copy of while slots move.
pub(super) async fn tally(db: &Connection) -> Result<Tally, Error> {
    let client = &db.client;
    client
        .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        .await?;
    let mut tally = Tally::default();
    let ops = "SELECT op, applied, fingerprint, account, quantity, partition, at_offset
               FROM op JOIN slots USING (slot) WHERE holding <> 'away'";
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
    let letters = format!(
        "SELECT letter.op, letter.partition, letter.at_offset, letter.class {LETTERS_HERE}"
    );
    for row in client.query(&letters, &[]).await? {
        tally.letters.push(Lettered {
            op: op(&row, 0),
            partition: partition(&row, 1),
            offset: unsigned(&row, 2),
            class: row.get(3),
        });
    }
    for row in client.query(ACCOUNTS_HERE, &[]).await? {
        tally.accounts.push(Sums {
            account: row.get(0),
            orders: unsigned(&row, 1),
            units: unsigned(&row, 2),
        });
    }
    let marks = "SELECT partition, log, epoch, position FROM watermark
                 WHERE EXISTS(SELECT 1 FROM slots WHERE slot % $1 = partition AND holding <> 'away')
                 ORDER BY partition";
    for row in client.query(marks, &[&i32::from(PARTITIONS)]).await? {
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

/// Accounts' sums, less the orders of which this shard only has a copy. Strangers share an account, so its orders may lie
/// on many shards.
const ACCOUNTS_HERE: &str = "
    SELECT id, account.orders - coalesce(copy.orders, 0), account.units - coalesce(copy.units, 0)
    FROM account LEFT JOIN (
        SELECT account, count(*) AS orders, sum(quantity)::bigint AS units
        FROM op JOIN slots USING (slot) WHERE applied AND holding = 'away' GROUP BY account
    ) AS copy ON copy.account = id
    WHERE (account.orders, account.units) <> (coalesce(copy.orders, 0), coalesce(copy.units, 0))";

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
