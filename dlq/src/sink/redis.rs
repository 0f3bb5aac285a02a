//! Letters in a stream of Redis: appended, and the message acknowledged, in one script.

use std::{fmt, sync::Arc};

use ::redis::{Cmd, RedisError, Value};
use seawall_redis::{Client, Pooled, Script, Shared, Source};
use sha2::{Digest, Sha256};

use crate::{
    ConfigError, Cursor, Depth, Filter, Letter, LetterId, Origin, Page, Queue, Sink, SinkError,
    Span, Written,
    error::in_code,
    letter::{from_millis, to_millis},
    names,
};

/// Entries that are read at once.
const READ_AT_ONCE: usize = 64;
/// Entries that one [`Queue::list`] looks at, at most.
const LOOKED_AT: usize = 1024;
/// A letter is worth waiting for; the layer above has a limit of its own.
const DEADLINE: std::time::Duration = std::time::Duration::from_secs(5);

/// Appends a letter unless it is there, and acknowledges its message. What is last in it cannot fail once
/// the first has not, so that nothing is acknowledged whose letter is not written.
///
/// KEYS: letters, index, and where a message is acknowledged its stream and its start marks.
/// ARGV: letter id, hash of the request, time of death, letter, group, entry.
static WRITE: Script = Script::new(
    r"
local answer = 'new'
local found = redis.call('HGET', KEYS[2], ARGV[1])
if found then
  local entry = string.sub(found, 17)
  if string.sub(found, 1, 16) ~= ARGV[2] then
    return 'conflict'
  end
  if #redis.call('XRANGE', KEYS[1], entry, entry) > 0 then
    answer = 'repeat'
  end
end
if answer == 'new' then
  local entry = redis.call('XADD', KEYS[1], '*', 'letter', ARGV[4], 'died', ARGV[3])
  redis.call('HSET', KEYS[2], ARGV[1], ARGV[2] .. entry)
end
if KEYS[3] then
  redis.call('XACK', KEYS[3], ARGV[5], ARGV[6])
  redis.call('HDEL', KEYS[4], ARGV[6])
end
return answer
",
);

/// KEYS: letters, index. ARGV: letter id.
static GET: Script = Script::new(
    r"
local found = redis.call('HGET', KEYS[2], ARGV[1])
if not found then
  return {}
end
local entry = string.sub(found, 17)
return redis.call('XRANGE', KEYS[1], entry, entry)
",
);

/// KEYS: letters, index. ARGV: letter id.
static REMOVE: Script = Script::new(
    r"
local found = redis.call('HGET', KEYS[2], ARGV[1])
if not found then
  return 0
end
redis.call('HDEL', KEYS[2], ARGV[1])
return redis.call('XDEL', KEYS[1], string.sub(found, 17))
",
);

/// How many, when the first died, and the last entry. KEYS: letters.
static DEPTH: Script = Script::new(
    r"
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)
if #first == 0 then
  return {0}
end
local died = ''
for i = 1, #first[1][2], 2 do
  if first[1][2][i] == 'died' then
    died = first[1][2][i + 1]
  end
end
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
return {redis.call('XLEN', KEYS[1]), died, last[1][1]}
",
);

/// Keeps letters in a stream of Redis 7.0 or later, a cluster included. Clones share it.
///
/// A letter is one entry of the stream, and its id one field of a hash beside it, so a letter that is
/// written twice is there once. Every step is one script over keys of one slot. Letters are as safe as the server: with
/// `appendonly yes` and `appendfsync always` they outlive its crash, with less they may not. Give it a
/// `maxmemory-policy` of `noeviction`: a full server then refuses letters, and their messages are not
/// acknowledged.
///
/// # Where the messages come from Redis Streams too
///
/// [`acknowledging`](Self::acknowledging) lets the letter be written and the message be acknowledged in
/// one step. Without it the consumer acknowledges afterwards: a crash between the two is harmless, for
/// the message comes again and its letter is a repeat.
///
/// # Default
///
/// Letters of at most 16 MiB; a deadline of five seconds on each command.
///
/// # Example
///
/// ```
/// use std::time::SystemTime;
/// use seawall_dlq::{Envelope, Failure, Letter, Origin, Queue, RedisSink, Sink, Written};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let server = test_support::Redis::start().await;
/// # let client = redis::Client::open(server.url())?;
/// let sink = RedisSink::new(client.get_connection_manager().await?, "{orders}.dead");
///
/// let envelope = Envelope::new(Origin::stream("{orders}", "1700000000000-0"), "payload");
/// let letter = Letter::new(envelope, Failure::new("timeout", "slow"), SystemTime::now());
/// assert_eq!(sink.write(letter.clone()).await?, Written::New);
/// assert_eq!(sink.write(letter.clone()).await?, Written::Repeat);
/// assert_eq!(sink.get(letter.id()).await?, Some(letter));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct RedisSink<S> {
    client: Client<S>,
    keys: Arc<Keys>,
    max_letter_bytes: usize,
}

