//! Whether a partition takes records: as many of its brokers as a record needs have to answer.
//!
//! A record that is sent to a partition with too few is neither written nor refused: its leader waits for the others,
//! or there is no leader, and in the end nobody knows. So what the brokers do is watched from the side. Their
//! own word is not enough, since with most of them out nobody is left to say so; each is asked itself.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rdkafka::metadata::Metadata;
use rdkafka::producer::{FutureProducer, Producer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

/// How often the brokers are looked at.
const LOOK: Duration = Duration::from_millis(500);

/// How long a broker may take to answer before it counts as out.
const ANSWER: Duration = Duration::from_secs(3);

/// An `ApiVersions` request, version 0, without a client's name: the one that every broker answers to anybody.
const HELLO: [u8; 14] = [0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 7, 0xff, 0xff];

/// What keeps each partition from taking records, if anything does.
type Reasons = Vec<Option<Arc<str>>>;

/// Knows which partitions take records.
pub(super) struct Gate {
    reasons: Arc<RwLock<Reasons>>,
    stop: CancellationToken,
}

/// A broker, as the cluster speaks of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Broker {
    id: i32,
    address: String,
}

/// A partition, as the cluster speaks of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Placed {
    partition: u16,
    has_leader: bool,
    replicas: Vec<i32>,
    in_sync: Vec<i32>,
}

impl Gate {
    /// Watches on the current runtime until it is closed. Open at first.
    pub(super) fn watch(
        producer: &FutureProducer,
        topic: &Arc<str>,
        min_in_sync: usize,
        partitions: u16,
    ) -> Self {
        let reasons = Arc::new(RwLock::new(vec![None; partitions.into()]));
        let stop = CancellationToken::new();
        let watch = {
            let (producer, topic) = (producer.clone(), Arc::clone(topic));
            let (reasons, stop) = (Arc::clone(&reasons), stop.clone());
            async move {
                let looks = look_again(producer, topic, min_in_sync, &reasons);
                tokio::select! {
                    () = looks => {}
                    () = stop.cancelled() => {}
                }
            }
        };
        tokio::spawn(watch);
        Self { reasons, stop }
    }

    /// Why a partition takes nothing now.
    pub(super) fn pass(&self, partition: u16) -> Result<(), String> {
        if self.stop.is_cancelled() {
            return Err("the log is closed".to_owned());
        }
        let reasons = self.reasons.read().unwrap_or_else(PoisonError::into_inner);
        match reasons.get(usize::from(partition)) {
            Some(Some(why)) => Err(why.as_ref().to_owned()),
            _ => Ok(()),
        }
    }

    pub(super) fn close(&self) {
        self.stop.cancel();
    }
}

