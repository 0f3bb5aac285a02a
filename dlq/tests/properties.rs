//! Invariants, over random letters, operations, crashes and damage:
//!
//! 1. A letter read from its JSON form equals the one that was written.
//! 2. Decoding any bytes gives a letter or an error, and never panics.
//! 3. Fingerprints do not depend on numbers, and messages without them keep theirs apart.
//! 4. The memory sink and the file sink behave as one simple model, over restarts.
//! 5. A file cut anywhere or with any bit flipped gives all letters that were reported, or is refused as
//!    it is.
#![allow(clippy::unwrap_used)] // in helpers, which are tests as well

mod support;

use std::{
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use proptest::prelude::*;
use seawall_dlq::{Envelope, Failure, Fingerprint, Letter, LetterId, Origin};

fn texts() -> impl Strategy<Value = String> {
    prop_oneof![
        ".{0,20}",
        "[a-z]{1,8}",
        Just(String::new()),
        Just("\u{0}\n\"\\".to_owned())
    ]
}

fn bytes() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..64).prop_map(Bytes::from)
}

fn origins() -> impl Strategy<Value = Origin> {
    prop_oneof![
        (texts(), any::<u32>(), any::<u64>()).prop_map(|(a, b, c)| Origin::log(a, b, c)),
        (texts(), texts()).prop_map(|(a, b)| Origin::stream(a, b)),
        (texts(), texts()).prop_map(|(a, b)| Origin::named(a, b)),
    ]
}

prop_compose! {
    fn letters()(
        (origin, generation) in (origins(), any::<u32>()),
        (key, payload) in (prop::option::of(bytes()), bytes()),
        headers in prop::collection::vec((texts(), bytes()), 0..4),
        (class, message) in (texts(), texts()),
        (attempts, lasted) in (any::<u32>(), any::<u64>()),
        (nanos, before) in (any::<u64>(), any::<bool>()),
    ) -> Letter {
        let mut envelope = Envelope::new(origin, payload).generation(generation);
        envelope.key = key;
        envelope.headers =
            headers.into_iter().map(|(name, value)| (Arc::from(name), value)).collect();
        let failure = Failure::new(class, message).attempts(attempts).lasted(Duration::from_nanos(lasted));
        let span = Duration::from_nanos(nanos);
        let at = if before { UNIX_EPOCH.checked_sub(span).unwrap() } else { UNIX_EPOCH + span };
        Letter::new(envelope, failure, at)
    }
}

