//! What is wrong from outside, by tables: a clear answer before anything runs, and a line in the log that does
//! not say the key.
#![cfg(all(feature = "tracing", feature = "metrics", feature = "compression"))]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use seawall_idempotency::{
    Abandoned, ConfigError, IdempotencyLayer, Key, MemoryStore, Problem, RecordKey, Store,
    record::{Answer, Completed, Owner, Packed, Record, Swap, Swapped},
};
use support::call;
use test_support::observe;
use tower::{Layer, service_fn};

const KEEP: Duration = Duration::from_secs(60);
const LIMIT: usize = 1_000;

/// A body that comes in pieces, and may break off.
#[derive(Debug, Default)]
struct Pieces {
    pieces: VecDeque<Bytes>,
    breaks: bool,
    says: Option<u64>,
}

impl Pieces {
    fn of(pieces: impl IntoIterator<Item = Vec<u8>>) -> Self {
        Self {
            pieces: pieces.into_iter().map(Bytes::from).collect(),
            ..Self::default()
        }
    }
}

impl From<Bytes> for Pieces {
    fn from(whole: Bytes) -> Self {
        Self::of([whole.to_vec()])
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        Poll::Ready(match self.pieces.pop_front() {
            Some(piece) => Some(Ok(Frame::data(piece))),
            None if self.breaks => Some(Err(std::io::ErrorKind::UnexpectedEof.into())),
            None => None,
        })
    }

    fn size_hint(&self) -> SizeHint {
        self.says
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// A request with these fields and a body.
fn request(keys: &[&[u8]], body: Pieces) -> Request<Pieces> {
    let mut request = Request::post("/orders")
        .header("authorization", "Bearer t")
        .body(body)
        .unwrap();
    for key in keys {
        let key = HeaderValue::from_bytes(key).unwrap();
        request.headers_mut().append("idempotency-key", key);
    }
    request
}

/// What a layer answers, how often its handler ran, and all that was told meanwhile.
fn send(store: &MemoryStore, bare: bool, request: Request<Pieces>) -> (Response<()>, u64, String) {
    let executed = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&executed);
    let once = IdempotencyLayer::http(store.clone())
        .scope(http::header::AUTHORIZATION)
        .require_key()
        .max_body(LIMIT)
        .abandoned(Abandoned::Reexecute);
    let once = if bare { once.bare_keys() } else { once };
    let mut service = once.layer(service_fn(move |_: Request<Pieces>| {
        count.fetch_add(1, SeqCst);
        std::future::ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(
            "done",
        ))))
    }));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let mut answer = None;
    let seen = observe("seawall_idempotency", || {
        answer = Some(runtime.block_on(async {
            let (head, body) = call(&mut service, request).await.unwrap().into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            if head.extensions.get::<Problem>().is_some() {
                let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
                assert_eq!(json["status"], head.status.as_u16());
                assert_eq!(head.headers["content-type"], "application/problem+json");
            }
            Response::from_parts(head, ())
        }));
    });
    (answer.unwrap(), executed.load(SeqCst), format!("{seen:?}"))
}

