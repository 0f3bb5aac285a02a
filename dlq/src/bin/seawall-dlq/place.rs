//! The queue that is meant.

use std::path::Path;

use seawall_dlq::{
    Depth, FileSink, Filter, Letter, LetterId, OpenError, Page, Queue, RedisSink, SinkError, Span,
};
use seawall_redis::Shared;

#[cfg(feature = "kafka")]
use crate::kafka;
use crate::{Stop, args, chain, link::Link, stream};

/// Letters in a file, on a Redis, which may be a cluster, or on a Kafka.
#[derive(Debug)]
pub(crate) enum Letters {
    File(FileSink),
    #[cfg(feature = "kafka")]
    Kafka {
        sink: seawall_dlq::KafkaSink,
        url: String,
    },
    Redis {
        sink: RedisSink<Shared<Link>>,
        connection: Link,
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
        (Some(letters), true) => {
            let connection = stream::connect(&place.at).await?;
            let sink = stream::open(&connection, &place.at, letters).await?;
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
