//! Shards that refuse, and where a newer topology comes from.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use seawall_shard_router::reload::{every, file};
use seawall_shard_router::{
    BoxError, Endpoint, Key, Refresh, RefreshError, Refusal, ShardRouter, Slot, Topology,
    TopologyHandle,
};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_test::{assert_pending, task};
use tower::{Service, service_fn};

const MS: Duration = Duration::from_millis(1);

fn topology() -> Topology {
    Topology::slots(["a", "b"]).unwrap()
}

fn grown() -> Topology {
    topology().with_shard("c").unwrap()
}

/// A key that lies on `c` once that is there.
fn moving() -> Key<'static> {
    static SLOT: OnceLock<Slot> = OnceLock::new();
    let slot = || {
        let plan = grown().plan_from(&topology());
        plan.moves()[0].slots().next().unwrap()
    };
    (*SLOT.get_or_init(slot)).into()
}

/// A router whose shards know the topology after.
fn router(
    handle: &TopologyHandle,
) -> impl Service<u64, Response = String, Error = BoxError, Future: Send> + Clone + Send + use<> {
    ShardRouter::new(handle, |endpoint: &Endpoint| {
        let shard = endpoint.shard().clone();
        service_fn(move |_: u64| {
            let slot = moving().slot();
            let answer = if shard == "c" {
                Ok(shard.as_str().to_owned())
            } else {
                Err(Refusal::Moved { slot, epoch: 2 })
            };
            std::future::ready(answer)
        })
    })
    .key(|_: &u64| moving())
}

fn counting(fetched: &Arc<AtomicUsize>, takes: Duration, topology: fn() -> Topology) -> Refresh {
    let fetched = Arc::clone(fetched);
    Refresh::by(move || {
        fetched.fetch_add(1, Relaxed);
        async move {
            sleep(takes).await;
            Ok(topology())
        }
    })
}

#[tokio::test(start_paused = true)]
async fn a_thousand_who_are_refused_fetch_once() {
    let fetched = Arc::new(AtomicUsize::new(0));
    let handle = TopologyHandle::new(topology()).refreshed(counting(&fetched, 20 * MS, grown));
    let router = router(&handle);
    let mut callers = JoinSet::new();
    for number in 0..1_000 {
        let mut router = router.clone();
        callers.spawn(async move {
            let error = router.call(number).await.unwrap_err();
            let refusal = Refusal::find(&*error).unwrap().clone();
            // The refusal came back when the newer topology was in force.
            (refusal, router.call(number).await.unwrap())
        });
    }
    while let Some(caller) = callers.join_next().await {
        let (refusal, served) = caller.unwrap();
        assert_eq!((refusal.epoch(), served.as_str()), (2, "c"));
    }
    println!(
        "figure shard-router/refresh-once: {}",
        fetched.load(Relaxed)
    );
    assert_eq!(fetched.load(Relaxed), 1);
    assert_eq!(handle.current().epoch(), 2);
}

