//! The laws of a `tower` service, as the router keeps them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::convert::Infallible;

use common::{Backends, Broken, assert_idle, read, refusal, router, write};
use seawall_shard_router::{
    BoxError, Bulkhead, Endpoint, Key, Position, ResponseFuture, Role, RouteError, Shard,
    ShardRouter, Topology,
};
use tokio_test::{assert_pending, assert_ready, assert_ready_ok, task};
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};

fn one_shard() -> Topology {
    Topology::slots(["a"]).unwrap()
}

#[tokio::test(start_paused = true)]
async fn it_is_ready_whatever_its_shards_are() {
    let backends = Backends::default();
    let mut router = router(one_shard(), &backends, Bulkhead::concurrency(1).queue(0)).cap(1);
    backends.set_ready("a", Ok(false));
    let mut held = task::spawn(router.call(write(0)));
    assert_pending!(held.poll());
    let mut readying = task::spawn(std::future::poll_fn(|cx| router.poll_ready(cx)));
    assert_ready_ok!(readying.poll());
}

#[tokio::test(start_paused = true)]
async fn what_is_called_was_readied() {
    // The service panics when it is called without.
    let backends = Backends::default();
    let mut router = router(one_shard(), &backends, Bulkhead::default());
    backends.set_ready("a", Ok(false));
    let mut call = task::spawn(router.call(write(0)));
    assert_pending!(call.poll());
    assert_eq!(backends.served("a"), 0);
    backends.set_ready("a", Ok(true));
    assert!(call.is_woken());
    assert_ready_ok!(call.poll());
    assert_eq!(backends.served("a"), 1);
}

#[tokio::test]
async fn errors_of_a_shard_come_through_as_they_are() {
    let backends = Backends::default();
    let mut router = router(one_shard(), &backends, Bulkhead::default());
    backends.set_ready("a", Err("no connection"));
    let error = router.call(write(0)).await.unwrap_err();
    assert_eq!(
        *error.downcast::<Broken>().unwrap(),
        Broken("no connection")
    );
    backends.set_ready("a", Ok(true));
    backends.hold("a");
    let mut call = task::spawn(router.call(write(0)));
    assert_pending!(call.poll());
    backends.answer("a", Err(Broken("constraint")));
    let error = assert_ready!(call.poll()).unwrap_err();
    assert!(RouteError::find(&*error).is_none(), "the shard has seen it");
    assert_eq!(*error.downcast::<Broken>().unwrap(), Broken("constraint"));
    assert_idle(&router);
}

#[tokio::test(start_paused = true)]
async fn clones_share_lanes_and_the_cap() {
    let backends = Backends::default();
    backends.hold("a");
    let mut one = router(one_shard(), &backends, Bulkhead::concurrency(1).queue(1)).cap(2);
    let mut other = one.clone();
    assert_eq!(backends.alive("a"), 1, "a clone clones no service");
    let mut first = task::spawn(one.call(write(0)));
    let mut second = task::spawn(other.call(write(0)));
    assert_pending!(first.poll());
    assert_pending!(second.poll());
    assert_eq!(backends.open("a"), 1);
    assert_eq!(one.loads(), other.loads());
    assert_eq!(
        refusal(one.call(write(0)).await),
        RouteError::Overloaded { cap: 2 }
    );
    assert_eq!(
        refusal(other.call(write(0)).await),
        RouteError::Overloaded { cap: 2 }
    );
}

#[tokio::test]
async fn the_cap_counts_what_was_called_and_is_not_over() {
    let backends = Backends::default();
    let mut router = router(one_shard(), &backends, Bulkhead::default()).cap(1);
    let unpolled = router.call(write(0));
    assert_eq!(
        refusal(router.call(write(0)).await),
        RouteError::Overloaded { cap: 1 }
    );
    drop(unpolled);
    router.call(write(0)).await.unwrap();
    // Over is over, though the future lives on.
    let mut ended = task::spawn(router.call(write(0)));
    assert_ready_ok!(ended.poll());
    router.call(write(0)).await.unwrap();
}

