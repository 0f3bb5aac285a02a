//! What relieves a shard of a hot key: answers that are given again for a moment, and writes that are spread.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{HashMap, HashSet};
use std::num::{NonZeroU16, NonZeroUsize};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;
use seawall_shard_router::{
    BoxError, CoalesceLayer, Key, Recall, Salt, Sharing, ShortCache, Topology,
};
use tokio::sync::oneshot;
use tokio_test::{assert_pending, assert_ready_ok, task};
use tower::{Layer, Service, service_fn};
use xxhash_rust::xxh3::xxh3_64;

type Call = Sharing<u64>;
type Answers = Arc<Mutex<Vec<oneshot::Sender<Result<usize, BoxError>>>>>;

const LASTING: Duration = Duration::from_millis(100);

fn cache(answers: usize) -> ShortCache<u64, usize> {
    ShortCache::new(LASTING, NonZeroUsize::new(answers).unwrap())
}

/// A service whose calls the test answers, behind a layer with this cache.
fn cached(
    cache: impl Recall<u64, usize> + 'static,
) -> (
    Answers,
    impl Service<Call, Response = usize, Error = BoxError, Future: Send>,
) {
    let answers = Answers::default();
    let open = Arc::clone(&answers);
    let backend = service_fn(move |_: Call| {
        let (answer, answered) = oneshot::channel();
        open.lock().unwrap().push(answer);
        async move { answered.await? }
    });
    let layer = CoalesceLayer::by(|call: &Call| *call).cache(cache);
    (answers, layer.layer(backend))
}

fn answer(answers: &Answers, with: Result<usize, &'static str>) {
    let with = with.map_err(BoxError::from);
    answers.lock().unwrap().remove(0).send(with).ok();
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_given_again_for_a_moment_to_those_who_take_it() {
    let (answers, mut service) = cached(cache(100));
    let mut first = task::spawn(service.call(Sharing::Cached(7)));
    assert_pending!(first.poll());
    answer(&answers, Ok(1));
    assert_eq!(assert_ready_ok!(first.poll()), 1);
    tokio::time::advance(LASTING - Duration::from_millis(1)).await;
    assert_eq!(
        assert_ready_ok!(task::spawn(service.call(Sharing::Cached(7))).poll()),
        1
    );
    // Who does not ask for it gets none, and leaves what is there.
    assert_pending!(task::spawn(service.call(Sharing::Read(7))).poll());
    assert_pending!(task::spawn(service.call(Sharing::Alone)).poll());
    assert_pending!(task::spawn(service.call(Sharing::Cached(8))).poll());
    assert_eq!(
        assert_ready_ok!(task::spawn(service.call(Sharing::Cached(7))).poll()),
        1
    );
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_pending!(task::spawn(service.call(Sharing::Cached(7))).poll());
}

#[tokio::test(start_paused = true)]
async fn what_one_of_those_who_share_would_have_remembered_is_and_errors_never_are() {
    let (answers, mut service) = cached(cache(100));
    let mut leads = task::spawn(service.call(Sharing::Read(7)));
    let mut joins = task::spawn(service.call(Sharing::Cached(7)));
    assert_pending!(leads.poll());
    assert_pending!(joins.poll());
    answer(&answers, Ok(1));
    assert_eq!(assert_ready_ok!(leads.poll()), 1);
    assert_eq!(
        assert_ready_ok!(task::spawn(service.call(Sharing::Cached(7))).poll()),
        1
    );

    let mut fails = task::spawn(service.call(Sharing::Cached(8)));
    assert_pending!(fails.poll());
    answer(&answers, Err("down"));
    assert!(fails.await.is_err());
    assert_pending!(task::spawn(service.call(Sharing::Cached(8))).poll());
}

#[tokio::test(start_paused = true)]
async fn a_write_forgets_when_it_begins_and_when_it_ends_and_nothing_older_comes_back() {
    let (answers, mut service) = cached(cache(100));
    let mut early = task::spawn(service.call(Sharing::Cached(7)));
    assert_pending!(early.poll());
    let mut write = task::spawn(service.call(Sharing::Write(7)));
    assert_pending!(write.poll());
    // A call from before the write is answered, and not remembered.
    answer(&answers, Ok(1));
    assert_eq!(assert_ready_ok!(early.poll()), 1);
    let mut between = task::spawn(service.call(Sharing::Cached(7)));
    assert_pending!(between.poll());
    // One from while it was under way may have seen what was before: it is remembered until the write ends.
    let last = answers.lock().unwrap().pop().unwrap();
    last.send(Ok(2)).ok();
    assert_eq!(assert_ready_ok!(between.poll()), 2);
    assert_eq!(
        assert_ready_ok!(task::spawn(service.call(Sharing::Cached(7))).poll()),
        2
    );
    answer(&answers, Ok(0));
    assert_eq!(assert_ready_ok!(write.poll()), 0);
    assert_pending!(task::spawn(service.call(Sharing::Cached(7))).poll());
    // Nor does one that began before the write ended and is answered afterwards.
    let mut late = task::spawn(service.call(Sharing::Cached(9)));
    assert_pending!(late.poll());
    let mut dropped = task::spawn(service.call(Sharing::Write(9)));
    assert_pending!(dropped.poll());
    drop(dropped);
    let open = answers.lock().unwrap().len();
    answers.lock().unwrap().remove(open - 2).send(Ok(3)).ok();
    assert_eq!(assert_ready_ok!(late.poll()), 3);
    assert_pending!(task::spawn(service.call(Sharing::Cached(9))).poll());
}

/// A cache of one's own, which counts what it is asked.
#[derive(Clone, Default)]
struct Own(Arc<[AtomicUsize; 3]>);

impl Recall<u64, usize> for Own {
    fn get(&self, _: &u64) -> Option<usize> {
        self.0[0].fetch_add(1, Relaxed);
        Some(42)
    }

    fn put(&self, _: &u64, _: &usize) {
        self.0[1].fetch_add(1, Relaxed);
    }

    fn forget(&self, _: &u64) {
        self.0[2].fetch_add(1, Relaxed);
    }
}

#[tokio::test(start_paused = true)]
async fn a_cache_of_ones_own_is_asked() {
    let own = Own::default();
    let (_answers, mut service) = cached(own.clone());
    assert_eq!(service.call(Sharing::Cached(7)).await.unwrap(), 42);
    drop(service.call(Sharing::Write(7)));
    let asked = own.0.each_ref().map(|count| count.load(Relaxed));
    assert_eq!(asked, [1, 0, 2]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Against a map that forgets nothing: it never answers what was not put last, is too old or was forgotten;
    /// it holds no more than it may, and always the last that were put.
    #[test]
    fn a_short_cache_is_a_map_that_forgets(
        half in 1..4_usize,
        ops in proptest::collection::vec((0..3_u8, 0..8_u64, 0..60_u64), 0..100),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let (cache, mut model) = (cache(2 * half), HashMap::new());
            let mut order: Vec<u64> = Vec::new();
            for (number, (op, key, pause)) in ops.into_iter().enumerate() {
                tokio::time::advance(Duration::from_millis(pause)).await;
                let now = tokio::time::Instant::now();
                match op {
                    0 => {
                        cache.put(&key, &number);
                        model.insert(key, (now, number));
                        order.retain(|other| *other != key);
                        order.push(key);
                    }
                    1 => {
                        cache.forget(&key);
                        model.remove(&key);
                        order.retain(|other| *other != key);
                    }
                    _ => {}
                }
                for key in 0..8 {
                    let fresh = model.get(&key).filter(|(at, _)| now - *at < LASTING).map(|(_, number)| *number);
                    let answer = cache.get(&key);
                    assert!(answer.is_none() || answer == fresh, "{key}: {answer:?}, not {fresh:?}");
                    if order.iter().rev().take(half).any(|last| *last == key) {
                        assert_eq!(answer, fresh, "{key} is one of the last {half}");
                    }
                }
                let held = (0..8).filter(|key| cache.get(key).is_some()).count();
                assert!(held <= 2 * half, "{held}");
            }
        });
    }
}

