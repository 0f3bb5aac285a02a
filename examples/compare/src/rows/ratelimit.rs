//! Decisions of the limiter, its layer, and decisions that Redis makes.

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::hint::black_box;
use std::num::NonZeroU32;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use axum::body::Body;
use governor::RateLimiter;
use http::{HeaderName, HeaderValue, Request, Response};
use redis::Script;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use seawall_ratelimit::{
    Clock, Fields, Leased, MemoryStore, Quota, RateLimitLayer, RedisStore, Rule, Store,
};
use seawall_redis::{Client, Shared};
use test_support::Redis;
use tower::{Layer, Service};
use tower_governor::governor::GovernorConfigBuilder;
use tower_governor::key_extractor::KeyExtractor;
use tower_governor::{GovernorError, GovernorLayer};

use super::Entry;
use crate::drive::{allocations, at_once, call, in_turn, runtime, tasks, tasks_p99};
use crate::keys::{Draws, MANY, zipf_many};
use crate::measure::{Contest, Row, Unit};

/// So many a minute that nobody is refused.
const LIMIT: NonZeroU32 = NonZeroU32::new(1_000_000_000).expect("it is not zero");

/// A store in memory by the clock that the peers have by default too.
fn by_counter() -> MemoryStore {
    MemoryStore::with_capacity(MANY).by_clock(Clock::Processor)
}

/// One decision about a `u64`, in memory.
pub(super) fn store(entry: &Entry, draws: &Draws, threads: usize) -> Vec<Row> {
    let checks = |store: MemoryStore| {
        let limits = RateLimitLayer::new(store)
            .rule(
                Rule::new("user", Quota::per_minute(LIMIT.get())).key(|user: &u64| (*user).into()),
            )
            .checker();
        move |number: u64| {
            let user = draws.at(number) as u64;
            let checked = pin!(limits.check(black_box(&user)));
            let mut context = Context::from_waker(Waker::noop());
            assert!(matches!(checked.poll(&mut context), Poll::Ready(Ok(()))));
        }
    };
    let ours = checks(by_counter());
    let by_default = checks(MemoryStore::with_capacity(MANY));
    let theirs = RateLimiter::keyed(governor::Quota::per_minute(LIMIT));
    let theirs = |number: u64| {
        let decided = theirs.check_key(black_box(&(draws.at(number) as u64)));
        assert!(decided.is_ok());
    };
    // All know all keys before anything is timed.
    for number in 0..2 * MANY as u64 {
        ours(number);
        by_default(number);
        theirs(number);
    }

    let contest = if threads == 1 {
        Contest::new(entry, Unit::Nanos, in_turn(&ours))
            .peer("governor", in_turn(theirs))
            .peer("tokio-clock", in_turn(by_default))
    } else {
        Contest::new(entry, Unit::Nanos, at_once(apart(threads, &ours)))
            .peer("governor", at_once(apart(threads, &theirs)))
            .peer("tokio-clock", at_once(apart(threads, &by_default)))
    };
    contest.allocs(allocations(&ours, |_| ())).run()
}

/// A caller for each thread, each elsewhere in the draws.
fn apart<'a, D>(threads: usize, decide: &'a D) -> Vec<impl FnMut(u64) + Send + 'a>
where
    D: Fn(u64) + Sync,
{
    (0..threads as u64)
        .map(|thread| move |number| decide(number + (thread << 20)))
        .collect()
}

static USER: HeaderName = HeaderName::from_static("x-user-id");
static CLIENT: HeaderName = HeaderName::from_static("x-client");
static API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Answers at once with an empty response.
#[derive(Clone, Copy)]
struct Nothing;

impl Service<Request<()>> for Nothing {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    #[inline(never)]
    fn call(&mut self, request: Request<()>) -> Self::Future {
        black_box(request);
        ready(Ok(Response::new(Body::empty())))
    }
}

/// Whom `tower_governor` limits: the way its own example takes a key from a header.
#[derive(Clone, Copy)]
struct ByUser;

impl KeyExtractor for ByUser {
    type Key = String;

    fn extract<B>(&self, request: &Request<B>) -> Result<String, GovernorError> {
        request
            .headers()
            .get(&USER)
            .and_then(|user| user.to_str().ok())
            .map(str::to_owned)
            .ok_or(GovernorError::UnableToExtractKey)
    }
}

