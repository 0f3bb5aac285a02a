//! A shard's tables, and the check that a shard found on disk agrees with itself and with the log.

use std::path::PathBuf;

use rusqlite::Connection;

use crate::data::{Damage, DataError};
use crate::log::{LogId, Position};
use crate::shard::catalogue::{NUMBERS, PRODUCTS, Product, product};
use crate::sqlite::{self, Kind};

const KIND: Kind = Kind {
    application: 0x5377_5368, // "SwSh"
    version: 1,
    schema: "
        CREATE TABLE identity(
            log BLOB NOT NULL, shard INTEGER NOT NULL, shards INTEGER NOT NULL
        ) STRICT;
        CREATE TABLE watermark(
            partition INTEGER PRIMARY KEY, log BLOB NOT NULL,
            epoch INTEGER NOT NULL, position INTEGER NOT NULL
        ) STRICT;
        CREATE TABLE op(
            op BLOB NOT NULL PRIMARY KEY, state TEXT NOT NULL CHECK(state IN ('applied', 'dead')),
            class TEXT, fingerprint BLOB NOT NULL, slot INTEGER NOT NULL,
            partition INTEGER NOT NULL, offset INTEGER NOT NULL,
            account TEXT NOT NULL, item TEXT NOT NULL, quantity INTEGER NOT NULL, at_ms INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE account(
            id TEXT NOT NULL PRIMARY KEY, orders INTEGER NOT NULL, units INTEGER NOT NULL,
            version INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE product(
            id TEXT NOT NULL PRIMARY KEY, name TEXT NOT NULL, price_cents INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE letter(
            id TEXT NOT NULL PRIMARY KEY, op BLOB, partition INTEGER NOT NULL, offset INTEGER NOT NULL,
            class TEXT NOT NULL, body BLOB NOT NULL, at_ms INTEGER
        ) STRICT, WITHOUT ROWID;
    ",
};

/// Which shard, of how many, of which log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) log: LogId,
    pub(crate) shard: u16,
    pub(crate) shards: u16,
}

/// Makes a shard with its catalogue and nothing else. The file is durable when this returns, its directory is
/// not.
pub(crate) fn create(file: &PathBuf, identity: Identity) -> Result<(), DataError> {
    let make = || {
        let mut db = sqlite::create(file, KIND)?;
        let transaction = db.transaction()?;
        transaction.execute(
            "INSERT INTO identity(log, shard, shards) VALUES(?1, ?2, ?3)",
            (identity.log.0, identity.shard, identity.shards),
        )?;
        for Product {
            id,
            name,
            price_cents,
        } in NUMBERS.map(product)
        {
            transaction
                .prepare_cached("INSERT INTO product(id, name, price_cents) VALUES(?1, ?2, ?3)")?
                .execute((id, name, price_cents))?;
        }
        transaction.commit()?;
        sqlite::finish(db)
    };
    make().map_err(|why| DataError::sqlite(file, why))?;
    let sync = || std::fs::File::open(file)?.sync_all();
    sync().map_err(|why| DataError::io(file, why))
}

/// A shard that was found sound.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(super) file: PathBuf,
    pub(super) identity: Identity,
}

/// Checks a shard against the log, of so many partitions and with this end, and changes nothing.
pub(crate) fn check(
    file: PathBuf,
    identity: Identity,
    partitions: u16,
    end: Position,
) -> Result<Checked, DataError> {
    if !file.exists() {
        return Err(DataError::damaged(file, Damage::Missing));
    }
    let look = || -> Result<(), Damage> {
        let db = sqlite::examiner(&file).map_err(unreadable)?;
        sqlite::examine(&db, KIND).map_err(Damage::Unreadable)?;
        is(&db, identity)?;
        watermarks(&db, identity.log, partitions, end)?;
        sums(&db)?;
        catalogue(&db)
    };
    match look() {
        Ok(()) => Ok(Checked { file, identity }),
        Err(damage) => Err(DataError::damaged(file, damage)),
    }
}

fn unreadable(why: rusqlite::Error) -> Damage {
    Damage::Unreadable(sqlite::text(why))
}

fn is(db: &Connection, expected: Identity) -> Result<(), Damage> {
    let found = db
        .prepare("SELECT log, shard, shards FROM identity")
        .and_then(|mut select| {
            select
                .query_map([], |row| {
                    Ok(Identity {
                        log: LogId(row.get(0)?),
                        shard: row.get(1)?,
                        shards: row.get(2)?,
                    })
                })?
                .collect::<rusqlite::Result<Vec<_>>>()
        })
        .map_err(unreadable)?;
    let [found] = *found else {
        return Err(Damage::Contradiction(
            "it does not say which shard it is".to_owned(),
        ));
    };
    if found.log != expected.log {
        return Err(Damage::ForeignLog { names: found.log });
    }
    if found != expected {
        return Err(Damage::Contradiction(format!(
            "it is shard {} of {}, in the place of shard {} of {}",
            found.shard, found.shards, expected.shard, expected.shards
        )));
    }
    Ok(())
}

/// Every watermark is one of this log and lies within it, and every operation below its partition's.
fn watermarks(db: &Connection, log: LogId, partitions: u16, end: Position) -> Result<(), Damage> {
    let rows = db
        .prepare("SELECT partition, log, position FROM watermark ORDER BY partition")
        .and_then(|mut select| {
            select
                .query_map([], |row| {
                    Ok((row.get(0)?, LogId(row.get(1)?), Position(row.get(2)?)))
                })?
                .collect::<rusqlite::Result<Vec<(u16, _, _)>>>()
        })
        .map_err(unreadable)?;
    for (partition, names, watermark) in rows {
        if names != log {
            return Err(Damage::ForeignLog { names });
        }
        if partition >= partitions {
            return Err(Damage::Contradiction(format!(
                "it has a watermark for partition {partition} of {partitions}"
            )));
        }
        if watermark > end {
            return Err(Damage::BelowWatermark {
                partition,
                watermark: watermark.0,
                end: end.0,
            });
        }
    }
    // A database whose pages are of two times has operations that its watermarks do not know.
    let ahead: u64 = db
        .query_row(
            "SELECT count(*) FROM op LEFT JOIN watermark USING (partition)
             WHERE watermark.position IS NULL OR op.offset >= watermark.position",
            [],
            |row| row.get(0),
        )
        .map_err(unreadable)?;
    if ahead > 0 {
        return Err(Damage::Contradiction(format!(
            "{ahead} of its operations lie at or above their partition's watermark"
        )));
    }
    Ok(())
}

/// The accounts' sums are the sums over the operations that count.
fn sums(db: &Connection) -> Result<(), Damage> {
    let pair = |sql| {
        db.query_row(sql, [], |row| {
            Ok((row.get::<_, u64>(0)?, row.get::<_, u64>(1)?))
        })
        .map_err(unreadable)
    };
    let operations =
        pair("SELECT count(*), coalesce(sum(quantity), 0) FROM op WHERE state = 'applied'")?;
    let accounts = pair("SELECT coalesce(sum(orders), 0), coalesce(sum(units), 0) FROM account")?;
    if operations != accounts {
        return Err(Damage::Contradiction(format!(
            "its accounts count {} orders of {} units, its operations {} of {}",
            accounts.0, accounts.1, operations.0, operations.1
        )));
    }
    Ok(())
}

fn catalogue(db: &Connection) -> Result<(), Damage> {
    let mut select = db
        .prepare("SELECT name, price_cents FROM product WHERE id = ?1")
        .map_err(unreadable)?;
    for Product {
        id,
        name,
        price_cents,
    } in NUMBERS.map(product)
    {
        let found = select
            .query_map([&id], |row| Ok((row.get(0)?, row.get(1)?)))
            .and_then(|mut rows| rows.next().transpose())
            .map_err(unreadable)?;
        if found != Some((name, price_cents)) {
            return Err(Damage::Contradiction(format!(
                "its catalogue differs at {id}"
            )));
        }
    }
    let count: u32 = db
        .query_row("SELECT count(*) FROM product", [], |row| row.get(0))
        .map_err(unreadable)?;
    if count != PRODUCTS {
        return Err(Damage::Contradiction(format!(
            "its catalogue has {count} products"
        )));
    }
    Ok(())
}
