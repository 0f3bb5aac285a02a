//! A PostgreSQL primary with replicas as one shard of several: writes go to the primary, reads to replicas that are
//! near enough, and who has written reads what he wrote.
//!
//! `cargo run -p seawall-shard-router --example postgres_replicas -- PRIMARY,REPLICA,REPLICA PRIMARY,REPLICA`
//! with a URL such as `postgres://user@127.0.0.1:5432/db` for each server, and an argument for each shard.
//!
//! A position is an LSN, in bytes of the write-ahead log. It means the same on a primary and on its replicas, as
//! long as they are of one line: after a failover, writes that no replica had received are lost, their tokens are
//! above what the new primary has written, and reads by them go there until it has written as much again.

use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use seawall_shard_router::{
    Access, BoxError, Bulkhead, ConfigError, Ejection, Endpoint, Key, Position, Shard, ShardRouter,
    Topology, TopologyHandle,
};
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};
use tower::{Service, ServiceExt};

/// How long a connection or a statement may take: the router sets no timeout on a call.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is asked of the shard of a tenant.
#[derive(Clone, Debug)]
pub(crate) enum Query {
    Put { tenant: String, note: String },
    Get { tenant: String, access: Access },
}

impl Query {
    fn key(&self) -> Key<'_> {
        match self {
            Self::Put { tenant, .. } | Self::Get { tenant, .. } => tenant.into(),
        }
    }

    fn access(&self) -> Access {
        match self {
            Self::Put { .. } => Access::Write,
            Self::Get { access, .. } => *access,
        }
    }
}

/// What it says.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Answer {
    pub(crate) note: Option<String>,
    /// Of a write: hand it to the client, whose later reads carry it in [`Access::ReadYourWrites`].
    pub(crate) token: Option<Position>,
    /// The port of the server that answered.
    pub(crate) port: i32,
}

pub(crate) type Router = ShardRouter<Database, fn(&Query) -> Key<'_>, fn(&Query) -> Access>;

/// Shards `s00`, `s01`, ... of these servers, the primary of each first.
pub(crate) fn topology(shards: &[Vec<String>]) -> Result<Topology, ConfigError> {
    let shard = |(number, urls): (usize, &Vec<String>)| {
        let shard = Shard::new(format!("s{number:02}"));
        let (primary, replicas) = urls.split_first().map_or(("", &[][..]), |(p, r)| (p, r));
        let shard = shard.primary(primary);
        replicas
            .iter()
            .fold(shard, |shard, url| shard.replica(url.as_str()))
    };
    Topology::slots(shards.iter().enumerate().map(shard))
}

/// Reads go to replicas at most so many bytes behind; writes wait for ten seconds while a primary fails over.
pub(crate) fn router(topology: TopologyHandle, max_lag: u64) -> Router {
    ShardRouter::new(topology, |endpoint: &Endpoint| {
        Database::at(endpoint.address())
    })
    .key(Query::key as fn(&Query) -> Key<'_>)
    .access(Query::access as fn(&Query) -> Access)
    .each_shard(Bulkhead::concurrency(16).queue(256))
    .max_lag(max_lag)
    .ejection(Ejection::after(3).at_most(0.5).counting(is_sick))
    .hold(1_000, Duration::from_secs(10))
}

/// Whether an error speaks against the server, not against what it was asked: it cannot be reached, it is ending or
/// starting, or it takes no writes.
fn is_sick(error: &BoxError) -> bool {
    let Some(error) = error.downcast_ref::<tokio_postgres::Error>() else {
        return true;
    };
    error.code().is_none_or(|code| {
        [
            SqlState::ADMIN_SHUTDOWN,
            SqlState::CRASH_SHUTDOWN,
            SqlState::CANNOT_CONNECT_NOW,
            SqlState::READ_ONLY_SQL_TRANSACTION,
        ]
        .contains(code)
    })
}

/// One server. Clones share a connection, which is made when it is needed: while it cannot be made the service is not
/// ready, so what comes meanwhile was never sent and may be held.
pub(crate) struct Database {
    url: Arc<str>,
    open: Arc<Mutex<Option<Arc<Client>>>>,
    connecting: Option<Connecting>,
    ready: Option<Arc<Client>>,
}

type Connecting = Pin<Box<dyn Future<Output = Result<Arc<Client>, BoxError>> + Send>>;

impl Database {
    fn at(url: &str) -> Self {
        Self {
            url: url.into(),
            open: Arc::default(),
            connecting: None,
            ready: None,
        }
    }

    fn shared(&self) -> Option<Arc<Client>> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.clone().filter(|client| !client.is_closed())
    }
}

impl Clone for Database {
    fn clone(&self) -> Self {
        Self {
            url: Arc::clone(&self.url),
            open: Arc::clone(&self.open),
            connecting: None,
            ready: None,
        }
    }
}

impl fmt::Debug for Database {
    /// A URL may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").finish_non_exhaustive()
    }
}