/// A field value that has just been read off a connection: bytes of its own, still in the cache.
fn value(prefix: u8, key: usize) -> HeaderValue {
    let mut text = [prefix, b'-', 0, 0, 0, 0, 0, 0, 0, 0];
    let mut rest = key;
    for digit in text[2..].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    HeaderValue::from_bytes(&text).expect("it is ASCII")
}

/// The layer with one rule, around a service that does nothing.
pub(super) fn layer(entry: &Entry) -> Vec<Row> {
    let draws = zipf_many();
    let request = |number: u64| {
        let mut request = Request::new(());
        let user = value(b'u', draws.at(number));
        request.headers_mut().insert(&USER, user);
        request
    };
    let ours = RateLimitLayer::new(by_counter())
        .rule(Rule::new("user", Quota::per_minute(LIMIT.get())).by(USER.clone()))
        .http()
        .fields(Fields::OnRefusal);
    layers(entry, ours.layer(Nothing), request)
}

/// The layer with three rules, against one of the peer.
pub(super) fn layer_3_rules(entry: &Entry) -> Vec<Row> {
    const API_KEYS: usize = 1_000;
    let draws = zipf_many();
    let request = |number: u64| {
        let mut request = Request::new(());
        let headers = request.headers_mut();
        headers.insert(&USER, value(b'u', draws.at(number)));
        headers.insert(&CLIENT, value(b'c', draws.at(number + 999_983)));
        headers.insert(&API_KEY, value(b'k', draws.at(number) % API_KEYS));
        request
    };
    let quota = Quota::per_minute(LIMIT.get());
    let ours = RateLimitLayer::new(by_counter())
        .rule(Rule::new("user", quota).by(USER.clone()))
        .rule(Rule::new("client", quota).by(CLIENT.clone()))
        .rule(Rule::new("api-key", quota).by(API_KEY.clone()))
        .http()
        .fields(Fields::OnRefusal);
    layers(entry, ours.layer(Nothing), request)
}

fn layers<S, B>(entry: &Entry, ours: S, request: impl Fn(u64) -> Request<()>) -> Vec<Row>
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible> + Clone,
{
    let mut config = GovernorConfigBuilder::default();
    let config = config
        .per_nanosecond(60)
        .burst_size(LIMIT.get())
        .key_extractor(ByUser)
        .finish()
        .expect("neither the period nor the burst is zero");
    let theirs = GovernorLayer::new(config).layer(Nothing);
    fn handle<'a, S, B>(
        mut service: S,
        request: &'a impl Fn(u64) -> Request<()>,
    ) -> impl FnMut(u64) + 'a
    where
        S: Service<Request<()>, Response = Response<B>, Error = Infallible> + 'a,
    {
        move |number| {
            let response = call(&mut service, request(number));
            assert!(response.status().is_success());
        }
    }
    let allocs = allocations(handle(ours.clone(), &request), handle(Nothing, &request));
    let mut ours = handle(ours, &request);
    let mut theirs = handle(theirs, &request);
    for number in 0..2 * MANY as u64 {
        ours(number);
        theirs(number);
    }
    Contest::new(entry, Unit::Nanos, in_turn(ours))
        .bare(in_turn(handle(Nothing, &request)))
        .peer("tower_governor", in_turn(theirs))
        .allocs(allocs)
        .run()
}

/// What people write themselves, if with care: two counters a key, the older one weighted, by the clock
/// of the server; a refused request counts nothing.
const TWO_BUCKETS: &str = r"
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local window = tonumber(ARGV[2])
local bucket = math.floor(now / window)
local kept = redis.call('HMGET', KEYS[1], 'bucket', 'used', 'before')
local last = tonumber(kept[1])
local used, before = tonumber(kept[2]) or 0, tonumber(kept[3]) or 0
if last ~= bucket then
  before = last == bucket - 1 and used or 0
  used = 0
end
if before * (1 - now % window / window) + used + 1 > tonumber(ARGV[1]) then
  return 0
end
if last == bucket then
  redis.call('HINCRBY', KEYS[1], 'used', 1)
else
  redis.call('HSET', KEYS[1], 'bucket', bucket, 'used', 1, 'before', before)
  redis.call('PEXPIRE', KEYS[1], 2 * window)
end
return 1
";

