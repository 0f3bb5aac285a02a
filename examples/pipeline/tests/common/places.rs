//! What a server runs on, for tests that hold of each kind.

use std::ffi::OsString;
use std::future::Future;
use std::path::PathBuf;

use pipeline::accounting::Books;
use tempfile::TempDir;

/// What a server runs on.
pub trait Place: Sized {
    /// One that nobody used before.
    fn fresh() -> impl Future<Output = Self>;

    /// What tells `pipeline serve` of it.
    fn flags(&self) -> Vec<OsString>;

    /// Waits until what was accepted is decided, where the server does not do so at its end.
    fn settled(&self) -> impl Future<Output = ()>;

    /// What it holds, when no server uses it.
    fn books(&self) -> impl Future<Output = Books>;
}

/// A data directory.
pub struct Embedded(TempDir);

impl Embedded {
    pub fn data(&self) -> PathBuf {
        self.0.path().join("data")
    }
}

impl Place for Embedded {
    async fn fresh() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn flags(&self) -> Vec<OsString> {
        vec![
            "--shards".into(),
            "10".into(),
            "--data".into(),
            self.data().into(),
        ]
    }

    async fn settled(&self) {}

    async fn books(&self) -> Books {
        super::books(&self.data()).await
    }
}

/// Instantiates tests for each kind of place.
#[allow(unused_macros)]
macro_rules! on_each_place {
    ($($test:ident,)+) => {
        mod embedded {
            $(
                #[tokio::test]
                async fn $test() {
                    super::$test::<crate::common::places::Embedded>().await;
                }
            )+
        }

        #[cfg(feature = "services")]
        mod services {
            $(
                #[tokio::test]
                async fn $test() {
                    super::$test::<crate::common::places::Services>().await;
                }
            )+
        }
    };
}
#[allow(unused_imports)]
pub(crate) use on_each_place;

#[cfg(feature = "services")]
#[allow(unused_imports)]
pub use remote::Services;

#[cfg(feature = "services")]
#[allow(dead_code)]
pub mod remote {
    use std::ffi::OsString;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Arc, Weak};
    use std::time::Duration;

    use pipeline::accounting::Books;
    use pipeline::backend::Backend;
    use pipeline::log::Log;
    use pipeline::log::kafka::Reading;
    use pipeline::services::Places;
    use pipeline::shard::ShardDb;
    use tempfile::NamedTempFile;
    use test_support::{Kafka, Postgres, Redis};
    use tokio::sync::Mutex;

    use super::Place;

    /// Shards, each a database.
    const SHARDS: usize = 2;

    /// Servers that tests share, as long as one of them runs.
    struct Servers {
        redis: Redis,
        postgres: Postgres,
        kafka: Kafka,
    }

    /// A topic and schemas of shared servers.
    pub struct Services {
        servers: Arc<Servers>,
        file: NamedTempFile,
    }

    impl Servers {
        async fn start() -> Self {
            let (redis, kafka, postgres) =
                tokio::join!(Redis::start(), Kafka::start(), Postgres::start());
            for shard in 0..SHARDS {
                postgres.create_database(&format!("s{shard:02}")).await;
            }
            Self {
                redis,
                postgres,
                kafka,
            }
        }

        async fn shared() -> Arc<Self> {
            static SHARED: Mutex<Weak<Servers>> = Mutex::const_new(Weak::new());
            let mut shared = SHARED.lock().await;
            if let Some(servers) = shared.upgrade() {
                return servers;
            }
            let servers = Arc::new(Self::start().await);
            *shared = Arc::downgrade(&servers);
            servers
        }
    }

    /// The file that says where the services are.
    pub fn describe(
        redis: &str,
        brokers: &str,
        topic: &str,
        shards: &[(String, Option<String>)],
    ) -> String {
        let brokers: Vec<&str> = brokers.split(',').collect();
        let shards: Vec<String> = shards
            .iter()
            .map(|(primary, replica)| match replica {
                Some(replica) => format!("{{ primary = {primary:?}, replica = {replica:?} }}"),
                None => format!("{{ primary = {primary:?} }}"),
            })
            .collect();
        format!(
            "[redis]\nurls = [{redis:?}]\n[kafka]\nbrokers = {brokers:?}\ntopic = {topic:?}\n[postgres]\nshards = [{}]\n",
            shards.join(", ")
        )
    }

    /// Such a file, with a topic that nobody used before.
    pub fn file(redis: &str, brokers: &str, shards: &[(String, Option<String>)]) -> NamedTempFile {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let topic = format!("orders_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let file = NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), describe(redis, brokers, &topic, shards))
            .expect("it is written");
        file
    }

    /// On a machine that builds meanwhile, a slow answer of Redis is no outage.
    pub fn patient(file: &NamedTempFile) {
        let said = std::fs::read_to_string(file.path()).expect("it is there");
        let patient = said.replace("[kafka]", "deadline_ms = 10000\n[kafka]");
        std::fs::write(file.path(), patient).expect("it is written");
    }

    /// What the services of a file hold.
    pub async fn books(file: &NamedTempFile) -> Books {
        let places = Places::read(file.path()).expect("it is right");
        let there = pipeline::services::Services::connect(&places, Reading::All)
            .await
            .expect("they answer");
        let books = Books::read(&**there.log(), there.shards())
            .await
            .expect("they can be read");
        there.close().await;
        books
    }

    /// Waits until every partition is applied to its end.
    pub async fn settled(file: &NamedTempFile) {
        let places = Places::read(file.path()).expect("it is right");
        let there = pipeline::services::Services::connect(&places, Reading::All)
            .await
            .expect("they answer");
        let patience = Duration::from_secs(240);
        tokio::time::timeout(patience, async {
            while !is_settled(&there).await {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await
        .expect("the workers come to the end");
        there.close().await;
    }

    async fn is_settled(there: &pipeline::services::Services) -> bool {
        let log = there.log();
        // The lowest of the shards that serve a partition; slots that move may be of several.
        let mut reached = vec![None; log.partitions().into()];
        for shard in there.shards() {
            // A shard that is out for a moment is asked again.
            let Ok(tally) = shard.tally().await else {
                return false;
            };
            for (partition, mark) in tally.watermarks {
                let lowest = &mut reached[usize::from(partition)];
                *lowest = Some(lowest.map_or(mark.position.0, |low: u64| low.min(mark.position.0)));
            }
        }
        (0..log.partitions())
            .zip(reached)
            .all(|(partition, reached)| reached.unwrap_or(0) >= log.end(partition).borrow().0)
    }

    impl Services {
        /// The file that says where they are.
        pub fn file(&self) -> &NamedTempFile {
            &self.file
        }
    }

    impl Place for Services {
        async fn fresh() -> Self {
            let servers = Servers::shared().await;
            let shards: Vec<_> = (0..SHARDS)
                .map(|shard| (servers.postgres.url_of(&format!("s{shard:02}")), None))
                .collect();
            let file = file(&servers.redis.url(), &servers.kafka.bootstrap(), &shards);
            Self { servers, file }
        }

        fn flags(&self) -> Vec<OsString> {
            vec!["--services".into(), self.file.path().into()]
        }

        async fn settled(&self) {
            settled(&self.file).await;
        }

        async fn books(&self) -> Books {
            // They are there as long as this is.
            let _ = &self.servers;
            books(&self.file).await
        }
    }
}
