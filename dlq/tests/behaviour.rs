//! What becomes of a request that fails, panics, or whose letter cannot be written.
#![allow(clippy::unwrap_used)] // in helpers, which are tests as well

mod support;

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use futures_util::FutureExt;
use seawall_dlq::{
    BoxError, DeadLetterLayer, Disposition, Envelope, Failure, Letter, LetterId, MemorySink,
    NotWritten, Origin, Outcome, Panicked, Queue, Sink, SinkError, Written,
};
use seawall_retry::{Backoff, RetryError, RetryLayer};
use support::{Broken, Message, SlowSink, all, call, letter, noon, seconds};
use tower::{Layer, Service, ServiceBuilder, service_fn};

type Layered = DeadLetterLayer<MemorySink, fn(&Message) -> Envelope>;

fn layer(sink: &MemorySink) -> Layered {
    DeadLetterLayer::new(sink.clone())
        .capture(Message::to_letter as fn(&_) -> _)
        .clock(noon)
}

fn broken() -> impl Service<Message, Response = (), Error = Broken, Future = impl Send> + Clone {
    service_fn(|_: Message| std::future::ready(Err(Broken)))
}

async fn only(sink: &MemorySink) -> Letter {
    let [letter] = all(sink).await.try_into().expect("one letter");
    letter
}

#[tokio::test]
async fn what_succeeds_passes_and_leaves_nothing() {
    let sink = MemorySink::with_capacity(10);
    let mut service = layer(&sink).layer(service_fn(|message: Message| {
        std::future::ready(Ok::<_, Broken>(message.offset))
    }));
    let outcome = call(&mut service, Message::new(17, "order")).await.unwrap();
    assert_eq!((outcome.dead_lettered(), outcome.done()), (None, Some(17)));
    assert_eq!(sink.depth().await.unwrap().letters, 0);
}

#[tokio::test]
async fn what_fails_is_a_letter_with_everything_that_is_needed() {
    let sink = MemorySink::with_capacity(10);
    let outcome = call(&mut layer(&sink).layer(broken()), Message::new(17, "order"))
        .await
        .unwrap();
    let letter = only(&sink).await;
    assert_eq!(outcome, Outcome::DeadLettered(letter.id()));
    assert_eq!(letter.origin, Origin::log("orders", 3, 17));
    assert_eq!((letter.generation, &letter.payload[..]), (0, &b"order"[..]));
    assert_eq!(
        (&letter.failure.class[..], &letter.failure.message[..]),
        ("error", "broken")
    );
    assert_eq!(
        (letter.first_failure, letter.last_failure),
        (noon(), noon())
    );
}

#[tokio::test(start_paused = true)]
async fn inside_it_retry_tells_how_often_and_how_long() {
    let sink = MemorySink::with_capacity(10);
    let mut service = ServiceBuilder::new()
        .layer(layer(&sink).explain(|error: &BoxError| {
            let retry = RetryError::find(error)?;
            let failure = Failure::of(&retry.source).class(retry.stopped.as_str());
            Some(failure.attempts(retry.attempts).lasted(retry.elapsed))
        }))
        .layer(RetryLayer::new(
            Backoff::exponential(seconds(1)).attempts(5),
        ))
        .service(broken());
    call(&mut service, Message::new(1, "order"))
        .await
        .unwrap()
        .dead_lettered()
        .unwrap();
    let letter = only(&sink).await;
    assert_eq!(
        (&letter.failure.class[..], letter.failure.attempts),
        ("exhausted", 5)
    );
    assert_eq!(letter.failure.message, "broken");
    assert_eq!(letter.first_failure, noon() - seconds(15));
    assert_eq!(letter.last_failure, noon());
}

#[tokio::test]
async fn an_error_that_is_not_dead_goes_to_the_caller() {
    let sink = MemorySink::with_capacity(10);
    let layer = layer(&sink).dispose(|error: &BoxError| match error.is::<Broken>() {
        true => Disposition::Propagate,
        false => Disposition::DeadLetter,
    });
    let error = call(&mut layer.layer(broken()), Message::new(1, "order"))
        .await
        .unwrap_err();
    assert!(error.is::<Broken>());
    assert_eq!(sink.depth().await.unwrap().letters, 0);
}

#[tokio::test]
async fn a_request_without_an_envelope_is_never_dead_lettered() {
    let sink = MemorySink::with_capacity(10);
    let layer = DeadLetterLayer::new(sink.clone()).capture(|_: &Message| None);
    let error = call(&mut layer.layer(broken()), Message::new(1, "order"))
        .await
        .unwrap_err();
    assert!(error.is::<Broken>());

    let mut panics = layer.layer(service_fn(|_: Message| async {
        if true {
            panic!("oh")
        } else {
            Ok::<(), Broken>(())
        }
    }));
    let panic = AssertUnwindSafe(call(&mut panics, Message::new(1, "order")))
        .catch_unwind()
        .await;
    assert_eq!(panic.unwrap_err().downcast_ref::<&str>(), Some(&"oh"));
    assert_eq!(sink.depth().await.unwrap().letters, 0);
}

