//! Connections to whichever server of a shard is the one that is wanted.
//!
//! A primary that was replaced may come back and take writes that nobody will ever see. Promotion raises a server's
//! timeline, so of several that take writes the one of the highest timeline is the primary, and one below the highest
//! that this process has seen is none.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use tokio_postgres::{Client, Config, NoTls};

use super::Place;
use super::statements::Statements;
use crate::errors::chain;

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(5);

/// Which server a connection should be to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    /// The one that writes.
    Primary,
    /// One that follows, or the primary where none does.
    Replica,
}

/// Makes connections to a shard.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    servers: Arc<[Config]>,
    want: Want,
    /// The highest timeline of a primary so far.
    newest: Arc<AtomicU32>,
}

/// A connection that is set up.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) client: Arc<Client>,
    pub(super) statements: Arc<Statements>,
    /// The timeline of its server when it was made, where that is a primary.
    pub(super) timeline: i64,
    broken: Arc<AtomicBool>,
}

/// Why there is no connection.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConnectError {
    /// No server of the shard can be reached: the last reason.
    Nobody(String),
    /// Those that can be reached do not write; and why another cannot, if there is one.
    NoPrimary(Option<String>),
    /// The one that writes was replaced before.
    Replaced {
        /// Its timeline.
        timeline: u32,
        /// The highest one seen.
        newest: u32,
    },
}

struct Found {
    client: Client,
    /// Of one that writes.
    timeline: Option<u32>,
}

impl Connector {
    pub(super) fn new(place: &Place, want: Want) -> Self {
        let mut servers = place.servers.clone();
        for server in &mut servers {
            let options = server.get_options().unwrap_or_default();
            server.options(format!("{options} -c search_path={}", place.schema));
        }
        Self {
            servers: servers.into(),
            want,
            newest: Arc::default(),
        }
    }

    /// A connection without prepared statements, and the timeline of its server where that writes, else 0.
    pub(super) async fn plain(&self) -> Result<(Client, i64), ConnectError> {
        let found = join_all(self.servers.iter().map(|server| async {
            let looked = tokio::time::timeout(CONNECT, look(server));
            match looked.await {
                Ok(Ok(found)) => Ok(found),
                Ok(Err(why)) => Err(chain(&why)),
                Err(elapsed) => Err(elapsed.to_string()),
            }
        }))
        .await;
        let mut why = None;
        let mut writing: Option<(u32, Client)> = None;
        let mut following = Vec::new();
        for found in found {
            match found {
                Ok(Found {
                    client,
                    timeline: Some(timeline),
                }) => {
                    if writing.as_ref().is_none_or(|(known, _)| *known < timeline) {
                        writing = Some((timeline, client));
                    }
                }
                Ok(Found { client, .. }) => following.push(client),
                Err(reason) => why = Some(reason),
            }
        }
        // Any of them, so that they share what is read.
        let any = fastrand::usize(..following.len().max(1));
        let following = following.into_iter().nth(any);
        match (self.want, writing, following) {
            (Want::Replica, _, Some(client)) => Ok((client, 0)),
            (_, Some((timeline, client)), _) => {
                let newest = self.newest.fetch_max(timeline, Ordering::AcqRel);
                if timeline < newest {
                    return Err(ConnectError::Replaced { timeline, newest });
                }
                Ok((client, timeline.into()))
            }
            (Want::Primary, None, Some(_)) => Err(ConnectError::NoPrimary(why)),
            (_, None, None) => {
                let why = why.unwrap_or_else(|| "it has no servers".to_owned());
                Err(ConnectError::Nobody(why))
            }
        }
    }
}

/// A connection to each server of a shard that follows, or why one that should is not reached.
pub(super) async fn followers(place: &Place) -> Result<Vec<Client>, ConnectError> {
    let mut followers = Vec::new();
    for server in Connector::new(place, Want::Replica).servers.iter() {
        let found = match tokio::time::timeout(CONNECT, look(server)).await {
            Ok(Ok(found)) => found,
            Ok(Err(why)) => return Err(ConnectError::Nobody(chain(&why))),
            Err(elapsed) => return Err(ConnectError::Nobody(elapsed.to_string())),
        };
        if found.timeline.is_none() {
            followers.push(found.client);
        }
    }
    Ok(followers)
}

async fn look(server: &Config) -> Result<Found, tokio_postgres::Error> {
    let (client, connection) = server.connect(NoTls).await?;
    tokio::spawn(async move {
        // Whoever uses the client is told too.
        if let Err(why) = connection.await {
            tracing::debug!(%why, "a connection to PostgreSQL ended");
        }
    });
    let row = client
        .query_one(
            // A name of the write-ahead log begins with the timeline, in hex; a server that follows has none.
            "SELECT CASE WHEN pg_is_in_recovery() THEN NULL
                    ELSE pg_walfile_name(pg_current_wal_insert_lsn()) END",
            &[],
        )
        .await?;
    let file: Option<String> = row.get(0);
    let timeline = file.and_then(|file| u32::from_str_radix(file.get(..8)?, 16).ok());
    Ok(Found { client, timeline })
}

impl bb8::ManageConnection for Connector {
    type Connection = Connection;
    type Error = ConnectError;

    async fn connect(&self) -> Result<Connection, ConnectError> {
        let (client, timeline) = self.plain().await?;
        let statements = Statements::prepare(&client)
            .await
            .map_err(|why| ConnectError::Nobody(chain(&why)))?;
        Ok(Connection {
            client: Arc::new(client),
            statements: Arc::new(statements),
            timeline,
            broken: Arc::default(),
        })
    }

    async fn is_valid(&self, connection: &mut Connection) -> Result<(), ConnectError> {
        connection
            .client
            .batch_execute("")
            .await
            .map_err(|why| ConnectError::Nobody(chain(&why)))
    }

    fn has_broken(&self, connection: &mut Connection) -> bool {
        connection.broken.load(Ordering::Acquire) || connection.client.is_closed()
    }
}

/// Holds a connection for broken unless it is told otherwise: also when the work on it was dropped.
pub(super) struct PresumedBroken(Arc<AtomicBool>);

impl PresumedBroken {
    pub(super) fn it_is_not(self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Connection {
    pub(super) fn share(&self) -> Arc<Self> {
        Arc::new(self.clone())
    }

    pub(super) fn presume_broken(&self) -> PresumedBroken {
        self.broken.store(true, Ordering::Release);
        PresumedBroken(Arc::clone(&self.broken))
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody(why) => write!(f, "no server of the shard can be reached: {why}"),
            Self::NoPrimary(None) => f.write_str("no server of the shard takes writes"),
            Self::NoPrimary(Some(why)) => write!(
                f,
                "no server of the shard takes writes, and one cannot be reached: {why}"
            ),
            Self::Replaced { timeline, newest } => write!(
                f,
                "the server that takes writes is of timeline {timeline}, and one of {newest} has replaced it"
            ),
        }
    }
}

impl Error for ConnectError {}
