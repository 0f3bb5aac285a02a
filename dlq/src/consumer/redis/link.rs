//! Connections to one server or to a cluster, behind one type. The command line tool takes this file as its own.

use std::fmt;

use ::redis::{
    Cmd, Pipeline, RedisFuture, Value,
    aio::{ConnectionLike, ConnectionManager, MultiplexedConnection},
};

/// A connection that clones share.
#[derive(Clone)]
pub(super) enum Link {
    Managed(ConnectionManager),
    Plain(MultiplexedConnection),
    #[cfg(feature = "cluster")]
    Cluster(::redis::cluster_async::ClusterConnection),
}

impl From<ConnectionManager> for Link {
    fn from(connection: ConnectionManager) -> Self {
        Self::Managed(connection)
    }
}

impl From<MultiplexedConnection> for Link {
    fn from(connection: MultiplexedConnection) -> Self {
        Self::Plain(connection)
    }
}

#[cfg(feature = "cluster")]
impl From<::redis::cluster_async::ClusterConnection> for Link {
    fn from(connection: ::redis::cluster_async::ClusterConnection) -> Self {
        Self::Cluster(connection)
    }
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
