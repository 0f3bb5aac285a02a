//! A worker that reads messages, retries, writes dead letters to a file, and sends them again when the
//! fault is mended.
//!
//! `cargo run -p seawall-dlq --example worker --features file`

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use seawall_dlq::{
    BoxError, DeadLetterLayer, Envelope, Failure, FileSink, Filter, Letter, Origin, Outcome, Queue,
    Redrive, Span,
};
use seawall_retry::{Backoff, RetryError, RetryLayer};
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};

#[derive(Debug, Clone)]
struct Message {
    offset: u64,
    payload: Bytes,
    generation: u32,
}

impl Message {
    fn to_letter(&self) -> Envelope {
        Envelope::new(Origin::log("orders", 0, self.offset), self.payload.clone())
            .generation(self.generation)
    }
}

fn explain(error: &BoxError) -> Option<Failure> {
    let retry = RetryError::find(error)?;
    let failure = Failure::of(&retry.source).class(retry.stopped.as_str());
    Some(failure.attempts(retry.attempts).lasted(retry.elapsed))
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let directory = tempfile::tempdir()?;
    let sink = FileSink::open(directory.path().join("orders.dead")).await?;

    let shard_is_down = Arc::new(AtomicBool::new(true));
    let down = Arc::clone(&shard_is_down);
    let backoff = Backoff::exponential(Duration::from_millis(5)).attempts(3);
    let mut worker = ServiceBuilder::new()
        .layer(
            DeadLetterLayer::new(sink.clone())
                .capture(Message::to_letter)
                .explain(explain),
        )
        .layer(RetryLayer::new(backoff))
        .service(service_fn(move |message: Message| {
            let down = down.load(SeqCst);
            async move {
                // A panic is a dead letter too. Its report on the screen comes from the runtime.
                assert!(message.offset != 13, "offset 13 is cursed");
                match message.offset % 4 {
                    3 if down => Err(format!("shard {} is down", message.offset)),
                    _ => Ok(()),
                }
            }
        }));

    for offset in 0..20 {
        let message = Message {
            offset,
            payload: format!("order {offset}").into(),
            generation: 0,
        };
        match worker.ready().await?.call(message).await? {
            Outcome::Done(()) => println!("offset {offset:2}: applied"),
            Outcome::DeadLettered(id) => println!("offset {offset:2}: dead, letter {id}"),
        }
    }

    let page = sink.list(&Filter::all(), &Span::all(), 100).await?;
    let mut causes = BTreeMap::new();
    for letter in &page.letters {
        let cause = (letter.fingerprint, &letter.failure.class);
        causes
            .entry(cause)
            .or_insert_with(Vec::new)
            .push(&letter.failure.message);
    }
    println!(
        "\n{} dead letters of {} causes:",
        page.letters.len(),
        causes.len()
    );
    for ((fingerprint, class), messages) in &causes {
        println!(
            "  {fingerprint} {class:<9} {} x, such as {:?}",
            messages.len(),
            messages[0]
        );
    }

    println!("\nthe shard is mended: everything is sent again");
    shard_is_down.store(false, SeqCst);
    // The copies go through the worker at once here. A real one would send them to the log.
    let copies = ServiceBuilder::new()
        .map_request(|copy: Letter| {
            let Origin::Log { offset, .. } = copy.origin else {
                unreachable!("all from a log")
            };
            Message {
                offset,
                payload: copy.payload,
                generation: copy.generation,
            }
        })
        .service(worker);
    let summary = Redrive::new(sink.clone())
        .per_second(200.0)
        .through(copies)
        .await?;
    println!(
        "{} sent again; left: {}",
        summary.redriven,
        sink.depth().await?.letters
    );
    for letter in sink.list(&Filter::all(), &Span::all(), 100).await?.letters {
        println!(
            "  {} generation {}: {}",
            letter.origin, letter.generation, letter.failure.message
        );
    }
    Ok(())
}
