//! A shard in one PostgreSQL database, with a streaming replica or without.
//!
//! Several shards may be databases of one server. A batch is one transaction: it locks the watermark's row, inserts
//! all its operations by one statement, and moves the watermark. It runs in a task of its own, so that a caller who
//! goes away leaves no transaction open.

mod apply;
mod connect;
mod holdings;
mod moving;
mod orders;
mod query;
mod schema;
mod statements;

use std::collections::HashSet;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bb8::{Pool, QueueStrategy};
use seawall_shard_router::Role;
use tokio_postgres::Config;

use self::connect::{Connection, Connector, Want};
use self::orders::Orders;
use super::{
    Applied, Batch, Query, ShardDb, ShardError, StoredLetter, Tally, Versioned, Watermark,
};
use crate::log::LogId;
use crate::order::OrderId;

pub use self::connect::ConnectError;
pub use self::holdings::{Looked, Patience};
pub use self::moving::{Moving, Side};
pub use self::schema::SetupError;

/// Connections that write, for each shard and process: as many transactions overlap their syncs.
const WRITERS: u32 = 4;

/// Connections that read, for each shard, process and role.
const READERS: u32 = 4;

/// How long a connection that nobody uses is kept: all processes and shards share what a server allows.
const IDLE: Duration = Duration::from_secs(10);

/// How long a transaction may take, with its wait for a connection.
const TRANSACTION: Duration = Duration::from_secs(20);

/// How long a read may take, with its wait for a connection.
const READ: Duration = Duration::from_secs(2);

/// How long everything may take that is read for the accounting.
const TALLY: Duration = Duration::from_secs(300);

/// Where a shard lies.
#[derive(Clone, Debug)]
pub struct Place {
    /// What it is called in errors.
    pub name: String,
    /// Its servers: the primary and its replicas, in any order. Who is the primary is asked of them.
    pub servers: Vec<Config>,
    /// The schema of its tables: small letters, digits and `_`.
    pub schema: String,
}

/// Which shard, of how many, of which log, under how many partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The log that it applies.
    pub log: LogId,
    /// Its number.
    pub shard: u16,
    /// How many shards there are.
    pub shards: u16,
}

/// A shard in one PostgreSQL database.
#[derive(Clone)]
pub struct PostgresShard {
    inner: Arc<Inner>,
    /// Orders on the primary, and on a replica.
    orders: Orders,
    lagging: Orders,
}

struct Inner {
    place: Place,
    log: LogId,
    writers: Pool<Connector>,
    readers: Pool<Connector>,
    lagging: Pool<Connector>,
    /// Products that were found: none is ever removed.
    known: Mutex<HashSet<String>>,
}

impl PostgresShard {
    /// Makes what is missing, checks that the database is the shard that it should be, and connects when first asked.
    ///
    /// # Errors
    ///
    /// [`SetupError`], when no primary answers or the database is another shard's.
    pub async fn open(place: Place, identity: Identity) -> Result<Self, SetupError> {
        let connector = |want| Connector::new(&place, want);
        schema::set_up(&connector(Want::Primary), &place.schema, identity).await?;
        let pool = |want, size, patience| {
            Pool::builder()
                .max_size(size)
                .min_idle(Some(0))
                .connection_timeout(patience)
                // A dead connection is noticed by whoever uses it, and a check costs as much as a read.
                .test_on_check_out(false)
                // Taken in turn, all that a burst made would be used for ever, and the server have none for others.
                .queue_strategy(QueueStrategy::Lifo)
                .idle_timeout(Some(IDLE))
                .reaper_rate(IDLE / 2)
                .build_unchecked(connector(want))
        };
        let inner = Arc::new(Inner {
            log: identity.log,
            writers: pool(Want::Primary, WRITERS, TRANSACTION),
            readers: pool(Want::Primary, READERS, READ),
            lagging: pool(Want::Replica, READERS, READ),
            known: Mutex::default(),
            place,
        });
        let orders = |pool: fn(&Inner) -> &Pool<Connector>| {
            let inner = Arc::clone(&inner);
            Orders::start(move |ids: Vec<OrderId>| {
                let inner = Arc::clone(&inner);
                async move {
                    let find = move |_, db: Arc<Connection>| async move {
                        Ok(query::orders(&db, &ids).await?)
                    };
                    inner.on(pool, READ, find).await
                }
            })
        };
        Ok(Self {
            orders: orders(|inner| &inner.readers),
            lagging: orders(|inner| &inner.lagging),
            inner,
        })
    }

    /// Where it lies.
    pub fn place(&self) -> &Place {
        &self.inner.place
    }

    /// Removes all its tables and what is in them.
    ///
    /// # Errors
    ///
    /// As any write.
    pub async fn remove(&self) -> Result<(), ShardError> {
        let drop = format!("DROP SCHEMA {} CASCADE", self.inner.place.schema);
        self.inner
            .on(
                |inner| &inner.writers,
                TRANSACTION,
                move |_, db| async move { Ok(db.client.batch_execute(&drop).await?) },
            )
            .await
    }
}