#[test]
fn keys_and_bodies() {
    use Problem::*;

    let (just, long) = ("x".repeat(255), "x".repeat(256));
    let (just, long) = (format!("\"{just}\""), format!("\"{long}\""));
    let small = || Pieces::of([b"tea".to_vec()]);
    let large = || Pieces::of([vec![0; LIMIT], vec![0; 1]]);
    let cut_off = || Pieces {
        breaks: true,
        ..small()
    };
    let says_large = || Pieces {
        says: Some(LIMIT as u64 + 1),
        ..small()
    };
    // Keys, whether bare ones are taken, the body, and what is wrong.
    type Row<'a> = (Vec<&'a [u8]>, bool, Pieces, Option<Problem>);
    let table: Vec<Row<'_>> = vec![
        (vec![], false, small(), Some(KeyMissing)),
        (vec![&b""[..]], false, small(), Some(KeyMalformed)),
        (vec![&b"\"\""[..]], false, small(), Some(KeyMalformed)),
        (vec![&b""[..]], true, small(), Some(KeyMalformed)),
        (vec![&b"\"\""[..]], true, small(), Some(KeyMalformed)),
        (vec![just.as_bytes()], false, small(), None),
        (vec![long.as_bytes()], false, small(), Some(KeyMalformed)),
        (vec![long.as_bytes()], true, small(), Some(KeyMalformed)),
        (
            vec![&b"\"raw-key\""[..], &b"\"raw-key\""[..]],
            false,
            small(),
            Some(KeyRepeated),
        ),
        (
            vec![&b"\"raw-key\""[..], &b"\"other\""[..]],
            false,
            small(),
            Some(KeyRepeated),
        ),
        (
            vec![&b"raw-key"[..], &b"raw-key"[..]],
            true,
            small(),
            Some(KeyRepeated),
        ),
        (
            vec![&b"\"raw-key\", \"other\""[..]],
            false,
            small(),
            Some(KeyMalformed),
        ),
        (vec![&b"raw-key"[..]], false, small(), Some(KeyMalformed)),
        (vec![&b"raw-key"[..]], true, small(), None),
        (
            vec![&b"raw-key, other"[..]],
            true,
            small(),
            Some(KeyMalformed),
        ),
        (vec![&b"\"raw-key"[..]], false, small(), Some(KeyMalformed)),
        (vec![&b"\"raw-key"[..]], true, small(), Some(KeyMalformed)),
        (
            vec![&b"\"raw-key\t\""[..]],
            false,
            small(),
            Some(KeyMalformed),
        ),
        (vec![&b"raw-key\tx"[..]], true, small(), Some(KeyMalformed)),
        (
            vec!["\"raw-key-\u{e9}\"".as_bytes()],
            false,
            small(),
            Some(KeyMalformed),
        ),
        (
            vec![&b"\"raw-key-\xff\""[..]],
            false,
            small(),
            Some(KeyMalformed),
        ),
        (
            vec![&b"raw-key-\xff"[..]],
            true,
            small(),
            Some(KeyMalformed),
        ),
        (
            vec![&b"\"raw-key\""[..]],
            false,
            large(),
            Some(BodyTooLarge),
        ),
        (
            vec![&b"\"raw-key\""[..]],
            false,
            says_large(),
            Some(BodyTooLarge),
        ),
        (
            vec![&b"\"raw-key\""[..]],
            false,
            cut_off(),
            Some(BodyIncomplete),
        ),
        (
            vec![&b"\"raw-key\""[..]],
            false,
            Pieces::of([vec![0; LIMIT]]),
            None,
        ),
    ];
    for (row, (keys, bare, body, wrong)) in table.into_iter().enumerate() {
        let store = MemoryStore::with_capacity(10);
        let (answer, executed, told) = send(&store, bare, request(&keys, body));
        let problem = answer.extensions().get::<Problem>().copied();
        assert_eq!(problem, wrong, "row {row}");
        assert!(!told.contains("raw-key"), "row {row}: {told}");
        match wrong {
            None => assert_eq!(
                (answer.status(), executed),
                (StatusCode::OK, 1),
                "row {row}"
            ),
            Some(problem) => {
                let status = match problem {
                    BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
                    _ => StatusCode::BAD_REQUEST,
                };
                assert_eq!((answer.status(), executed), (status, 0), "row {row}");
                assert!(store.is_empty(), "row {row}: nothing was claimed");
                assert!(told.contains(problem.name()), "row {row}: {told}");
            }
        }
    }
}

