//! What a consumer asks of Redis: each question one command or one script over keys of one slot, and each
//! may be sent twice.

use std::{sync::Arc, time::Duration};

use ::redis::{Cmd, ErrorKind, RedisError, Value};
use seawall_redis::{Breaker, Client, Error, Script, Shared};

use super::{
    delayed::Delayed,
    entry,
    held::Names,
    link::Link,
    scripts::{CLAIM_IN_ORDER, HOLD, READ_ALONE, SWEEP},
    server::Server,
};
use crate::{ConfigError, ConsumeError, Message};

/// Where what is not finished begins.
pub(super) const BEGINNING: &str = "0-0";
/// For everything but reading, which has a connection of its own.
const DEADLINE: Duration = Duration::from_secs(5);
/// How long a read waits on the server for messages to come. A shutdown waits for it.
pub(super) const BLOCK: Duration = Duration::from_millis(500);
/// How much longer than that its answer may take.
const READ_SLACK: Duration = Duration::from_secs(5);

/// A consumer's place in a group.
#[derive(Debug, Clone)]
pub(super) struct Group {
    client: Client<Shared<Link>>,
    server: Server,
    place: Arc<Place>,
}

#[derive(Debug)]
struct Place {
    stream: Arc<str>,
    group: String,
    consumer: String,
    names: Names,
    delayed: Delayed,
}

/// The connection of reads, which are blocked on the server. It goes into each read and comes back.
pub(super) type Reading = Option<Link>;

impl Group {
    pub(super) async fn new(
        server: &Server,
        stream: &str,
        group: &str,
        consumer: String,
    ) -> Result<Self, ConsumeError> {
        let place = Place::new(stream, group, consumer)?;
        let connection = server.lasting(DEADLINE).await?;
        Ok(Self {
            // Nothing gets better by not asking: what fails is asked again after a pause.
            client: Client::shared(connection)
                .deadline(DEADLINE)
                .breaker(Breaker::never()),
            server: server.clone(),
            place: Arc::new(place),
        })
    }

    pub(super) fn client(&self) -> Client<Shared<Link>> {
        self.client.clone()
    }