#[tokio::test]
async fn a_future_that_nobody_polls_holds_up_nobody() {
    let backends = Backends::default();
    let mut router = router(one_shard(), &backends, Bulkhead::concurrency(1).queue(0));
    let unpolled = router.call(write(0));
    router.call(write(0)).await.unwrap();
    unpolled.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_is_not_polled_again_does_not_keep_others_from_a_ready_service() {
    let backends = Backends::default();
    let mut router = router(one_shard(), &backends, Bulkhead::concurrency(2));
    backends.set_ready("a", Ok(false));
    let mut stuck = task::spawn(router.call(write(0)));
    let mut other = task::spawn(router.call(write(0)));
    assert_pending!(stuck.poll());
    assert_pending!(other.poll());
    backends.set_ready("a", Ok(true));
    assert_ready_ok!(other.poll());
}

#[test]
fn futures_and_routers_go_between_threads() {
    fn sent<T: Send>() {}
    fn shared<T: Send + Sync>() {}
    sent::<ResponseFuture<common::ShardService, common::Request>>();
    shared::<common::TestRouter>();
}

#[tokio::test]
async fn without_access_every_request_goes_to_the_primary() {
    let shard = Shard::new("a").replicas(["a1", "a2"]);
    let backends = Backends::default();
    let factory = backends.clone();
    let mut router = ShardRouter::new(
        Topology::slots([shard]).unwrap(),
        move |endpoint: &Endpoint| factory.service(endpoint),
    )
    .key(|request: &common::Request| request.slot.into());
    for slot in 0..100 {
        assert_eq!(router.call(read(slot)).await.unwrap().role(), Role::Primary);
    }
}

#[tokio::test]
async fn services_whose_clones_cannot_be_shared_between_threads_serve_too() {
    // Boxed services are `Send` and not `Sync`.
    let router = ShardRouter::new(one_shard(), |endpoint: &Endpoint| {
        let shard = endpoint.shard().clone();
        let answer = move |_: u64| std::future::ready(Ok::<_, Infallible>(shard.clone()));
        tower::util::BoxCloneService::new(service_fn(answer))
    })
    .key(|number: &u64| Key::from(*number));
    let mut stack = ServiceBuilder::new()
        .map_request(|n: u32| u64::from(n))
        .service(router);
    assert_eq!(stack.ready().await.unwrap().call(7).await.unwrap(), "a");
    let task = tokio::spawn(async move { stack.ready().await?.call(8).await });
    assert_eq!(
        task.await
            .unwrap()
            .map_err(|error: BoxError| error.to_string())
            .unwrap(),
        "a"
    );
}

#[tokio::test]
async fn a_call_that_panics_leaves_its_lane_usable() {
    let mut router = ShardRouter::new(one_shard(), |_: &Endpoint| {
        service_fn(|number: u64| async move {
            assert!(number != 13, "unlucky");
            Ok::<_, Infallible>(number)
        })
    })
    .key(|number: &u64| Key::from(*number))
    .each_shard(Bulkhead::concurrency(1).queue(0))
    .cap(1);
    tokio::spawn(router.call(13)).await.unwrap_err();
    assert_eq!(router.call(7).await.unwrap(), 7);
}

#[tokio::test]
async fn routing_allocates_nothing() {
    let shards = (0..50)
        .map(|n| Shard::new(format!("s{n:02}")).replicas([format!("r{n}"), format!("q{n}")]));
    let mut router = ShardRouter::new(Topology::slots(shards).unwrap(), |_: &Endpoint| {
        service_fn(|number: u64| std::future::ready(Ok::<_, Infallible>(number)))
    })
    .key(|number: &u64| Key::from(*number))
    .access(|number: &u64| match number % 3 {
        0 => seawall_shard_router::Access::Write,
        1 => seawall_shard_router::Access::Read,
        _ => seawall_shard_router::Access::ReadYourWrites(Position(0)),
    });
    let waker = std::task::Waker::noop();
    let mut cx = std::task::Context::from_waker(waker);
    let mut route = |number: u64| {
        let call = std::pin::pin!(router.call(number));
        match std::future::Future::poll(call, &mut cx) {
            std::task::Poll::Ready(answer) => assert_eq!(answer.unwrap(), number),
            std::task::Poll::Pending => panic!("it had nothing to wait for"),
        }
    };
    route(0);
    route(1);
    let counted = test_support::count_allocations(|| (0..1_000).for_each(&mut route));
    assert_eq!(counted, 0);
}

#[tokio::test]
async fn the_same_service_answers_after_each_setting() {
    let backends = Backends::default();
    let router = router(one_shard(), &backends, Bulkhead::default())
        .cap(7)
        .max_lag(3);
    assert_eq!(backends.made("a"), 1, "settings make no second service");
    assert_eq!(backends.alive("a"), 1);
    let shown = format!("{router:?}");
    assert!(
        shown.contains("cap: 7") && shown.contains("max_lag: Some(3)"),
        "{shown}"
    );
}
