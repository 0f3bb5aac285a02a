//! A shard's tables, made where they are missing, and the check that a database is the shard that it should be.

use std::fmt;

use seawall_shard_router::SLOTS;
use tokio_postgres::Client;

use super::Identity;
use super::connect::{ConnectError, Connector};
use crate::errors::chain;
use crate::log::LogId;
use crate::shard::catalogue::{NUMBERS, Product, product};

/// Raised when the tables change.
const VERSION: i32 = 2;

/// Processes that start together make the tables one after the other.
const LOCK: &str = "SELECT pg_advisory_xact_lock(6013519)";

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS identity(
        version int NOT NULL, log bytea NOT NULL, shard int NOT NULL, shards int NOT NULL
    );
    CREATE TABLE IF NOT EXISTS watermark(
        partition int PRIMARY KEY, log bytea NOT NULL, epoch bigint NOT NULL, position bigint NOT NULL
    ) WITH (fillfactor = 50);
    CREATE TABLE IF NOT EXISTS op(
        op bytea PRIMARY KEY, applied boolean NOT NULL, class text, fingerprint bytea NOT NULL,
        slot int NOT NULL, partition int NOT NULL, at_offset bigint NOT NULL,
        account text NOT NULL, item text NOT NULL, quantity bigint NOT NULL, at_ms bigint NOT NULL
    );
    CREATE TABLE IF NOT EXISTS account(
        id text PRIMARY KEY, orders bigint NOT NULL, units bigint NOT NULL, version bigint NOT NULL
    ) WITH (fillfactor = 80);
    CREATE TABLE IF NOT EXISTS product(
        id text PRIMARY KEY, name text NOT NULL, price_cents bigint NOT NULL
    );
    CREATE TABLE IF NOT EXISTS letter(
        id text PRIMARY KEY, op bytea, partition int NOT NULL, at_offset bigint NOT NULL,
        class text NOT NULL, body bytea NOT NULL, at_ms bigint
    );
    CREATE TABLE IF NOT EXISTS slots(
        slot int PRIMARY KEY, holding text NOT NULL CHECK (holding IN ('owned', 'frozen', 'away')),
        epoch bigint NOT NULL, readable boolean NOT NULL
    );
    CREATE INDEX IF NOT EXISTS slots_not_owned ON slots(slot) WHERE holding <> 'owned';
    CREATE TABLE IF NOT EXISTS state(epoch bigint NOT NULL, timeline bigint NOT NULL);
    CREATE TABLE IF NOT EXISTS kept(
        name text PRIMARY KEY, version bigint NOT NULL, body text NOT NULL
    );
    CREATE TABLE IF NOT EXISTS copied(
        source text NOT NULL, partition int NOT NULL, position bigint NOT NULL,
        PRIMARY KEY(source, partition)
    );
";

/// Why a shard was not opened.
#[derive(Debug)]
#[non_exhaustive]
pub enum SetupError {
    /// There is no connection to its primary.
    Connect(ConnectError),
    /// PostgreSQL refused.
    Postgres(tokio_postgres::Error),
    /// The database belongs to another log.
    ForeignLog {
        /// The log that it names.
        names: LogId,
    },
    /// The database is another shard, or its tables are of another version.
    Other(String),
}

/// Makes what is missing and checks what is there, in one transaction.
pub(super) async fn set_up(
    connector: &Connector,
    schema: &str,
    identity: Identity,
) -> Result<(), SetupError> {
    let (client, timeline) = connector.plain().await.map_err(SetupError::Connect)?;
    client.batch_execute("BEGIN").await?;
    client.batch_execute(LOCK).await?;
    client
        .batch_execute(&format!("CREATE SCHEMA IF NOT EXISTS {schema}"))
        .await?;
    client.batch_execute(TABLES).await?;
    let found = client
        .query("SELECT version, log, shard, shards FROM identity", &[])
        .await?;
    match &found[..] {
        [] => make(&client, identity, timeline).await?,
        [row] => {
            let version: i32 = row.get(0);
            if version != VERSION {
                return Err(SetupError::Other(format!(
                    "its tables have version {version}, this program reads {VERSION}"
                )));
            }
            let log: Vec<u8> = row.get(1);
            if log != identity.log.0 {
                let names = LogId(log.try_into().unwrap_or_default());
                return Err(SetupError::ForeignLog { names });
            }
            let (shard, shards): (i32, i32) = (row.get(2), row.get(3));
            if (shard, shards) != (identity.shard.into(), identity.shards.into()) {
                return Err(SetupError::Other(format!(
                    "it is shard {shard} of {shards}, in the place of shard {} of {}",
                    identity.shard, identity.shards
                )));
            }
        }
        _ => {
            return Err(SetupError::Other(
                "it says more than once which shard it is".to_owned(),
            ));
        }
    }
    client.batch_execute("COMMIT").await?;
    Ok(())
}

async fn make(
    client: &Client,
    identity: Identity,
    timeline: i64,
) -> Result<(), tokio_postgres::Error> {
    let (shard, shards) = (i32::from(identity.shard), i32::from(identity.shards));
    client
        .execute(
            "INSERT INTO identity(version, log, shard, shards) VALUES($1, $2, $3, $4)",
            &[&VERSION, &&identity.log.0[..], &shard, &shards],
        )
        .await?;
    // Dealt round robin, as the first topology deals them; a shard that joins later owns nothing yet.
    client
        .execute(
            "INSERT INTO slots(slot, holding, epoch, readable)
             SELECT slot, CASE WHEN mine THEN 'owned' ELSE 'away' END, 1, mine
             FROM (SELECT slot, slot % $2 = $1 AS mine
                   FROM generate_series(0, $3::int - 1) AS slot) AS dealt",
            &[&shard, &shards, &i32::from(SLOTS)],
        )
        .await?;
    client
        .execute(
            "INSERT INTO state(epoch, timeline) VALUES(1, $1)",
            &[&timeline],
        )
        .await?;
    let (mut ids, mut names, mut prices) = (Vec::new(), Vec::new(), Vec::new());
    for Product {
        id,
        name,
        price_cents,
    } in NUMBERS.map(product)
    {
        ids.push(id);
        names.push(name);
        prices.push(price_cents.cast_signed());
    }
    client
        .execute(
            "INSERT INTO product(id, name, price_cents)
             SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[])",
            &[&ids, &names, &prices],
        )
        .await?;
    Ok(())
}

impl From<tokio_postgres::Error> for SetupError {
    fn from(why: tokio_postgres::Error) -> Self {
        Self::Postgres(why)
    }
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(why) => why.fmt(f),
            Self::Postgres(why) => f.write_str(&chain(why)),
            Self::ForeignLog { names } => {
                write!(
                    f,
                    "the database belongs to the log {}",
                    crate::order::hex(&names.0)
                )
            }
            Self::Other(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for SetupError {}
