//! Letters in a stream of Redis: appended, and the message acknowledged, in one script.

mod queue;
mod scripts;

use std::{fmt, sync::Arc};

use ::redis::{RedisError, Value};
use seawall_redis::{Client, Pooled, Script, Shared, Source};
use sha2::{Digest, Sha256};

use self::scripts::WRITE;
use crate::{
    ConfigError, Letter, LetterId, Origin, Sink, SinkError, Written, error::in_code,
    letter::to_millis, names,
};

/// Entries that are read at once.
const READ_AT_ONCE: usize = 64;
/// Entries that one [`Queue::list`] looks at, at most.
const LOOKED_AT: usize = 1024;
/// A letter is worth waiting for; the layer above has a limit of its own.
const DEADLINE: std::time::Duration = std::time::Duration::from_secs(5);

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
    /// Where to note that a key is held back, if it is to be.
    held: String,
    holding: bool,
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
            held: names::held(stream, group)?,
            holding: false,
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

    /// Holds back the key of a letter in the same step as well, for a consumer that [keeps the order of
    /// keys](crate::Consumer::ordered_by_key): not even a crash lets a message pass one that is dead. It holds only what is
    /// [acknowledged](Self::acknowledging).
    #[must_use]
    pub fn holding_keys(self) -> Self {
        let mut keys = Keys::clone(&self.keys);
        if let Some(acknowledged) = &mut keys.acknowledged {
            acknowledged.holding = true;
        }
        Self {
            keys: Arc::new(keys),
            ..self
        }
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
        let origin = names::origin(&letter.origin);
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
            if let Some(key) = letter.key.as_ref().filter(|_| acknowledged.holding) {
                keys.push(acknowledged.held.as_bytes());
                args.extend([&key[..], &origin]);
            }
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

impl<S> fmt::Debug for RedisSink<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisSink")
            .field("keys", &self.keys)
            .finish_non_exhaustive()
    }
}

fn unexpected(value: &Value) -> SinkError {
    SinkError::other(format!(
        "Redis gave an answer that makes no sense: {value:?}"
    ))
}