#[test]
fn parts_of_a_key_are_pinned_and_the_first_is_the_key_itself() {
    let salt = Salt::over(NonZeroU16::new(4).unwrap());
    let slots: Vec<u16> = salt
        .all(b"tenant-7")
        .map(|(_, key)| key.slot().get())
        .collect();
    assert_eq!(slots, PARTS);
    assert_eq!(slots[0], Key::from("tenant-7").slot().get());
    assert_eq!(u64::from(slots[0]), xxh3_64(b"tenant-7") >> 50);
    assert_eq!(
        salt.part(b"tenant-7", 5).slot(),
        salt.part(b"tenant-7", 1).slot()
    );
    // More parts leave those that there were where they are.
    let more = Salt::over(NonZeroU16::new(8).unwrap());
    assert!(
        slots
            .iter()
            .zip(more.all(b"tenant-7"))
            .all(|(slot, (_, key))| *slot == key.slot().get())
    );
}

/// XXH3-64 with seeds 0 to 3, shifted right by 50; the reference implementation gives the same.
const PARTS: [u16; 4] = [7_436, 14_721, 3_926, 15_662];

#[test]
fn a_hot_key_in_many_parts_is_spread_over_the_shards() {
    let topology = Topology::slots((0..50).map(|n| format!("s{n:02}"))).unwrap();
    let salt = Salt::over(NonZeroU16::new(50).unwrap());
    for number in 0..200 {
        let name = format!("celebrity-{number}");
        let mut load = HashMap::<_, usize>::new();
        for (_, key) in salt.all(name.as_bytes()) {
            *load.entry(topology.shard_of(key).clone()).or_default() += 1;
        }
        // Fifty balls in fifty bins: 1 - 1/e of the bins, and no more than a handful in one.
        assert!(load.len() >= 22, "{name}: {} shards", load.len());
        assert!(load.values().all(|parts| *parts <= 8), "{name}: {load:?}");
    }
    let drawn: HashSet<u16> = (0..2_000).map(|_| salt.any(b"celebrity").0).collect();
    assert_eq!(drawn.len(), 50, "each part is drawn at times");
}
