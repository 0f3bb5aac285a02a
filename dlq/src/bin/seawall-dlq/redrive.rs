//! Letters sent back.

use std::sync::{Arc, Mutex, PoisonError};

use seawall_dlq::{
    BoxError, Letter, LetterId, Redrive, RedriveError, RedriveReason, Requeue, SinkError,
    Unreadable,
};
use seawall_redis::Client;

#[cfg(feature = "kafka")]
use crate::kafka;
use crate::{
    Stop,
    args::{Place, Which},
    chain,
    commands::{all_read, failed, filter_of},
    link::Link,
    place::{self, Letters},
    show, stream,
};

/// How letters are sent back.
pub(crate) struct How {
    pub(crate) to: Option<String>,
    pub(crate) rate: f64,
    pub(crate) limit: Option<u64>,
    pub(crate) loop_cap: u32,
    pub(crate) dry_run: bool,
    pub(crate) json: bool,
}

/// What went wrong on the way.
#[derive(Default)]
struct Left {
    unreadable: Unreadable,
    /// The first letter that could not be sent, and why.
    not_sent: Option<(LetterId, String)>,
}

pub(crate) async fn redrive(place: &Place, which: &Which, how: How) -> Result<(), Stop> {
    let letters = Arc::new(place::open(place).await?);
    let left = Arc::new(Mutex::new(Left::default()));
    let of_problems = Arc::clone(&left);
    let redrive = Redrive::new(Arc::clone(&letters))
        .loop_cap(how.loop_cap)
        .dry_run(how.dry_run)
        .limit(how.limit.unwrap_or(u64::MAX))
        .try_per_second(how.rate)
        .map_err(|error| Stop::Wrong(error.to_string()))?
        .filter(filter_of(&letters, which).await?)
        .problems(move |problem| {
            let mut left = of_problems.lock().unwrap_or_else(PoisonError::into_inner);
            match problem {
                RedriveReason::Queue(error) => left.unreadable.add(error.clone()),
                RedriveReason::NotSent { id, error, .. } => {
                    left.not_sent.get_or_insert_with(|| (*id, why(error)));
                }
                _ => {}
            }
        })
        .progress(|summary| {
            show::progress(&format!(
                "{} of {} looked at, {} sent",
                summary.matched, summary.total, summary.redriven
            ));
        });
    let summary = match target(how.to, &letters, how.dry_run).await? {
        Target::Redis(connection) => {
            let back = Requeue::from(Client::shared(connection));
            redrive.through(back).await
        }
        #[cfg(feature = "kafka")]
        Target::Kafka(back) => redrive.through(back).await,
        Target::Nowhere => {
            let nowhere = |_: Letter| std::future::ready(Ok::<_, SinkError>(()));
            redrive.run(nowhere).await
        }
    };
    show::progress("");
    let (summary, stopped) = match summary {
        Ok(summary) => (summary, None),
        Err(RedriveError {
            summary, reason, ..
        }) => (summary, Some(reason)),
    };
    show::say(&match how.json {
        true => show::redriven_json(&summary, how.dry_run),
        false => show::redriven(&summary, how.dry_run),
    })?;
    let left = std::mem::take(&mut *left.lock().unwrap_or_else(PoisonError::into_inner));
    if let Some(RedriveReason::Queue(error)) = &stopped {
        return Err(failed(error));
    }
    if let Some((id, why)) = left.not_sent {
        let others = match summary.failed {
            ..=1 => String::new(),
            failed => format!("{failed} letters could not be sent, the first: "),
        };
        let stopped = match stopped {
            Some(_) => "; it stopped as so many failed in a row",
            None => "",
        };
        return Err(Stop::Wrong(format!(
            "{others}letter {id} could not be sent and is where it was: {why}{stopped}"
        )));
    }
    all_read(&left.unreadable)
}

/// What an error says, and how it is mended where that is known.
fn why(error: &BoxError) -> String {
    use seawall_dlq::RequeueError;
    let says = chain(&**error);
    let mend = match error.downcast_ref::<RequeueError>() {
        Some(RequeueError::NoStream(stream)) => {
            format!("make it with XADD {stream}, or name the Redis that has it with --to")
        }
        Some(RequeueError::NotFromAStream(_)) => {
            "name the Kafka it came from with --to kafka://host:9092".to_owned()
        }
        _ => return of_kafka(error, says),
    };
    format!("{says}: {mend}")
}

#[cfg(feature = "kafka")]
fn of_kafka(error: &BoxError, says: String) -> String {
    use seawall_dlq::KafkaRequeueError as Kafka;
    let mend = match error.downcast_ref::<Kafka>() {
        Some(Kafka::NotFromALog(_)) => "name the Redis it came from with --to redis://host/",
        Some(Kafka::TooLarge { .. }) => "raise max.message.bytes of the topic",
        _ => return says,
    };
    format!("{says}: {mend}")
}

#[cfg(not(feature = "kafka"))]
fn of_kafka(_: &BoxError, says: String) -> String {
    says
}

/// Where letters are sent back to.
enum Target {
    Redis(Link),
    #[cfg(feature = "kafka")]
    Kafka(seawall_dlq::KafkaRequeue),
    Nowhere,
}

async fn target(to: Option<String>, letters: &Letters, dry_run: bool) -> Result<Target, Stop> {
    match (to, letters) {
        #[cfg(feature = "kafka")]
        (Some(url), _) if place::is_kafka(&url) => Ok(Target::Kafka(kafka::back(&url).await?)),
        #[cfg(not(feature = "kafka"))]
        (Some(url), _) if place::is_kafka(&url) => Err(place::no_kafka()),
        (Some(url), _) => Ok(Target::Redis(stream::connect(&url).await?)),
        (None, Letters::Redis { connection, .. }) => Ok(Target::Redis(connection.clone())),
        #[cfg(feature = "kafka")]
        (None, Letters::Kafka { url, .. }) => Ok(Target::Kafka(kafka::back(url).await?)),
        (None, Letters::File(_)) if dry_run => Ok(Target::Nowhere),
        (None, Letters::File(_)) => Err(Stop::Wrong(
            "letters in a file have no server of their own: say --to redis://host/ or --to kafka://host:9092"
                .to_owned(),
        )),
    }
}
