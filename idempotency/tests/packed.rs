//! Answers that are compressed or sealed in their store.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::{
    error::Error as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use proptest::prelude::*;
use seawall_idempotency::{
    BoxError, Compression, Error, Fingerprint, Key, MemoryStore, RecordKey, Seal, Store,
    UnpackError,
    record::{Answer, Completed, Owner, Packed, Pending, Record, Swap, Swapped, Why},
};
use support::{Message, MessageLayer, call, layer, message, ours};
use tower::{Layer, service_fn};

const KEEP: Duration = Duration::from_secs(60);

/// A cipher for tests: it hides the text from a look, and knows its key and its place. Nothing more.
#[derive(Clone, Copy)]
struct Xor {
    key: u8,
    only_sealed: bool,
    broken: bool,
}

const XOR: Xor = Xor {
    key: 0x5a,
    only_sealed: false,
    broken: false,
};

impl Seal for Xor {
    fn seal(&self, place: &RecordKey, answer: &[u8]) -> Result<Vec<u8>, BoxError> {
        if self.broken {
            return Err("no key".into());
        }
        let hidden = answer.iter().map(|byte| byte ^ self.key);
        Ok([self.key]
            .into_iter()
            .chain(*place.as_bytes())
            .chain(hidden)
            .collect())
    }

    fn open(&self, place: &RecordKey, sealed: &[u8]) -> Result<Vec<u8>, BoxError> {
        match sealed.split_first() {
            Some((key, rest)) if *key == self.key && rest.starts_with(place.as_bytes()) => {
                Ok(rest[32..].iter().map(|byte| byte ^ self.key).collect())
            }
            _ => Err("not sealed with this key, for this place".into()),
        }
    }

    fn accepts_open_answers(&self) -> bool {
        !self.only_sealed
    }
}

fn key() -> RecordKey {
    RecordKey::new(None, &Key::from("a"))
}

async fn stored(store: &MemoryStore) -> Bytes {
    match store.swap(&key(), &Swap::look()).await.unwrap() {
        Swapped::Lost(Some(found)) => found,
        other => panic!("{other:?}"),
    }
}

async fn kept(store: &MemoryStore) -> Answer {
    match Record::decode(stored(store).await).unwrap() {
        Record::Completed(completed) => completed.answer,
        other => panic!("{other:?}"),
    }
}

/// Calls once with each layer, and says how often the handler ran and what each call gave.
async fn calls(
    layers: impl IntoIterator<Item = MessageLayer<MemoryStore>>,
    text: &str,
) -> (u64, Vec<Result<String, BoxError>>) {
    let executed = Arc::new(AtomicU64::new(0));
    let mut answers = Vec::new();
    for layer in layers {
        let (count, text) = (Arc::clone(&executed), text.to_owned());
        let mut service = layer.layer(service_fn(move |_: Message| {
            count.fetch_add(1, SeqCst);
            let text = text.clone();
            async { Ok::<_, BoxError>(text) }
        }));
        answers.push(call(&mut service, message("a")).await);
    }
    (executed.load(SeqCst), answers)
}

#[tokio::test]
async fn a_large_answer_is_stored_small_and_given_out_as_it_was() {
    let store = MemoryStore::with_capacity(10);
    let plain = || layer(store.clone());
    let text = "tea and biscuits, ".repeat(1_000);
    // Who compresses no more still reads what was compressed.
    let layers = [plain().compress(Compression::default()), plain(), plain()];
    let (executed, answers) = calls(layers, &text).await;
    assert_eq!(executed, 1);
    assert!(answers.into_iter().all(|answer| answer.unwrap() == text));
    let small = stored(&store).await.len();
    assert!(small * 20 < text.len(), "{small} bytes");
}