#[derive(Debug, Clone)]
struct Keys {
    letters: String,
    index: String,
    acknowledged: Option<Acknowledged>,
}

/// Whose messages are acknowledged together with the letter.
#[derive(Debug, Clone)]
struct Acknowledged {
    stream: String,
    starts: String,
    group: String,
}

impl<C> RedisSink<Shared<C>>
where
    C: ::redis::aio::ConnectionLike + Clone + Send + Sync + 'static,
{
    /// Letters in `stream`, over a connection that many calls share: multiplexed, a
    /// `ConnectionManager`, or a cluster's.
    ///
    /// # Panics
    ///
    /// If `stream` is empty, or has a `}` that ends nothing.
    pub fn new(connection: C, stream: impl Into<String>) -> Self {
        let client = Client::shared(connection).deadline(DEADLINE);
        in_code!(Self::try_over(client, stream))
    }
}

impl<M> RedisSink<Pooled<M>>
where
    M: bb8::ManageConnection<Error = RedisError>,
    M::Connection: ::redis::aio::ConnectionLike,
{
    /// Letters in `stream`, over a pool from which each command takes a connection in turn.
    ///
    /// # Panics
    ///
    /// If `stream` is empty, or has a `}` that ends nothing.
    pub fn pooled(pool: bb8::Pool<M>, stream: impl Into<String>) -> Self {
        let client = Client::pooled(pool).deadline(DEADLINE);
        in_code!(Self::try_over(client, stream))
    }
}

impl<S: Source> RedisSink<S> {
    /// Letters in `stream`, with a deadline and a breaker of the caller's choice.
    ///
    /// # Errors
    ///
    /// If `stream` is empty, or has a `}` that ends nothing.
    pub fn try_over(client: Client<S>, stream: impl Into<String>) -> Result<Self, ConfigError> {
        let letters = stream.into();
        let index = names::beside(&letters, ":ids")?;
        Ok(Self {
            client,
            keys: Arc::new(Keys {
                letters,
                index,
                acknowledged: None,
            }),
            max_letter_bytes: 16 << 20,
        })
    }

    /// Acknowledges each message of `stream` for `group` in the same step as its letter is written.
    ///
    /// # Panics
    ///
    /// If `stream` lies in another slot than the letters. Name the letters `{orders}.dead` for the stream
    /// `{orders}`, or leave this out: the consumer then acknowledges after the letter is written.
    #[must_use]
    pub fn acknowledging(self, stream: &str, group: &str) -> Self {
        in_code!(self.try_acknowledging(stream, group))
    }

    /// [`acknowledging`](Self::acknowledging) for names that are not known to be right.
    ///
    /// # Errors
    ///
    /// If `stream` lies in another slot than the letters.
    pub fn try_acknowledging(self, stream: &str, group: &str) -> Result<Self, ConfigError> {
        if names::slot(stream) != names::slot(&self.keys.letters) {
            return Err(ConfigError::new(
                "the stream and its letters lie in two slots, so no script can write to both: name the \
                 letters `{orders}.dead` for the stream `{orders}`, or acknowledge after the letter",
            ));
        }
        let acknowledged = Acknowledged {
            starts: names::starts(stream, group)?,
            stream: stream.to_owned(),
            group: group.to_owned(),
        };
        let mut keys = Keys::clone(&self.keys);
        keys.acknowledged = Some(acknowledged);
        Ok(Self {
            keys: Arc::new(keys),
            ..self
        })
    }

