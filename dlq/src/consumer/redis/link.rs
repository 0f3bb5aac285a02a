//! Connections to one server or to a cluster, behind one type.

use std::{fmt, time::Duration};

use ::redis::{
    AsyncConnectionConfig, Client, Cmd, Pipeline, RedisFuture, RedisResult, Value,
    aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig, MultiplexedConnection},
};

/// Where the stream is.
#[derive(Clone)]
pub(super) enum Server {
    One(Client),
    #[cfg(feature = "cluster")]
    Cluster(Box<::redis::cluster::ClusterClient>),
}

/// A connection that clones share.
#[derive(Clone)]
pub(super) enum Link {
    Managed(ConnectionManager),
    Plain(MultiplexedConnection),
    #[cfg(feature = "cluster")]
    Cluster(::redis::cluster_async::ClusterConnection),
}

impl Server {
    /// A connection that is made anew when it breaks.
    pub(super) async fn lasting(&self, answers_within: Duration) -> RedisResult<Link> {
        match self {
            Self::One(client) => {
                let config = ConnectionManagerConfig::new()
                    .set_max_delay(Duration::from_millis(500))
                    .set_response_timeout(Some(answers_within));
                let connection = client.get_connection_manager_lazy(config);
                connection.map(Link::Managed)
            }
            #[cfg(feature = "cluster")]
            Self::Cluster(client) => {
                Box::pin(cluster(client, answers_within, answers_within)).await
            }
        }
    }

    /// A connection on which something may block for as long as is said.
    pub(super) async fn blocking(
        &self,
        made_within: Duration,
        answers_within: Duration,
    ) -> RedisResult<Link> {
        match self {
            Self::One(client) => {
                let config = AsyncConnectionConfig::new()
                    .set_connection_timeout(Some(made_within))
                    .set_response_timeout(Some(answers_within));
                let connection = client.get_multiplexed_async_connection_with_config(&config);
                connection.await.map(Link::Plain)
            }
            #[cfg(feature = "cluster")]
            Self::Cluster(client) => Box::pin(cluster(client, made_within, answers_within)).await,
        }
    }
}

#[cfg(feature = "cluster")]
async fn cluster(
    client: &::redis::cluster::ClusterClient,
    made_within: Duration,
    answers_within: Duration,
) -> RedisResult<Link> {
    let config = ::redis::cluster::ClusterConfig::new()
        .set_connection_timeout(made_within)
        .set_response_timeout(answers_within);
    let connection = client.get_async_connection_with_config(config);
    connection.await.map(Link::Cluster)
}

macro_rules! each {
    ($link:expr, $connection:ident => $do:expr) => {
        match $link {
            Link::Managed($connection) => $do,
            Link::Plain($connection) => $do,
            #[cfg(feature = "cluster")]
            Link::Cluster($connection) => $do,
        }
    };
}

impl ConnectionLike for Link {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        each!(self, connection => connection.req_packed_command(cmd))
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        each!(self, connection => connection.req_packed_commands(pipeline, offset, count))
    }

    fn get_db(&self) -> i64 {
        each!(self, connection => connection.get_db())
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").finish_non_exhaustive()
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // There may be a password in it.
        f.debug_struct("Server").finish_non_exhaustive()
    }
}