#[tokio::test]
async fn an_answer_that_gains_nothing_is_stored_as_it_is() {
    let noise: String = {
        // No byte follows from those before: a multiplicative generator, as text.
        let mut state = 1_u64;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            char::from(b'!' + (state >> 58) as u8)
        };
        (0..2_000).map(|_| next()).collect()
    };
    let small = "x".repeat(1_024);
    let huge = "x".repeat(4_096);
    let limited = Compression::default().expands_to(4_095);
    for (text, compression) in [(&small, Compression::default()), (&huge, limited)] {
        let store = MemoryStore::with_capacity(10);
        calls([layer(store.clone()).compress(compression)], text).await;
        assert!(matches!(kept(&store).await, Answer::Whole(_)));
    }
    let store = MemoryStore::with_capacity(10);
    let (_, answers) = calls(
        [(); 2].map(|()| layer(store.clone()).compress(Compression::default())),
        &noise,
    )
    .await;
    assert!(answers.into_iter().all(|answer| answer.unwrap() == noise));
}

/// A record of a call that was handled, with this for an answer.
async fn put(store: &MemoryStore, answer: Answer) {
    let completed = Record::Completed(Completed {
        owner: Owner::fresh(),
        attempt: 1,
        fingerprint: Fingerprint::of([""]),
        answer,
    });
    let found = store.claim(&key(), completed.encode(), KEEP).await.unwrap();
    assert_eq!(found, None);
}

