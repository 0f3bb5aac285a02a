//! Letters in a stream of Redis, on one server or on a cluster.

use std::{collections::HashMap, time::Duration};

use redis::{
    Value, aio::ConnectionManagerConfig, cluster::ClusterClient, cluster_async::ClusterConnection,
};
use seawall_dlq::RedisSink;
use seawall_redis::{Client, Shared};

use crate::{Stop, chain, link::Link, place::shown};

/// A person waits: better soon an error than late an answer.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// One address is enough, of a server on its own or of any server of a cluster: it says which it is.
pub(crate) async fn connect(url: &str) -> Result<Link, Stop> {
    let client = redis::Client::open(url).map_err(|error| {
        Stop::Wrong(format!(
            "{} is no address of a Redis ({error}): say redis://host:port/",
            shown(url)
        ))
    })?;
    let config = ConnectionManagerConfig::new()
        .set_number_of_retries(1)
        .set_connection_timeout(Some(CONNECT_WITHIN))
        .set_response_timeout(Some(CONNECT_WITHIN));
    let connection = client.get_connection_manager_with_config(config).await;
    let mut connection = Link::from(connection.map_err(|error| {
        Stop::Wrong(format!(
            "no Redis answers at {}: {}; see that it is up and that host, port and password are right",
            shown(url),
            chain(&error)
        ))
    })?);
    match is_of_a_cluster(&mut connection).await {
        true => cluster(url).await.map(Link::from),
        false => Ok(connection),
    }
}

/// As it says in its greeting, which no rights are needed for, unlike `INFO`.
async fn is_of_a_cluster(connection: &mut Link) -> bool {
    let greeting = redis::cmd("HELLO").query_async(connection).await;
    // What does not know it stands for a server, such as a proxy.
    let greeting: HashMap<String, Value> = greeting.unwrap_or_default();
    greeting.get("mode") == Some(&Value::BulkString(b"cluster".to_vec()))
}

async fn cluster(url: &str) -> Result<ClusterConnection, Stop> {
    let client = ClusterClient::builder([url])
        .connection_timeout(CONNECT_WITHIN)
        .response_timeout(CONNECT_WITHIN)
        .build();
    let connection = match client {
        Ok(client) => client.get_async_connection().await,
        Err(error) => Err(error),
    };
    connection.map_err(|error| {
        Stop::Wrong(format!(
            "the cluster of {} does not answer: {}; see that the addresses it names in CLUSTER SLOTS can be reached from here",
            shown(url),
            chain(&error)
        ))
    })
}

pub(crate) async fn open(
    connection: &Link,
    at: &str,
    stream: &str,
) -> Result<RedisSink<Shared<Link>>, Stop> {
    check_stream(connection, at, stream).await?;
    let client = Client::shared(connection.clone()).deadline(CONNECT_WITHIN);
    let sink = RedisSink::try_over(client, stream);
    sink.map_err(|error| Stop::Wrong(error.to_string()))
}

/// A name that is none, or that of something else, is most often a wrong one.
pub(crate) async fn check_stream(connection: &Link, at: &str, stream: &str) -> Result<(), Stop> {
    let client = Client::shared(connection.clone()).deadline(CONNECT_WITHIN);
    let mut ask = redis::cmd("TYPE");
    ask.arg(stream);
    let kind = client.command(&ask).await;
    match kind.map_err(|error| Stop::wrong(&error))? {
        Value::SimpleString(kind) if kind == "stream" => Ok(()),
        Value::SimpleString(kind) if kind == "none" => Err(Stop::Wrong(format!(
            "there is no stream {stream} at {}: nothing died there yet, or its name is another",
            shown(at)
        ))),
        _ => Err(Stop::Wrong(format!(
            "{stream} at {} is no stream: letters are in one such as {{orders}}.dead",
            shown(at)
        ))),
    }
}

pub(crate) async fn check_group(
    connection: &Link,
    at: &str,
    stream: &str,
    group: &str,
) -> Result<(), Stop> {
    let client = Client::shared(connection.clone()).deadline(CONNECT_WITHIN);
    let mut ask = redis::cmd("XINFO");
    ask.arg("GROUPS").arg(stream);
    let groups = client.command(&ask).await;
    let groups = groups.map_err(|error| Stop::wrong(&error))?;
    let groups: Vec<HashMap<String, Value>> =
        redis::from_redis_value(groups).map_err(|error| Stop::wrong(&error))?;
    let names = groups.iter().filter_map(|group| match group.get("name") {
        Some(Value::BulkString(name)) => Some(String::from_utf8_lossy(name).into_owned()),
        _ => None,
    });
    let names: Vec<String> = names.collect();
    if names.iter().any(|name| name == group) {
        return Ok(());
    }
    Err(Stop::Wrong(format!(
        "there is no group {group} of {stream} at {}: its groups are {names:?}",
        shown(at)
    )))
}