#[tokio::test(start_paused = true)]
async fn who_fetches_and_goes_away_hands_it_to_the_next() {
    let fetched = Arc::new(AtomicUsize::new(0));
    let handle = TopologyHandle::new(topology()).refreshed(counting(&fetched, 20 * MS, grown));
    let mut first = task::spawn(handle.refresh(2));
    let mut second = task::spawn(handle.refresh(2));
    assert_pending!(first.poll());
    assert_pending!(second.poll());
    drop(first);
    second.await.unwrap();
    assert_eq!((fetched.load(Relaxed), handle.current().epoch()), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_source_that_has_nothing_newer_is_not_stormed() {
    let fetched = Arc::new(AtomicUsize::new(0));
    let handle = TopologyHandle::new(topology()).refreshed(counting(&fetched, MS, topology));
    let mut callers = JoinSet::new();
    for _ in 0..1_000 {
        let mut router = router(&handle);
        callers.spawn(async move {
            let error = router.call(7).await.unwrap_err();
            assert!(matches!(
                Refusal::find(&*error),
                Some(Refusal::Moved { .. })
            ));
        });
    }
    while let Some(caller) = callers.join_next().await {
        caller.unwrap();
    }
    assert_eq!(fetched.load(Relaxed), 1);
    let error = handle.refresh(2).await.unwrap_err();
    assert!(
        matches!(
            *error,
            RefreshError::NotNewer {
                given: 1,
                wanted: 2
            }
        ),
        "{error}"
    );
    assert_eq!(fetched.load(Relaxed), 1, "it is asked again after a pause");
    sleep(200 * MS).await;
    handle.refresh(2).await.unwrap_err();
    assert_eq!(fetched.load(Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_hangs_or_fails_keeps_nobody() {
    let hangs = Refresh::by(std::future::pending::<Result<Topology, BoxError>>).deadline(300 * MS);
    let handle = TopologyHandle::new(topology()).refreshed(hangs);
    let start = Instant::now();
    let mut refused = router(&handle);
    assert!(Refusal::find(&*refused.call(7).await.unwrap_err()).is_some());
    assert_eq!(start.elapsed(), 300 * MS);

    let fails = Refresh::by(|| async { Err::<Topology, BoxError>("no quorum".into()) });
    let handle = TopologyHandle::new(topology()).refreshed(fails);
    let error = handle.refresh(2).await.unwrap_err();
    assert!(matches!(&*error, RefreshError::Fetch(why) if why.to_string() == "no quorum"));
    let handle = TopologyHandle::new(topology());
    assert!(matches!(
        *handle.refresh(2).await.unwrap_err(),
        RefreshError::NoSource
    ));
    handle.refresh(1).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_is_refused_by_an_epoch_that_is_known_waits_for_nothing() {
    let fetched = Arc::new(AtomicUsize::new(0));
    let newest = grown().at_epoch(5).unwrap();
    let handle = TopologyHandle::new(newest).refreshed(counting(&fetched, MS, grown));
    let mut router = ShardRouter::new(&handle, |_: &Endpoint| {
        service_fn(|_: u64| {
            let stale = Refusal::StaleEpoch { given: 5, epoch: 4 };
            std::future::ready(Err::<(), _>(stale))
        })
    })
    .key(|number: &u64| (*number).into());
    let error = router.call(7).await.unwrap_err();
    assert_eq!(
        Refusal::find(&*error),
        Some(&Refusal::StaleEpoch { given: 5, epoch: 4 })
    );
    assert_eq!(fetched.load(Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_closure_is_asked_every_so_often_and_its_errors_change_nothing() {
    let handle = TopologyHandle::new(topology());
    let (asked, failed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let source = every(10 * MS, move || {
        let round = asked.fetch_add(1, Relaxed);
        async move {
            match round % 3 {
                0 => Err("not now".into()),
                1 => Ok(topology().at_epoch(round + 2)?),
                _ => Ok(topology()),
            }
        }
    });
    let (following, errors) = (handle.clone(), Arc::clone(&failed));
    let task = tokio::spawn(async move {
        following
            .follow(source, |_| {
                errors.fetch_add(1, Relaxed);
            })
            .await;
    });
    sleep(95 * MS).await;
    assert_eq!(handle.current().epoch(), 9);
    assert_eq!(failed.load(Relaxed), 6, "what failed, and what was older");
    task.abort();
}

#[tokio::test]
async fn a_file_is_read_again_when_it_changes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("topology");
    let write = |text: &str| {
        let next = folder.path().join("next");
        std::fs::write(&next, text).unwrap();
        std::fs::rename(&next, &path).unwrap();
    };
    // A format of its own: the epoch, then the shards.
    let parse = |bytes: &[u8]| {
        let text = std::str::from_utf8(bytes)?;
        let (epoch, shards) = text.split_once(' ').ok_or("no epoch")?;
        Ok(Topology::slots(shards.split(' '))?.at_epoch(epoch.parse()?)?)
    };
    let handle = TopologyHandle::new(topology());
    let (failed, mut failures) = tokio::sync::mpsc::unbounded_channel();
    let (following, source) = (handle.clone(), file(&path, MS, parse));
    let task = tokio::spawn(async move {
        following
            .follow(source, move |error| drop(failed.send(error.to_string())))
            .await;
    });
    // There is none yet.
    failures.recv().await.unwrap();
    write("7 a b c");
    while handle.current().epoch() != 7 {
        sleep(MS).await;
    }
    while failures.try_recv().is_ok() {}
    write("garbage");
    assert_eq!(failures.recv().await.unwrap(), "no epoch");
    assert_eq!(handle.current().shards().len(), 3);
    task.abort();
}

#[test]
fn reads_move_before_writes_do() {
    let (before, after) = (topology(), grown());
    let plan = after.plan_from(&before);
    let moving = before.reading_ahead(&plan).unwrap();
    assert_eq!(moving.shards().len(), 3);
    for slot in Slot::all() {
        assert_eq!(moving.owner(slot), before.owner(slot));
        assert_eq!(moving.reader(slot), after.owner(slot));
    }
    assert_eq!(moving.reads_elsewhere().count(), plan.slot_count());
    // Any later step is an assignment like others.
    assert_eq!(moving.with_shard("d").unwrap().reads_elsewhere().count(), 0);
    // A shard that leaves is still written until writes have moved.
    let shrunk = before.without_shard("b").unwrap();
    let moving = before.reading_ahead(&shrunk.plan_from(&before)).unwrap();
    let slot = before.slots_of("b")[0];
    assert_eq!(
        (moving.owner(slot).as_str(), moving.reader(slot).as_str()),
        ("b", "a")
    );
}
