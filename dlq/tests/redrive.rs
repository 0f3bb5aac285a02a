//! Redrive: what is sent, what is removed, what stays.
#![allow(clippy::unwrap_used)] // in helpers, which are tests as well

mod support;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use seawall_dlq::{
    BoxError, Envelope, Failure, Filter, Letter, MemorySink, Origin, Queue, Redrive, RedriveReason,
    Sink, SinkError, Written,
};
use support::{all, letter, noon, seconds};
use tokio::time::Instant;

async fn sink_with(letters: impl IntoIterator<Item = Letter>) -> MemorySink {
    let sink = MemorySink::with_capacity(10_000);
    for letter in letters {
        sink.write(letter).await.unwrap();
    }
    sink
}

/// Takes what is sent to it.
#[derive(Clone, Default)]
struct Target(Arc<Mutex<Vec<Letter>>>);

impl Target {
    fn send(&self) -> impl FnMut(Letter) -> std::future::Ready<Result<(), BoxError>> + use<> {
        let sent = Arc::clone(&self.0);
        move |copy| {
            sent.lock().unwrap().push(copy);
            std::future::ready(Ok(()))
        }
    }

    fn sent(&self) -> Vec<Letter> {
        self.0.lock().unwrap().clone()
    }
}

fn refuse(_: Letter) -> std::future::Ready<Result<(), &'static str>> {
    std::future::ready(Err("nowhere"))
}

#[tokio::test(start_paused = true)]
async fn copies_are_the_next_generation_byte_for_byte_and_in_order() {
    let sink = sink_with((0..250).map(letter)).await;
    let target = Target::default();
    let summary = Redrive::new(sink.clone()).run(target.send()).await.unwrap();
    assert_eq!(
        (summary.total, summary.matched, summary.redriven),
        (250, 250, 250)
    );
    assert_eq!(sink.depth().await.unwrap().letters, 0);
    for (offset, mut copy) in target.sent().into_iter().enumerate() {
        let original = letter(offset as u64);
        assert_eq!(copy.generation, 1);
        assert_ne!(copy.id(), original.id());
        copy.generation = 0;
        assert_eq!(copy, original, "everything else is unchanged");
    }
}

/// The breaking run: without the generation in the id, the copy that dies again is taken for a repeat of
/// the letter being redriven, is not written, and the one letter there is is then removed.
#[tokio::test(start_paused = true)]
async fn a_redriven_copy_that_dies_again_is_another_letter_and_stays() {
    let sink = sink_with([letter(1)]).await;
    let dying = sink.clone();
    let summary = Redrive::new(sink.clone())
        .run(move |copy: Letter| {
            let sink = dying.clone();
            async move {
                // It fails again at its place before the redrive learns that it was sent.
                let second = Letter::new(envelope_of(&copy), copy.failure.clone(), noon());
                assert_eq!(sink.write(second).await?, Written::New);
                Ok::<(), SinkError>(())
            }
        })
        .await
        .unwrap();
    assert_eq!(
        (summary.redriven, summary.matched),
        (1, 1),
        "the second death waits for the next run"
    );
    let [left] = all(&sink).await.try_into().unwrap();
    assert_eq!((left.id(), left.generation), (letter(1).redriven().id(), 1));
    assert_eq!(left.payload, letter(1).payload);
}

/// The envelope that a worker makes of a copy that it reads at a new place.
fn envelope_of(copy: &Letter) -> Envelope {
    Envelope::new(Origin::log("orders", 3, 999_999), copy.payload.clone())
        .key(copy.key.clone().unwrap())
        .headers(copy.headers_to_send())
}