// Panics.

#[tokio::test(start_paused = true)]
async fn a_panic_of_the_handler_becomes_a_letter_after_one_attempt() {
    let sink = MemorySink::with_capacity(10);
    let calls = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&calls);
    let mut service = ServiceBuilder::new()
        // A panic is dead whatever is said about errors.
        .layer(layer(&sink).dispose(|_| Disposition::Propagate))
        .layer(RetryLayer::new(
            Backoff::exponential(seconds(1)).attempts(5),
        ))
        .service(service_fn(move |message: Message| {
            counted.fetch_add(1, SeqCst);
            async move {
                tokio::task::yield_now().await;
                if true {
                    panic!("order {} is cursed", message.offset)
                } else {
                    Ok::<(), Broken>(())
                }
            }
        }));
    let outcome = call(&mut service, Message::new(17, "order")).await.unwrap();
    let letter = only(&sink).await;
    assert_eq!(outcome, Outcome::DeadLettered(letter.id()));
    assert_eq!(letter.failure.class, "panic");
    assert_eq!(
        letter.failure.message,
        "the service panicked: order 17 is cursed"
    );
    assert_eq!(calls.load(SeqCst), 1);
}

#[tokio::test]
async fn a_panic_before_there_is_a_future_becomes_a_letter() {
    let sink = MemorySink::with_capacity(10);
    let mut service = layer(&sink).layer(service_fn(|message: Message| {
        assert!(message.offset != 17, "not this one");
        std::future::ready(Ok::<(), Broken>(()))
    }));
    let outcome = call(&mut service, Message::new(17, "order")).await.unwrap();
    assert!(outcome.dead_lettered().is_some());
    assert_eq!(
        only(&sink).await.failure.message,
        "the service panicked: not this one"
    );
    let outcome = call(&mut service, Message::new(18, "order")).await.unwrap();
    assert_eq!(outcome, Outcome::Done(()), "the service goes on");
}

#[tokio::test]
async fn a_panic_is_explained_like_any_error() {
    let sink = MemorySink::with_capacity(10);
    let layer = layer(&sink).explain(|error: &BoxError| {
        let panicked = error.downcast_ref::<Panicked>()?;
        Some(Failure::new("bug", panicked.message()))
    });
    let mut service = layer.layer(service_fn(|_: Message| async {
        if true {
            std::panic::panic_any(7_u8)
        } else {
            Ok::<(), Broken>(())
        }
    }));
    call(&mut service, Message::new(1, "order"))
        .await
        .unwrap()
        .dead_lettered()
        .unwrap();
    let letter = only(&sink).await;
    assert_eq!(
        (&letter.failure.class[..], &letter.failure.message[..]),
        ("bug", "a panic without a message")
    );
}

// Sinks that fail.

#[tokio::test]
async fn with_the_sink_down_the_call_fails_and_nothing_is_acknowledged() {
    let sink = SlowSink::new();
    sink.down.store(true, SeqCst);
    let mut service = DeadLetterLayer::new(sink.clone())
        .capture(Message::to_letter)
        .layer(broken());
    let message = Message::new(17, "order");
    let error = call(&mut service, message.clone()).await.unwrap_err();
    let not_written = NotWritten::find(&error).expect("typed");
    assert_eq!(not_written.id, message.to_letter().id());
    assert!(
        not_written.failure.is::<Broken>(),
        "why the request failed is kept"
    );
    assert_eq!(not_written.source.to_string(), "the sink is down");
    assert!(
        error.to_string().contains("was not written, after: broken"),
        "{error}"
    );

    // The source delivers it again, and with the sink up it is a letter.
    sink.down.store(false, SeqCst);
    let outcome = call(&mut service, message).await.unwrap();
    assert!(outcome.dead_lettered().is_some());
    assert_eq!(sink.letters.depth().await.unwrap().letters, 1);
}

