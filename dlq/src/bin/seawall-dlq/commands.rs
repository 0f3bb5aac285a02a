//! What is done.

use std::{
    io::{self, BufRead, IsTerminal, Write},
    time::SystemTime,
};

use seawall_dlq::{
    Filter, Fingerprint, Letter, LetterId, Queue, SinkError, Span, Unreadable, census,
};

use crate::{
    Stop,
    args::{Args, Command, Place, Which},
    chain, held,
    place::{self, Letters},
    redrive::{How, redrive},
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
            let how = How {
                to,
                rate,
                limit,
                loop_cap,
                dry_run,
                json,
            };
            redrive(&place, &filter, how).await
        }
        Command::Purge {
            place,
            filter,
            yes,
            json,
        } => purge(&place, &filter, yes, json).await,
        Command::Held { group, json } => held::list(&group, json).await,
        Command::LetGo {
            group,
            key,
            hex,
            json,
        } => held::let_go(&group, &key, hex, json).await,
    }
}

async fn stats(place: &Place, which: &Which, json: bool) -> Result<(), Stop> {
    let letters = place::open(place).await?;
    let filter = filter_of(&letters, which).await?;
    let depth = letters.depth().await.map_err(|error| failed(&error))?;
    let census = census(&letters, &filter).await;
    let census = census.map_err(|error| failed(&error))?;
    show::say(&match json {
        true => show::stats_json(&depth, &census),
        false => show::stats(&depth, &census, SystemTime::now()),
    })?;
    all_read(&census.unreadable)
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
    if !json {
        show::say(&show::list(&rows, SystemTime::now()))?;
    }
    all_read(&pages.unreadable)
}

async fn show_one(place: &Place, id: LetterId, json: bool) -> Result<(), Stop> {
    let letters = place::open(place).await?;
    match letters.get(id).await.map_err(|error| failed(&error))? {
        Some(letter) if json => show::say(&show::json_line(&letter)),
        Some(letter) => show::say(&show::letter(&letter, SystemTime::now())),
        None => Err(Stop::Wrong(format!(
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
    })?;
    all_read(&pages.unreadable)
}

fn confirm(letters: usize, at: &str) -> Result<(), Stop> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return Err(Stop::Wrong(format!(
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
        .map_err(|error| Stop::wrong(&error))?;
    match answer.trim() == letters.to_string() {
        true => Ok(()),
        false => Err(Stop::Refused("nothing was thrown away".to_owned())),
    }
}

/// The filter that is meant. A fingerprint is named by its first digits, as long as they name one.
pub(crate) async fn filter_of(letters: &Letters, which: &Which) -> Result<Filter, Stop> {
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
    let census = census(letters, &Filter::all()).await;
    let census = census.map_err(|error| failed(&error))?;
    let matching: Vec<_> = { census.causes }
        .iter()
        .map(|cause| cause.fingerprint)
        .filter(|found| found.to_string().starts_with(&digits.to_lowercase()))
        .collect();
    match matching[..] {
        [one] => Ok(one),
        [] => Err(Stop::Wrong(format!(
            "no letter has a fingerprint that begins with `{digits}`: `stats` shows those that are there"
        ))),
        _ => Err(Stop::Wrong(format!(
            "{} fingerprints begin with `{digits}`: say more digits",
            matching.len()
        ))),
    }
}

/// A queue that failed, and how that is mended.
pub(crate) fn failed(error: &SinkError) -> Stop {
    match error {
        SinkError::NotALetter { .. } | SinkError::Damaged { .. } => Stop::Wrong(format!(
            "{}: nothing is changed; {}",
            chain(error),
            how_to_see(error)
        )),
        SinkError::TimedOut(_) => Stop::Wrong(format!(
            "{}: see that the server is up and reachable, and try again",
            chain(error)
        )),
        error => Stop::wrong(error),
    }
}

/// Names what could not be read, if anything.
pub(crate) fn all_read(unreadable: &Unreadable) -> Result<(), Stop> {
    let Some(first) = unreadable.first.first() else {
        return Ok(());
    };
    let named: Vec<String> = unreadable.first.iter().map(|error| chain(error)).collect();
    let more = match unreadable.entries.saturating_sub(named.len() as u64) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    Err(Stop::Wrong(format!(
        "{} cannot be read and are left where they are: {}{more}; {}",
        unreadable.entries,
        named.join("; "),
        how_to_see(first)
    )))
}

fn how_to_see(error: &SinkError) -> String {
    match error {
        SinkError::NotALetter { stream, entry, .. } if entry.starts_with("at byte") => {
            format!("a later version of this tool may know what is in {stream}")
        }
        SinkError::NotALetter { stream, entry, .. } if entry.contains('@') => format!(
            "look at that record (partition@offset) of {stream} with a Kafka consumer"
        ),
        SinkError::NotALetter { stream, entry, .. } => format!(
            "see it with XRANGE {stream} {entry} {entry}, take it out with XDEL {stream} {entry}"
        ),
        _ => "the disk or a program that wrote to the file has changed it: keep a copy before anything else"
            .to_owned(),
    }
}

/// The pages of what matches.
struct Pages<'a> {
    letters: &'a Letters,
    filter: &'a Filter,
    /// `None` when there are no more.
    span: Option<Span>,
    unreadable: Unreadable,
}

impl<'a> Pages<'a> {
    fn new(letters: &'a Letters, filter: &'a Filter) -> Self {
        Self {
            letters,
            filter,
            span: Some(Span::all()),
            unreadable: Unreadable::default(),
        }
    }

    async fn next(&mut self, most: usize) -> Result<Option<Vec<Letter>>, Stop> {
        let Some(span) = self.span.take() else {
            return Ok(None);
        };
        let page = self.letters.list(self.filter, &span, most).await;
        let page = page.map_err(|error| failed(&error))?;
        self.unreadable.extend(page.unreadable);
        self.span = page.next.map(|next| Span {
            after: Some(next),
            until: span.until,
        });
        Ok(Some(page.letters))
    }
}