    /// Makes the group where there is none, to begin with the first message of the stream.
    pub(super) async fn join(&self, make_stream: bool) -> Result<(), ConsumeError> {
        let mut create = Cmd::new();
        create.arg("XGROUP").arg("CREATE").arg(&*self.place.stream);
        create.arg(&self.place.group).arg("0");
        if make_stream {
            create.arg("MKSTREAM");
        }
        match self.client.command(&create).await {
            Ok(_) => Ok(()),
            Err(Error::Redis(error)) if error.code() == Some("BUSYGROUP") => Ok(()),
            Err(Error::Redis(error)) if error.to_string().contains("MKSTREAM") => {
                Err(ConsumeError::NoStream(self.place.stream.to_string()))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for new messages, a short while. The connection comes back if it may be used again.
    pub(super) async fn read(
        &self,
        connection: Reading,
        most: usize,
    ) -> (Reading, Result<Vec<Message>, RedisError>) {
        let mut connection = match connection {
            Some(connection) => connection,
            None => match self.server.blocking(DEADLINE, BLOCK + READ_SLACK).await {
                Ok(connection) => connection,
                Err(error) => return (None, Err(error)),
            },
        };
        let mut read = Cmd::new();
        read.arg("XREADGROUP").arg("GROUP").arg(&self.place.group);
        read.arg(&self.place.consumer).arg("COUNT").arg(most);
        read.arg("BLOCK").arg(BLOCK.as_millis() as u64);
        read.arg("STREAMS").arg(&*self.place.stream).arg(">");
        match read.query_async::<Value>(&mut connection).await {
            Ok(answer) => (Some(connection), Ok(self.messages(answer))),
            // What it left on the connection is not worth knowing.
            Err(error) => (None, Err(self.as_it_is(error).await)),
        }
    }

    /// A read that waits is told that its group is gone when the stream moves to another server of a cluster. Whether that is
    /// so is known to who has the stream now.
    pub(super) async fn as_it_is(&self, error: RedisError) -> RedisError {
        if error.code() != Some("NOGROUP") {
            return error;
        }
        let mut ask = Cmd::new();
        ask.arg("XINFO").arg("CONSUMERS").arg(&*self.place.stream);
        ask.arg(&self.place.group);
        match self.client.command(&ask).await {
            Ok(_) => (ErrorKind::Io, "the stream has moved").into(),
            Err(Error::Redis(error)) => error,
            Err(_) => (ErrorKind::Io, "the stream cannot be found for now").into(),
        }
    }

    /// Reads new messages if all that the group has not finished are the `known` of this consumer.
    pub(super) async fn read_alone(
        &self,
        most: usize,
        known: usize,
    ) -> Result<(Vec<Message>, Vec<Arc<str>>), Error> {
        let (most, known) = (most.to_string(), known.to_string());
        let args = [most.as_bytes(), known.as_bytes()];
        let keys = [
            self.place.stream.as_bytes(),
            self.place.names.held.as_bytes(),
        ];
        let answer = self.script(&READ_ALONE, &keys, true, &args).await?;
        let Value::Array(parts) = answer else {
            return Ok(Default::default());
        };
        match <[Value; 2]>::try_from(parts) {
            Ok([read, Value::Array(late)]) => {
                let late = late.into_iter().filter_map(word).collect();
                Ok((self.messages(read), late))
            }
            _ => Err(nonsense()),
        }
    }

    /// Takes over some messages that nobody has held for so long, without raising any count of theirs. It
    /// looks at a part of what is not finished, beginning at `from`; answers where the next part begins.
    pub(super) async fn claim(
        &self,
        from: &str,
        idle: Duration,
        most: usize,
        in_order: bool,
    ) -> Result<(Arc<str>, Vec<Arc<str>>), Error> {
        let (idle, most) = (millis(idle).to_string(), most.to_string());
        let answer = if in_order {
            let args = [idle.as_bytes(), from.as_bytes(), most.as_bytes()];
            let keys = [self.place.stream.as_bytes()];
            self.script(&CLAIM_IN_ORDER, &keys, true, &args).await?
        } else {
            let mut claim = Cmd::new();
            claim.arg("XAUTOCLAIM").arg(&*self.place.stream);
            claim.arg(&self.place.group).arg(&self.place.consumer);
            claim.arg(idle).arg(from).arg("COUNT").arg(most);
            claim.arg("JUSTID");
            self.client.command(&claim).await?
        };
        let Value::Array(parts) = answer else {
            return Err(nonsense());
        };
        let mut parts = parts.into_iter();
        match (parts.next().and_then(word), parts.next()) {
            (Some(next), Some(Value::Array(ids))) => {
                Ok((next, ids.into_iter().filter_map(word).collect()))
            }
            _ => Err(nonsense()),
        }
    }

    pub(super) fn stream(&self) -> &Arc<str> {
        &self.place.stream
    }

    pub(super) fn names(&self) -> &Names {
        &self.place.names
    }

    pub(super) fn delayed(&self) -> &Delayed {
        &self.place.delayed
    }

    /// Says that these messages are in good hands, or, with an idle time, in none. Answers which of them
    /// are somebody else's.
    pub(super) async fn hold(
        &self,
        ids: &[Arc<str>],
        idle: Duration,
    ) -> Result<Vec<Arc<str>>, Error> {
        let idle = millis(idle).to_string();
        let mut args = vec![idle.as_bytes()];
        args.extend(ids.iter().map(|id| id.as_bytes()));
        match self
            .script(&HOLD, &[self.place.stream.as_bytes()], true, &args)
            .await?
        {
            Value::Array(lost) => Ok(lost.into_iter().filter_map(word).collect()),
            _ => Err(nonsense()),
        }
    }

    /// Takes consumers out of the group that are gone, or this one if it is leaving.
    pub(super) async fn sweep(&self, unseen_for: Duration, leaving: bool) -> Result<(), Error> {
        let unseen_for = millis(unseen_for).to_string();
        let leaving = if leaving { &self.place.consumer } else { "" };
        let args = [
            self.place.group.as_bytes(),
            leaving.as_bytes(),
            unseen_for.as_bytes(),
        ];
        let keys = [self.place.stream.as_bytes()];
        self.client.script(&SWEEP, &keys, &args).await.map(drop)
    }

    /// Runs a script whose first arguments are the group and, where it is asked for, the consumer.
    pub(super) async fn script(
        &self,
        script: &Script,
        keys: &[&[u8]],
        consumer: bool,
        args: &[&[u8]],
    ) -> Result<Value, Error> {
        let mut all = vec![self.place.group.as_bytes()];
        all.extend(consumer.then_some(self.place.consumer.as_bytes()));
        all.extend(args);
        self.client.script(script, keys, &all).await
    }

    /// The messages of an answer to `XREADGROUP`, in either version of the protocol.
    fn messages(&self, answer: Value) -> Vec<Message> {
        let entries = match answer {
            Value::Map(streams) => streams.into_iter().next().map(|(_, entries)| entries),
            Value::Array(streams) => match streams.into_iter().next() {
                Some(Value::Array(stream)) => stream.into_iter().nth(1),
                _ => None,
            },
            _ => None,
        };
        let Some(Value::Array(entries)) = entries else {
            return Vec::new();
        };
        let read = |entry| entry::read(&self.place.stream, entry);
        entries.into_iter().filter_map(read).collect()
    }
}

impl Place {
    fn new(stream: &str, group: &str, consumer: String) -> Result<Self, ConfigError> {
        Ok(Self {
            stream: stream.into(),
            names: Names::new(stream, group)?,
            delayed: Delayed::new(stream, group)?,
            group: group.to_owned(),
            consumer,
        })
    }
}

/// Whether asking again cannot help: the stream or the group is not there, or is something else.
pub(super) fn is_final(error: &RedisError) -> bool {
    matches!(
        error.code(),
        Some("NOGROUP" | "WRONGTYPE" | "NOAUTH" | "NOPERM" | "WRONGPASS")
    ) || error.kind() == ErrorKind::AuthenticationFailed
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn word(value: Value) -> Option<Arc<str>> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes).ok().map(Into::into),
        _ => None,
    }
}

pub(super) fn nonsense() -> Error {
    let error = (
        ErrorKind::UnexpectedReturnType,
        "Redis gave an answer that makes no sense",
    );
    Error::Redis(error.into())
}
