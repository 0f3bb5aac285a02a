//! Hot keys are found, and their reads share one call.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use seawall_shard_router::{
    BoxError, Coalesce, CoalesceLayer, ConfigError, Heat, HotKeys, Key, SharedError, Sharing,
};
use test_support::drop_at_every_poll;
use tokio::sync::oneshot;
use tokio::time::sleep;
use tokio_test::{assert_pending, assert_ready, assert_ready_ok, task};
use tower::{Layer, Service, service_fn};

const SHARE: f64 = 0.001;
const RECORDS: u32 = 400_000;

/// Keys whose frequency falls with their rank to the power of `exponent`.
fn zipf(exponent: f64, keys: usize, seed: u64) -> impl FnMut() -> u64 {
    let mut sum = 0.0;
    let sums: Vec<f64> = (1..=keys)
        .map(|rank| {
            sum += (rank as f64).powf(-exponent);
            sum
        })
        .collect();
    let mut random = fastrand::Rng::with_seed(seed);
    move || {
        let drawn = random.f64() * sum;
        sums.partition_point(|&upto| upto < drawn) as u64
    }
}

/// Recall and precision against counting exactly.
fn measured(exponent: f64) -> (f64, f64) {
    let hot = HotKeys::in_windows(SHARE, RECORDS).unwrap();
    let (mut draw, mut exact) = (zipf(exponent, 1_000_000, 42), HashMap::<u64, u32>::new());
    for _ in 0..RECORDS {
        let key = draw();
        *exact.entry(Key::from(key).hash()).or_default() += 1;
        hot.record(&key.into());
    }
    let above = |&(_, &came): &(&u64, &u32)| f64::from(came) > SHARE * f64::from(RECORDS);
    let expected: HashSet<u64> = exact.iter().filter(above).map(|(&hash, _)| hash).collect();
    let found: HashSet<u64> = hot.top().iter().map(|key| key.hash).collect();
    assert!(expected.len() > 10);
    let right = expected.intersection(&found).count() as f64;
    (right / expected.len() as f64, right / found.len() as f64)
}

#[test]
fn every_key_above_the_share_is_found_and_next_to_no_other() {
    let (mut recall, mut precision) = (1.0_f64, 1.0_f64);
    for exponent in [0.8, 1.0, 1.2] {
        let (found, right) = measured(exponent);
        recall = recall.min(found);
        precision = precision.min(right);
    }
    println!("figure shard-router/hot-keys-recall: {recall}");
    println!("figure shard-router/hot-keys-precision: {precision}");
    assert_eq!(recall, 1.0);
    assert!(precision >= 0.99, "{precision}");
}

#[test]
fn a_thread_takes_at_most_64_kib_and_recording_allocates_nothing() {
    let hot = HotKeys::above(SHARE).unwrap();
    let kib = hot.bytes_per_thread() as f64 / 1_024.0;
    println!("figure shard-router/hot-keys-kib: {kib:.1}");
    assert!(kib <= 64.0);
    let allocated = test_support::count_allocations(|| {
        for key in 0..250_000_u64 {
            hot.record(&(key % 5_000).into());
        }
    });
    assert_eq!(allocated, 0);
}

#[test]
fn a_key_is_told_once_when_it_becomes_hot_and_stays_hot_into_the_next_window() {
    let hot = HotKeys::in_windows(0.01, 10_000).unwrap();
    let mut kindled = 0;
    for round in 0..10_000_u64 {
        let key = if round % 20 == 0 { 7 } else { 1_000 + round };
        kindled += usize::from(hot.record(&key.into()) == Heat::Kindled);
    }
    assert_eq!(kindled, 1);
    // A new window has begun.
    assert_eq!(hot.record(&7_u64.into()), Heat::Hot);
    assert_eq!(hot.record(&8_u64.into()), Heat::Cold);
    let top = hot.top();
    assert_eq!(top.len(), 1);
    assert_eq!(top[0].hash, Key::from(7_u64).hash());
    assert!((top[0].share - 0.05).abs() < 0.001, "{top:?}");
    assert!(top[0].at_least <= top[0].share);
    // Nobody asks for it any more.
    for key in 50_000..70_000_u64 {
        hot.record(&key.into());
    }
    assert_eq!(hot.record(&7_u64.into()), Heat::Cold);
    assert!(hot.top().is_empty());
}