    /// How large a letter may be, in bytes of its JSON form (a third more than the payload). Larger ones
    /// are refused, and their messages not acknowledged.
    #[must_use]
    pub fn max_letter_bytes(mut self, bytes: usize) -> Self {
        self.max_letter_bytes = bytes;
        self
    }

    /// The stream of the letters.
    pub fn stream(&self) -> &str {
        &self.keys.letters
    }

    async fn script(
        &self,
        script: &Script,
        keys: &[&[u8]],
        args: &[&[u8]],
    ) -> Result<Value, SinkError> {
        let answer = self.client.script(script, keys, args).await;
        answer.map_err(SinkError::other)
    }

    async fn both(&self, script: &Script, id: LetterId) -> Result<Value, SinkError> {
        let keys = [self.keys.letters.as_bytes(), self.keys.index.as_bytes()];
        self.script(script, &keys, &[id.to_string().as_bytes()])
            .await
    }

    fn letter(&self, entry: &str, fields: Vec<Value>) -> Result<Letter, SinkError> {
        let mut fields = fields.into_iter();
        let json = loop {
            match (fields.next(), fields.next()) {
                (Some(Value::BulkString(name)), Some(Value::BulkString(value))) => {
                    if name == b"letter" {
                        break Ok(value);
                    }
                }
                _ => break Err("it has no field `letter`".into()),
            }
        };
        json.and_then(|json| Letter::from_json(&json).map_err(crate::BoxError::from))
            .map_err(|source| SinkError::NotALetter {
                stream: self.keys.letters.clone(),
                entry: entry.to_owned(),
                source: Arc::from(source),
            })
    }
}

/// Tells a repeat from another request that claims the same origin: 16 hexadecimal digits.
fn request_hash(letter: &Letter) -> String {
    let mut hash = Sha256::new();
    let key = letter.key.as_deref();
    hash.update(key.map_or(u64::MAX, |key| key.len() as u64).to_be_bytes());
    hash.update(key.unwrap_or_default());
    hash.update(&letter.payload);
    let digest = hash.finalize();
    digest[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

impl<S: Source> Sink for RedisSink<S> {
    async fn write(&self, letter: Letter) -> Result<Written, SinkError> {
        let id = letter.id();
        let json = letter.to_json();
        if json.len() > self.max_letter_bytes {
            return Err(SinkError::TooLarge {
                id,
                size: json.len(),
                limit: self.max_letter_bytes,
            });
        }
        let request = request_hash(&letter);
        let died = to_millis(letter.last_failure).to_string();
        let id_text = id.to_string();
        let mut keys = vec![self.keys.letters.as_bytes(), self.keys.index.as_bytes()];
        let mut args = vec![
            id_text.as_bytes(),
            request.as_bytes(),
            died.as_bytes(),
            &json[..],
        ];
        // The place from which this copy was delivered, whatever its headers claim.
        let place = letter.copy_at.as_ref().unwrap_or(&letter.origin);
        if let (Some(acknowledged), Origin::Stream { stream, id }) =
            (&self.keys.acknowledged, place)
            && **stream == *acknowledged.stream
        {
            keys.extend([
                acknowledged.stream.as_bytes(),
                acknowledged.starts.as_bytes(),
            ]);
            args.extend([acknowledged.group.as_bytes(), id.as_bytes()]);
        }
        match self.script(&WRITE, &keys, &args).await? {
            Value::BulkString(answer) => match &answer[..] {
                b"new" => Ok(Written::New),
                b"repeat" => Ok(Written::Repeat),
                _ => Err(SinkError::Conflict(id)),
            },
            other => Err(unexpected(&other)),
        }
    }
}

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
                let letter = self.letter(&entry, fields)?;
                after = Some(Cursor::new(entry));
                if filter.matches(&letter) {
                    page.letters.push(letter);
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

impl<S> fmt::Debug for RedisSink<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisSink")
            .field("keys", &self.keys)
            .finish_non_exhaustive()
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

fn unexpected(value: &Value) -> SinkError {
    SinkError::other(format!(
        "Redis gave an answer that makes no sense: {value:?}"
    ))
}
