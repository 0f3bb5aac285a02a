//! One Redis, or a cluster of them.

use std::fmt;
use std::time::Duration;

use redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::{Cmd, Pipeline, RedisFuture, RedisResult, Value};

use super::Places;

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(1);

/// A connection that many share, and that comes back by itself.
#[derive(Clone)]
pub enum Connection {
    /// To one server.
    One(ConnectionManager),
    /// To a cluster.
    Many(ClusterConnection),
}

impl Connection {
    /// Connects: to one server when it is first asked, to a cluster at once.
    ///
    /// # Errors
    ///
    /// When an address is none, or no node of a cluster answers.
    pub async fn open(places: &Places) -> RedisResult<Self> {
        let urls = &places.redis.urls;
        if places.is_cluster() {
            let client = ClusterClient::new(urls.iter().map(String::as_str))?;
            return Ok(Self::Many(client.get_async_connection().await?));
        }
        let client = redis::Client::open(urls[0].as_str())?;
        let config = ConnectionManagerConfig::new().set_connection_timeout(Some(CONNECT));
        ConnectionManager::new_lazy_with_config(client, config).map(Self::One)
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::One(one) => one.req_packed_command(command),
            Self::Many(many) => many.req_packed_command(command),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        commands: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::One(one) => one.req_packed_commands(commands, offset, count),
            Self::Many(many) => many.req_packed_commands(commands, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::One(one) => one.get_db(),
            Self::Many(many) => many.get_db(),
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::One(_) => "Connection::One",
            Self::Many(_) => "Connection::Many",
        })
    }
}