const WINDOW: Duration = Duration::from_secs(60);

/// The peers' decision: one call of the script.
async fn decide_by_script<C>(connection: &mut C, script: &Script, key: usize)
where
    C: ConnectionLike,
{
    let passes: bool = script
        .key(format!("limit:{key}"))
        .arg(LIMIT.get())
        .arg(WINDOW.as_millis() as u64)
        .invoke_async(connection)
        .await
        .expect("Redis answers");
    assert!(passes);
}

/// Decisions a second on Redis, each by the server.
pub(super) fn redis_strict(entry: &Entry, draws: &'static Draws) -> Vec<Row> {
    redis(entry, draws, |store| store)
}

/// What 99 of 100 decisions by the server wait at most, when 256 tasks ask.
pub(super) fn redis_p99(entry: &Entry, draws: &'static Draws) -> Vec<Row> {
    redis(entry, draws, |store| store)
}

/// Decisions a second out of leases on Redis.
pub(super) fn redis_leased(entry: &Entry, draws: &'static Draws) -> Vec<Row> {
    redis(entry, draws, Leased::over)
}

type Strict = RedisStore<Shared<MultiplexedConnection>>;

fn redis<St>(entry: &Entry, draws: &'static Draws, over: fn(Strict) -> St) -> Vec<Row>
where
    St: Store<Scope: Send + Sync, Deciding: Send> + Send + Sync + 'static,
{
    let runtime = runtime();
    let server = runtime.block_on(Redis::start());
    let client = redis::Client::open(server.url()).expect("it is the server's own address");
    let connect = || {
        let connection = client.get_multiplexed_async_connection();
        runtime.block_on(connection).expect("the server is there")
    };

    // A longer deadline than that of production: a busy machine must not end the measurement.
    let store = Client::shared(connect()).deadline(Duration::from_secs(10));
    let rule =
        || Rule::new("user", Quota::per_minute(LIMIT.get())).key(|user: &u64| (*user).into());
    let ours = RateLimitLayer::new(over(RedisStore::from(store)))
        .rule(rule())
        .checker();
    let ours = move |number: u64| {
        let ours = ours.clone();
        async move {
            let user = draws.at(number) as u64;
            ours.check(&user).await.expect("nobody is refused");
        }
    };
    let (connection, script) = (connect(), Script::new(TWO_BUCKETS));
    let multiplexed = {
        let script = script.clone();
        move |number: u64| {
            let (mut connection, script) = (connection.clone(), script.clone());
            async move { decide_by_script(&mut connection, &script, draws.at(number)).await }
        }
    };
    if entry.name.contains("/p99") {
        return Contest::new(entry, Unit::Nanos, tasks_p99(&runtime, ours))
            .peer("multiplexed-script", tasks_p99(&runtime, multiplexed))
            .run();
    }
    let contest = Contest::new(entry, Unit::PerSecond, tasks(&runtime, ours))
        .peer("multiplexed-script", tasks(&runtime, multiplexed));
    if entry.peers.contains(&"strict") {
        // On a server of its own, or the two would find what the other has counted.
        let other = runtime.block_on(Redis::start());
        let client = redis::Client::open(other.url()).expect("it is the server's own address");
        let connection = runtime.block_on(client.get_multiplexed_async_connection());
        let store = Client::shared(connection.expect("the server is there"));
        let strict = RedisStore::from(store.deadline(Duration::from_secs(10)));
        let strict = RateLimitLayer::new(strict).rule(rule()).checker();
        let strict = move |number: u64| {
            let strict = strict.clone();
            async move {
                let user = draws.at(number) as u64;
                strict.check(&user).await.expect("nobody is refused");
            }
        };
        return contest.peer("strict", tasks(&runtime, strict)).run();
    }
    if !entry.peers.contains(&"bb8-script") {
        return contest.run();
    }
    let pool = bb8::Pool::builder().max_size(16).build(client.clone());
    let pool = runtime.block_on(pool).expect("the server is there");
    let pooled = move |number: u64| {
        let (pool, script) = (pool.clone(), script.clone());
        async move {
            let mut connection = pool.get().await.expect("a connection comes free");
            decide_by_script(&mut *connection, &script, draws.at(number)).await;
        }
    };
    contest.peer("bb8-script", tasks(&runtime, pooled)).run()
}
