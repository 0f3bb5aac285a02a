//! Claims on Redis, and what the layer adds in memory.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::hint::black_box;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Method, Request, Response};
use http_body_util::Full;
use redis::aio::ConnectionLike;
use seawall_idempotency::record::{Answer, Found, Pending, Swap, Swapped, look};
use seawall_idempotency::{
    Fingerprint, IdempotencyLayer, Key, MemoryStore, RecordKey, RedisStore, Store,
};
use seawall_redis::Client;
use test_support::Redis;
use tower::{Layer, Service, ServiceExt};

use super::Entry;
use crate::drive::{allocations, awaited, runtime, runtime_here, tasks};
use crate::measure::{Contest, Row, Unit};

const LEASE: Duration = Duration::from_secs(30);
const RETENTION: Duration = Duration::from_secs(24 * 60 * 60);

/// Bytes of an answer, and of a body.
const PAYLOAD: &[u8] = &[b'a'; 200];

/// Calls that were made before, for those that repeat them.
const KNOWN: u64 = 1_000;

fn fingerprint() -> Fingerprint {
    Fingerprint::of(["POST", "/orders"])
}

fn record_key(number: u64) -> RecordKey {
    RecordKey::new(Some(&Key::from("tenant-7")), &Key::from(number))
}

/// How a call begins: what the layer does with its store before the handler runs.
async fn begin<S: Store>(store: &S, number: u64) -> Option<Found> {
    let mine = Pending::first(fingerprint(), LEASE, RETENTION);
    let found = store
        .claim(&record_key(number), mine.encode(), RETENTION)
        .await
        .expect("Redis answers");
    found.map(|found| look(&mine, found).expect("it is a record of ours"))
}

/// Begins a call and brings it to its end.
async fn handle<S: Store>(store: &S, number: u64) {
    let mine = Pending::first(fingerprint(), LEASE, RETENTION);
    let key = record_key(number);
    let found = store.claim(&key, mine.encode(), RETENTION).await;
    assert_eq!(found.expect("Redis answers"), None);
    let complete = Swap::complete(&[mine], Answer::Whole(Bytes::from_static(PAYLOAD)));
    let swapped = store.swap(&key, &complete).await;
    assert_eq!(swapped.expect("Redis answers"), Swapped::Applied);
}

/// The peers' claim: one command, with a key and a value as long as ours.
async fn set_nx_get<C>(connection: &mut C, number: u64, value: &[u8]) -> Option<Vec<u8>>
where
    C: ConnectionLike,
{
    redis::cmd("SET")
        .arg(format!("claim:{number:078x}"))
        .arg(value)
        .arg("NX")
        .arg("GET")
        .arg("PX")
        .arg(RETENTION.as_millis() as u64)
        .query_async(connection)
        .await
        .expect("Redis answers")
}

/// Claims of keys that nobody knows, a second.
pub(super) fn redis_first(entry: &Entry) -> Vec<Row> {
    redis_begin(entry, false)
}

/// Claims of keys whose calls were answered before, a second.
pub(super) fn redis_replay(entry: &Entry) -> Vec<Row> {
    redis_begin(entry, true)
}