/// Why a transaction or a read did not do what it was to.
enum Failed {
    /// The shard said no, and the transaction is rolled back.
    Refused(ShardError),
    /// PostgreSQL failed; the connection is in an unknown state.
    Postgres(tokio_postgres::Error),
}

impl From<tokio_postgres::Error> for Failed {
    fn from(why: tokio_postgres::Error) -> Self {
        Self::Postgres(why)
    }
}

impl Inner {
    /// Runs something on a connection in a task of its own, within a time. A connection on which it did not end well
    /// is not used again.
    async fn on<T, F>(
        self: &Arc<Self>,
        pool: fn(&Inner) -> &Pool<Connector>,
        within: Duration,
        work: impl FnOnce(Arc<Inner>, Arc<Connection>) -> F + Send + 'static,
    ) -> Result<T, ShardError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Failed>> + Send,
    {
        let inner = Arc::clone(self);
        let task = tokio::spawn(async move {
            let run = async {
                let connection = pool(&inner)
                    .get()
                    .await
                    .map_err(|why| inner.unavailable(&why))?;
                let shared = connection.share();
                let broken = shared.presume_broken();
                match work(Arc::clone(&inner), shared).await {
                    Ok(done) => {
                        broken.it_is_not();
                        Ok(done)
                    }
                    Err(Failed::Refused(why)) => {
                        broken.it_is_not();
                        Err(why)
                    }
                    Err(Failed::Postgres(why)) => Err(inner.unavailable(&why)),
                }
            };
            tokio::time::timeout(within, run)
                .await
                .unwrap_or_else(|elapsed| Err(inner.unavailable(&elapsed)))
        });
        task.await
            .unwrap_or_else(|panic| Err(ShardError::Unavailable(panic.to_string())))
    }

    fn unavailable(&self, why: &(dyn std::error::Error + 'static)) -> ShardError {
        ShardError::Unavailable(format!(
            "{}: {}",
            self.place.name,
            crate::errors::chain(why)
        ))
    }
}

impl ShardDb for PostgresShard {
    async fn adopt(&self, partition: u16, log: LogId, epoch: u64) -> Result<Watermark, ShardError> {
        if log != self.inner.log {
            return Err(ShardError::ForeignLog);
        }
        self.inner
            .on(
                |inner| &inner.writers,
                TRANSACTION,
                move |_, db| async move { apply::adopt(&db, partition, log, epoch).await },
            )
            .await
    }

    async fn apply(&self, batch: Arc<Batch>) -> Result<Applied, ShardError> {
        if !batch.is_in_order() {
            return Err(ShardError::BadBatch(
                "its rows are out of order, or outside of its range",
            ));
        }
        self.inner
            .on(
                |inner| &inner.writers,
                TRANSACTION,
                move |inner, db| async move { apply::apply(&db, &inner.known, &batch).await },
            )
            .await
    }

    async fn read(&self, from: Role, query: Query) -> Result<Versioned, ShardError> {
        if let Query::Order(id) = query {
            let orders = if from.is_primary() {
                &self.orders
            } else {
                &self.lagging
            };
            return orders.find(id).await;
        }
        let pool: fn(&Inner) -> &Pool<Connector> = if from.is_primary() {
            |inner| &inner.readers
        } else {
            |inner| &inner.lagging
        };
        self.inner
            .on(pool, READ, move |_, db| async move {
                query::document(&db, &query).await
            })
            .await
    }

    async fn position(&self, of: Role) -> Result<Option<u64>, ShardError> {
        let pool: fn(&Inner) -> &Pool<Connector> = if of.is_primary() {
            |inner| &inner.readers
        } else {
            |inner| &inner.lagging
        };
        self.inner
            .on(pool, READ, |_, db| async move {
                Ok(Some(query::position(&db).await?))
            })
            .await
    }

    async fn tally(&self) -> Result<Tally, ShardError> {
        self.inner
            .on(
                |inner| &inner.readers,
                TALLY,
                |_, db| async move { Ok(query::tally(&db).await?) },
            )
            .await
    }

    async fn letters(&self) -> Result<u64, ShardError> {
        self.inner
            .on(
                |inner| &inner.readers,
                READ,
                |_, db| async move { Ok(query::letters(&db).await?) },
            )
            .await
    }

    async fn letters_page(
        &self,
        after: String,
        max: usize,
    ) -> Result<Vec<StoredLetter>, ShardError> {
        self.inner
            .on(
                |inner| &inner.readers,
                READ,
                move |_, db| async move { Ok(query::letters_page(&db, &after, max).await?) },
            )
            .await
    }
}

impl fmt::Debug for PostgresShard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresShard")
            .field("name", &self.inner.place.name)
            .finish_non_exhaustive()
    }
}
