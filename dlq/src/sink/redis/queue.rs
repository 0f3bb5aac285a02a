//! Letters in a stream, counted, listed, found and removed.

use ::redis::{Cmd, Value};
use seawall_redis::Source;

use super::{
    LOOKED_AT, READ_AT_ONCE, RedisSink,
    scripts::{DEPTH, GET, REMOVE},
    unexpected,
};
use crate::{
    Cursor, Depth, Filter, Letter, LetterId, Page, Queue, SinkError, Span, letter::from_millis,
};

impl<S: Source> Queue for RedisSink<S> {
    async fn depth(&self) -> Result<Depth, SinkError> {
        let keys = [self.keys.letters.as_bytes()];
        let Value::Array(answer) = self.script(&DEPTH, &keys, &[]).await? else {
            return Err(SinkError::other("Redis did not answer with a list"));
        };
        match &answer[..] {
            [Value::Int(0)] => Ok(Depth::default()),
            [
                Value::Int(letters),
                Value::BulkString(died),
                Value::BulkString(end),
            ] => Ok(Depth {
                letters: u64::try_from(*letters).unwrap_or_default(),
                oldest: text(died).parse().ok().and_then(from_millis),
                end: Some(Cursor::new(text(end))),
            }),
            _ => Err(unexpected(&Value::Array(answer))),
        }
    }

    async fn list(&self, filter: &Filter, span: &Span, limit: usize) -> Result<Page, SinkError> {
        let mut page = Page::default();
        let mut after = span.after.clone();
        let mut looked_at = 0;
        loop {
            let from = after
                .as_ref()
                .map_or_else(|| "-".to_owned(), |after| format!("({}", after.as_str()));
            let to = span.until.as_ref().map_or("+", Cursor::as_str);
            let count = READ_AT_ONCE.min(limit.saturating_sub(page.letters.len()).max(1));
            let mut range = Cmd::new();
            range
                .arg("XRANGE")
                .arg(&self.keys.letters)
                .arg(from)
                .arg(to);
            range.arg("COUNT").arg(count);
            let answer = self.client.command(&range).await;
            let entries = entries(answer.map_err(SinkError::other)?)?;
            let read = entries.len();
            for (entry, fields) in entries {
                if page.letters.len() == limit {
                    page.next = after;
                    return Ok(page);
                }
                let letter = self.letter(&entry, fields);
                after = Some(Cursor::new(entry));
                match letter {
                    Ok(letter) if filter.matches(&letter) => page.letters.push(letter),
                    Ok(_) => {}
                    Err(error) => page.unreadable.push(error),
                }
            }
            looked_at += read;
            if read < count {
                return Ok(page);
            }
            if looked_at >= LOOKED_AT {
                page.next = after;
                return Ok(page);
            }
        }
    }

    async fn get(&self, id: LetterId) -> Result<Option<Letter>, SinkError> {
        let entries = entries(self.both(&GET, id).await?)?;
        let found = entries.into_iter().next();
        found
            .map(|(entry, fields)| self.letter(&entry, fields))
            .transpose()
    }

    async fn remove(&self, id: LetterId) -> Result<bool, SinkError> {
        match self.both(&REMOVE, id).await? {
            Value::Int(removed) => Ok(removed > 0),
            other => Err(unexpected(&other)),
        }
    }
}

/// The entries of a range: ids, and fields with values in turn.
fn entries(answer: Value) -> Result<Vec<(String, Vec<Value>)>, SinkError> {
    let Value::Array(entries) = answer else {
        return Err(unexpected(&answer));
    };
    let entries = entries.into_iter().map(|entry| {
        let Value::Array(entry) = entry else {
            return Err(unexpected(&entry));
        };
        match <[Value; 2]>::try_from(entry) {
            Ok([Value::BulkString(id), Value::Array(fields)]) => Ok((text(&id), fields)),
            _ => Err(SinkError::other(
                "an entry of a stream has an id and fields",
            )),
        }
    });
    entries.collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
