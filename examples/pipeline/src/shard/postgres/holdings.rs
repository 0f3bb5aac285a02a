//! What the shard says of itself to those who look after the assignment, and what they have it keep for them.

use bb8::Pool;
use seawall_shard_router::{Slot, SlotRange};
use tokio_postgres::Client;

use super::connect::Connector;
use super::query::unsigned;
use super::{Inner, PostgresShard, READ, TRANSACTION};
use crate::shard::ShardError;

/// What a shard says when it is looked after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Looked {
    /// Whether the server that writes is one on which its slots were confirmed.
    pub is_confirmed: bool,
    /// What it keeps under the name that was asked for, where that is newer, with its version.
    pub newer: Option<(u64, String)>,
}

/// How long a shard may take to be looked after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// As a read: it is asked again soon.
    Read,
    /// As a write: long enough for a connection to come about past a server that hangs.
    Write,
}

impl PostgresShard {
    /// Asks whether its slots are confirmed, and for what it keeps under `name` of a version above `above`.
    ///
    /// # Errors
    ///
    /// [`ShardError::Unavailable`].
    pub async fn look(
        &self,
        name: &'static str,
        above: u64,
        patience: Patience,
    ) -> Result<Looked, ShardError> {
        let ask = "SELECT timeline, version, body FROM state
                   LEFT JOIN kept ON name = $1 AND version > $2";
        let (pool, within): (fn(&Inner) -> &Pool<Connector>, _) = match patience {
            Patience::Read => (|inner| &inner.readers, READ),
            Patience::Write => (|inner| &inner.writers, TRANSACTION),
        };
        self.inner
            .on(pool, within, move |_, db| async move {
                let row = db
                    .client
                    .query_one(ask, &[&name, &above.cast_signed()])
                    .await?;
                Ok(Looked {
                    is_confirmed: row.get::<_, i64>(0) == db.timeline,
                    newer: row
                        .get::<_, Option<String>>(2)
                        .map(|body| (unsigned(&row, 1), body)),
                })
            })
            .await
    }

    /// Keeps something under a name, unless what is there is newer.
    ///
    /// # Errors
    ///
    /// [`ShardError::Unavailable`].
    pub async fn keep(
        &self,
        name: &'static str,
        version: u64,
        body: &str,
    ) -> Result<(), ShardError> {
        let body = body.to_owned();
        let keep = "INSERT INTO kept(name, version, body) VALUES($1, $2, $3)
             ON CONFLICT(name) DO UPDATE SET version = excluded.version, body = excluded.body
                 WHERE kept.version < excluded.version";
        self.inner
            .on(
                |inner: &Inner| &inner.writers,
                TRANSACTION,
                move |_, db| async move {
                    let version = version.cast_signed();
                    db.client.execute(keep, &[&name, &version, &body]).await?;
                    Ok(())
                },
            )
            .await
    }

    /// Confirms what the shard holds on the server that writes now, which may have been a replica and have missed
    /// something: of these slots it takes no more writes, as of this epoch, unless it knows of a later one.
    ///
    /// # Errors
    ///
    /// [`ShardError::Unavailable`].
    pub async fn confirm(&self, leaving: &[SlotRange], epoch: u64) -> Result<(), ShardError> {
        let slots = numbers(leaving.iter().flat_map(|range| range.slots()));
        self.inner
            .on(
                |inner: &Inner| &inner.writers,
                TRANSACTION,
                move |_, db| async move {
                    confirm(&db.client, &slots, epoch, db.timeline).await?;
                    Ok(())
                },
            )
            .await
    }
}

async fn confirm(
    client: &Client,
    slots: &[i32],
    epoch: u64,
    timeline: i64,
) -> Result<(), tokio_postgres::Error> {
    client
        // Whatever is applied holds a row of it locked.
        .batch_execute("BEGIN; LOCK TABLE watermark IN EXCLUSIVE MODE")
        .await?;
    client
        .execute(
            "UPDATE slots SET holding = 'frozen', epoch = $2
             WHERE slot = ANY($1) AND holding = 'owned' AND epoch < $2",
            &[&slots, &epoch.cast_signed()],
        )
        .await?;
    client
        .execute("UPDATE state SET timeline = $1", &[&timeline])
        .await?;
    client.batch_execute("COMMIT").await
}

/// As the tables have them.
pub(super) fn numbers(slots: impl IntoIterator<Item = Slot>) -> Vec<i32> {
    slots.into_iter().map(|slot| slot.get().into()).collect()
}
