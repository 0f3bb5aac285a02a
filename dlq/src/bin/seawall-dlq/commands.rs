//! What is done.

use std::{
    io::{self, BufRead, IsTerminal, Write},
    sync::Arc,
    time::SystemTime,
};

use seawall_dlq::{
    Filter, Fingerprint, Letter, LetterId, Queue, Redrive, RedriveError, RedriveReason, Requeue,
    SinkError, Span, census,
};
use seawall_redis::Client;

#[cfg(feature = "kafka")]
use crate::kafka;
use crate::{
    Stop,
    args::{Args, Command, Place, Which},
    chain,
    place::{self, Letters},
    show,
};

/// How many letters are read at once.
const PAGE: usize = 100;

pub(crate) async fn run(args: Args) -> Result<(), Stop> {
    match args.command {
        Command::Stats {
            place,
            filter,
            json,
        } => stats(&place, &filter, json).await,
        Command::List {
            place,
            filter,
            limit,
            json,
        } => list(&place, &filter, limit, json).await,
        Command::Show { place, id, json } => show_one(&place, id, json).await,
        Command::Redrive {
            place,
            filter,
            to,
            rate,
            limit,
            loop_cap,
            dry_run,
            json,
        } => {
            let letters = Arc::new(place::open(&place).await?);
            let redrive = Redrive::new(Arc::clone(&letters))
                .loop_cap(loop_cap)
                .dry_run(dry_run);
            let redrive = redrive
                .limit(limit.unwrap_or(u64::MAX))
                .try_per_second(rate)
                .map_err(|error| Stop::Usage(error.to_string()))?
                .filter(filter_of(&letters, &filter).await?)
                .progress(|summary| {
                    show::progress(&format!(
                        "{} of {} looked at, {} sent",
                        summary.matched, summary.total, summary.redriven
                    ));
                });
            let summary = match target(to, &letters, dry_run).await? {
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
            show::say(&match json {
                true => show::redriven_json(&summary, dry_run),
                false => show::redriven(&summary, dry_run),
            })?;
            match stopped {
                None if summary.failed > 0 => Err(Stop::Failed(format!(
                    "{} letters could not be sent and are where they were",
                    summary.failed
                ))),
                None => Ok(()),
                Some(RedriveReason::NotSent { id, error, .. }) => Err(Stop::Failed(format!(
                    "letter {id} could not be sent and is where it was: {}",
                    chain(&*error)
                ))),
                Some(RedriveReason::Queue(error)) => Err(failed(&error)),
                Some(_) => Err(Stop::Failed("it stopped".to_owned())),
            }
        }
        Command::Purge {
            place,
            filter,
            yes,
            json,
        } => purge(&place, &filter, yes, json).await,
    }
}

/// Where letters are sent back to.
enum Target {
    Redis(redis::aio::ConnectionManager),
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
        (Some(url), _) => Ok(Target::Redis(place::connect(&url).await?)),
        (None, Letters::Redis { connection, .. }) => Ok(Target::Redis(connection.clone())),
        #[cfg(feature = "kafka")]
        (None, Letters::Kafka { url, .. }) => Ok(Target::Kafka(kafka::back(url).await?)),
        (None, Letters::File(_)) if dry_run => Ok(Target::Nowhere),
        (None, Letters::File(_)) => Err(Stop::Usage(
            "letters in a file have no server of their own: say --to redis://host/ or --to kafka://host:9092"
                .to_owned(),
        )),
    }
}

async fn stats(place: &Place, which: &Which, json: bool) -> Result<(), Stop> {
    let letters = place::open(place).await?;
    let filter = filter_of(&letters, which).await?;
    let depth = letters.depth().await.map_err(|error| failed(&error))?;
    let causes = census(&letters, &filter).await;
    let causes = causes.map_err(|error| failed(&error))?;
    show::say(&match json {
        true => show::stats_json(&depth, &causes),
        false => show::stats(&depth, &causes, SystemTime::now()),
    })
}

async fn list(place: &Place, which: &Which, limit: u64, json: bool) -> Result<(), Stop> {
    let letters = place::open(place).await?;
    let filter = filter_of(&letters, which).await?;
    let mut pages = Pages::new(&letters, &filter);
    let mut left = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut rows = Vec::new();
    while left > 0
        && let Some(mut page) = pages.next(left.min(PAGE)).await?
    {
        left = left.saturating_sub(page.len());
        if json {
            page.iter()
                .try_for_each(|letter| show::say(&show::json_line(letter)))?;
        } else {
            // A table is as wide as its widest row. Payloads are not shown.
            page.iter_mut().for_each(|letter| letter.payload.clear());
            rows.append(&mut page);
        }
    }
    if json {
        return Ok(());
    }
    show::say(&show::list(&rows, SystemTime::now()))
}

async fn show_one(place: &Place, id: LetterId, json: bool) -> Result<(), Stop> {
    let letters = place::open(place).await?;
    match letters.get(id).await.map_err(|error| failed(&error))? {
        Some(letter) if json => show::say(&show::json_line(&letter)),
        Some(letter) => show::say(&show::letter(&letter, SystemTime::now())),
        None => Err(Stop::Usage(format!(
            "there is no letter {id}: `list` shows those that are there"
        ))),
    }
}

