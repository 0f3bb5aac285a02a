//! What one call costs that succeeds at once: the service alone, and under the layer.
//!
//! `cargo bench -p seawall-retry`

use std::{
    hint::black_box,
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use seawall_retry::{Attempt, Backoff, BoxError, Budget, Class, RetryLayer};
use tokio::time::Instant;
use tower::{Layer, Service};

/// A service that the compiler does not see through.
#[derive(Clone)]
struct Bare;

impl Service<u64> for Bare {
    type Response = u64;
    type Error = BoxError;
    type Future = std::future::Ready<Result<u64, BoxError>>;

    #[inline(never)]
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        black_box(Poll::Ready(Ok(())))
    }

    #[inline(never)]
    fn call(&mut self, request: u64) -> Self::Future {
        std::future::ready(Ok(black_box(request)))
    }
}

fn measure<S>(name: &str, service: S)
where
    S: Service<u64, Response = u64, Error = BoxError> + Clone + Send + 'static,
{
    for threads in [1, 2] {
        let best = (0..5)
            .map(|_| run(service.clone(), threads))
            .fold(f64::INFINITY, f64::min);
        println!("{name:<40} {threads} thread(s): {best:6.1} ns a call");
    }
}

fn run<S>(service: S, threads: usize) -> f64
where
    S: Service<u64, Response = u64, Error = BoxError> + Clone + Send + 'static,
{
    const CALLS: u64 = 2_000_000;
    let handles: Vec<_> = (0..threads)
        .map(|_| {
            let mut service = service.clone();
            std::thread::spawn(move || {
                let mut context = Context::from_waker(Waker::noop());
                let start = Instant::now();
                for request in 0..CALLS {
                    let _ = service.poll_ready(&mut context);
                    let _ = black_box(pin!(service.call(request)).poll(&mut context));
                }
                start.elapsed().as_nanos() as f64 / CALLS as f64
            })
        })
        .collect();
    let costs: Vec<f64> = handles
        .into_iter()
        .map(|h| h.join().expect("no panic"))
        .collect();
    costs.iter().sum::<f64>() / costs.len() as f64
}

fn main() {
    let backoff = Backoff::exponential(Duration::from_secs(1)).attempts(5);
    measure("bare", Bare);
    measure("retry", RetryLayer::new(backoff).layer(Bare));
    measure(
        "retry, classifier, budget, stamp",
        RetryLayer::new(backoff)
            .classify(|outcome: Result<&u64, &BoxError>| Class::of(outcome))
            .budget(Budget::ratio(0.1))
            .stamp(|request: &mut u64, attempt: Attempt| *request += u64::from(attempt.number))
            .layer(Bare),
    );
}