/// Why the answer of a call could not be given.
#[track_caller]
fn unpack_error(answer: Result<String, BoxError>) -> UnpackError {
    match ours(answer.unwrap_err()) {
        Error::Answer(source) => *source.downcast().unwrap(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_record_that_expands_without_end_is_an_error_and_is_left_alone() {
    // 20 MiB of zeros in 20 KiB.
    let bomb = miniz_oxide::deflate::compress_to_vec(&vec![0; 20 << 20], 6);
    assert!(bomb.len() < 100_000);
    let packed = |bytes: Vec<u8>| {
        Answer::Packed(Packed {
            compressed: true,
            sealed: false,
            bytes: bytes.into(),
        })
    };
    for (bytes, limit, compression) in [
        (bomb.clone(), 16 << 20, None),
        (bomb, 1_000, Some(Compression::default().expands_to(1_000))),
    ] {
        let store = MemoryStore::with_capacity(10);
        put(&store, packed(bytes)).await;
        let before = stored(&store).await;
        let mut once = layer(store.clone());
        if let Some(compression) = compression {
            once = once.compress(compression);
        }
        let (executed, mut answers) = calls([once], "").await;
        let error = unpack_error(answers.pop().unwrap());
        assert!(matches!(error, UnpackError::TooLarge { limit: found } if found == limit));
        assert_eq!((executed, stored(&store).await), (0, before));
    }
    for damaged in [vec![], vec![0xff; 100], b"not deflate".to_vec()] {
        let store = MemoryStore::with_capacity(10);
        put(&store, packed(damaged)).await;
        let (executed, mut answers) = calls([layer(store)], "").await;
        let error = unpack_error(answers.pop().unwrap());
        assert!(matches!(error, UnpackError::Damaged), "{error}");
        assert_eq!(executed, 0);
    }
}

#[tokio::test]
async fn a_sealed_answer_cannot_be_read_in_its_store_and_is_given_out_as_it_was() {
    for compressed in [false, true] {
        let store = MemoryStore::with_capacity(10);
        let text = "a secret of tea, ".repeat(200);
        let sealed = || {
            let layer = layer(store.clone()).seal(XOR);
            if compressed {
                layer.compress(Compression::default())
            } else {
                layer
            }
        };
        let (executed, answers) = calls([sealed(), sealed()], &text).await;
        assert_eq!(executed, 1);
        assert!(answers.into_iter().all(|answer| answer.unwrap() == text));
        let bytes = stored(&store).await;
        assert!(!bytes.windows(6).any(|part| part == b"secret"));
        match kept(&store).await {
            Answer::Packed(packed) => {
                assert!(packed.sealed && packed.compressed == compressed);
                assert_eq!(packed.bytes.len() < text.len(), compressed);
            }
            other => panic!("{other:?}"),
        }
        // By hand it is seen, and written, through the same seal.
        let seen = sealed().records().look_up(&key()).await.unwrap().unwrap();
        let answer = Ok(Bytes::from(text));
        assert_eq!(seen.state, seawall_idempotency::State::Completed { answer });
    }
}

#[tokio::test]
async fn without_the_right_seal_an_answer_is_an_error_and_nothing_is_executed() {
    let store = MemoryStore::with_capacity(10);
    let plain = || layer(store.clone());
    let other = Xor { key: 1, ..XOR };
    let layers = [plain().seal(XOR), plain(), plain().seal(other)];
    let (executed, mut answers) = calls(layers, "tea").await;
    let error = unpack_error(answers.pop().unwrap());
    assert!(matches!(error, UnpackError::Seal(_)), "{error}");
    assert!(error.source().is_some());
    let error = unpack_error(answers.pop().unwrap());
    assert!(matches!(error, UnpackError::NoSeal), "{error}");
    assert_eq!(executed, 1);

    // Moved under another key, it is not opened either.
    let moved = stored(&store).await;
    let b = RecordKey::new(None, &Key::from("b"));
    store.claim(&b, moved, KEEP).await.unwrap();
    let mut service = plain().seal(XOR).layer(service_fn(async |_: Message| {
        Ok::<_, BoxError>(String::new())
    }));
    let error = unpack_error(call(&mut service, message("b")).await);
    assert!(matches!(error, UnpackError::Seal(_)), "{error}");
}

#[tokio::test]
async fn answers_from_before_the_seal_are_given_out_unless_only_sealed_ones_may_be() {
    let store = MemoryStore::with_capacity(10);
    let strict = Xor {
        only_sealed: true,
        ..XOR
    };
    let plain = || layer(store.clone());
    let layers = [plain(), plain().seal(XOR), plain().seal(strict)];
    let (executed, mut answers) = calls(layers, "tea").await;
    let error = unpack_error(answers.pop().unwrap());
    assert!(matches!(error, UnpackError::Open), "{error}");
    assert!(answers.into_iter().all(|answer| answer.unwrap() == "tea"));
    assert_eq!(executed, 1);
}

#[tokio::test]
async fn what_cannot_be_sealed_is_remembered_without_its_content() {
    let store = MemoryStore::with_capacity(10);
    let broken = Xor {
        broken: true,
        ..XOR
    };
    let layers = [(); 2].map(|()| layer(store.clone()).seal(broken));
    let (executed, mut answers) = calls(layers, "secret").await;
    let error = ours(answers.pop().unwrap().unwrap_err());
    let why = Why::NotSealed;
    assert!(matches!(error, Error::AnswerNotKept { why: found } if found == why));
    assert_eq!(answers.pop().unwrap().unwrap(), "secret");
    assert_eq!(executed, 1);
    assert_eq!(kept(&store).await, Answer::Tombstone(Why::NotSealed));
}

#[tokio::test]
async fn a_claim_is_never_packed() {
    let store = MemoryStore::with_capacity(10);
    let once = layer(store.clone())
        .seal(XOR)
        .compress(Compression::above(0));
    let dead = Pending::first(Fingerprint::of([""]), Duration::from_secs(3), KEEP);
    store.claim(&key(), dead.encode(), KEEP).await.unwrap();
    let (executed, mut answers) = calls([once], "").await;
    let error = ours(answers.pop().unwrap().unwrap_err());
    assert!(matches!(error, Error::InFlight { .. }), "{error}");
    assert_eq!(executed, 0);
}

proptest! {
    #[test]
    fn any_text_comes_back_however_it_is_packed(text in "(?s).{0,2000}", seal: bool, above in 0..100_usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = MemoryStore::with_capacity(10);
            let once = || {
                let once = layer(store.clone()).compress(Compression::above(above));
                if seal { once.seal(XOR) } else { once }
            };
            // This one word means something to the codec of these tests.
            prop_assume!(text != "undone");
            let (executed, answers) = calls([once(), once()], &text).await;
            prop_assert_eq!(executed, 1);
            for answer in answers {
                prop_assert_eq!(&answer.unwrap(), &text);
            }
            Ok(())
        })?;
    }
}