#[test]
fn threads_count_apart_and_are_merged() {
    let hot = HotKeys::in_windows(0.01, 20_000).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let hot = hot.clone();
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(thread);
                for _ in 0..50_000 {
                    let key = if random.u8(..) < 10 {
                        7
                    } else {
                        random.u64(1_000..)
                    };
                    hot.record(&key.into());
                }
            });
        }
    });
    let top = hot.top();
    assert_eq!(top.len(), 1, "{top:?}");
    assert!((top[0].share - 10.0 / 256.0).abs() < 0.01, "{top:?}");
}

#[test]
fn shares_that_cannot_be_watched_are_refused() {
    for given in [0.0, -0.1, 1.0, 0.0001, 1e-300, f64::INFINITY] {
        let refused = HotKeys::above(given).unwrap_err();
        assert_eq!(refused, ConfigError::HotShare { given });
    }
    assert!(HotKeys::above(f64::NAN).is_err());
    assert!(HotKeys::in_windows(0.01, 100).is_err(), "too short to tell");
    assert!(HotKeys::above(1.0 / 1_024.0).is_ok());
    assert!(HotKeys::above(1.0 / 1_025.0).is_err());
}

type Answer = Result<usize, &'static str>;

/// A backend that answers when the test says so, with the number of the call.
#[derive(Clone, Default)]
struct Backend {
    calls: Arc<Mutex<Vec<oneshot::Sender<Answer>>>>,
    made: Arc<AtomicUsize>,
}

#[derive(Clone, Copy)]
struct Query(u64, Kind);

#[derive(Clone, Copy)]
enum Kind {
    Read,
    Write,
    Alone,
}

const READ: Query = Query(7, Kind::Read);
const WRITE: Query = Query(7, Kind::Write);

type Shares = fn(&Query) -> Sharing<u64>;
type Layered<S> = Coalesce<S, Shares, u64, usize>;

impl Backend {
    fn layer() -> CoalesceLayer<Shares, u64, usize> {
        let by: Shares = |query| match query.1 {
            Kind::Read => Sharing::Read(query.0),
            Kind::Write => Sharing::Write(query.0),
            Kind::Alone => Sharing::Alone,
        };
        CoalesceLayer::by(by)
    }

    fn service(
        &self,
    ) -> impl Service<Query, Response = usize, Error = BoxError, Future: Send + 'static> + Clone + use<>
    {
        let backend = self.clone();
        service_fn(move |_: Query| {
            let (answer, open) = oneshot::channel();
            backend.made.fetch_add(1, Relaxed);
            backend.calls.lock().unwrap().push(answer);
            async move { open.await?.map_err(BoxError::from) }
        })
    }

    fn made(&self) -> usize {
        self.made.load(Relaxed)
    }

    /// Answers the oldest call that is open with its number, from 1.
    fn answer(&self) {
        let mut calls = self.calls.lock().unwrap();
        let number = self.made() - calls.len() + 1;
        calls.remove(0).send(Ok(number)).ok();
    }

    fn fail(&self) {
        self.calls.lock().unwrap().remove(0).send(Err("down")).ok();
    }