async fn purge(place: &Place, which: &Which, yes: bool, json: bool) -> Result<(), Stop> {
    let letters = place::open(place).await?;
    let filter = filter_of(&letters, which).await?;
    // Decided once: what dies while somebody thinks about it is not thrown away.
    let mut doomed = Vec::new();
    let mut pages = Pages::new(&letters, &filter);
    while let Some(page) = pages.next(PAGE).await? {
        doomed.extend(page.iter().map(Letter::id));
        show::progress(&format!("{} letters match", doomed.len()));
    }
    show::progress("");
    if !doomed.is_empty() && !yes {
        confirm(doomed.len(), &place.at)?;
    }
    let mut purged = 0;
    for id in &doomed {
        let removed = letters.remove(*id).await.map_err(|error| failed(&error))?;
        purged += u64::from(removed);
        show::progress(&format!("{purged} of {} thrown away", doomed.len()));
    }
    show::progress("");
    show::say(&match json {
        true => format!("{}\n", serde_json::json!({ "purged": purged })),
        false => format!("{purged} letters thrown away\n"),
    })
}

fn confirm(letters: usize, at: &str) -> Result<(), Stop> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return Err(Stop::Usage(format!(
            "{letters} letters would be lost for good: say --yes where nobody can be asked"
        )));
    }
    let mut err = io::stderr();
    let asked = write!(
        err,
        "{letters} letters of {at} will be lost for good. Type {letters} to go on: "
    );
    let mut answer = String::new();
    asked
        .and_then(|()| err.flush())
        .and_then(|()| stdin.lock().read_line(&mut answer))
        .map_err(|error| Stop::failed(&error))?;
    match answer.trim() == letters.to_string() {
        true => Ok(()),
        false => Err(Stop::Failed("nothing was thrown away".to_owned())),
    }
}

/// The filter that is meant. A fingerprint is named by its first digits, as long as they name one.
async fn filter_of(letters: &Letters, which: &Which) -> Result<Filter, Stop> {
    let mut filter = Filter::all();
    if let Some(source) = &which.source {
        filter = filter.source(source.as_str());
    }
    if let Some(class) = &which.class {
        filter = filter.class(class.as_str());
    }
    let now = SystemTime::now();
    if let Some(from) = which.since.and_then(|age| now.checked_sub(age)) {
        filter = filter.failed_from(from);
    }
    if let Some(age) = which.before {
        let before = now.checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH);
        filter = filter.failed_before(before);
    }
    if let Some(digits) = &which.fingerprint {
        let fingerprint = match digits.parse::<Fingerprint>() {
            Ok(fingerprint) => fingerprint,
            Err(_) => begins_with(letters, digits).await?,
        };
        filter = filter.fingerprint(fingerprint);
    }
    Ok(filter)
}

async fn begins_with(letters: &Letters, digits: &str) -> Result<Fingerprint, Stop> {
    let causes = census(letters, &Filter::all()).await;
    let causes = causes.map_err(|error| failed(&error))?;
    let matching: Vec<_> = causes
        .iter()
        .map(|cause| cause.fingerprint)
        .filter(|found| found.to_string().starts_with(&digits.to_lowercase()))
        .collect();
    match matching[..] {
        [one] => Ok(one),
        [] => Err(Stop::Usage(format!(
            "no letter has a fingerprint that begins with `{digits}`: `stats` shows those that are there"
        ))),
        _ => Err(Stop::Usage(format!(
            "{} fingerprints begin with `{digits}`: say more digits",
            matching.len()
        ))),
    }
}

fn failed(error: &SinkError) -> Stop {
    match error {
        SinkError::NotALetter { stream, entry, .. } if entry.contains('@') => {
            Stop::Failed(format!(
                "{}: nothing is changed; look at that record (partition@offset) of {stream} with a Kafka consumer",
                chain(error)
            ))
        }
        SinkError::NotALetter { stream, entry, .. } => Stop::Failed(format!(
            "{}: see it with XRANGE {stream} {entry} {entry}, take it out with XDEL {stream} {entry}",
            chain(error)
        )),
        error => Stop::failed(error),
    }
}

/// The pages of what matches.
struct Pages<'a> {
    letters: &'a Letters,
    filter: &'a Filter,
    /// `None` when there are no more.
    span: Option<Span>,
}

impl<'a> Pages<'a> {
    fn new(letters: &'a Letters, filter: &'a Filter) -> Self {
        Self {
            letters,
            filter,
            span: Some(Span::all()),
        }
    }

    async fn next(&mut self, most: usize) -> Result<Option<Vec<Letter>>, Stop> {
        let Some(span) = self.span.take() else {
            return Ok(None);
        };
        let page = self.letters.list(self.filter, &span, most).await;
        let page = page.map_err(|error| failed(&error))?;
        self.span = page.next.map(|next| Span {
            after: Some(next),
            until: span.until,
        });
        Ok(Some(page.letters))
    }
}
