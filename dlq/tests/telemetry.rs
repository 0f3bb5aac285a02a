//! What the layer, the consumer, a redrive, the monitor and the flood guard tell: spans, events, and metrics with bounded
//! labels, in none of which is a key or a payload.
#![allow(clippy::unwrap_used)] // in helpers, which are tests as well

mod support;

use std::{collections::BTreeMap, future::Future, panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt;
use seawall_dlq::{
    Batched, BoxError, Consumer, DeadLetterLayer, Disposition, FloodGuard, MemorySink, Message,
    Monitor, Queue, RedisSink, Redrive, Requeue, Sink, SinkError,
};
use support::{Broken, SlowSink, all, call, connect, letter, seconds};
use test_support::{Observed, Redis, observe};
use tokio::{sync::watch, time::advance};
use tower::{Layer, Service, ServiceExt, service_fn};

/// Keys and payloads of these tests have it in them.
const SECRET: &str = "4111-1111";

/// Does the work on this thread, where it is heard.
fn observed<F: Future>(paused: bool, work: impl FnOnce() -> F) -> Observed {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(paused)
        .build()
        .unwrap();
    let seen = observe("seawall_dlq", || drop(runtime.block_on(work())));
    let told = format!("{:?}", seen);
    assert!(!told.contains(SECRET), "{told}");
    seen
}

fn counted(seen: &Observed) -> BTreeMap<&str, f64> {
    let metrics = seen.metrics.iter();
    metrics.map(|(name, value)| (&**name, *value)).collect()
}

#[test]
fn a_letter_is_told_by_what_became_of_it_and_a_success_not_at_all() {
    let seen = observed(true, async || {
        let sink = SlowSink::new();
        let mut layered = DeadLetterLayer::new(sink.clone())
            .capture(support::Message::to_letter)
            .layer(service_fn(|message: support::Message| async move {
                match message.offset {
                    0 => Ok(()),
                    _ => Err(Broken),
                }
            }));
        let message = |offset| support::Message::new(offset, SECRET);
        let answered = call(&mut layered, message(0)).await.unwrap();
        assert!(answered.dead_lettered().is_none());
        let dead = call(&mut layered, message(1)).await.unwrap();
        assert!(dead.dead_lettered().is_some());
        let dead = call(&mut layered, message(1)).await.unwrap();
        assert!(dead.dead_lettered().is_some());
        sink.down.store(true, std::sync::atomic::Ordering::SeqCst);
        call(&mut layered, message(2)).await.unwrap_err();
    });
    let of = |written| format!("seawall_dlq_letters_total written={written}");
    let mut letters = counted(&seen);
    // How full the sink is by now.
    letters.remove("seawall_dlq_depth");
    assert_eq!(
        letters,
        [
            (&*of("failed"), 1.0),
            (&*of("new"), 1.0),
            (&*of("repeat"), 1.0)
        ]
        .into()
    );
    assert_eq!(seen.events.len(), 3, "{:?}", seen.events);
    assert_eq!(seen.count(&["WARN", "dead-lettered", "written=New"]), 1);
    assert_eq!(seen.count(&["WARN", "dead-lettered", "written=Repeat"]), 1);
    assert_eq!(seen.count(&["ERROR", "dead letter not written"]), 1);
}

#[test]
fn a_monitor_tells_depth_and_age_and_its_alert_once() {
    let seen = observed(true, async || {
        let sink = MemorySink::with_capacity(10);
        let monitor = Monitor::new(sink.clone()).over(1).every(seconds(1));
        let watching = tokio::spawn(monitor.watch());
        for offset in 1..=3 {
            sink.write(letter(offset)).await.unwrap();
        }
        for _ in 0..5 {
            advance(seconds(1)).await;
            tokio::task::yield_now().await;
        }
        for letter in all(&sink).await {
            sink.remove(letter.id()).await.unwrap();
        }
        advance(seconds(2)).await;
        tokio::task::yield_now().await;
        watching.abort();
    });
    assert_eq!(
        seen.events,
        [
            "ERROR too many dead letters letters=3",
            "INFO few dead letters again letters=0",
        ]
    );
    let told = ["alert", "depth", "oldest_seconds"].map(|of| format!("seawall_dlq_{of}"));
    let expected = told.iter().map(|name| (&**name, 0.0)).collect();
    assert_eq!(counted(&seen), expected);
}

#[test]
fn a_flood_is_told_letter_by_letter() {
    let seen = observed(true, async || {
        let sink = FloodGuard::new(MemorySink::with_capacity(10), 2, seconds(60));
        for offset in 1..=5 {
            match sink.write(letter(offset)).await {
                Err(SinkError::Flooded { .. }) => assert!(offset > 2),
                written => assert!(written.is_ok() && offset <= 2),
            }
        }
    });
    assert_eq!(seen.metrics["seawall_dlq_flooded_total"], 3.0);
    assert_eq!(seen.count(&["WARN a flood", "retry_in=60s"]), 3);
}

#[test]
fn a_redrive_tells_each_letter_that_is_sent_or_left() {
    let seen = observed(true, async || {
        let sink = MemorySink::with_capacity(10);
        for offset in 1..=3 {
            sink.write(letter(offset)).await.unwrap();
        }
        let refuse = letter(2).redriven().id();
        let send = async |copy: seawall_dlq::Letter| match copy.id() == refuse {
            true => Err(BoxError::from("no such topic")),
            false => Ok(()),
        };
        Redrive::new(sink).run(send).await.unwrap();
    });
    assert_eq!(seen.metrics["seawall_dlq_redriven_total"], 2.0);
    assert_eq!(seen.metrics["seawall_dlq_not_redriven_total"], 1.0);
    assert_eq!(seen.count(&["INFO redriven"]), 2);
    assert_eq!(seen.count(&["WARN not redriven", "no such topic"]), 1);
}

/// A batch that is full, one that was begun late, one that fails as a whole and one that panics.
async fn batches() {
    let service = service_fn(|batch: Vec<&'static str>| async move {
        assert!(!batch.contains(&"panics"), "panics");
        match batch.contains(&"fails") {
            true => Err(BoxError::from("no such table")),
            false => Ok(batch.into_iter().map(Ok::<_, BoxError>).collect::<Vec<_>>()),
        }
    });
    let service = Batched::new(service, 3, seconds(1));
    for batch in [
        &["a", "b", "c"][..],
        &["d", "e"],
        &["f", "fails", "g"],
        &["panics", "h"],
        &["fails"],
    ] {
        let calls = batch.iter().map(|text| {
            let mut service = service.clone();
            let call = async move { service.ready().await?.call(*text).await };
            AssertUnwindSafe(call).catch_unwind()
        });
        futures_util::future::join_all(calls).await;
    }
}

