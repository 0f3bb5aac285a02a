//! Queues, fail-fast, replicas, and what is given back, in paused time.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::{Backends, Broken, Request, TestRouter, assert_idle, read, refusal, router, write};
use seawall_shard_router::{
    Access, Bulkhead, Endpoint, Position, Role, RouteError, Shard, Topology,
};
use test_support::drop_at_every_poll;
use tokio::task::JoinSet;
use tokio::time::{Instant, advance};
use tokio_test::{assert_pending, assert_ready, assert_ready_ok, task};
use tower::Service;

const PATIENCE: Duration = Duration::from_millis(50);

fn narrow(concurrency: usize, queue: usize) -> Bulkhead {
    Bulkhead::concurrency(concurrency)
        .queue(queue)
        .fail_fast(PATIENCE)
}

fn two_shards() -> Topology {
    Topology::slots(["a", "b"]).unwrap()
}

/// Slots of the two shards.
const A: u16 = 0;
const B: u16 = 16_383;

fn replicated() -> Topology {
    Topology::slots([Shard::new("a").primary("p").replicas(["r0", "r1", "r2"])]).unwrap()
}

fn endpoint(router: &TestRouter, address: &str) -> Endpoint {
    let loads = router.loads().into_iter();
    loads
        .map(|load| load.endpoint)
        .find(|endpoint| endpoint.address() == address)
        .unwrap()
}

