//! The topic: found, or made, and checked.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tokio::time::Instant;

use super::{ASK, Settings};
use crate::log::{LogId, Position};
use crate::order::digest;

/// How long to wait for brokers that are just starting.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is known of a topic.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub(super) id: LogId,
    /// Replicas that have to have a record before it counts as written.
    pub(super) min_in_sync: usize,
}

/// Why it is not known yet.
enum Trouble {
    /// It may be otherwise in a moment.
    Passing(String),
    /// It stays so until somebody does something.
    Lasting(String),
}

pub(super) async fn find_or_make(
    client: &ClientConfig,
    settings: &Settings,
) -> Result<Known, String> {
    let admin: AdminClient<DefaultClientContext> =
        client.create().map_err(|why| why.to_string())?;
    let admin = Arc::new(admin);
    let until = Instant::now() + PATIENCE;
    let mut made = false;
    loop {
        match try_once(&admin, settings, &mut made).await {
            Ok(known) => return Ok(known),
            Err(Trouble::Passing(_)) if Instant::now() < until => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(Trouble::Passing(why) | Trouble::Lasting(why)) => return Err(why),
        }
    }
}

async fn try_once(
    admin: &Arc<AdminClient<DefaultClientContext>>,
    settings: &Settings,
    made: &mut bool,
) -> Result<Known, Trouble> {
    let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
    if !*made {
        make(admin, settings, &options).await?;
        *made = true;
    }
    let (asking, name) = (Arc::clone(admin), settings.topic.clone());
    let asked = tokio::task::spawn_blocking(move || look(&asking, &name)).await;
    let (cluster, found) = asked
        .map_err(|panic| Trouble::Lasting(panic.to_string()))?
        .map_err(Trouble::Passing)?;
    // A topic that was just made is not known everywhere yet.
    let absent = || Trouble::Passing(format!("topic {:?} does not appear", settings.topic));
    if found == 0 {
        return Err(absent());
    }
    if found != usize::from(settings.partitions) {
        return Err(Trouble::Lasting(format!(
            "topic {:?} has {found} partitions, and not {}",
            settings.topic, settings.partitions
        )));
    }
    let min_in_sync = min_in_sync(admin, &settings.topic, &options).await;
    let min_in_sync = min_in_sync.map_err(Trouble::Passing)?.ok_or_else(absent)?;
    let id = digest(&[b"kafka log", cluster.as_bytes(), settings.topic.as_bytes()]);
    Ok(Known {
        id: LogId(id),
        min_in_sync,
    })
}

async fn make(
    admin: &AdminClient<DefaultClientContext>,
    settings: &Settings,
    options: &AdminOptions,
) -> Result<(), Trouble> {
    let min = settings.replication / 2 + 1;
    let min = min.to_string();
    let new = NewTopic::new(
        &settings.topic,
        settings.partitions.into(),
        TopicReplication::Fixed(settings.replication.into()),
    )
    .set("min.insync.replicas", &min)
    .set("unclean.leader.election.enable", "false")
    // A shard may have to go back, and what was accepted must still be there: the newest week.
    .set("retention.ms", "604800000");
    // The request itself can fail while the client is still getting to know the brokers: it drops those that it began
    // with, and what was sent through one of them with it.
    let made = admin.create_topics([&new], options).await.map_err(|why| {
        Trouble::Passing(format!(
            "no broker of {} takes requests: {why}",
            settings.brokers
        ))
    })?;
    match made.into_iter().next() {
        Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists)) | Ok(_)) => Ok(()),
        Some(Err((topic, why))) => {
            let said = format!("topic {topic:?} cannot be made: {why}");
            Err(match why {
                RDKafkaErrorCode::NotController
                | RDKafkaErrorCode::RequestTimedOut
                | RDKafkaErrorCode::OperationTimedOut => Trouble::Passing(said),
                _ => Trouble::Lasting(said),
            })
        }
        None => Err(Trouble::Passing(
            "the brokers did not say whether they made the topic".to_owned(),
        )),
    }
}

/// How many replicas have to have a record; nothing where the brokers do not know of the topic yet.
async fn min_in_sync(
    admin: &AdminClient<DefaultClientContext>,
    topic: &str,
    options: &AdminOptions,
) -> Result<Option<usize>, String> {
    let described = admin
        .describe_configs([&ResourceSpecifier::Topic(topic)], options)
        .await
        .map_err(|why| why.to_string())?;
    let found = described.into_iter().next().and_then(Result::ok);
    Ok(found.and_then(|found| {
        let entry = found.get("min.insync.replicas")?;
        entry.value.as_ref()?.parse().ok()
    }))
}

/// Which cluster it is, and how many partitions it knows of a topic.
fn look(admin: &AdminClient<DefaultClientContext>, topic: &str) -> Result<(String, usize), String> {
    let client = admin.inner();
    let cluster = client
        .fetch_cluster_id(ASK)
        .ok_or("the brokers did not say which cluster they are")?;
    let found = client
        .fetch_metadata(Some(topic), ASK)
        .map_err(|why| why.to_string())?;
    let partitions = found.topics().first().map_or(0, |t| t.partitions().len());
    Ok((cluster, partitions))
}

pub(super) async fn remove(client: &ClientConfig, topic: &str) -> Result<(), String> {
    let admin: AdminClient<DefaultClientContext> =
        client.create().map_err(|why| why.to_string())?;
    let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
    let removed = admin.delete_topics(&[topic], &options).await;
    match removed.map_err(|why| why.to_string())?.into_iter().next() {
        Some(Err((topic, why))) => Err(format!("topic {topic:?} is not removed: {why}")),
        _ => Ok(()),
    }
}

pub(super) async fn drop_below(
    client: &ClientConfig,
    topic: &str,
    partition: u16,
    below: Position,
) -> Result<(), String> {
    let admin: AdminClient<DefaultClientContext> =
        client.create().map_err(|why| why.to_string())?;
    let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
    let mut list = TopicPartitionList::new();
    let offset = Offset::Offset(below.0.cast_signed());
    list.add_partition_offset(topic, partition.into(), offset)
        .map_err(|why| why.to_string())?;
    let dropped = admin.delete_records(&list, &options).await;
    let dropped = dropped.map_err(|why| why.to_string())?;
    match dropped.elements().first().map(|element| element.error()) {
        Some(Err(why)) => Err(why.to_string()),
        _ => Ok(()),
    }
}