#[test]
fn headers_carry_the_origin_and_the_generation_to_the_new_place() {
    let copy = letter(17).redriven().redriven();
    let envelope = envelope_of(&copy);
    assert_eq!(
        (envelope.origin.clone(), envelope.generation),
        (copy.origin.clone(), 2)
    );
    assert_eq!(
        envelope.headers, copy.headers,
        "and are not left among the message's own"
    );
    assert_eq!(envelope.id(), copy.id());

    let odd = Envelope::new(Origin::named("op", "1"), "")
        .headers([("seawall-generation", "many"), ("seawall-origin", "{}")]);
    assert_eq!(
        (odd.generation, odd.headers.len()),
        (0, 2),
        "what cannot be read is kept as it is"
    );
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_sent_stays_and_a_run_of_failures_ends_it() {
    let sink = sink_with((0..30).map(letter)).await;
    let error = Redrive::new(sink.clone())
        .give_up_after(5)
        .run(refuse)
        .await
        .unwrap_err();
    assert_eq!((error.summary.failed, error.summary.redriven), (5, 0));
    let RedriveReason::NotSent { id, error } = error.reason else {
        panic!("{error}")
    };
    assert_eq!(
        (id, error.to_string().as_str()),
        (letter(4).id(), "nowhere")
    );
    assert_eq!(all(&sink).await.len(), 30);
}

#[tokio::test(start_paused = true)]
async fn one_letter_that_cannot_be_sent_does_not_hold_up_the_others() {
    let sink = sink_with((0..30).map(letter)).await;
    let summary = Redrive::new(sink.clone())
        .give_up_after(2)
        .run(async |copy: Letter| match copy.payload.ends_with(b"0") {
            true => Err("too large"),
            false => Ok(()),
        })
        .await
        .unwrap();
    assert_eq!((summary.redriven, summary.failed), (27, 3));
    assert_eq!(all(&sink).await, [letter(0), letter(10), letter(20)]);
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_counts_and_touches_nothing() {
    let sink = sink_with((0..30).map(letter)).await;
    let summary = Redrive::new(sink.clone())
        .dry_run(true)
        .limit(20)
        .run(refuse)
        .await
        .unwrap();
    assert_eq!(
        (summary.total, summary.redriven, summary.failed),
        (30, 20, 0)
    );
    assert_eq!(all(&sink).await.len(), 30);
}

#[tokio::test(start_paused = true)]
async fn only_what_matches_up_to_the_limit_is_sent() {
    let other = Envelope::new(Origin::stream("payments", "1-1"), "payload");
    let other = Letter::new(
        other,
        Failure::new("timeout", "shard 9 is slow"),
        noon() + seconds(60),
    );
    let class = Letter::new(
        Envelope::new(Origin::log("orders", 3, 99), "payload"),
        Failure::new("parse", "unexpected end"),
        noon(),
    );
    let sink = sink_with((0..10).map(letter).chain([other.clone(), class.clone()])).await;
    for (filter, matching) in [
        (Filter::all(), 12),
        (Filter::all().source("payments"), 1),
        (Filter::all().class("timeout"), 11),
        (Filter::all().fingerprint(letter(77).fingerprint), 11),
        (Filter::all().fingerprint(class.fingerprint), 1),
        (Filter::all().failed_from(noon() + seconds(1)), 1),
        (Filter::all().failed_before(noon() + seconds(1)), 11),
        (
            Filter::all()
                .source("orders")
                .class("parse")
                .failed_before(noon()),
            0,
        ),
    ] {
        let run = Redrive::new(sink.clone())
            .filter(filter.clone())
            .dry_run(true);
        assert_eq!(
            run.run(refuse).await.unwrap().redriven,
            matching,
            "{filter:?}"
        );
    }
    let target = Target::default();
    let run = Redrive::new(sink.clone())
        .filter(Filter::all().source("orders"))
        .limit(4);
    assert_eq!(run.run(target.send()).await.unwrap().redriven, 4);
    assert_eq!((target.sent().len(), all(&sink).await.len()), (4, 8));
}

#[tokio::test(start_paused = true)]
async fn letters_that_go_in_circles_are_left_alone() {
    let tired = (0..3).fold(letter(1), |letter, _| letter.redriven());
    let sink = sink_with([tired.clone(), letter(2)]).await;
    let summary = Redrive::new(sink.clone())
        .loop_cap(3)
        .run(Target::default().send())
        .await
        .unwrap();
    assert_eq!(
        (summary.matched, summary.redriven, summary.looping),
        (2, 1, 1)
    );
    assert_eq!(all(&sink).await, [tired]);
}

#[tokio::test(start_paused = true)]
async fn it_keeps_to_its_rate() {
    let mut most_off = 0.0_f64;
    for (rate, letters) in [(0.5, 5_u32), (10.0, 50), (100.0, 500), (5000.0, 5000)] {
        let sink = sink_with((0..u64::from(letters)).map(letter)).await;
        let start = Instant::now();
        Redrive::new(sink)
            .per_second(rate)
            .run(Target::default().send())
            .await
            .unwrap();
        let due = f64::from(letters - 1) / rate;
        let took = start.elapsed().as_secs_f64();
        let off = (took / due - 1.0).abs();
        assert!(off < 0.05, "{letters} at {rate}/s took {took} s, not {due}");
        most_off = most_off.max(off);
    }
    println!("figure dlq/redrive-rate-off: {most_off:.4}");
}

#[tokio::test(start_paused = true)]
async fn a_target_that_was_slow_is_not_flooded_afterwards() {
    let sink = sink_with((0..20).map(letter)).await;
    let start = Instant::now();
    let times = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&times);
    Redrive::new(sink)
        .per_second(10.0)
        .run(move |copy: Letter| {
            noted.lock().unwrap().push(start.elapsed());
            async move {
                if copy.payload == "payload 0" {
                    tokio::time::sleep(seconds(10)).await;
                }
                Ok::<(), BoxError>(())
            }
        })
        .await
        .unwrap();
    let times = times.lock().unwrap();
    assert_eq!(times[1], seconds(10));
    assert!(
        times[2] - times[1] >= Duration::from_millis(50),
        "at most 50 ms are made up for"
    );
    assert!(times[3] - times[2] >= Duration::from_millis(99));
}

#[tokio::test(start_paused = true)]
async fn dropped_at_any_poll_it_loses_nothing_and_the_next_run_resumes() {
    let sink = sink_with((0..4).map(letter)).await;
    let target = Target::default();
    test_support::drop_at_every_poll(
        || {
            let mut send = target.send();
            Redrive::new(sink.clone()).run(move |copy: Letter| {
                let sent = send(copy);
                async move {
                    tokio::task::yield_now().await;
                    sent.await
                }
            })
        },
        async |polls| {
            // Each letter is in the queue or was sent, or both.
            let left = all(&sink).await;
            let sent = target.sent();
            for offset in 0..4 {
                let in_queue = left.contains(&letter(offset));
                let was_sent = sent.contains(&letter(offset).redriven());
                assert!(
                    in_queue || was_sent,
                    "letter {offset} is lost after {polls} polls"
                );
            }
        },
    )
    .await
    .unwrap();
    assert_eq!(all(&sink).await.len(), 0);
    // What was sent twice has one id, by which its target knows it.
    assert!(target.sent().iter().all(|copy| copy.generation == 1));
}

#[tokio::test(start_paused = true)]
async fn it_tells_how_far_it_is() {
    let sink = sink_with((0..3).map(letter)).await;
    let told = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&told);
    let run = Redrive::new(sink).progress(move |summary| {
        noted
            .lock()
            .unwrap()
            .push((summary.redriven, summary.total));
    });
    run.run(Target::default().send()).await.unwrap();
    assert_eq!(*told.lock().unwrap(), [(1, 3), (2, 3), (3, 3)]);
}

#[tokio::test(start_paused = true)]
async fn a_service_is_readied_for_each_copy() {
    let sink = sink_with((0..3).map(letter)).await;
    let (service, mut handle) = tower_test::mock::spawn::<Letter, ()>();
    let run = tokio::spawn(Redrive::new(sink.clone()).through(service.into_inner()));
    for generation in [1, 1, 1] {
        let (copy, answer) = handle.next_request().await.unwrap();
        assert_eq!(copy.generation, generation);
        answer.send_response(());
    }
    assert_eq!(run.await.unwrap().unwrap().redriven, 3);
    assert_eq!(all(&sink).await.len(), 0);
}

#[tokio::test]
async fn a_run_can_be_spawned() {
    let sink = MemorySink::with_capacity(1);
    let run = Redrive::new(sink).run(async |_: Letter| Ok::<(), BoxError>(()));
    assert_eq!(tokio::spawn(run).await.unwrap().unwrap().matched, 0);
}

#[test]
fn wrong_settings_are_refused_with_what_is_wrong() {
    let run = || Redrive::new(MemorySink::with_capacity(1));
    for rate in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-9] {
        assert!(run().try_per_second(rate).is_err(), "{rate}");
    }
    assert!(run().try_give_up_after(0).is_err());
}
