//! Letters page by page, and their places as cursors.

use std::{ops::Bound, sync::Arc};

use super::{index::Place, reader::Reader};
use crate::{Cursor, Filter, Page, SinkError};

/// Letters that are read at once.
const READ_AT_ONCE: usize = 128;
/// Letters that one [`Queue::list`](crate::Queue::list) looks at, at most.
const LOOKED_AT: usize = 1024;

/// A page of what the reader knows, between two places.
pub(super) fn list(
    reader: &mut Reader,
    topic: &str,
    filter: &Filter,
    after: Option<Place>,
    until: Option<Place>,
    limit: usize,
) -> Result<Page, SinkError> {
    let mut page = Page::default();
    let mut last = after;
    let mut looked_at = 0;
    loop {
        let from = last.map_or(Bound::Unbounded, Bound::Excluded);
        let to = until.map_or(Bound::Unbounded, Bound::Included);
        if matches!((last, until), (Some(last), Some(until)) if last >= until) {
            return Ok(page);
        }
        let room = limit.saturating_sub(page.letters.len());
        let count = READ_AT_ONCE.min(room.max(1));
        let entries: Vec<_> = reader.index.range((from, to)).take(count).collect();
        let Some((end, _)) = entries.last() else {
            return Ok(page);
        };
        if room == 0 || looked_at >= LOOKED_AT {
            page.next = last.map(cursor);
            return Ok(page);
        }
        let end = **end;
        looked_at += entries.len();
        let places: Vec<_> = entries.iter().map(|(place, _)| **place).collect();
        for (at, letter) in reader.letters(&places)? {
            match letter {
                Ok(letter) if filter.matches(&letter) => page.letters.push(letter),
                Ok(_) => {}
                Err(source) => page.unreadable.push(not_a_letter(topic, at, source)),
            }
        }
        last = Some(end);
    }
}

pub(super) fn cursor(place: Place) -> Cursor {
    let Place {
        millis,
        partition,
        offset,
    } = place;
    Cursor::new(format!("{millis}.{partition}.{offset}"))
}

pub(super) fn place(cursor: &Cursor) -> Result<Place, SinkError> {
    let parse = || {
        let mut parts = cursor.as_str().splitn(3, '.');
        Some(Place {
            millis: parts.next()?.parse().ok()?,
            partition: parts.next()?.parse().ok()?,
            offset: parts.next()?.parse().ok()?,
        })
    };
    parse().ok_or_else(|| SinkError::other(format!("{} is no place in a topic", cursor.as_str())))
}

pub(super) fn not_a_letter(topic: &str, at: Place, source: crate::BoxError) -> SinkError {
    SinkError::NotALetter {
        stream: topic.to_owned(),
        entry: format!("{}@{}", at.partition, at.offset),
        source: Arc::from(source),
    }
}