#[test]
fn batches_tell_how_full_they_are_and_how_many_are_handled_one_by_one() {
    let seen = observed(true, batches);
    assert_eq!(
        counted(&seen),
        [
            ("seawall_dlq_batch_messages", 5.0),
            ("seawall_dlq_batch_split_total", 5.0)
        ]
        .into()
    );
    assert_eq!(
        seen.events,
        [
            "WARN batch failed as a whole messages=3 error=no such table",
            "WARN batch panicked messages=2",
        ]
    );
    assert_eq!(
        seen.histograms,
        [(
            "seawall_dlq_batch_messages".to_owned(),
            vec![3.0, 2.0, 3.0, 2.0, 1.0]
        )]
        .into()
    );
}

/// One message of each end, and one that killed its worker: it was started as often as it may be.
#[test]
fn a_consumer_tells_how_messages_end_and_handles_each_in_its_span() {
    let seen = observed(false, async || {
        let server = Redis::start().await;
        let client = redis::Client::open(server.url()).unwrap();
        let connection = connect(server.port()).await;
        server
            .ask(&["XGROUP", "CREATE", "{orders}", "workers", "0", "MKSTREAM"])
            .await;
        let add = async |payload: &str| {
            let payload = format!("{payload} {SECRET}");
            let add = ["XADD", "{orders}", "*", "key", SECRET, "payload", &payload];
            server.ask(&add).await
        };
        let poison = add("poison").await;
        let read = ["XREADGROUP", "GROUP", "workers", "gone", "COUNT", "1"];
        server
            .ask(&[&read[..], &["STREAMS", "{orders}", ">"]].concat())
            .await;
        let mark = ["HSET", "{orders}:workers:starts", &poison, "3 gone.1"];
        server.ask(&mark).await;
        for payload in ["done", "dead", "fails", "parks"] {
            add(payload).await;
        }
        let sink = RedisSink::new(connection.clone(), "{orders}.dead");
        let (ended, mut endings) = watch::channel(0);
        let work = service_fn(move |message: Message| {
            let text = String::from_utf8(message.payload.to_vec()).unwrap();
            let ended = ended.clone();
            async move {
                tokio::task::yield_now().await;
                tracing::info!(target: "seawall_dlq_tests", "handled");
                let kind = text.split(' ').next().unwrap().to_owned();
                match (&*kind, message.parked) {
                    ("fails" | "parks", 0) => Err(BoxError::from(kind)),
                    ("dead", _) => Err("dead".into()),
                    _ => {
                        ended.send_modify(|ended| *ended += 1);
                        Ok(())
                    }
                }
            }
        });
        let handler = DeadLetterLayer::new(sink.clone())
            .capture(Message::to_letter)
            .dispose(|error| match &*error.to_string() {
                "fails" => Disposition::Propagate,
                "parks" => Disposition::Park(Duration::from_millis(20)),
                _ => Disposition::DeadLetter,
            })
            .layer(work);
        let consumer =
            Consumer::redis(&client, "{orders}", "workers").claim_after(Duration::from_millis(50));
        let until = async {
            endings.wait_for(|ended| *ended == 3).await.unwrap();
            while sink.depth().await.unwrap().letters < 2 {
                tokio::task::yield_now().await;
            }
        };
        let totals = consumer.run(handler, until).await.unwrap();
        assert_eq!((totals.done, totals.condemned, totals.dead), (3, 1, 2));
        let back = Redrive::new(sink).through(Requeue::new(connection));
        assert_eq!(back.await.unwrap().redriven, 2);
    });
    let mut metrics = counted(&seen);
    // Of the breaker of its connections, where there was one.
    metrics.retain(|name, _| name.starts_with("seawall_dlq_"));
    let expected = [
        ("seawall_dlq_condemned_total", 1.0),
        ("seawall_dlq_letters_total written=new", 1.0),
        ("seawall_dlq_messages_total ended=dead", 2.0),
        ("seawall_dlq_messages_total ended=done", 3.0),
        ("seawall_dlq_messages_total ended=failed", 1.0),
        ("seawall_dlq_messages_total ended=parked", 1.0),
        ("seawall_dlq_redriven_total", 2.0),
        ("seawall_dlq_suspects_total", 1.0),
    ];
    metrics.remove("seawall_dlq_delayed_back_total");
    assert_eq!(metrics, expected.into());
    assert_eq!(seen.count(&["WARN taken over", "messages=1"]), 1);
    assert_eq!(seen.count(&["ERROR message kills its worker starts=3"]), 0);
    assert_eq!(
        seen.count(&["ERROR message kills its worker", "starts=3"]),
        1
    );
    // Four were handled, two of them twice.
    let spans = ["INFO message{stream=\"{orders}\" id=\"", "handled"];
    assert_eq!(seen.count(&spans), 6, "{:?}", seen.events);
    let again = [&spans[..], &["parked=1}: handled"]].concat();
    assert_eq!(seen.count(&again), 2, "{:?}", seen.events);
    let letter = "WARN message{stream=\"{orders}\" id=";
    assert_eq!(seen.count(&[letter, "dead-lettered"]), 1);
}
