//! Keys that are held back, because a message of theirs is dead or waits for long.

use ::redis::Value;
use bytes::Bytes;
use seawall_redis::{Client, Error, Shared, Source};

use super::{
    entry,
    group::{Group, nonsense, word},
    scripts::{HELD, LET_GO, SET_ASIDE},
};
use crate::{ConfigError, ConsumeError, Message, Origin, consumer::desk::Aside, names};

/// The names of what is held, in the order in which the scripts take them.
#[derive(Debug, Clone)]
pub(super) struct Names {
    pub(super) stream: String,
    pub(super) starts: String,
    pub(super) held: String,
    aside: String,
    fields: String,
}

impl Names {
    pub(super) fn new(stream: &str, group: &str) -> Result<Self, ConfigError> {
        Ok(Self {
            stream: stream.to_owned(),
            starts: names::starts(stream, group)?,
            held: names::held(stream, group)?,
            aside: names::beside(stream, &format!(":{group}:aside"))?,
            fields: names::beside(stream, &format!(":{group}:aside:messages"))?,
        })
    }

    pub(super) fn all(&self) -> [&[u8]; 5] {
        [
            self.stream.as_bytes(),
            self.starts.as_bytes(),
            self.held.as_bytes(),
            self.aside.as_bytes(),
            self.fields.as_bytes(),
        ]
    }
}

/// By what a copy of a message is known, wherever it lies.
pub(super) fn origin_of(message: &Message) -> Vec<u8> {
    names::origin(&message.to_letter().origin)
}

impl Group {
    /// Sets messages of one key aside, and acknowledges them.
    pub(super) async fn set_aside(&self, aside: &Aside, name: &str) -> Result<(), Error> {
        let by = match &aside.by {
            Some(dead) if aside.dead => origin_of(dead),
            Some(parked) => parked.id.as_bytes().to_vec(),
            None => Vec::new(),
        };
        let dead = aside.by.as_ref().filter(|_| aside.dead);
        let dead = dead.map_or("", |dead| &dead.id);
        let messages = aside.messages.iter();
        let messages: Vec<_> = messages
            .map(|message| {
                let fields = entry::to_set_aside(message);
                ((2 * fields.len()).to_string(), &message.id, fields)
            })
            .collect();
        let mut args = vec![name.as_bytes(), &aside.key[..], &by[..], dead.as_bytes()];
        for (count, id, fields) in &messages {
            args.extend([id.as_bytes(), count.as_bytes()]);
            for (name, value) in fields {
                args.extend([name.as_bytes(), &value[..]]);
            }
        }
        let keys = self.names().all();
        self.script(&SET_ASIDE, &keys, false, &args).await.map(drop)
    }
}

/// The keys that a consumer which keeps their order holds back, to look at them and to let them go.
///
/// A key is held back from when a message of it is dead until that is [redriven](crate::Redrive) and done, or
/// [let go](Self::let_go). Those behind it are set aside meanwhile, beside the stream. To purge the letter is not to let its key
/// go: that is a choice of its own.
///
/// ```
/// use seawall_dlq::{BoxError, HeldKeys};
///
/// # async fn look(connection: redis::aio::ConnectionManager) -> Result<(), BoxError> {
/// let held = HeldKeys::new(connection, "{orders}", "workers")?;
/// for key in held.list().await? {
///     println!("{:?}: {} messages wait for {}", key.key, key.behind, key.by);
///     held.let_go(&key.key).await?;
/// }
/// # Ok(())
/// # }
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// #     let server = test_support::Redis::start().await;
/// #     let client = redis::Client::open(server.url()).unwrap();
/// #     look(client.get_connection_manager().await.unwrap()).await.unwrap();
/// # });
/// ```
#[derive(Debug, Clone)]
pub struct HeldKeys<S> {
    client: Client<S>,
    names: Names,
}

/// A key that is held back: see [`HeldKeys`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HeldKey {
    /// The key.
    pub key: Bytes,
    /// The message that the others wait for.
    pub by: Origin,
    /// How many are set aside behind it. Those that the consumer has not read yet are none of them.
    pub behind: u64,
}

impl<C> HeldKeys<Shared<C>>
where
    C: ::redis::aio::ConnectionLike + Clone + Send + Sync + 'static,
{
    /// Those of a group of a stream, over a connection that many calls share.
    ///
    /// # Errors
    ///
    /// If `stream` is empty, or has a `}` that ends nothing.
    pub fn new(connection: C, stream: &str, group: &str) -> Result<Self, ConfigError> {
        Self::over(Client::shared(connection), stream, group)
    }
}

impl<S: Source> HeldKeys<S> {
    /// With a deadline and a breaker of the caller's choice.
    ///
    /// # Errors
    ///
    /// If `stream` is empty, or has a `}` that ends nothing.
    pub fn over(client: Client<S>, stream: &str, group: &str) -> Result<Self, ConfigError> {
        let names = Names::new(stream, group)?;
        Ok(Self { client, names })
    }

    /// All of them, in no order.
    ///
    /// # Errors
    ///
    /// If Redis cannot be used.
    pub async fn list(&self) -> Result<Vec<HeldKey>, ConsumeError> {
        let answer = self.client.script(&HELD, &self.names.all(), &[]).await?;
        let Value::Array(keys) = answer else {
            return Err(nonsense().into());
        };
        let keys = keys.into_iter().map(|key| self.read(key));
        let keys: Option<Vec<_>> = keys.collect();
        keys.ok_or_else(|| nonsense().into())
    }

    fn read(&self, key: Value) -> Option<HeldKey> {
        let Value::Array(parts) = key else {
            return None;
        };
        let [Value::BulkString(key), by, Value::Int(behind)] =
            <[Value; 3]>::try_from(parts).ok()?
        else {
            return None;
        };
        let by = word(by)?;
        Some(HeldKey {
            key: key.into(),
            // The entry of one that is not dead.
            by: serde_json::from_str(&by)
                .unwrap_or_else(|_| Origin::stream(self.names.stream.as_str(), by)),
            behind: u64::try_from(behind).unwrap_or_default(),
        })
    }

    /// Holds a key back no longer: those behind go on, one after another, behind what is in the stream by now. Says whether
    /// the key was held back.
    ///
    /// # Errors
    ///
    /// If Redis cannot be used.
    pub async fn let_go(&self, key: &[u8]) -> Result<bool, ConsumeError> {
        match self
            .client
            .script(&LET_GO, &self.names.all(), &[key])
            .await?
        {
            Value::Int(held) => Ok(held > 0),
            _ => Err(nonsense().into()),
        }
    }
}
