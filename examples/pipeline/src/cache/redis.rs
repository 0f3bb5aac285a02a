//! The second level on Redis: one key for each answer, and one for who loads it.
//!
//! An entry is its version as 20 digits, so that bytes compare as numbers do, then `T` for a tombstone; for an answer the
//! generation that it is of, `V`, the status, its class and the body.
//!
//! A server that comes back with an old file, or takes over without the last that its primary was told, has answers in it
//! whose tombstones are lost. So an answer counts in its generation only: that is the server's replication id, which it draws
//! anew at each start and each promotion, and never takes from its file. Scripts ask for it where they read and write, so
//! nothing comes between; no connection has to notice anything. Versions are true in any generation: that there was this one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use http::StatusCode;
use redis::Value;
use seawall_redis::{BreakerState, Client, Error, Script, Source};
use tokio::time::Instant;

use super::{Answer, Class, LOAD_DEADLINE, Lease, Loaded, Looked, SecondLevel};
use crate::order::{digest, hex};
use crate::shard::Query;

/// How long a tombstone stands: longer than any load that began before it, on a replica that lags as far as one is
/// still read from.
const TOMBSTONE: Duration = Duration::from_secs(120);

/// Tombstones in one call, where one call may touch many keys.
const TOMBSTONES: usize = 128;

/// Digits of a version, and where in an entry the rest begins.
const VERSION: usize = 20;

/// The letter of each class in an entry.
const CLASSES: [(Class, u8); 5] = [
    (Class::Profile, b'U'),
    (Class::Product, b'P'),
    (Class::Response, b'R'),
    (Class::Absent, b'A'),
    (Class::Pending, b'W'),
];

/// Letters of a generation.
const GENERATION: usize = 40;

/// Answers with the entry, if it is an answer of this generation; with 1, the version of what there is else and the
/// generation, to who is to load; with 0 to those who are to wait. A server without an id fails here, and is not believed.
static LOOK: Script = Script::new(
    "local found = redis.call('GET', KEYS[1])
     local now = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
     if found and string.sub(found, 21, 61) == now .. 'V' then return found end
     if redis.call('SET', KEYS[2], '', 'NX', 'PX', ARGV[1]) then return {1, string.sub(found or '', 1, 20), now} end
     return {0}",
);

/// What was loaded in a generation before this one may be older than a tombstone that was lost.
static SET: Script = Script::new(
    "local now = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
     if ARGV[4] ~= '' and ARGV[4] ~= now then return 0 end
     redis.call('DEL', KEYS[2])
     if redis.call('GETRANGE', KEYS[1], 0, 19) > ARGV[1] then return 0 end
     redis.call('SET', KEYS[1], ARGV[1] .. now .. ARGV[2], 'PX', ARGV[3])
     return 1",
);

static INVALIDATE: Script = Script::new(
    "for i = 1, #KEYS do
         if redis.call('GETRANGE', KEYS[i], 0, 19) < ARGV[i + 1] then
             redis.call('SET', KEYS[i], ARGV[i + 1] .. 'T', 'PX', ARGV[1])
         end
     end
     return #KEYS",
);

/// The second level on Redis.
#[derive(Clone, Debug)]
pub struct RedisLevel<S> {
    client: Client<S>,
    prefix: String,
    clustered: bool,
    /// Of one server: the generation that was seen last.
    seen: Arc<Mutex<Option<Seen>>>,
}

#[derive(Clone, Debug)]
struct Seen {
    generation: Lease,
    /// When it was first seen, if it took the place of another.
    since: Option<Instant>,
}

impl<S: Source> RedisLevel<S> {
    /// On one server; the names of its keys begin with `prefix`.
    pub fn new(client: Client<S>, prefix: &str) -> Self {
        Self {
            client,
            prefix: prefix.to_owned(),
            clustered: false,
            seen: Arc::default(),
        }
    }

    /// On a cluster, where a call touches the keys of one slot only.
    #[must_use]
    pub fn clustered(mut self) -> Self {
        self.clustered = true;
        self
    }

    /// The names of the entry and of the mark of who loads it: one slot of a cluster.
    fn names(&self, query: &Query) -> (String, String) {
        // What clients send does not become a name: it is framed and hashed.
        let id = match query {
            Query::Order(id) => digest(&[b"order", &id.slot.get().to_be_bytes(), &id.op.0]),
            Query::Account(account) => digest(&[b"account", account.as_bytes()]),
            Query::Product(product) => digest(&[b"product", product.as_bytes()]),
        };
        let entry = format!("{}{{{}}}", self.prefix, hex(&id));
        let load = format!("{entry}:load");
        (entry, load)
    }

    async fn look(&self, query: &Query) -> Result<Looked, Error> {
        let (entry, load) = self.names(query);
        let lease = LOAD_DEADLINE.as_millis().to_string();
        let keys = [entry.as_bytes(), load.as_bytes()];
        let args = [lease.as_bytes()];
        Ok(match self.client.script(&LOOK, &keys, &args).await? {
            Value::BulkString(found) => decode(&found).map_or(Looked::Unreachable, Looked::Value),
            Value::Array(said) => match &said[..] {
                [
                    Value::Int(1),
                    Value::BulkString(known),
                    Value::BulkString(generation),
                ] => {
                    let lease = Lease(Bytes::copy_from_slice(generation));
                    Looked::Load {
                        at_least: version(known).unwrap_or(0),
                        forgetful: self.is_forgetful(&lease),
                        lease,
                    }
                }
                _ => Looked::Wait,
            },
            _ => Looked::Unreachable,
        })
    }

