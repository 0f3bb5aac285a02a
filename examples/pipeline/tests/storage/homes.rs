//! Shards of each kind, for tests that hold of all of them.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use pipeline::data::Data;
use pipeline::log::{Log, LogId};
use pipeline::shard::{ShardDb, SqliteShard};
use tempfile::TempDir;

use crate::{crash, fresh, meddle, open};

/// A shard with a log to name.
pub(crate) trait Home: Sized {
    type Shard: ShardDb;

    fn fresh() -> impl Future<Output = Self>;

    fn shard(&self) -> &Arc<Self::Shard>;

    fn log(&self) -> LogId;

    /// The offset of a record that is appended to the log.
    fn append(&mut self, partition: u16, payload: Bytes) -> impl Future<Output = u64>;

    /// What the next process finds.
    fn reopen(self) -> impl Future<Output = Self>;

    /// What the next process finds when this one is killed.
    fn kill(self) -> impl Future<Output = Self>;

    /// Changes the tables behind the program's back.
    fn meddle(&self, sql: &str) -> impl Future<Output = ()>;

    /// One whose log has `records` records, and that serves partition 0.
    async fn serving(records: u64) -> Self {
        let mut home = Self::fresh().await;
        for _ in 0..records {
            home.append(0, Bytes::from_static(b"{}")).await;
        }
        home.shard().adopt(0, home.log(), 1).await.unwrap();
        home
    }
}

/// The first shard of a data directory.
pub(crate) struct Embedded {
    home: TempDir,
    data: Data,
}

impl Home for Embedded {
    type Shard = SqliteShard;

    async fn fresh() -> Self {
        let (home, data) = fresh();
        Self { home, data }
    }

    fn shard(&self) -> &Arc<SqliteShard> {
        &self.data.shards()[0]
    }

    fn log(&self) -> LogId {
        self.data.log().id()
    }

    async fn append(&mut self, partition: u16, payload: Bytes) -> u64 {
        self.data.log().append(partition, payload).await.unwrap()
    }

    async fn reopen(self) -> Self {
        self.data.close();
        let data = open(self.home.path()).unwrap();
        Self { data, ..self }
    }

    async fn kill(self) -> Self {
        let home = crash(self.home.path());
        drop(self.data);
        let data = open(home.path()).unwrap();
        Self { home, data }
    }

    async fn meddle(&self, sql: &str) {
        meddle(&self.home.path().join("shard-00.db"), sql);
    }
}

/// Instantiates tests for each kind of home.
macro_rules! on_each_home {
    ($($test:ident,)+) => {
        mod embedded {
            $(
                #[tokio::test]
                async fn $test() {
                    super::$test::<crate::homes::Embedded>().await;
                }
            )+
        }

        #[cfg(feature = "services")]
        mod postgres {
            $(
                #[tokio::test]
                async fn $test() {
                    super::$test::<crate::homes::Postgres>().await;
                }
            )+
        }
    };
}
pub(crate) use on_each_home;

#[cfg(feature = "services")]
pub(crate) use postgres::Postgres;

#[cfg(feature = "services")]
mod postgres {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Arc, Weak};

    use bytes::Bytes;
    use pipeline::log::LogId;
    use pipeline::shard::PostgresShard;
    use pipeline::shard::postgres::{Identity, Place};
    use tokio::sync::Mutex;

    use super::Home;

    const LOG: LogId = LogId([42; 16]);

    /// A schema of a server that tests share, as long as one of them runs.
    pub(crate) struct Postgres {
        server: Arc<test_support::Postgres>,
        place: Place,
        shard: Arc<PostgresShard>,
        end: u64,
    }

    async fn server() -> Arc<test_support::Postgres> {
        static SHARED: Mutex<Weak<test_support::Postgres>> = Mutex::const_new(Weak::new());
        let mut shared = SHARED.lock().await;
        if let Some(server) = shared.upgrade() {
            return server;
        }
        let server = Arc::new(test_support::Postgres::start().await);
        *shared = Arc::downgrade(&server);
        server
    }

    async fn shard(place: &Place) -> Arc<PostgresShard> {
        let identity = Identity {
            log: LOG,
            shard: 0,
            // All slots are its own.
            shards: 1,
        };
        let shard = PostgresShard::open(place.clone(), identity).await;
        Arc::new(shard.unwrap())
    }

    impl Home for Postgres {
        type Shard = PostgresShard;

        async fn fresh() -> Self {
            static NEXT: AtomicU64 = AtomicU64::new(0);
            let server = server().await;
            let place = Place {
                name: "shard 0".to_owned(),
                servers: vec![server.url().parse().unwrap()],
                schema: format!("home_{}", NEXT.fetch_add(1, Ordering::Relaxed)),
            };
            let shard = shard(&place).await;
            Self {
                server,
                place,
                shard,
                end: 0,
            }
        }

        fn shard(&self) -> &Arc<PostgresShard> {
            &self.shard
        }

        fn log(&self) -> LogId {
            LOG
        }

        /// As in a log of one process: offsets have holes, and begin at 1.
        async fn append(&mut self, _: u16, _: Bytes) -> u64 {
            self.end += 1;
            self.end
        }

        async fn reopen(mut self) -> Self {
            self.shard = shard(&self.place).await;
            self
        }

        async fn kill(self) -> Self {
            let name = &self.place.schema;
            let cut = format!(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%{name}%' AND pid <> pg_backend_pid()"
            );
            self.server.ask(&cut).await;
            self.reopen().await
        }

        async fn meddle(&self, sql: &str) {
            let name = &self.place.schema;
            self.server
                .ask(&format!("SET search_path = {name}; {sql}"))
                .await;
        }
    }
}
