//! The claims of this crate, each with its figure.
#![allow(clippy::unwrap_used)] // in helpers, which are tests as well

mod support;

use std::sync::{Arc, Mutex, atomic::Ordering::SeqCst};

use seawall_dlq::{
    BoxError, DeadLetterLayer, Envelope, Letter, MemorySink, Origin, Outcome, Queue, Redrive, Sink,
};
use support::{Broken, Message, SlowSink, all, call, letter, noon};
use tower::{Layer, service_fn};

/// Failing requests that were acknowledged while the sink was down.
#[tokio::test]
async fn sink_down_acknowledged() {
    let sink = SlowSink::new();
    let mut service = DeadLetterLayer::new(sink.clone())
        .capture(Message::to_letter)
        .layer(service_fn(|message: Message| async move {
            assert!(message.offset % 100 != 7, "some panic");
            Err::<(), _>(Broken)
        }));
    let mut acknowledged = 0;
    sink.down.store(true, SeqCst);
    for offset in 0..500 {
        acknowledged += u32::from(
            call(&mut service, Message::new(offset, "order"))
                .await
                .is_ok(),
        );
    }
    // All of them come again, and drain.
    sink.down.store(false, SeqCst);
    for offset in 0..500 {
        let outcome = call(&mut service, Message::new(offset, "order"))
            .await
            .unwrap();
        assert!(outcome.dead_lettered().is_some());
    }
    assert_eq!(sink.letters.depth().await.unwrap().letters, 500);
    println!("figure dlq/sink-down-acknowledged: {acknowledged}");
    assert_eq!(acknowledged, 0);
}

/// Redriven copies whose key, headers or payload differ from what died.
#[tokio::test(start_paused = true)]
async fn redrive_bytes_changed() {
    let mut rng = fastrand::Rng::with_seed(1);
    let sink = MemorySink::with_capacity(1000);
    let mut died = Vec::new();
    for offset in 0..1000 {
        let mut bytes = |most| {
            (0..rng.usize(..most))
                .map(|_| rng.u8(..))
                .collect::<Vec<u8>>()
        };
        let envelope = Envelope::new(Origin::log("orders", 3, offset), bytes(500))
            .key(bytes(20))
            .header("a", bytes(20))
            .header("a", bytes(20));
        // Through the form in which every sink keeps it.
        let letter = Letter::new(envelope.clone(), letter(offset).failure, noon());
        sink.write(Letter::from_json(&letter.to_json()).unwrap())
            .await
            .unwrap();
        died.push(envelope);
    }
    let sent = Arc::new(Mutex::new(Vec::new()));
    let target = Arc::clone(&sent);
    Redrive::new(sink)
        .run(move |copy: Letter| {
            target.lock().unwrap().push(copy);
            std::future::ready(Ok::<(), BoxError>(()))
        })
        .await
        .unwrap();
    let sent = sent.lock().unwrap();
    assert_eq!(sent.len(), died.len());
    let changed = sent
        .iter()
        .zip(&died)
        .filter(|(copy, died)| {
            copy.key != died.key || copy.headers != died.headers || copy.payload != died.payload
        })
        .count();
    println!("figure dlq/redrive-bytes-changed: {changed}");
    assert_eq!(changed, 0);
}

/// Letters in the sink after a redriven copy has died again during its redrive.
#[tokio::test(start_paused = true)]
async fn redrive_second_death_kept() {
    let sink = MemorySink::with_capacity(10);
    let worker = DeadLetterLayer::new(sink.clone())
        .capture(|copy: &Letter| {
            Envelope::new(Origin::log("orders", 3, 999), copy.payload.clone())
                .headers(copy.headers_to_send())
        })
        .layer(service_fn(|_: Letter| {
            std::future::ready(Err::<(), _>(Broken))
        }));
    sink.write(letter(1)).await.unwrap();
    let summary = Redrive::new(sink.clone()).through(worker).await.unwrap();
    assert_eq!(summary.redriven, 1);
    let letters = all(&sink).await;
    println!("figure dlq/redrive-second-death-kept: {}", letters.len());
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].id(), letter(1).redriven().id());
}