proptest! {
    #[test]
    fn a_letter_survives_its_json_form(letter in letters()) {
        prop_assert_eq!(Letter::from_json(&letter.to_json()).unwrap(), letter);
    }

    #[test]
    fn headers_survive_a_redrive(letter in letters()) {
        prop_assume!(letter.generation < u32::MAX);
        let copy = letter.redriven();
        let read = Envelope::new(Origin::log("elsewhere", 0, 0), copy.payload.clone())
            .headers(copy.headers_to_send());
        prop_assert_eq!(read.id(), copy.id());
        prop_assert_eq!(read.headers, copy.headers);
    }

    #[test]
    fn any_bytes_are_a_letter_or_an_error(bytes in bytes(), letter in letters(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let _ = Letter::from_json(&bytes);
        let mut json = letter.to_json();
        let at = at.index(json.len());
        json[at] = byte;
        let _ = Letter::from_json(&json);
        let _ = Letter::from_json(&json[..at]);
    }

    #[test]
    fn ids_parse_what_they_print(origin in origins(), generation in any::<u32>()) {
        let id = LetterId::of(&origin, generation);
        prop_assert_eq!(id.to_string().parse(), Ok(id));
        prop_assert_ne!(id, LetterId::of(&origin, generation.wrapping_add(1)));
    }

    #[test]
    fn fingerprints_do_not_depend_on_numbers(a in any::<u64>(), b in any::<u64>(), id in any::<u128>()) {
        let of = |message: String| Fingerprint::of("error", [message.as_str()]);
        prop_assert_eq!(of(format!("order {a} of {id:032x}")), of(format!("order {b} of {:032x}", id ^ 1)));
        prop_assert_eq!(of(format!("at 10.0.{a}.1:{b}")), of(format!("at 10.1.{b}.7:{a}")));
    }
}

#[test]
fn a_letter_of_another_schema_or_with_another_id_is_refused() {
    let json = String::from_utf8(support::letter(1).to_json()).unwrap();
    let refused = |json: String| {
        let error = Letter::from_json(json.as_bytes()).unwrap_err();
        std::error::Error::source(&error).unwrap().to_string()
    };
    assert!(refused(json.replace("\"schema\":1", "\"schema\":2")).contains("schema 2"));
    assert!(refused(json.replace("\"offset\":1", "\"offset\":2")).contains("the id is"));
    let long = json.replace(&noon_ms(), &i64::MAX.to_string());
    assert!(Letter::from_json(long.as_bytes()).is_ok_and(|letter| letter.failure.lasted.is_zero()));
}

fn noon_ms() -> String {
    support::noon()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_millis()
        .to_string()
}

#[test]
fn long_messages_are_cut_at_a_character() {
    let failure = Failure::new("error", "ä".repeat(20_000));
    assert!(failure.message.len() < 17_000 && failure.message.ends_with("ä [cut]"));
}

#[cfg(all(feature = "file", unix))]
mod file {
    use std::{collections::BTreeMap, fs, path::Path};

    use seawall_dlq::{FileSink, MemorySink, OpenError, Queue, Sink, SinkError, Written};

    use super::support::{all, letter};
    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Write(u64),
        Redriven(u64),
        Remove(u64),
        Reopen,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            5 => (0..12_u64).prop_map(Step::Write),
            2 => (0..12_u64).prop_map(Step::Redriven),
            4 => (0..12_u64).prop_map(Step::Remove),
            1 => Just(Step::Reopen),
        ];
        prop::collection::vec(step, 1..60)
    }

    fn block_on<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(future)
    }

    async fn open(path: &Path) -> FileSink {
        FileSink::options()
            .rewrite_over(500)
            .max_letters(8)
            .open(path)
            .await
            .unwrap()
    }

    const CAPACITY: usize = 8;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn both_sinks_behave_as_one_model(steps in steps()) {
            block_on(async {
                let directory = tempfile::tempdir().unwrap();
                let path = directory.path().join("dead");
                let memory = MemorySink::with_capacity(CAPACITY);
                let mut file = Some(open(&path).await);
                // Letters by the order in which they were written.
                let mut model: Vec<Letter> = Vec::new();
                for step in steps {
                    let sink = file.as_ref().unwrap();
                    match step {
                        Step::Write(n) | Step::Redriven(n) => {
                            let letter = match step {
                                Step::Write(_) => letter(n),
                                _ => letter(n).redriven(),
                            };
                            let expected = match model.contains(&letter) {
                                true => Ok(Written::Repeat),
                                false if model.len() == CAPACITY => Err(()),
                                false => {
                                    model.push(letter.clone());
                                    Ok(Written::New)
                                }
                            };
                            let full = |error| match error {
                                SinkError::Full { capacity: CAPACITY } => (),
                                other => panic!("{other}"),
                            };
                            assert_eq!(memory.write(letter.clone()).await.map_err(full), expected);
                            assert_eq!(sink.write(letter).await.map_err(full), expected);
                        }
                        Step::Remove(n) => {
                            let id = letter(n).id();
                            let before = model.len();
                            model.retain(|letter| letter.id() != id);
                            let expected = model.len() < before;
                            assert_eq!(memory.remove(id).await.unwrap(), expected);
                            assert_eq!(sink.remove(id).await.unwrap(), expected);
                        }
                        Step::Reopen => {
                            drop(file.take());
                            file = Some(open(&path).await);
                        }
                    }
                    let sink = file.as_ref().unwrap();
                    assert_eq!(all(&memory).await, model);
                    assert_eq!(all(sink).await, model);
                    assert_eq!(memory.depth().await.unwrap(), sink.depth().await.unwrap());
                }
            });
        }

        #[test]
        fn a_file_that_is_cut_and_flipped_gives_all_letters_or_is_refused_as_it_is(
            count in 1..6_u64,
            cut in prop::option::of(any::<prop::sample::Index>()),
            flips in prop::collection::vec((any::<prop::sample::Index>(), 0..8_u32), 0..3),
        ) {
            block_on(async {
                let directory = tempfile::tempdir().unwrap();
                let path = directory.path().join("dead");
                let sink = FileSink::open(&path).await.unwrap();
                for n in 0..count {
                    sink.write(letter(n)).await.unwrap();
                }
                drop(sink);
                let mut bytes = fs::read(&path).unwrap();
                if let Some(cut) = cut {
                    bytes.truncate(cut.index(bytes.len()));
                }
                let mut flipped = BTreeMap::new();
                for (at, bit) in flips {
                    if !bytes.is_empty() {
                        let at = at.index(bytes.len());
                        bytes[at] ^= 1 << bit;
                        flipped.insert(at, bit);
                    }
                }
                fs::write(&path, &bytes).unwrap();
                match FileSink::open(&path).await {
                    Ok(sink) => assert_eq!(all(&sink).await, (0..count).map(letter).collect::<Vec<_>>()),
                    Err(OpenError::Damaged { .. } | OpenError::Foreign | OpenError::Version(_)) => {
                        assert_eq!(fs::read(&path).unwrap(), bytes, "nothing is touched");
                    }
                    Err(other) => panic!("{other}"),
                }
            });
        }
    }
}