async fn served_by(router: &mut TestRouter, request: Request) -> String {
    router.call(request).await.unwrap().address().to_owned()
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_hangs_refuses_its_own_and_delays_no_other() {
    let backends = Backends::default();
    let mut router = router(two_shards(), &backends, narrow(2, 3));
    backends.hold("a");
    let mut at_a: Vec<_> = (0..6).map(|_| task::spawn(router.call(write(A)))).collect();
    for call in &mut at_a[..5] {
        assert_pending!(call.poll());
    }
    let full = RouteError::QueueFull {
        shard: "a".into(),
        role: Role::Primary,
        queue: 3,
    };
    assert_eq!(refusal(assert_ready!(at_a[5].poll())), full);
    let start = Instant::now();
    for _ in 0..100 {
        assert_eq!(served_by(&mut router, write(B)).await, "b");
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn who_waited_first_is_served_first() {
    let backends = Backends::default();
    let mut router = router(two_shards(), &backends, narrow(1, 8));
    backends.hold("a");
    let mut calls: Vec<_> = (0..4).map(|_| task::spawn(router.call(write(A)))).collect();
    for call in &mut calls {
        assert_pending!(call.poll());
    }
    for served in 0..4 {
        assert_eq!((backends.open("a"), backends.served("a")), (1, served + 1));
        let place = endpoint(&router, "a");
        backends.answer("a", Ok(place));
        assert_ready_ok!(calls[served].poll());
        for (place, call) in calls.iter_mut().enumerate().skip(served + 1) {
            assert_eq!(
                call.is_woken(),
                place == served + 1,
                "only the next is woken"
            );
            assert_pending!(call.poll());
        }
    }
    assert_idle(&router);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_too_long_in_the_queue_fails_fast() {
    let backends = Backends::default();
    let mut router = router(two_shards(), &backends, narrow(1, 8));
    backends.hold("a");
    let mut hung = task::spawn(router.call(write(A)));
    assert_pending!(hung.poll());
    let mut waits = task::spawn(router.call(write(A)));
    assert_pending!(waits.poll());
    advance(PATIENCE - Duration::from_millis(1)).await;
    assert_pending!(waits.poll());
    advance(Duration::from_millis(1)).await;
    assert!(waits.is_woken());
    let late = RouteError::FailFast {
        shard: "a".into(),
        role: Role::Primary,
        waited: PATIENCE,
    };
    assert_eq!(refusal(assert_ready!(waits.poll())), late);
    // What was handed over goes on for as long as it takes.
    advance(Duration::from_secs(3600)).await;
    assert_pending!(hung.poll());
    assert_eq!(router.loads()[0].queued, 0);
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_service_is_not_ready_in_time_fails_fast() {
    let backends = Backends::default();
    let mut router = router(two_shards(), &backends, narrow(1, 8));
    backends.set_ready("a", Ok(false));
    let start = Instant::now();
    let error = refusal(router.call(write(A)).await);
    assert!(matches!(error, RouteError::FailFast { waited, .. } if waited == PATIENCE));
    assert_eq!((start.elapsed(), backends.served("a")), (PATIENCE, 0));
    assert_idle(&router);
    backends.set_ready("a", Ok(true));
    assert_eq!(served_by(&mut router, write(A)).await, "a");
}

#[tokio::test(start_paused = true)]
async fn the_time_in_the_queue_and_that_until_ready_are_one() {
    let backends = Backends::default();
    let mut router = router(two_shards(), &backends, narrow(1, 8));
    backends.hold("a");
    let mut hung = task::spawn(router.call(write(A)));
    assert_pending!(hung.poll());
    let mut waits = task::spawn(router.call(write(A)));
    assert_pending!(waits.poll());
    advance(Duration::from_millis(30)).await;
    backends.set_ready("a", Ok(false));
    drop(hung);
    assert!(waits.is_woken());
    assert_pending!(waits.poll());
    advance(Duration::from_millis(20)).await;
    let error = refusal(assert_ready!(waits.poll()));
    assert!(matches!(error, RouteError::FailFast { waited, .. } if waited == PATIENCE));
    assert_idle(&router);
}

#[tokio::test(start_paused = true)]
async fn with_no_queue_nobody_waits_for_a_place() {
    let backends = Backends::default();
    let mut router = router(two_shards(), &backends, narrow(1, 0));
    backends.hold("a");
    let mut hung = task::spawn(router.call(write(A)));
    assert_pending!(hung.poll());
    let error = refusal(router.call(write(A)).await);
    assert!(matches!(error, RouteError::QueueFull { queue: 0, .. }));
    assert_eq!(error.shard().unwrap(), "a");
}

/// Drops a request at each of its polls: while it waits in the queue, while its service gets
/// ready, while it is at work.
#[tokio::test(start_paused = true)]
async fn a_dropped_request_frees_its_place_wherever_it_was() {
    let backends = Backends::default();
    let routers = router(two_shards(), &backends, narrow(1, 1));
    backends.hold("a");
    let again = |request: Request| {
        let (mut router, backends) = (routers.clone(), backends.clone());
        async move {
            // One is at work already, so that ours has to queue.
            let mut first = task::spawn(router.call(request));
            assert_pending!(first.poll());
            let ours = router.call(request);
            let world = async {
                let place = || endpoint(&router, "a");
                tokio::time::sleep(Duration::from_millis(10)).await;
                backends.set_ready("a", Ok(false));
                backends.answer("a", Ok(place()));
                assert_ready_ok!(first.poll());
                tokio::time::sleep(Duration::from_millis(10)).await;
                backends.set_ready("a", Ok(true));
                tokio::time::sleep(Duration::from_millis(10)).await;
                backends.answer("a", Ok(place()));
            };
            tokio::join!(ours, world).0
        }
    };
    let mut polls = 0;
    let answer = drop_at_every_poll(
        || again(write(A)),
        async |dropped_after| {
            polls = dropped_after;
            assert_idle(&routers);
            backends.set_ready("a", Ok(true));
            assert_eq!(backends.open("a"), 0);
        },
    )
    .await;
    assert_eq!(answer.unwrap().address(), "a");
    assert!(
        polls >= 4,
        "it waited in the queue, for readiness and for the answer: {polls}"
    );
    assert_idle(&routers);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_was_woken_and_dropped_hands_its_place_on() {
    let backends = Backends::default();
    let mut router = router(two_shards(), &backends, narrow(1, 8));
    backends.hold("a");
    let mut calls: Vec<_> = (0..3).map(|_| task::spawn(router.call(write(A)))).collect();
    for call in &mut calls {
        assert_pending!(call.poll());
    }
    drop(calls.remove(0));
    assert!(calls[0].is_woken());
    drop(calls.remove(0));
    assert!(calls[0].is_woken());
    assert_pending!(calls[0].poll());
    assert_eq!(backends.open("a"), 1);
}

#[tokio::test]
async fn writes_go_to_the_primary_and_reads_to_replicas() {
    let backends = Backends::default();
    let mut router = router(replicated(), &backends, Bulkhead::default());
    for _ in 0..200 {
        assert_eq!(served_by(&mut router, write(A)).await, "p");
        assert_ne!(served_by(&mut router, read(A)).await, "p");
    }
    for replica in ["r0", "r1", "r2"] {
        assert!(backends.served(replica) > 0, "{replica} was never picked");
    }
}

#[tokio::test(start_paused = true)]
async fn a_read_goes_to_the_replica_with_less_to_do() {
    let backends = Backends::default();
    let shard = Shard::new("a").primary("p").replicas(["r0", "r1"]);
    let mut router = router(
        Topology::slots([shard]).unwrap(),
        &backends,
        Bulkhead::default(),
    );
    backends.hold("r0");
    backends.hold("r1");
    // Unpolled ones count as well: they are on their way.
    let calls: Vec<_> = (0..40).map(|_| router.call(read(A))).collect();
    let mut calls: Vec<_> = calls.into_iter().map(task::spawn).collect();
    for call in &mut calls {
        assert_pending!(call.poll());
    }
    assert_eq!((backends.open("r0"), backends.open("r1")), (20, 20));
}

#[tokio::test(start_paused = true)]
async fn what_is_over_counts_no_more_when_a_replica_is_picked() {
    let backends = Backends::default();
    let shard = Shard::new("a").primary("p").replicas(["r0", "r1"]);
    let mut router = router(
        Topology::slots([shard]).unwrap(),
        &backends,
        Bulkhead::default(),
    );
    backends.hold("r0");
    backends.hold("r1");
    let mut stays = task::spawn(router.call(read(A)));
    assert_pending!(stays.poll());
    let open = || (backends.open("r0"), backends.open("r1"));
    let with_both = (1, 1);
    for _ in 0..50 {
        let mut passes = task::spawn(router.call(read(A)));
        assert_pending!(passes.poll());
        assert_eq!(open(), with_both, "the other replica has nothing to do");
    }
}

#[tokio::test(start_paused = true)]
async fn reads_that_find_their_replica_busy_do_not_spill_to_the_primary() {
    let backends = Backends::default();
    let shard = Shard::new("a").primary("p").replica("r0");
    let mut router = router(Topology::slots([shard]).unwrap(), &backends, narrow(1, 0));
    backends.hold("r0");
    let mut busy = task::spawn(router.call(read(A)));
    assert_pending!(busy.poll());
    let full = RouteError::QueueFull {
        shard: "a".into(),
        role: Role::Replica(0),
        queue: 0,
    };
    assert_eq!(refusal(router.call(read(A)).await), full);
    assert_eq!(backends.served("p"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_write_never_spills_even_when_its_primary_is_out_and_replicas_are_idle() {
    let backends = Backends::default();
    let mut router = router(replicated(), &backends, narrow(1, 0));
    backends.set_ready("p", Err("connection refused"));
    let error = router.call(write(A)).await.unwrap_err();
    assert!(error.downcast_ref::<Broken>().is_some());
    backends.set_ready("p", Ok(false));
    assert!(matches!(
        refusal(router.call(write(A)).await),
        RouteError::FailFast { .. }
    ));
    assert!(
        ["r0", "r1", "r2"]
            .iter()
            .all(|replica| backends.served(replica) == 0)
    );
}

#[tokio::test]
async fn a_shard_without_replicas_reads_from_its_primary() {
    let backends = Backends::default();
    let mut router = router(two_shards(), &backends, Bulkhead::default());
    assert_eq!(served_by(&mut router, read(B)).await, "b");
}

#[tokio::test]
async fn a_token_is_served_only_by_who_has_applied_it() {
    let backends = Backends::default();
    let mut router = router(replicated(), &backends, Bulkhead::default());
    let token = Request {
        access: Access::ReadYourWrites(Position(10)),
        ..read(A)
    };
    // Nobody has reported yet.
    assert_eq!(served_by(&mut router, token).await, "p");
    for (replica, position) in [("r0", 9), ("r1", 10), ("r2", 3)] {
        assert!(router.report(&endpoint(&router, replica), Position(position)));
    }
    for _ in 0..50 {
        assert_eq!(served_by(&mut router, token).await, "r1");
    }
    // An older copy took its place.
    router.report(&endpoint(&router, "r1"), Position(4));
    assert_eq!(served_by(&mut router, token).await, "p");
    assert_eq!(router.loads()[2].position, Position(4));
}

#[tokio::test]
async fn a_bound_on_the_lag_keeps_plain_reads_off_replicas_that_are_behind() {
    let backends = Backends::default();
    let mut router = router(replicated(), &backends, Bulkhead::default()).max_lag(5);
    for (address, position) in [("p", 100), ("r0", 94), ("r1", 95), ("r2", 20)] {
        router.report(&endpoint(&router, address), Position(position));
    }
    for _ in 0..50 {
        assert_eq!(served_by(&mut router, read(A)).await, "r1");
    }
    router.report(&endpoint(&router, "p"), Position(200));
    assert_eq!(served_by(&mut router, read(A)).await, "p");
}

#[tokio::test(start_paused = true)]
async fn services_of_endpoints_that_stay_are_kept_and_those_that_go_drain() {
    let backends = Backends::default();
    let shards = [Shard::new("a").replicas(["a0", "a1"]), "b".into()];
    let topology = Topology::slots(shards).unwrap();
    let mut router = router(topology.clone(), &backends, narrow(1, 8));
    router.report(&endpoint(&router, "a1"), Position(7));
    backends.hold("b");
    let mut at_work = task::spawn(router.call(write(B)));
    let mut waits = task::spawn(router.call(write(B)));
    assert_pending!(at_work.poll());
    assert_pending!(waits.poll());

    // b leaves, a loses its first replica, c comes.
    let next = topology.without_shard("b").unwrap();
    let next = next
        .with_shard_replaced(Shard::new("a").replica("a1"))
        .unwrap();
    let next = next.with_shard("c").unwrap();
    router.topology().update(next).unwrap();
    for address in ["a", "a1", "b", "c"] {
        assert_eq!(backends.made(address), 1, "{address}");
    }
    assert_eq!(backends.alive("a0"), 0, "nothing was left to do");
    let kept = endpoint(&router, "a1");
    assert_eq!(kept.role(), Role::Replica(0));
    assert_eq!(router.loads()[1].position, Position(7));
    assert!(!router.report(&endpoint_gone(&topology, "b"), Position(1)));

    // New requests go elsewhere; those of b are still served, in their order, one at a time.
    assert_ne!(served_by(&mut router, write(B)).await, "b");
    let b = endpoint_gone(&topology, "b");
    backends.answer("b", Ok(b.clone()));
    assert_ready_ok!(at_work.poll());
    assert!(waits.is_woken());
    assert_pending!(waits.poll());
    backends.answer("b", Ok(b));
    assert_ready_ok!(waits.poll());
    drop((at_work, waits));
    assert_eq!(
        backends.alive("b"),
        0,
        "it is dropped after the last of its requests"
    );
}

fn endpoint_gone(topology: &Topology, address: &str) -> Endpoint {
    topology
        .endpoints()
        .find(|endpoint| endpoint.address() == address)
        .unwrap()
}

#[tokio::test]
async fn a_promoted_replica_gets_a_service_of_its_new_role() {
    let backends = Backends::default();
    let topology = Topology::slots([Shard::new("a").primary("one").replica("two")]).unwrap();
    let mut router = router(topology.clone(), &backends, Bulkhead::default());
    let promoted = Shard::new("a").primary("two").replica("one");
    router
        .topology()
        .update(topology.with_shard_replaced(promoted).unwrap())
        .unwrap();
    let served = router.call(write(A)).await.unwrap();
    assert_eq!((served.address(), served.role()), ("two", Role::Primary));
    assert_eq!((backends.made("one"), backends.made("two")), (2, 2));
}

#[tokio::test]
async fn every_router_of_a_handle_follows_it_and_a_dropped_one_is_forgotten() {
    let (one, other) = (Backends::default(), Backends::default());
    let topology = two_shards();
    let first = router(topology.clone(), &one, Bulkhead::default());
    let second = router(first.topology(), &other, Bulkhead::default());
    let handle = first.topology().clone();
    drop(first);
    handle.update(topology.with_shard("c").unwrap()).unwrap();
    assert_eq!((one.made("c"), other.made("c")), (0, 1));
    assert_eq!(second.loads().len(), 3);
    assert_eq!(one.alive("a"), 0);
}

#[tokio::test(start_paused = true)]
async fn an_update_every_ten_milliseconds_under_load_drops_nothing() {
    let backends = Backends::default();
    let topology = Topology::slots((0..8).map(|n| format!("s{n}"))).unwrap();
    let router = router(topology, &backends, Bulkhead::concurrency(4).queue(64));
    let mut load = JoinSet::new();
    for client in 0..32_u16 {
        let mut router = router.clone();
        load.spawn(async move {
            for request in 0..200_u16 {
                let slot = (client * 509 + request * 31) % 16_384;
                router.call(write(slot)).await.unwrap();
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
        });
    }
    let handle = router.topology().clone();
    let reload = async {
        for round in 0..60 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let current = handle.current();
            let next = if round % 2 == 0 {
                current.with_shard("x")
            } else {
                current.without_shard("x")
            };
            handle.update(next.unwrap()).unwrap();
        }
    };
    tokio::join!(reload, async {
        while let Some(client) = load.join_next().await {
            client.unwrap();
        }
    });
    assert_eq!(handle.current().epoch(), 61);
    assert!(
        backends.served("x") > 0,
        "the shard that came and went had its share"
    );
    assert_eq!(
        (backends.made("s0"), backends.made("x"), backends.alive("x")),
        (1, 30, 0)
    );
    assert_idle(&router);
}

/// Slots are moving: plain reads go to their next owner already, writes do not, and neither do
/// reads by token, which must see what was written a moment ago.
#[tokio::test]
async fn reads_by_token_stay_with_the_writer_until_writes_have_switched() {
    let backends = Backends::default();
    let topology = Topology::slots([Shard::new("a").primary("a").replica("a0")]).unwrap();
    let next = topology.with_shard(Shard::new("b").primary("b").replica("b0"));
    let plan = next.unwrap().plan_from(&topology);
    let moving = plan.moves()[0].slots().next().unwrap().get();
    let mut router = router(topology.clone(), &backends, Bulkhead::default());
    let handle = router.topology().clone();
    handle
        .update(topology.reading_ahead(&plan).unwrap())
        .unwrap();
    let token = Request {
        access: Access::ReadYourWrites(Position(0)),
        ..read(moving)
    };
    assert_eq!(served_by(&mut router, read(moving)).await, "b0");
    assert_eq!(served_by(&mut router, write(moving)).await, "a");
    assert_eq!(served_by(&mut router, token).await, "a0");
    let after = topology.apply(&plan).unwrap().at_epoch(3).unwrap();
    handle.update(after).unwrap();
    assert_eq!(served_by(&mut router, write(moving)).await, "b");
    assert_eq!(served_by(&mut router, token).await, "b0");
}

#[tokio::test]
async fn a_placement_names_shards_and_those_it_may_not_name_are_refused() {
    use seawall_shard_router::{ShardId, ShardRouter, Unplaced};
    let backends = Backends::default();
    let services = backends.clone();
    let mut router = ShardRouter::new(two_shards(), move |endpoint: &Endpoint| {
        services.service(endpoint)
    })
    .placed_by(|request: &Request| match request.slot.get() {
        0 => Ok(ShardId::from("b")),
        1 => Ok(ShardId::from("z")),
        _ => Err(Unplaced::NoRegion {
            region: "mars".into(),
        }),
    });
    assert_eq!(router.call(write(0)).await.unwrap().address(), "b");
    let unknown = RouteError::UnknownShard { shard: "z".into() };
    assert_eq!(refusal(router.call(write(1)).await), unknown);
    let nowhere = refusal(router.call(write(2)).await);
    assert_eq!(nowhere.to_string(), "there is no region \"mars\"");
    assert!(matches!(
        nowhere,
        RouteError::Unplaced(Unplaced::NoRegion { .. })
    ));
    assert_eq!(backends.served("a"), 0);
}
