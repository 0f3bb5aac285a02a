//! The queue that is meant.

use std::{collections::HashMap, path::Path, time::Duration};

use redis::{
    Value,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use seawall_dlq::{
    Depth, FileSink, Filter, Letter, LetterId, OpenError, Page, Queue, RedisSink, SinkError, Span,
};
use seawall_redis::{Client, Shared};

#[cfg(feature = "kafka")]
use crate::kafka;
use crate::{Stop, args, chain};

/// A person waits: better soon an error than late an answer.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// Letters in a file, on a Redis or on a Kafka.
#[derive(Debug)]
pub(crate) enum Letters {
    File(FileSink),
    #[cfg(feature = "kafka")]
    Kafka {
        sink: seawall_dlq::KafkaSink,
        url: String,
    },
    Redis {
        sink: RedisSink<Shared<ConnectionManager>>,
        connection: ConnectionManager,
    },
}

/// Whether this names a server rather than a file.
pub(crate) fn is_url(at: &str) -> bool {
    at.contains("://")
}

/// Whether this names a Kafka.
pub(crate) fn is_kafka(at: &str) -> bool {
    at.starts_with("kafka://")
}

#[cfg(not(feature = "kafka"))]
pub(crate) fn no_kafka() -> Stop {
    Stop::Wrong("this tool was built without the feature `kafka`".to_owned())
}

pub(crate) async fn open(place: &args::Place) -> Result<Letters, Stop> {
    match (&place.stream, is_url(&place.at)) {
        #[cfg(feature = "kafka")]
        (Some(topic), true) if is_kafka(&place.at) => Ok(Letters::Kafka {
            sink: kafka::open(&place.at, topic).await?,
            url: place.at.clone(),
        }),
        #[cfg(not(feature = "kafka"))]
        (_, true) if is_kafka(&place.at) => Err(no_kafka()),
        (None, true) if is_kafka(&place.at) => Err(Stop::Wrong(
            "say which topic: seawall-dlq stats kafka://127.0.0.1:9092 orders.dead".to_owned(),
        )),
        (Some(stream), true) => {
            let connection = connect(&place.at).await?;
            check_stream(&connection, &place.at, stream).await?;
            let client = Client::shared(connection.clone()).deadline(CONNECT_WITHIN);
            let sink = RedisSink::try_over(client, stream.as_str());
            let sink = sink.map_err(|error| Stop::Wrong(error.to_string()))?;
            Ok(Letters::Redis { sink, connection })
        }
        (None, true) => Err(Stop::Wrong(
            "say which stream: seawall-dlq stats redis://127.0.0.1/ {orders}.dead".to_owned(),
        )),
        (Some(stream), false) => Err(Stop::Wrong(format!(
            "{} is taken for a file, which has no stream {stream}: a Redis is redis://host/, a Kafka kafka://host:9092",
            place.at
        ))),
        // Opening would make it.
        (None, false) if !Path::new(&place.at).is_file() => Err(Stop::Wrong(format!(
            "there is no file {}: say the path of a file of letters, or redis://host/ and a stream",
            place.at
        ))),
        (None, false) => match FileSink::open(&place.at).await {
            Ok(sink) => Ok(Letters::File(sink)),
            Err(OpenError::InUse) => Err(Stop::Wrong(format!(
                "{} is in use: stop the worker that writes to it first",
                place.at
            ))),
            Err(error) => Err(Stop::Wrong(format!(
                "{}: {}; {}",
                place.at,
                chain(&error),
                mend(&error)
            ))),
        },
    }
}

/// What helps where a file is not opened. It is as it was.
fn mend(error: &OpenError) -> &'static str {
    match error {
        OpenError::Foreign => "say the path that a FileSink writes to",
        OpenError::Version(_) => "use the tool of the version that wrote it",
        OpenError::Damaged { .. } => {
            "nothing is changed: keep a copy and bring the file back from a backup, or cut it there and lose what lies behind"
        }
        _ => "see that this user may read and write it, its directory and the disk",
    }
}

/// A name that is none, or that of something else, is most often a wrong one.
pub(crate) async fn check_stream(
    connection: &ConnectionManager,
    at: &str,
    stream: &str,
) -> Result<(), Stop> {
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
    connection: &ConnectionManager,
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

pub(crate) async fn connect(url: &str) -> Result<ConnectionManager, Stop> {
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
    connection.map_err(|error| {
        Stop::Wrong(format!(
            "no Redis answers at {}: {}; see that it is up and that host, port and password are right",
            shown(url),
            chain(&error)
        ))
    })
}

/// An address without the password in it.
pub(crate) fn shown(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
        _ => url.to_owned(),
    }
}

impl Queue for Letters {
    async fn depth(&self) -> Result<Depth, SinkError> {
        match self {
            Self::File(sink) => sink.depth().await,
            #[cfg(feature = "kafka")]
            Self::Kafka { sink, .. } => sink.depth().await,
            Self::Redis { sink, .. } => sink.depth().await,
        }
    }

    async fn list(&self, filter: &Filter, span: &Span, limit: usize) -> Result<Page, SinkError> {
        match self {
            Self::File(sink) => sink.list(filter, span, limit).await,
            #[cfg(feature = "kafka")]
            Self::Kafka { sink, .. } => sink.list(filter, span, limit).await,
            Self::Redis { sink, .. } => sink.list(filter, span, limit).await,
        }
    }

    async fn get(&self, id: LetterId) -> Result<Option<Letter>, SinkError> {
        match self {
            Self::File(sink) => sink.get(id).await,
            #[cfg(feature = "kafka")]
            Self::Kafka { sink, .. } => sink.get(id).await,
            Self::Redis { sink, .. } => sink.get(id).await,
        }
    }

    async fn remove(&self, id: LetterId) -> Result<bool, SinkError> {
        match self {
            Self::File(sink) => sink.remove(id).await,
            #[cfg(feature = "kafka")]
            Self::Kafka { sink, .. } => sink.remove(id).await,
            Self::Redis { sink, .. } => sink.remove(id).await,
        }
    }
}
