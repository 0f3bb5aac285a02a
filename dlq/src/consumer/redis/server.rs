//! Where a stream is, and the connections that its consumer makes there.

use std::{fmt, time::Duration};

use ::redis::{AsyncConnectionConfig, Client, RedisResult, aio::ConnectionManagerConfig};

use super::link::Link;

/// Where the stream is.
#[derive(Clone)]
pub(super) enum Server {
    One(Client),
    #[cfg(feature = "cluster")]
    Cluster(Box<::redis::cluster::ClusterClient>),
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
                connection.map(Link::from)
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
                connection.await.map(Link::from)
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
    connection.await.map(Link::from)
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // There may be a password in it.
        f.debug_struct("Server").finish_non_exhaustive()
    }
}
