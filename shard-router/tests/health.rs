//! Ejection, recovery, and requests that are held while a primary fails over, in paused time.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use common::{Backends, Broken, Request, TestRouter, assert_idle, read, refusal, router, write};
use seawall_shard_router::{
    Access, BoxError, Bulkhead, Ejection, Endpoint, Position, Role, RouteError, Shard, ShardRouter,
    Topology,
};
use test_support::drop_at_every_poll;
use tokio::time::{Instant, advance, sleep};
use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};
use tower::{Service, service_fn};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn bulkhead() -> Bulkhead {
    Bulkhead::concurrency(2).queue(8).fail_fast(50 * MS)
}

fn ejection() -> Ejection {
    Ejection::after(3)
        .lasting(SECOND, 4 * SECOND)
        .at_most(0.5)
        .counting(|error: &BoxError| error.downcast_ref() == Some(&Broken("down")))
}

fn two_shards() -> Topology {
    Topology::slots(["a", "b"]).unwrap()
}

const A: u16 = 0;
const B: u16 = 16_383;

fn replicated() -> Topology {
    Topology::slots([Shard::new("a").primary("p").replicas(["r0", "r1"])]).unwrap()
}

fn ejected(router: &TestRouter) -> Vec<String> {
    let loads = router.loads().into_iter().filter(|load| load.is_ejected);
    loads
        .map(|load| load.endpoint.address().to_owned())
        .collect()
}