async fn connect(url: Arc<str>) -> Result<Arc<Client>, BoxError> {
    let (client, connection) = timeout(PATIENCE, tokio_postgres::connect(&url, NoTls)).await??;
    // It ends with the last client, or with the server.
    tokio::spawn(connection);
    Ok(Arc::new(client))
}

impl Service<Query> for Database {
    type Response = Answer;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        if let Some(client) = self.shared() {
            self.ready = Some(client);
            return Poll::Ready(Ok(()));
        }
        let url = &self.url;
        let connecting = self
            .connecting
            .get_or_insert_with(|| Box::pin(connect(Arc::clone(url))));
        let outcome = ready!(connecting.as_mut().poll(cx));
        self.connecting = None;
        let client = outcome?;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        *open = Some(Arc::clone(&client));
        drop(open);
        self.ready = Some(client);
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, query: Query) -> Self::Future {
        let client = self
            .ready
            .take()
            .expect("a service is readied before it is called");
        Box::pin(async move { timeout(PATIENCE, answer(&client, query)).await? })
    }
}

async fn answer(client: &Client, query: Query) -> Result<Answer, BoxError> {
    match query {
        Query::Put { tenant, note } => {
            const PUT: &str = "INSERT INTO notes VALUES ($1, $2) ON CONFLICT (tenant) DO UPDATE SET note = excluded.note";
            const WRITTEN: &str =
                "SELECT (pg_current_wal_lsn() - '0/0'::pg_lsn)::bigint, inet_server_port()";
            client.execute(PUT, &[&tenant, &note]).await?;
            // Afterwards, so that it covers the commit. Not the position of what is merely inserted, which may be
            // ahead of what anybody will have before the next flush.
            let row = client.query_one(WRITTEN, &[]).await?;
            Ok(Answer {
                note: None,
                token: Some(Position(row.try_get::<_, i64>(0)?.unsigned_abs())),
                port: row.try_get(1)?,
            })
        }
        Query::Get { tenant, .. } => {
            const GET: &str =
                "SELECT (SELECT note FROM notes WHERE tenant = $1), inet_server_port()";
            let row = client.query_one(GET, &[&tenant]).await?;
            Ok(Answer {
                note: row.try_get(0)?,
                token: None,
                port: row.try_get(1)?,
            })
        }
    }
}

/// Asks each server how far it is and tells the router: what bounds the lag and serves tokens. A server that does not
/// answer is left at what was last known of it, which it can only be beyond.
#[derive(Debug, Default)]
pub(crate) struct Reporter {
    open: HashMap<String, Arc<Client>>,
}

impl Reporter {
    pub(crate) async fn report(&mut self, router: &Router) {
        for endpoint in router.topology().current().endpoints() {
            // Who cannot be asked is asked again the next time.
            if let Ok(position) = self.position(&endpoint).await {
                router.report(&endpoint, position);
            }
        }
    }

    async fn position(&mut self, endpoint: &Endpoint) -> Result<Position, BoxError> {
        let url = endpoint.address();
        let client = match self.open.get(url).filter(|client| !client.is_closed()) {
            Some(client) => Arc::clone(client),
            None => {
                let client = connect(url.into()).await?;
                self.open.insert(url.to_owned(), Arc::clone(&client));
                client
            }
        };
        const POSITION: &str = "SELECT (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() \
                                ELSE pg_current_wal_lsn() END - '0/0'::pg_lsn)::bigint";
        let row = timeout(PATIENCE, client.query_one(POSITION, &[])).await??;
        Ok(Position(row.try_get::<_, i64>(0)?.unsigned_abs()))
    }
}

#[allow(dead_code, reason = "a test uses the rest")]
#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let shard = |arg: String| arg.split(',').map(str::to_owned).collect();
    let shards: Vec<Vec<String>> = std::env::args().skip(1).map(shard).collect();
    let topology = topology(&shards)?;
    for shard in topology.shards() {
        let primary = shard.endpoints().next().expect("a shard has a primary");
        let client = connect(primary.address().into()).await?;
        client
            .batch_execute(
                "CREATE TABLE IF NOT EXISTS notes (tenant text PRIMARY KEY, note text NOT NULL)",
            )
            .await?;
    }
    let mut router = router(topology.into(), 16 << 20);
    let reported = router.clone();
    tokio::spawn(async move {
        let mut reporter = Reporter::default();
        loop {
            reporter.report(&reported).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    for number in 0..10 {
        let (tenant, note) = (format!("tenant-{number}"), format!("hello {number}"));
        let put = Query::Put {
            tenant: tenant.clone(),
            note,
        };
        let written = router.ready().await?.call(put).await?;
        let token = written.token.expect("a write has a token");
        let access = Access::ReadYourWrites(token);
        let read = router
            .ready()
            .await?
            .call(Query::Get {
                tenant: tenant.clone(),
                access,
            })
            .await?;
        println!(
            "{tenant}: written on port {}, read on port {}: {:?}",
            written.port, read.port, read.note
        );
    }
    Ok(())
}