#[test]
fn a_request_without_its_scope() {
    let store = MemoryStore::with_capacity(10);
    let mut without = request(&[b"\"raw-key\""], Pieces::default());
    without.headers_mut().remove("authorization");
    let (answer, executed, told) = send(&store, false, without);
    assert_eq!((answer.status(), executed), (StatusCode::BAD_REQUEST, 0));
    assert_eq!(answer.extensions().get(), Some(&Problem::ScopeMissing));
    assert!(store.is_empty() && told.contains("scope-missing") && !told.contains("raw-key"));
}

#[test]
fn values_under_a_key_that_are_no_records() {
    let completed = |answer| {
        Record::Completed(Completed {
            owner: Owner::fresh(),
            attempt: 1,
            fingerprint: seawall_idempotency::Fingerprint::of(["POST", "/orders", "", "tea"]),
            answer,
        })
        .encode()
    };
    let whole = completed(Answer::Whole(Bytes::from_static(b"\0\xc8\0\0\0\0\0\0\0\0")));
    let mut torn = whole.to_vec();
    torn.truncate(torn.len() - 1);
    let mut newer = whole.to_vec();
    newer[2] = 9;
    // 20 MiB of zeros, where 16 are allowed.
    let bomb = miniz_oxide::deflate::compress_to_vec(&vec![0; 20 << 20], 1);
    let bomb = completed(Answer::Packed(Packed {
        compressed: true,
        sealed: false,
        bytes: bomb.into(),
    }));
    let sealed = completed(Answer::Packed(Packed {
        compressed: false,
        sealed: true,
        bytes: Bytes::from_static(b"by somebody"),
    }));
    let no_answer = completed(Answer::Whole(Bytes::from_static(b"no answer of HTTP")));
    let server = StatusCode::INTERNAL_SERVER_ERROR;
    for (what, value, expected) in [
        ("a good one", whole, StatusCode::OK),
        ("foreign", Bytes::from_static(b"{\"answer\":42}"), server),
        ("empty", Bytes::new(), server),
        ("torn", torn.into(), server),
        // Another server may be able to read it.
        ("newer", newer.into(), StatusCode::SERVICE_UNAVAILABLE),
        ("expands without end", bomb, server),
        ("sealed by somebody", sealed, server),
        ("of another codec", no_answer, server),
    ] {
        let store = MemoryStore::with_capacity(10);
        let key = RecordKey::new(Some(&Key::of(["Bearer t"])), &Key::from("raw-key"));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let claimed = runtime.block_on(store.claim(&key, value.clone(), KEEP));
        assert_eq!(claimed.unwrap(), None);
        let tea = Pieces::of([b"tea".to_vec()]);
        let (answer, executed, told) = send(&store, false, request(&[b"\"raw-key\""], tea));
        assert_eq!((answer.status(), executed), (expected, 0), "{what}");
        let found = runtime.block_on(store.swap(&key, &Swap::look())).unwrap();
        assert_eq!(found, Swapped::Lost(Some(value)), "{what} is left as it is");
        assert!(!told.contains("raw-key"), "{what}: {told}");
        if expected != StatusCode::OK {
            assert!(
                told.contains("unreadable") && told.contains(&key.to_string()),
                "{what}: {told}"
            );
        }
    }
}

#[test]
fn settings_that_cannot_work() {
    let once = || IdempotencyLayer::new(MemoryStore::with_capacity(1));
    let zero = Duration::ZERO;
    assert_eq!(
        once().try_lease(zero).err(),
        Some(ConfigError::LeaseTooShort(zero))
    );
    let (lease, keep_for) = (2 * KEEP, KEEP);
    let beyond = Some(ConfigError::LeaseBeyondRetention { lease, keep_for });
    assert_eq!(once().keep_for(keep_for).try_lease(lease).err(), beyond);
    assert_eq!(once().lease(lease).try_keep_for(keep_for).err(), beyond);
    let ages = Some(ConfigError::RetentionTooLong(Duration::MAX));
    assert_eq!(once().try_keep_for(Duration::MAX).err(), ages);
    assert!(MemoryStore::try_with_capacity(0).is_err());
}