/// Letters of one request that died ten times in one generation.
#[tokio::test]
async fn repeat_is_one_letter() {
    let sink = MemorySink::with_capacity(100);
    let mut service = DeadLetterLayer::new(sink.clone())
        .capture(Message::to_letter)
        .layer(service_fn(|_: Message| {
            std::future::ready(Err::<(), _>(Broken))
        }));
    let id = Message::new(1, "order").to_letter().id();
    for _ in 0..10 {
        let outcome = call(&mut service, Message::new(1, "order")).await.unwrap();
        assert_eq!(outcome, Outcome::DeadLettered(id));
    }
    let letters = all(&sink).await.len();
    println!("figure dlq/repeat-is-one-letter: {letters}");
    assert_eq!(letters, 1);
}

#[cfg(all(feature = "file", unix))]
mod file {
    use std::{fs, path::Path};

    use seawall_dlq::{FileSink, OpenError};

    use super::*;

    async fn found(path: &Path) -> Vec<Letter> {
        all(&FileSink::open(path).await.unwrap()).await
    }

    /// Letters that were reported as written and are gone, over a kill at every byte that goes into the
    /// file.
    #[tokio::test]
    async fn lost() {
        const LETTERS: u64 = 4;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("dead");
        // The file as it is each time a letter has just been reported.
        let sink = FileSink::open(&path).await.unwrap();
        let mut reported = vec![fs::read(&path).unwrap()];
        for offset in 0..LETTERS {
            sink.write(letter(offset)).await.unwrap();
            reported.push(fs::read(&path).unwrap());
        }
        drop(sink);

        let (mut kills, mut lost) = (0, 0);
        for (letters, pair) in reported.windows(2).enumerate() {
            let [before, after] = pair else {
                unreachable!()
            };
            let expected: Vec<_> = (0..letters as u64).map(letter).collect();
            // First the frame goes in, byte by byte, then the mark in the header.
            let frame = (before.len()..=after.len()).map(|end| {
                let mut bytes = before.clone();
                bytes.extend_from_slice(&after[before.len()..end]);
                bytes
            });
            let changed: Vec<_> = (0..before.len())
                .filter(|&at| before[at] != after[at])
                .collect();
            let mark = (0..=changed.len()).map(|end| {
                let mut bytes = after.clone();
                changed[end..].iter().for_each(|&at| bytes[at] = before[at]);
                bytes
            });
            for bytes in frame.chain(mark) {
                fs::write(&path, bytes).unwrap();
                let found = found(&path).await;
                lost += expected
                    .iter()
                    .filter(|letter| !found.contains(letter))
                    .count();
                assert!(found.len() <= letters + 1);
                kills += 1;
            }
        }
        assert!(kills > 1000, "{kills}");
        println!("figure dlq/lost: {lost}");
        assert_eq!(lost, 0);
    }

    /// Flipped bits after which letters are missing and nothing says so.
    #[tokio::test]
    async fn damage_unnoticed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("dead");
        let sink = FileSink::open(&path).await.unwrap();
        let letters: Vec<_> = (0..3).map(letter).collect();
        for letter in &letters {
            sink.write(letter.clone()).await.unwrap();
        }
        drop(sink);
        let whole = fs::read(&path).unwrap();
        let mut unnoticed = 0;
        // The header up to its end of the second mark, and every frame.
        for at in (0..16)
            .chain(512..544)
            .chain(1024..1056)
            .chain(4096..whole.len())
        {
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << bit;
                fs::write(&path, &bytes).unwrap();
                match FileSink::open(&path).await {
                    Ok(sink) => unnoticed += u32::from(all(&sink).await != letters),
                    Err(OpenError::Io(error)) => panic!("{error}"),
                    Err(_) => {}
                }
            }
        }
        println!("figure dlq/damage-unnoticed: {unnoticed}");
        assert_eq!(unnoticed, 0);
    }
}