async fn look_again(
    producer: FutureProducer,
    topic: Arc<str>,
    min_in_sync: usize,
    reasons: &RwLock<Reasons>,
) {
    let mut brokers: Vec<Broker> = Vec::new();
    let mut placed: Vec<Placed> = Vec::new();
    loop {
        let (producer, topic) = (producer.clone(), Arc::clone(&topic));
        let asked = tokio::task::spawn_blocking(move || {
            let found = producer.client().fetch_metadata(Some(&topic), ANSWER);
            found.map(|found| (brokers_of(&found), placed_of(&found)))
        });
        // Where nobody says, what was said last stands; the brokers are asked themselves all the same.
        if let Ok(Ok((these, there))) = asked.await
            && !these.is_empty()
            && !there.is_empty()
        {
            (brokers, placed) = (merged(brokers, these), there);
        }
        let answers = brokers.iter().map(|broker| async {
            let answers = tokio::time::timeout(ANSWER, hello(&broker.address));
            (broker.id, matches!(answers.await, Ok(Ok(()))))
        });
        let answering = futures_util::future::join_all(answers).await;
        let answering: HashMap<i32, bool> = answering.into_iter().collect();
        {
            let mut reasons = reasons.write().unwrap_or_else(PoisonError::into_inner);
            for partition in &placed {
                let why = judge(partition, &brokers, &answering, min_in_sync);
                if let Some(reason) = reasons.get_mut(usize::from(partition.partition)) {
                    *reason = why.map(Into::into);
                }
            }
            let shut = reasons.iter().flatten().count();
            metrics::gauge!("pipeline_log_partitions_shut").set(shut as f64);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Brokers that the cluster lists now, and those that it listed before: it leaves out who is down.
fn merged(before: Vec<Broker>, now: Vec<Broker>) -> Vec<Broker> {
    let gone = |broker: &Broker| now.iter().all(|known| known.id != broker.id);
    let gone: Vec<Broker> = before.into_iter().filter(gone).collect();
    now.into_iter().chain(gone).collect()
}

/// Why a partition takes nothing.
fn judge(
    partition: &Placed,
    brokers: &[Broker],
    answering: &HashMap<i32, bool>,
    min_in_sync: usize,
) -> Option<String> {
    let answers = |id: &&i32| answering.get(id).copied().unwrap_or(false);
    let there = partition.replicas.iter().filter(answers).count();
    let number = partition.partition;
    if there < min_in_sync {
        let mut silent: Vec<String> = partition
            .replicas
            .iter()
            .filter(|id| !answers(id))
            .map(|id| {
                let known = brokers.iter().find(|broker| broker.id == *id);
                known.map_or_else(|| id.to_string(), |broker| broker.address.clone())
            })
            .collect();
        silent.sort();
        return Some(format!(
            "{there} of the {min_in_sync} brokers that partition {number} needs answer; {} do not",
            silent.join(", ")
        ));
    }
    if partition.in_sync.len() < min_in_sync {
        return Some(format!(
            "{} of the {min_in_sync} replicas that partition {number} needs are in sync",
            partition.in_sync.len()
        ));
    }
    (!partition.has_leader && there < partition.replicas.len())
        .then(|| format!("partition {number} has no leader"))
}

/// Says hello and waits for any answer. A broker that is stopped still accepts connections, and says nothing.
async fn hello(address: &str) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(&HELLO).await?;
    stream.read_exact(&mut [0; 8]).await?;
    Ok(())
}

fn brokers_of(found: &Metadata) -> Vec<Broker> {
    let brokers = found.brokers().iter().map(|broker| Broker {
        id: broker.id(),
        address: format!("{}:{}", broker.host(), broker.port()),
    });
    brokers.collect()
}

fn placed_of(found: &Metadata) -> Vec<Placed> {
    let topics = found.topics().iter();
    let partitions = topics.flat_map(rdkafka::metadata::MetadataTopic::partitions);
    let placed = partitions.filter_map(|partition| {
        Some(Placed {
            partition: partition.id().try_into().ok()?,
            has_leader: partition.leader() >= 0,
            replicas: partition.replicas().to_vec(),
            in_sync: partition.isr().to_vec(),
        })
    });
    placed.collect()
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(in_sync: &[i32]) -> Placed {
        Placed {
            partition: 7,
            has_leader: true,
            replicas: vec![1, 2, 3],
            in_sync: in_sync.to_vec(),
        }
    }

    fn broker(id: i32) -> Broker {
        Broker {
            id,
            address: format!("10.0.0.{id}:9092"),
        }
    }

    fn judged(placed: &Placed, answering: [bool; 3]) -> Option<String> {
        let brokers = [1, 2, 3].map(broker);
        let answering = [1, 2, 3].into_iter().zip(answering).collect();
        judge(placed, &brokers, &answering, 2)
    }

    #[test]
    fn one_broker_out_of_three_shuts_nothing() {
        assert_eq!(judged(&placed(&[1, 2, 3]), [true; 3]), None);
        assert_eq!(judged(&placed(&[1, 2]), [true, true, false]), None);
    }

    #[test]
    fn two_out_shut_it_also_where_the_cluster_has_not_noticed() {
        let why = judged(&placed(&[1, 2, 3]), [false, true, false]).expect("it is shut");
        assert!(
            why.contains("1 of the 2 brokers that partition 7 needs"),
            "{why}"
        );
        assert!(why.contains("10.0.0.1:9092, 10.0.0.3:9092 do not"), "{why}");
    }

    #[test]
    fn replicas_that_are_behind_do_not_count() {
        let why = judged(&placed(&[1]), [true; 3]).expect("it is shut");
        assert!(why.contains("1 of the 2 replicas"), "{why}");
    }

    #[test]
    fn without_a_leader_it_is_shut_unless_all_are_back() {
        let leaderless = Placed {
            has_leader: false,
            ..placed(&[1, 2])
        };
        assert!(judged(&leaderless, [true, true, false]).is_some());
        // The cluster is about to elect one, and a record waits for that.
        assert_eq!(judged(&leaderless, [true; 3]), None);
    }

    #[test]
    fn a_broker_that_is_not_listed_any_more_is_still_asked() {
        let all = merged(vec![broker(1), broker(2)], vec![broker(2), broker(3)]);
        assert_eq!(all, [broker(2), broker(3), broker(1)]);
    }
}