fn redis_begin(entry: &Entry, replay: bool) -> Vec<Row> {
    let runtime = runtime();
    let server = runtime.block_on(Redis::start());
    let client = redis::Client::open(server.url()).expect("it is the server's own address");
    let connect = || {
        let connection = client.get_multiplexed_async_connection();
        runtime.block_on(connection).expect("the server is there")
    };
    let pool = bb8::Pool::builder().max_size(16).build(client.clone());
    let pool = runtime.block_on(pool).expect("the server is there");

    // A longer deadline than that of production: a busy machine must not end the measurement.
    let store = Client::shared(connect()).deadline(Duration::from_secs(10));
    let store = RedisStore::from(store);
    let mut connection = connect();
    let value: Arc<[u8]> = if replay {
        runtime.block_on(async {
            for number in 0..KNOWN {
                handle(&store, number).await;
                set_nx_get(&mut connection, number, PAYLOAD).await;
            }
        });
        PAYLOAD.into()
    } else {
        let pending = Pending::first(fingerprint(), LEASE, RETENTION);
        pending.encode()[..].into()
    };
    let number = move |number| if replay { number % KNOWN } else { number };

    let ours = move |call| {
        let store = store.clone();
        async move {
            match begin(&store, number(call)).await {
                Some(Found::Done(Answer::Whole(answer))) if replay => assert_eq!(answer, PAYLOAD),
                None if !replay => {}
                other => panic!("found {other:?}"),
            }
        }
    };
    let raw = {
        let value = Arc::clone(&value);
        move |call| {
            let (mut connection, value) = (connection.clone(), Arc::clone(&value));
            async move {
                let found = set_nx_get(&mut connection, number(call), &value).await;
                assert_eq!(found.is_some(), replay);
            }
        }
    };
    let pooled = move |call| {
        let (pool, value) = (pool.clone(), Arc::clone(&value));
        async move {
            let mut connection = pool.get().await.expect("a connection comes free");
            let found = set_nx_get(&mut *connection, number(call), &value).await;
            assert_eq!(found.is_some(), replay);
        }
    };
    // First calls would fill the server's memory, and slow down whoever comes later.
    let forget = || {
        let (runtime, server) = (&runtime, &server);
        move || {
            if !replay {
                runtime.block_on(server.ask(&["FLUSHALL"]));
            }
        }
    };
    let (ours, raw) = (tasks(&runtime, ours), tasks(&runtime, raw));
    let pooled = tasks(&runtime, pooled);
    Contest::new(entry, Unit::PerSecond, ours.prepared(forget()))
        .peer("raw-set-nx-get", raw.prepared(forget()))
        .peer("bb8-set-nx-get", pooled.prepared(forget()))
        .run()
}

/// Answers at once, with a body as small services have it.
#[derive(Clone, Copy)]
struct Creates;

impl Service<Request<Full<Bytes>>> for Creates {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    #[inline(never)]
    fn call(&mut self, request: Request<Full<Bytes>>) -> Self::Future {
        black_box(request);
        let mut response = Response::new(Full::new(Bytes::from_static(PAYLOAD)));
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(CONTENT_TYPE, json);
        ready(Ok(response))
    }
}

/// Which key a request carries.
#[derive(Clone, Copy)]
enum Carries {
    Nothing,
    Fresh,
    Known,
}

static IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

fn request(carries: Carries, number: u64) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(Bytes::from_static(PAYLOAD)));
    *request.method_mut() = Method::POST;
    let headers = request.headers_mut();
    headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer tenant-7"));
    let number = match carries {
        Carries::Nothing => return request,
        // Not among those that are known.
        Carries::Fresh => number + KNOWN,
        Carries::Known => number % KNOWN,
    };
    let key = HeaderValue::try_from(format!("\"{number:032x}\"")).expect("it is ASCII");
    headers.insert(&IDEMPOTENCY_KEY, key);
    request
}

async fn send<S, B>(service: &mut S, request: Request<Full<Bytes>>)
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error = Infallible>,
{
    let Ok(service) = service.ready().await;
    let Ok(response) = service.call(request).await;
    assert!(response.status().is_success());
    black_box(response);
}

/// A request whose key is new.
pub(super) fn memory_first(entry: &Entry) -> Vec<Row> {
    memory(entry, Carries::Fresh)
}

/// A request that was answered before.
pub(super) fn memory_replay(entry: &Entry) -> Vec<Row> {
    memory(entry, Carries::Known)
}

/// A request that takes no part.
pub(super) fn memory_no_key(entry: &Entry) -> Vec<Row> {
    memory(entry, Carries::Nothing)
}

fn memory(entry: &Entry, carries: Carries) -> Vec<Row> {
    let runtime = runtime_here();
    let ours = IdempotencyLayer::http(MemoryStore::with_capacity(10_000_000))
        .scope(AUTHORIZATION)
        .layer(Creates);
    runtime.block_on(async {
        let mut ours = ours.clone();
        for number in 0..KNOWN {
            send(&mut ours, request(Carries::Known, number)).await;
        }
    });
    // Keys of calls that are counted lie beyond those of calls that are timed.
    let counted = |number| number + (1 << 40);
    let allocs = {
        let (mut ours, mut bare) = (ours.clone(), Creates);
        allocations(
            |number| runtime.block_on(send(&mut ours, request(carries, counted(number)))),
            |number| runtime.block_on(send(&mut bare, request(carries, counted(number)))),
        )
    };
    let (mut ours, mut bare) = (ours, Creates);
    Contest::new(
        entry,
        Unit::Nanos,
        awaited(&runtime, async |number| {
            send(&mut ours, request(carries, number)).await;
        }),
    )
    .bare(awaited(&runtime, async |number| {
        send(&mut bare, request(carries, number)).await;
    }))
    .allocs(allocs)
    .run()
}