    /// Whether the server may have been told of a commit that a replica of a shard does not have, and have forgotten it.
    fn is_forgetful(&self, generation: &Lease) -> bool {
        // Generations of several servers say nothing about each other. One that is promoted has its primary's tombstones,
        // but for the last moment; and its promotion takes longer than a replica of a shard lags.
        if self.clustered {
            return false;
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let since = match &*seen {
            Some(known) if known.generation == *generation => known.since,
            known => known.as_ref().map(|_| Instant::now()),
        };
        *seen = Some(Seen {
            generation: generation.clone(),
            since,
        });
        since.is_some_and(|since| since.elapsed() < TOMBSTONE)
    }
}

impl<S: Source> SecondLevel for RedisLevel<S> {
    fn get<'a>(&'a self, query: &'a Query) -> BoxFuture<'a, Looked> {
        async move {
            self.look(query).await.unwrap_or_else(|error| {
                tracing::debug!(%error, "the shared cache does not answer");
                Looked::Unreachable
            })
        }
        .boxed()
    }

    fn set<'a>(
        &'a self,
        query: &'a Query,
        loaded: &'a Loaded,
        lease: Option<&'a Lease>,
    ) -> BoxFuture<'a, ()> {
        async move {
            let (entry, load) = self.names(query);
            let keep = loaded.answer.class.spread().as_millis().max(1).to_string();
            let (version, answer) = (digits(loaded.version), encode(&loaded.answer));
            let keys = [entry.as_bytes(), load.as_bytes()];
            let lease = lease.map_or(&[][..], |lease| &lease.0);
            let args = [version.as_bytes(), &answer[..], keep.as_bytes(), lease];
            let set = self.client.script(&SET, &keys, &args);
            if let Err(error) = set.await {
                tracing::debug!(%error, "an answer was not put into the shared cache");
            }
        }
        .boxed()
    }

    fn invalidate<'a>(&'a self, changed: &'a [(Query, u64)]) -> BoxFuture<'a, bool> {
        async move {
            let mut highest: HashMap<&Query, u64> = HashMap::new();
            for (query, version) in changed {
                let known = highest.entry(query).or_default();
                *known = (*known).max(*version);
            }
            let keep = TOMBSTONE.as_millis().to_string();
            let all: Vec<(String, String)> = highest
                .into_iter()
                .map(|(query, version)| (self.names(query).0, digits(version)))
                .collect();
            let batch = if self.clustered { 1 } else { TOMBSTONES };
            let calls = all.chunks(batch).map(|some| {
                let keys: Vec<&[u8]> = some.iter().map(|(name, _)| name.as_bytes()).collect();
                let args = some.iter().map(|(_, version)| version.as_bytes());
                let args: Vec<&[u8]> = std::iter::once(keep.as_bytes()).chain(args).collect();
                async move { self.client.script(&INVALIDATE, &keys, &args).await }
            });
            let done = join_all(calls).await;
            for error in done.iter().filter_map(|done| done.as_ref().err()) {
                tracing::debug!(%error, "the shared cache was not told of changes");
            }
            done.iter().all(Result::is_ok)
        }
        .boxed()
    }

    fn is_reachable(&self) -> bool {
        !matches!(self.client.state(), BreakerState::Open { .. })
    }
}

fn digits(version: u64) -> String {
    format!("{version:0width$}", width = VERSION)
}

fn version(entry: &[u8]) -> Option<u64> {
    std::str::from_utf8(entry.get(..VERSION)?)
        .ok()?
        .parse()
        .ok()
}

fn encode(answer: &Answer) -> Vec<u8> {
    let head = format!("V{}", answer.status.as_u16());
    let known = CLASSES.iter().find(|(class, _)| *class == answer.class);
    // Of a class without a letter it would not be believed.
    let letter = known.map_or(b'?', |(_, letter)| *letter);
    [head.as_bytes(), &[letter], &answer.body].concat()
}

/// An entry's answer; `None` for a tombstone, and for what was not written by this program.
fn decode(entry: &[u8]) -> Option<Loaded> {
    let version = version(entry)?;
    let rest = entry.get(VERSION + GENERATION..)?.strip_prefix(b"V")?;
    let (status, rest) = rest.split_at_checked(3)?;
    let (letter, body) = rest.split_first()?;
    let (class, _) = CLASSES.iter().find(|(_, known)| known == letter)?;
    Some(Loaded {
        version,
        answer: Answer {
            status: StatusCode::from_bytes(status).ok()?,
            body: Bytes::copy_from_slice(body),
            class: *class,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_comes_back_as_it_was_and_versions_sort_as_numbers() {
        for class in [
            Class::Profile,
            Class::Product,
            Class::Response,
            Class::Absent,
            Class::Pending,
        ] {
            let loaded = Loaded {
                version: 77,
                answer: Answer {
                    status: StatusCode::NOT_FOUND,
                    body: Bytes::from_static(b"V123 not\0there"),
                    class,
                },
            };
            let entry = [
                digits(77).as_bytes(),
                &[b'a'; GENERATION],
                &encode(&loaded.answer),
            ]
            .concat();
            assert_eq!(decode(&entry), Some(loaded));
        }
        assert!(digits(9) < digits(10) && digits(10) < digits(u64::MAX));
    }

    #[test]
    fn tombstones_and_foreign_bytes_are_no_answers() {
        for entry in [
            &b""[..],
            b"00000000000000000077T",
            b"00000000000000000077",
            b"0000000000000000007xV2000000000000",
            b"00000000000000000077V2000000000000",
            b"00000000000000000077aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaV20",
            b"00000000000000000077aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaV200?body",
            b"hello",
        ] {
            assert_eq!(decode(entry), None, "{entry:?}");
        }
        assert_eq!(version(b"00000000000000000077T"), Some(77));
    }
}