    fn is_wanted(&self) -> bool {
        self.calls
            .lock()
            .unwrap()
            .iter()
            .any(|call| !call.is_closed())
    }
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_identical_reads_make_one_call() {
    let backend = Backend::default();
    let mut service = Backend::layer().layer(backend.service());
    let mut reads: Vec<_> = (0..10_000)
        .map(|_| task::spawn(service.call(READ)))
        .collect();
    let mut other = task::spawn(service.call(Query(8, Kind::Read)));
    reads
        .iter_mut()
        .for_each(|read| assert_pending!(read.poll()));
    assert_pending!(other.poll());
    let made = backend.made() - 1;
    backend.answer();
    let woken = reads.iter().filter(|read| read.is_woken()).count();
    assert_eq!(woken, 1, "only who drives is woken on the way");
    for read in &mut reads {
        assert_eq!(assert_ready_ok!(read.poll()), 1);
    }
    println!("figure shard-router/coalesced-calls: {made}");
    assert_eq!(made, 1);
    // Nothing is kept.
    let mut next = task::spawn(service.call(READ));
    assert_pending!(next.poll());
    assert_eq!(backend.made(), 3);
}

#[tokio::test(start_paused = true)]
async fn who_drives_and_goes_away_fails_nobody() {
    let backend = Backend::default();
    let mut service = Backend::layer().layer(backend.service());
    let mut reads: Vec<_> = (0..5).map(|_| task::spawn(service.call(READ))).collect();
    reads
        .iter_mut()
        .for_each(|read| assert_pending!(read.poll()));
    drop(reads.remove(0));
    assert!(reads[0].is_woken(), "the next drives");
    // He goes before he does, and so does one who was never woken.
    drop(reads.remove(0));
    drop(reads.remove(1));
    assert!(reads[0].is_woken());
    assert_pending!(reads[0].poll());
    backend.answer();
    assert!(reads[0].is_woken());
    assert_eq!(assert_ready_ok!(reads[0].poll()), 1);
    assert!(reads[1].is_woken());
    assert_eq!(assert_ready_ok!(reads[1].poll()), 1);
    assert_eq!(backend.made(), 1);
}

#[tokio::test(start_paused = true)]
async fn with_the_last_who_waits_the_call_goes_too() {
    let backend = Backend::default();
    let mut service = Backend::layer().layer(backend.service());
    let mut reads: Vec<_> = (0..3).map(|_| task::spawn(service.call(READ))).collect();
    reads
        .iter_mut()
        .for_each(|read| assert_pending!(read.poll()));
    drop(reads);
    assert!(!backend.is_wanted());
    let mut next = task::spawn(service.call(READ));
    assert_pending!(next.poll());
    assert_eq!(backend.made(), 2, "it does not join what is gone");
}

#[tokio::test(start_paused = true)]
async fn one_who_is_never_polled_holds_up_nobody() {
    let backend = Backend::default();
    let mut service = Backend::layer().layer(backend.service());
    let unpolled = service.call(READ);
    let mut read = task::spawn(service.call(READ));
    assert_pending!(read.poll());
    backend.answer();
    assert!(read.is_woken());
    assert_eq!(assert_ready_ok!(read.poll()), 1);
    assert_eq!(unpolled.await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_write_in_between_lets_no_later_read_share_an_earlier_call() {
    let backend = Backend::default();
    let mut service = Backend::layer().layer(backend.service());
    let mut before = task::spawn(service.call(READ));
    assert_pending!(before.poll());
    let mut write = task::spawn(service.call(WRITE));
    assert_pending!(write.poll());
    // The second read begins after the write did, and may have read before it was applied.
    let mut during = task::spawn(service.call(READ));
    assert_pending!(during.poll());
    assert_eq!(backend.made(), 3);
    // The write ends first.
    let answer = backend.calls.lock().unwrap().remove(1);
    answer.send(Ok(0)).unwrap();
    assert_ready_ok!(write.poll());
    let mut after = task::spawn(service.call(READ));
    assert_pending!(after.poll());
    assert_eq!(backend.made(), 4, "it shares neither");
    let mut joins = task::spawn(service.call(READ));
    assert_pending!(joins.poll());
    assert_eq!(backend.made(), 4);
    for _ in 0..3 {
        backend.answer();
    }
    assert_ready_ok!(before.poll());
    assert_ready_ok!(during.poll());
    assert_eq!(assert_ready_ok!(after.poll()), 4);
    assert_eq!(assert_ready_ok!(joins.poll()), 4);
}

#[tokio::test(start_paused = true)]
async fn a_write_that_is_dropped_may_have_been_applied() {
    let backend = Backend::default();
    let mut service = Backend::layer().layer(backend.service());
    let mut write = task::spawn(service.call(WRITE));
    assert_pending!(write.poll());
    let mut during = task::spawn(service.call(READ));
    assert_pending!(during.poll());
    drop(write);
    let mut after = task::spawn(service.call(READ));
    assert_pending!(after.poll());
    assert_eq!(backend.made(), 3);
}

#[tokio::test(start_paused = true)]
async fn those_beyond_the_cap_begin_the_next_call() {
    let backend = Backend::default();
    let mut service = Backend::layer().waiters(100).layer(backend.service());
    let mut reads: Vec<_> = (0..250).map(|_| task::spawn(service.call(READ))).collect();
    reads
        .iter_mut()
        .for_each(|read| assert_pending!(read.poll()));
    assert_eq!(backend.made(), 3);
    (0..3).for_each(|_| backend.answer());
    for (place, read) in reads.iter_mut().enumerate() {
        assert_eq!(assert_ready_ok!(read.poll()), place / 100 + 1);
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_is_given_to_all_with_its_source() {
    let backend = Backend::default();
    let mut service = Backend::layer().layer(backend.service());
    let mut reads: Vec<_> = (0..3).map(|_| task::spawn(service.call(READ))).collect();
    reads
        .iter_mut()
        .for_each(|read| assert_pending!(read.poll()));
    backend.fail();
    for read in &mut reads {
        let error = assert_ready!(read.poll()).unwrap_err();
        let shared = error.downcast_ref::<SharedError>().unwrap();
        let source = std::error::Error::source(shared).unwrap();
        assert_eq!(source.to_string(), "down");
    }
}

#[tokio::test]
async fn a_call_that_panics_is_over_for_all() {
    let mut service = Backend::layer().layer(service_fn(|query: Query| async move {
        sleep(Duration::from_millis(1)).await;
        assert!(query.0 != 7, "unlucky");
        Ok::<usize, BoxError>(1)
    }));
    let drives = tokio::spawn(service.call(READ));
    tokio::task::yield_now().await;
    let waits = tokio::spawn(service.call(READ));
    assert!(drives.await.unwrap_err().is_panic());
    let error = waits.await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "a call that was shared panicked");
}

#[tokio::test]
async fn a_layer_that_is_applied_twice_shares_its_calls() {
    let backend = Backend::default();
    let layer = Backend::layer();
    let (mut one, mut other) = (
        layer.layer(backend.service()),
        layer.layer(backend.service()),
    );
    let mut first = task::spawn(one.call(READ));
    let mut second = task::spawn(other.call(READ));
    assert_pending!(first.poll());
    assert_pending!(second.poll());
    assert_eq!(backend.made(), 1);
    let mut alone = task::spawn(other.call(Query(7, Kind::Alone)));
    assert_pending!(alone.poll());
    assert_eq!(backend.made(), 2);
}

#[tokio::test(start_paused = true)]
async fn it_may_be_dropped_at_every_poll() {
    let backend = Backend::default();
    let layered = Backend::layer().layer(backend.service());
    let attempt = || {
        let (mut service, backend) = (layered.clone(), backend.clone());
        async move {
            let world = async {
                sleep(Duration::from_millis(1)).await;
                sleep(Duration::from_millis(1)).await;
                backend.answer();
            };
            tokio::join!(service.call(READ), world).0
        }
    };
    let answer = drop_at_every_poll(attempt, async |_| {
        assert!(!backend.is_wanted());
        backend.calls.lock().unwrap().clear();
    })
    .await;
    answer.unwrap();
}

/// The type has a name, and can be put into a struct.
#[test]
fn it_can_be_named() {
    struct Holds<S>(#[allow(dead_code, reason = "it is only named")] Layered<S>);
    let backend = Backend::default();
    let _ = Holds(Backend::layer().layer(backend.service()));
}
