//! What one call costs that succeeds, bare and under the layer, and how many letters a file takes.
//!
//! `cargo bench -p seawall-dlq --features file`

use std::{
    hint::black_box,
    pin::pin,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use seawall_dlq::{BoxError, DeadLetterLayer, Envelope, MemorySink, Origin};
use tokio::time::Instant;
use tower::{Layer, Service};

#[derive(Clone)]
struct Message {
    topic: std::sync::Arc<str>,
    offset: u64,
    payload: Bytes,
}

/// A service that the compiler does not see through.
#[derive(Clone)]
struct Bare;

impl Service<Message> for Bare {
    type Response = u64;
    type Error = BoxError;
    type Future = std::future::Ready<Result<u64, BoxError>>;

    #[inline(never)]
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        black_box(Poll::Ready(Ok(())))
    }

    #[inline(never)]
    fn call(&mut self, message: Message) -> Self::Future {
        std::future::ready(Ok(black_box(message).offset))
    }
}

fn measure<S: Service<Message, Error = BoxError>>(name: &str, mut service: S) {
    const CALLS: u64 = 1_000_000;
    let topic: std::sync::Arc<str> = "orders".into();
    let payload = Bytes::from(vec![7; 300]);
    let mut context = Context::from_waker(Waker::noop());
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let start = Instant::now();
        for offset in 0..CALLS {
            let message = Message {
                topic: topic.clone(),
                offset,
                payload: payload.clone(),
            };
            let _ = service.poll_ready(&mut context);
            let _ = black_box(pin!(service.call(message)).poll(&mut context));
        }
        best = best.min(start.elapsed().as_nanos() as f64 / CALLS as f64);
    }
    println!("{name:<20} {best:6.1} ns a call");
}

#[cfg(all(feature = "file", unix))]
fn file() {
    use seawall_dlq::{Failure, FileSink, Letter, Sink};
    use std::time::SystemTime;

    const LETTERS: u64 = 20_000;
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let directory = tempfile::tempdir().expect("a directory");
        let sink = FileSink::open(directory.path().join("dead"))
            .await
            .expect("a new file");
        let start = Instant::now();
        let writes: Vec<_> = (0..256)
            .map(|task| {
                let sink = sink.clone();
                tokio::spawn(async move {
                    for offset in (task..LETTERS).step_by(256) {
                        let envelope =
                            Envelope::new(Origin::log("orders", 3, offset), vec![7; 300]);
                        let failure = Failure::new("timeout", "shard 3 is slow");
                        let letter = Letter::new(envelope, failure, SystemTime::UNIX_EPOCH);
                        sink.write(letter).await.expect("room on the disk");
                    }
                })
            })
            .collect();
        for write in writes {
            write.await.expect("no panic");
        }
        let rate = LETTERS as f64 / start.elapsed().as_secs_f64();
        println!(
            "{:<20} {rate:6.0} letters a second, 256 writers",
            "file sink"
        );
    });
}

fn main() {
    measure("bare", Bare);
    let layer = DeadLetterLayer::new(MemorySink::with_capacity(1)).capture(|message: &Message| {
        Envelope::new(
            Origin::log(message.topic.clone(), 3, message.offset),
            message.payload.clone(),
        )
    });
    measure("dead letters", layer.layer(Bare));
    #[cfg(all(feature = "file", unix))]
    file();
}