#[tokio::test]
async fn with_the_sink_down_a_panic_is_not_acknowledged_either() {
    let down = |_: Letter| std::future::ready(Err::<Written, _>(SinkError::Closed));
    let mut service = DeadLetterLayer::new(down)
        .capture(Message::to_letter)
        .layer(service_fn(|_: Message| async {
            if true {
                panic!("oh")
            } else {
                Ok::<(), Broken>(())
            }
        }));
    let error = call(&mut service, Message::new(1, "order"))
        .await
        .unwrap_err();
    assert!(NotWritten::find(&error).unwrap().failure.is::<Panicked>());
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_hangs_fails_the_call_in_time() {
    let hung = |_: Letter| std::future::pending::<Result<Written, SinkError>>();
    let mut service = DeadLetterLayer::new(hung)
        .capture(Message::to_letter)
        .write_within(seconds(5))
        .layer(broken());
    let start = tokio::time::Instant::now();
    let error = call(&mut service, Message::new(1, "order"))
        .await
        .unwrap_err();
    assert_eq!(start.elapsed(), seconds(5));
    let source = &NotWritten::find(&error).unwrap().source;
    assert!(matches!(source, SinkError::TimedOut(limit) if *limit == seconds(5)));
}

#[tokio::test]
async fn a_full_sink_refuses_and_drops_nothing() {
    let sink = MemorySink::with_capacity(2);
    let mut service = layer(&sink).layer(broken());
    for offset in 1..=2 {
        call(&mut service, Message::new(offset, "order"))
            .await
            .unwrap()
            .dead_lettered()
            .unwrap();
    }
    let error = call(&mut service, Message::new(3, "order"))
        .await
        .unwrap_err();
    let source = &NotWritten::find(&error).unwrap().source;
    assert!(matches!(source, SinkError::Full { capacity: 2 }));
    assert_eq!(all(&sink).await.len(), 2);

    // One that is in it already can still be acknowledged.
    call(&mut service, Message::new(2, "order"))
        .await
        .unwrap()
        .dead_lettered()
        .unwrap();
    assert!(
        sink.remove(Message::new(1, "").to_letter().id())
            .await
            .unwrap()
    );
    call(&mut service, Message::new(3, "order"))
        .await
        .unwrap()
        .dead_lettered()
        .unwrap();
}

// One request, one letter.

#[tokio::test]
async fn a_request_that_dies_again_before_it_was_acknowledged_is_one_letter() {
    let sink = MemorySink::with_capacity(10);
    let mut service = layer(&sink).layer(broken());
    let first = call(&mut service, Message::new(1, "order")).await.unwrap();
    let again = call(&mut service, Message::new(1, "order")).await.unwrap();
    assert_eq!(first, again);
    assert_eq!(all(&sink).await.len(), 1);
}

#[tokio::test]
async fn another_request_that_claims_an_origin_is_refused_and_both_are_kept() {
    let sink = MemorySink::with_capacity(10);
    let mut service = layer(&sink).layer(broken());
    call(&mut service, Message::new(1, "order"))
        .await
        .unwrap()
        .dead_lettered()
        .unwrap();
    let error = call(&mut service, Message::new(1, "another"))
        .await
        .unwrap_err();
    assert!(matches!(
        NotWritten::find(&error).unwrap().source,
        SinkError::Conflict(_)
    ));
    assert_eq!(only(&sink).await.payload, "order");
}

// Memory.

#[tokio::test]
async fn a_queue_lists_gets_and_removes_exactly() {
    let sink = Arc::new(MemorySink::with_capacity(100));
    assert_eq!(sink.depth().await.unwrap(), seawall_dlq::Depth::default());
    for offset in 0..20 {
        assert_eq!(sink.write(letter(offset)).await.unwrap(), Written::New);
    }
    assert_eq!(sink.write(letter(3)).await.unwrap(), Written::Repeat);
    let redriven = letter(3).redriven();
    assert_eq!(sink.write(redriven.clone()).await.unwrap(), Written::New);

    assert!(sink.remove(letter(3).id()).await.unwrap());
    assert!(!sink.remove(letter(3).id()).await.unwrap());
    assert_eq!(sink.get(letter(3).id()).await.unwrap(), None);
    assert_eq!(
        sink.get(redriven.id()).await.unwrap(),
        Some(redriven.clone())
    );

    let expected: Vec<_> = (0..20)
        .filter(|n| *n != 3)
        .map(letter)
        .chain([redriven])
        .collect();
    assert_eq!(all(&sink).await, expected);
    let depth = sink.depth().await.unwrap();
    assert_eq!((depth.letters, depth.oldest), (20, Some(noon())));
}

#[test]
fn ids_are_pinned() {
    // Letters written by one version are found by the next.
    for (origin, generation, id) in [
        (Origin::log("orders", 3, 17), 0, LOG),
        (Origin::log("orders", 3, 17), 1, LOG_REDRIVEN),
        (Origin::stream("orders", "1526919030474-55"), 0, STREAM),
        (Origin::named("op", "a1"), 0, NAMED),
    ] {
        assert_eq!(
            LetterId::of(&origin, generation).to_string(),
            id,
            "{origin}"
        );
    }
    assert_ne!(
        LetterId::of(&Origin::named("ab", "c"), 0),
        LetterId::of(&Origin::named("a", "bc"), 0),
        "parts are not glued together"
    );
}

const LOG: &str = "8417e9158643f933399d341239739073";
const LOG_REDRIVEN: &str = "4b5a869586db22f704ffcd2be3e1336f";
const STREAM: &str = "e328241e0e149c2d06e8051d68847e1b";
const NAMED: &str = "538f1ccfe6b3390c3259cc8a881762c6";

#[test]
fn wrong_settings_are_refused_with_what_is_wrong() {
    assert!(
        MemorySink::try_with_capacity(0)
            .unwrap_err()
            .to_string()
            .contains("at least one")
    );
    let layer = DeadLetterLayer::new(MemorySink::with_capacity(1));
    assert!(layer.try_write_within(Duration::ZERO).is_err());
}