/// Ends a request for this slot with an error of its shard.
fn fail(router: &mut TestRouter, backends: &Backends, request: Request, address: &str) {
    backends.hold(address);
    let mut call = task::spawn(router.call(request));
    assert_pending!(call.poll());
    backends.answer(address, Err(Broken("down")));
    assert_ready_err!(call.poll());
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_hangs_is_refused_at_once_after_a_few_have_waited() {
    let backends = Backends::default();
    let mut router = router(two_shards(), &backends, bulkhead()).ejection(ejection());
    backends.hold("a");
    let mut hung: Vec<_> = (0..2).map(|_| task::spawn(router.call(write(A)))).collect();
    hung.iter_mut()
        .for_each(|call| assert_pending!(call.poll()));
    for _ in 0..3 {
        let late = refusal(router.call(write(A)).await);
        assert!(matches!(late, RouteError::FailFast { .. }), "{late}");
    }
    let start = Instant::now();
    for _ in 0..1_000 {
        let shed = refusal(router.call(write(A)).await);
        assert_eq!(
            shed,
            RouteError::Ejected {
                shard: "a".into(),
                role: Role::Primary,
                retry_in: SECOND
            }
        );
        router.call(write(B)).await.unwrap();
    }
    assert_eq!(start.elapsed(), Duration::ZERO);

    // It answers what it hung on: so it is back, before its time was over.
    let place = router.loads()[0].endpoint.clone();
    backends.answer("a", Ok(place));
    assert_ready_ok!(hung[0].poll());
    assert_eq!(ejected(&router), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn half_open_lets_one_request_through() {
    let backends = Backends::default();
    let mut router = router(two_shards(), &backends, bulkhead()).ejection(ejection());
    (0..3).for_each(|_| fail(&mut router, &backends, write(A), "a"));
    assert_eq!(ejected(&router), ["a"]);
    advance(SECOND).await;
    let mut probe = task::spawn(router.call(write(A)));
    assert_pending!(probe.poll());
    for _ in 0..10 {
        let shed = refusal(router.call(write(A)).await);
        assert!(matches!(shed, RouteError::Ejected { .. }), "{shed}");
    }
    backends.answer("a", Err(Broken("down")));
    assert_ready_err!(probe.poll());
    let shed = refusal(router.call(write(A)).await);
    assert!(matches!(shed, RouteError::Ejected { retry_in, .. } if retry_in == 2 * SECOND));
    advance(2 * SECOND).await;
    let mut probe = task::spawn(router.call(write(A)));
    assert_pending!(probe.poll());
    let place = router.loads()[0].endpoint.clone();
    backends.answer("a", Ok(place));
    assert_ready_ok!(probe.poll());
    assert_eq!(ejected(&router), [""; 0]);
    assert_idle(&router);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_dropped_wedges_nothing() {
    let backends = Backends::default();
    let mut router = router(two_shards(), &backends, bulkhead()).ejection(ejection());
    (0..3).for_each(|_| fail(&mut router, &backends, write(A), "a"));
    advance(SECOND).await;
    // Before it was polled, and at work.
    drop(router.call(write(A)));
    let mut probe = task::spawn(router.call(write(A)));
    assert_pending!(probe.poll());
    drop(probe);
    let mut probe = task::spawn(router.call(write(A)));
    assert_pending!(probe.poll());
    assert_eq!(backends.open("a"), 1);
}

#[tokio::test(start_paused = true)]
async fn only_errors_that_count_eject_and_the_others_show_that_it_is_alive() {
    let backends = Backends::default();
    let mut router = router(two_shards(), &backends, bulkhead()).ejection(ejection());
    backends.hold("a");
    for round in 0..30 {
        let mut call = task::spawn(router.call(write(A)));
        assert_pending!(call.poll());
        let why = if round % 3 == 2 { "constraint" } else { "down" };
        backends.answer("a", Err(Broken(why)));
        assert_ready_err!(call.poll());
    }
    assert_eq!(ejected(&router), [""; 0]);
    // Without a word on which errors count, none does.
    let mut router = router.ejection(Ejection::after(1));
    fail(&mut router, &backends, write(A), "a");
    assert_eq!(ejected(&router), [""; 0]);
    // A service that cannot get ready has failed in any case.
    backends.set_ready("a", Err("no connection"));
    router.call(write(A)).await.unwrap_err();
    assert_eq!(ejected(&router), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn an_ejected_replica_is_not_picked_and_one_read_probes_it() {
    let backends = Backends::default();
    let mut router = router(replicated(), &backends, bulkhead()).ejection(ejection());
    backends.set_ready("r0", Err("gone"));
    let mut failed = 0;
    for _ in 0..100 {
        failed += usize::from(router.call(read(A)).await.is_err());
    }
    assert_eq!((failed, ejected(&router)), (3, vec!["r0".to_owned()]));
    assert_eq!(backends.served("p"), 0);
    advance(SECOND).await;
    backends.set_ready("r0", Ok(true));
    for _ in 0..50 {
        router.call(read(A)).await.unwrap();
    }
    assert_eq!(ejected(&router), [""; 0]);
    assert!(backends.served("r0") > 1);
}

#[tokio::test(start_paused = true)]
async fn reads_go_to_the_primary_when_every_replica_is_ejected() {
    let backends = Backends::default();
    let ejection = ejection().at_most(1.0);
    let mut router = router(replicated(), &backends, bulkhead()).ejection(ejection);
    for replica in ["r0", "r1"] {
        backends.set_ready(replica, Err("gone"));
    }
    for _ in 0..6 {
        router.call(read(A)).await.unwrap_err();
    }
    for _ in 0..20 {
        assert_eq!(router.call(read(A)).await.unwrap().address(), "p");
    }
}

/// Of 50 shards a tenth may be ejected. All of them fail by turns, ten times a second.
#[tokio::test(start_paused = true)]
async fn endpoints_that_flap_stay_within_the_cap() {
    let down = Arc::new(AtomicBool::new(false));
    let flaps = Arc::clone(&down);
    let names = (0..50).map(|number| format!("s{number:02}"));
    let topology = Topology::round_robin(names).unwrap();
    let router = ShardRouter::new(topology, move |_: &Endpoint| {
        let down = Arc::clone(&flaps);
        service_fn(move |_: u64| {
            let down = down.load(Relaxed);
            std::future::ready(if down { Err(Broken("down")) } else { Ok(()) })
        })
    })
    .key(|number: &u64| (*number).into())
    .ejection(ejection().at_most(0.1));
    let mut most = 0;
    for half_period in 0..200 {
        down.store(half_period % 2 == 0, Relaxed);
        for number in 0..400_u64 {
            drop(router.clone().call(number).await);
            let ejected = router.loads().iter().filter(|load| load.is_ejected).count();
            most = most.max(ejected);
        }
        advance(50 * MS).await;
    }
    println!("figure shard-router/flapping-ejected: {most}");
    assert!((1..=5).contains(&most), "{most}");
    down.store(false, Relaxed);
    advance(10 * SECOND).await;
    for number in 0..400_u64 {
        drop(router.clone().call(number).await);
    }
    assert!(router.loads().iter().all(|load| !load.is_ejected));
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_leaves_takes_its_ejection_along() {
    let backends = Backends::default();
    let topology = Topology::slots(["a", "b", "c"]).unwrap();
    let mut router =
        router(topology.clone(), &backends, bulkhead()).ejection(ejection().at_most(0.1));
    (0..3).for_each(|_| fail(&mut router, &backends, write(A), "a"));
    assert_eq!(ejected(&router), ["a"]);
    let handle = router.topology().clone();
    handle.update(topology.without_shard("a").unwrap()).unwrap();
    // Room for one: it is free again.
    (0..3).for_each(|_| fail(&mut router, &backends, write(B), "c"));
    assert_eq!(ejected(&router), ["c"]);
}

/// A primary is killed. Reads are served by the replicas that have what they ask for; writes get a
/// typed error, at once after the first few.
#[tokio::test(start_paused = true)]
async fn killed_primary() {
    let backends = Backends::default();
    let mut router = router(replicated(), &backends, bulkhead()).ejection(ejection());
    let endpoints: Vec<Endpoint> = router
        .loads()
        .into_iter()
        .map(|load| load.endpoint)
        .collect();
    for (endpoint, position) in endpoints.iter().zip([10, 10, 4]) {
        router.report(endpoint, Position(position));
    }
    backends.set_ready("p", Err("connection refused"));
    let (mut failed_reads, mut untyped) = (0, 0);
    for round in 0..1_000 {
        let token = Request {
            access: Access::ReadYourWrites(Position(9)),
            ..read(A)
        };
        failed_reads += usize::from(router.call(read(A)).await.is_err());
        failed_reads += usize::from(router.call(token).await.is_err());
        let error = router.call(write(A)).await.unwrap_err();
        let typed = RouteError::find(&*error).is_some() || error.downcast_ref::<Broken>().is_some();
        untyped += usize::from(!typed);
        let is_shed = matches!(RouteError::find(&*error), Some(RouteError::Ejected { .. }));
        assert_eq!(is_shed, round >= 3);
    }
    println!("figure shard-router/killed-primary-failed-reads: {failed_reads}");
    println!("figure shard-router/killed-primary-untyped-writes: {untyped}");
    assert_eq!((failed_reads, untyped, backends.served("p")), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn writes_are_held_until_a_replica_is_promoted() {
    let backends = Backends::default();
    let topology = replicated();
    let mut router = router(topology.clone(), &backends, bulkhead())
        .ejection(ejection())
        .hold(4, 10 * SECOND);
    backends.set_ready("p", Err("connection refused"));
    let mut calls: Vec<_> = (0..6).map(|_| task::spawn(router.call(write(A)))).collect();
    for call in &mut calls[..4] {
        assert_pending!(call.poll());
    }
    // Those beyond are told at once.
    for call in &mut calls[4..] {
        let error = assert_ready_err!(call.poll());
        assert_eq!(error.downcast_ref(), Some(&Broken("connection refused")));
    }
    sleep(3 * SECOND).await;
    for call in &mut calls[..4] {
        assert_pending!(call.poll());
    }
    let promoted = Shard::new("a").primary("r0").replica("p");
    let next = topology.with_shard_replaced(promoted).unwrap();
    router.topology().update(next).unwrap();
    for call in &mut calls[..4] {
        assert!(call.is_woken());
        let served = assert_ready!(call.poll()).unwrap();
        assert_eq!((served.address(), served.role()), ("r0", Role::Primary));
    }
    drop(calls);
    assert_idle(&router);
}

#[tokio::test(start_paused = true)]
async fn writes_are_held_until_the_primary_is_back_or_their_time_is_over() {
    let backends = Backends::default();
    let mut router = router(replicated(), &backends, bulkhead())
        .ejection(ejection())
        .hold(8, 5 * SECOND);
    backends.set_ready("p", Err("connection refused"));
    let (start, held) = (Instant::now(), router.call(write(A)));
    let error = held.await.unwrap_err();
    assert_eq!(error.downcast_ref(), Some(&Broken("connection refused")));
    assert_eq!(start.elapsed(), 5 * SECOND);

    let mut held = task::spawn(router.call(write(A)));
    assert_pending!(held.poll());
    backends.set_ready("p", Ok(true));
    let served = held.await.unwrap();
    assert_eq!(served.address(), "p");
    // Reads that only the primary can serve are held as well.
    backends.set_ready("p", Err("connection refused"));
    let token = Request {
        access: Access::ReadYourWrites(Position(9)),
        ..read(A)
    };
    let mut held = task::spawn(router.call(token));
    assert_pending!(held.poll());
    backends.set_ready("p", Ok(true));
    assert_eq!(held.await.unwrap().address(), "p");
    assert_idle(&router);
}

#[tokio::test(start_paused = true)]
async fn what_is_held_leaves_nothing_behind_wherever_it_is_dropped() {
    let backends = Backends::default();
    let router = router(replicated(), &backends, bulkhead())
        .ejection(ejection())
        .hold(1, 60 * SECOND)
        .cap(1);
    backends.set_ready("p", Err("connection refused"));
    let attempt = || {
        let (mut router, backends) = (router.clone(), backends.clone());
        async move {
            let world = async {
                sleep(3 * SECOND).await;
                backends.set_ready("p", Ok(true));
            };
            tokio::join!(router.call(write(A)), world).0
        }
    };
    let mut polls = 0;
    let answer = drop_at_every_poll(attempt, async |dropped_after| {
        polls = dropped_after;
        assert_idle(&router);
        backends.set_ready("p", Err("connection refused"));
    })
    .await;
    assert_eq!(answer.unwrap().address(), "p");
    assert!(polls >= 3, "{polls}");
}

#[tokio::test(start_paused = true)]
async fn reads_stay_in_their_zone_until_it_is_busy_or_out() {
    let backends = Backends::default();
    let shard = Shard::new("a")
        .replica_in("near", "n0")
        .replica_in("far", "f0")
        .replica_in("far", "f1");
    let topology = Topology::slots([shard]).unwrap();
    let mut router = router(topology, &backends, bulkhead())
        .zone("near")
        .ejection(ejection());
    for _ in 0..50 {
        assert_eq!(router.call(read(A)).await.unwrap().address(), "n0");
    }
    backends.hold("n0");
    let mut busy: Vec<_> = (0..2).map(|_| task::spawn(router.call(read(A)))).collect();
    busy.iter_mut()
        .for_each(|call| assert_pending!(call.poll()));
    for _ in 0..20 {
        let served = router.call(read(A)).await.unwrap();
        assert!(served.address().starts_with('f'));
    }
    drop(busy);
    backends.set_ready("n0", Err("gone"));
    for _ in 0..3 {
        router.call(read(A)).await.unwrap_err();
    }
    for _ in 0..20 {
        let served = router.call(read(A)).await.unwrap();
        assert!(served.address().starts_with('f'));
    }
}

#[tokio::test(start_paused = true)]
async fn with_peak_ewma_a_slow_replica_gets_less() {
    let shard = Shard::new("a").replicas(["fast", "slow"]);
    let mut router = ShardRouter::new(Topology::slots([shard]).unwrap(), |endpoint: &Endpoint| {
        let address = endpoint.address().to_owned();
        let takes = if address == "slow" { 50 * MS } else { MS };
        service_fn(move |_: u64| {
            let address = address.clone();
            async move {
                sleep(takes).await;
                Ok::<_, std::convert::Infallible>(address)
            }
        })
    })
    .key(|number: &u64| (*number).into())
    .access(|_: &u64| Access::Read)
    .peak_ewma(10 * SECOND);
    let mut slow = 0;
    for number in 0..1_000 {
        slow += usize::from(router.call(number).await.unwrap() == "slow");
    }
    assert!((1..=10).contains(&slow), "{slow}");
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    use seawall_shard_router::ConfigError;
    assert_eq!(Ejection::try_after(0).unwrap_err(), ConfigError::Failures);
    for given in [0.0, -1.0, 1.01, f64::INFINITY] {
        let refused = Ejection::default().try_at_most(given).unwrap_err();
        assert_eq!(refused, ConfigError::EjectedShare { given });
    }
    assert!(Ejection::default().try_at_most(f64::NAN).is_err());
}
