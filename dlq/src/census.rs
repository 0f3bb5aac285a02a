//! Counting letters by what killed them.

use std::{collections::HashMap, time::SystemTime};

use crate::{Filter, Fingerprint, Queue, SinkError, Span};

/// How many letters are read at once.
const PAGE: usize = 100;

/// Letters of one cause: see [`Fingerprint`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cause {
    /// What they have in common.
    pub fingerprint: Fingerprint,
    /// The kind of failure.
    pub class: String,
    /// What one of them said.
    pub message: String,
    /// How many there are.
    pub letters: u64,
    /// When the first of them died.
    pub first: SystemTime,
    /// When the last of them died.
    pub last: SystemTime,
}

/// Letters by their cause, as [`census`] counts them.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Census {
    /// The most frequent first.
    pub causes: Vec<Cause>,
    /// What could not be read, and so has no cause.
    pub unreadable: Unreadable,
}

/// What could not be read in a queue: how much of it, and where the first of it lies.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Unreadable {
    /// How many there are.
    pub entries: u64,
    /// The first of them, [`NAMED`](Self::NAMED) at most.
    pub first: Vec<SinkError>,
}

impl Unreadable {
    /// How many are named.
    pub const NAMED: usize = 5;

    /// Counts one more.
    pub fn add(&mut self, error: SinkError) {
        self.entries += 1;
        if self.first.len() < Self::NAMED {
            self.first.push(error);
        }
    }
}

impl Extend<SinkError> for Unreadable {
    fn extend<I: IntoIterator<Item = SinkError>>(&mut self, errors: I) {
        errors.into_iter().for_each(|error| self.add(error));
    }
}

/// Counts the letters that match by their cause, the most frequent first. It reads all of them, one page at a
/// time. What cannot be read is counted beside them.
///
/// # Errors
///
/// If the queue cannot be read.
pub async fn census<Q: Queue>(queue: &Q, filter: &Filter) -> Result<Census, SinkError> {
    let mut causes = HashMap::<Fingerprint, Cause>::new();
    let mut unreadable = Unreadable::default();
    let mut span = Span::all();
    loop {
        let page = queue.list(filter, &span, PAGE).await?;
        unreadable.extend(page.unreadable);
        for letter in page.letters {
            let died = letter.last_failure;
            let cause = causes.entry(letter.fingerprint).or_insert_with(|| Cause {
                fingerprint: letter.fingerprint,
                class: letter.failure.class,
                message: letter.failure.message,
                letters: 0,
                first: died,
                last: died,
            });
            cause.letters += 1;
            cause.first = cause.first.min(died);
            cause.last = cause.last.max(died);
        }
        match page.next {
            Some(next) => span.after = Some(next),
            None => break,
        }
    }
    let mut causes: Vec<_> = causes.into_values().collect();
    causes.sort_by(|a, b| {
        let order = b.letters.cmp(&a.letters);
        order.then(a.fingerprint.cmp(&b.fingerprint))
    });
    Ok(Census { causes, unreadable })
}
