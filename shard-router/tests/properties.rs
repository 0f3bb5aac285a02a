//! The lanes of a router against a model that knows nothing of futures or wakers:
//!
//! 1. at each endpoint at most `concurrency` requests are at work or being readied, and at most
//!    `queue` wait; they are served in the order in which they came;
//! 2. a request is refused exactly when the cap, then the queue is full, and fails fast exactly
//!    when it was not handed over in time;
//! 3. whatever is dropped, fails or ends frees its place at once;
//! 4. a write is served by the primary of its shard and by nobody else.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use common::{Backends, Request, TestRouter, refusal, router, write};
use proptest::prelude::*;
use seawall_shard_router::{
    Access, Bulkhead, Position, ResponseFuture, RouteError, Shard, Slot, Topology,
};
use tokio_test::task::{Spawn, spawn};
use tower::Service;

const CONCURRENCY: usize = 2;
const QUEUE: usize = 3;
const CAP: usize = 9;
const TICK: u64 = 10;
/// Between two ticks, so that nothing happens exactly at its deadline.
const PATIENCE: u64 = 25;
const SHARDS: [&str; 3] = ["a", "b", "c"];

#[derive(Clone, Debug)]
enum Op {
    Call(usize),
    Answer(usize, prop::sample::Index),
    Drop(prop::sample::Index),
    Ready(usize, bool),
    Tick,
}

fn op() -> impl Strategy<Value = Op> {
    let shard = || 0..SHARDS.len();
    prop_oneof![
        6 => shard().prop_map(Op::Call),
        3 => (shard(), any::<prop::sample::Index>()).prop_map(|(shard, which)| Op::Answer(shard, which)),
        2 => any::<prop::sample::Index>().prop_map(Op::Drop),
        2 => (shard(), any::<bool>()).prop_map(|(shard, ready)| Op::Ready(shard, ready)),
        2 => Just(Op::Tick),
    ]
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Ended {
    Served,
    Overloaded,
    QueueFull,
    FailFast,
}

#[derive(Default)]
struct LaneModel {
    not_ready: bool,
    calling: Vec<usize>,
    readying: Vec<usize>,
    waiting: VecDeque<usize>,
}

#[derive(Default)]
struct Model {
    now: u64,
    lanes: [LaneModel; SHARDS.len()],
    deadlines: BTreeMap<usize, u64>,
    ended: BTreeMap<usize, Ended>,
}

impl Model {
    fn live(&self) -> usize {
        let count =
            |lane: &LaneModel| lane.calling.len() + lane.readying.len() + lane.waiting.len();
        self.lanes.iter().map(count).sum()
    }

    fn call(&mut self, shard: usize, id: usize) {
        if self.live() == CAP {
            self.ended.insert(id, Ended::Overloaded);
        } else if self.lanes[shard].busy() == CONCURRENCY
            && self.lanes[shard].waiting.len() == QUEUE
        {
            self.ended.insert(id, Ended::QueueFull);
        } else {
            self.lanes[shard].waiting.push_back(id);
            self.deadlines.insert(id, self.now + PATIENCE);
            self.settle();
        }
    }

    fn leave(&mut self, id: usize) {
        for lane in &mut self.lanes {
            lane.calling.retain(|&other| other != id);
            lane.readying.retain(|&other| other != id);
            lane.waiting.retain(|&other| other != id);
        }
        self.settle();
    }

    fn tick(&mut self) {
        self.now += TICK;
        for lane in &mut self.lanes {
            for &id in lane.readying.iter().chain(&lane.waiting) {
                if self.deadlines[&id] < self.now {
                    self.ended.insert(id, Ended::FailFast);
                }
            }
            lane.readying.retain(|id| !self.ended.contains_key(id));
            lane.waiting.retain(|id| !self.ended.contains_key(id));
        }
        self.settle();
    }

    fn settle(&mut self) {
        for lane in &mut self.lanes {
            while lane.busy() < CONCURRENCY {
                let Some(next) = lane.waiting.pop_front() else {
                    break;
                };
                lane.readying.push(next);
            }
            if !lane.not_ready {
                lane.calling.append(&mut lane.readying);
            }
        }
    }
}

impl LaneModel {
    fn busy(&self) -> usize {
        self.calling.len() + self.readying.len()
    }
}

struct Real {
    backends: Backends,
    router: TestRouter,
    calls: BTreeMap<usize, Spawn<ResponseFuture<common::ShardService, Request>>>,
    ended: BTreeMap<usize, Ended>,
}

impl Real {
    /// Polls what was woken until nothing is, in the order of arrival.
    fn settle(&mut self) {
        loop {
            let before = self.ended.len();
            let mut polled = false;
            self.calls.retain(|&id, call| {
                if !call.is_woken() {
                    return true;
                }
                polled = true;
                match call.poll() {
                    std::task::Poll::Pending => true,
                    std::task::Poll::Ready(answer) => {
                        self.ended.insert(id, ended(answer));
                        false
                    }
                }
            });
            if !polled && self.ended.len() == before {
                return;
            }
        }
    }
}

fn ended(answer: Result<seawall_shard_router::Endpoint, seawall_shard_router::BoxError>) -> Ended {
    if answer.is_ok() {
        return Ended::Served;
    }
    match refusal(answer) {
        RouteError::Overloaded { .. } => Ended::Overloaded,
        RouteError::QueueFull { .. } => Ended::QueueFull,
        RouteError::FailFast { .. } => Ended::FailFast,
        other => panic!("{other}"),
    }
}

async fn run(ops: Vec<Op>) {
    let backends = Backends::default();
    let topology = Topology::round_robin(SHARDS).unwrap();
    let bulkhead = Bulkhead::concurrency(CONCURRENCY)
        .queue(QUEUE)
        .fail_fast(Duration::from_millis(PATIENCE));
    let router = router(topology, &backends, bulkhead).cap(CAP);
    SHARDS.iter().for_each(|shard| backends.hold(shard));
    let mut real = Real {
        backends,
        router,
        calls: BTreeMap::new(),
        ended: BTreeMap::new(),
    };
    let mut model = Model::default();
    for (id, op) in ops.into_iter().enumerate() {
        match &op {
            Op::Call(shard) => {
                model.call(*shard, id);
                let mut call = spawn(real.router.call(write(*shard as u16)));
                match call.poll() {
                    std::task::Poll::Pending => drop(real.calls.insert(id, call)),
                    std::task::Poll::Ready(answer) => drop(real.ended.insert(id, ended(answer))),
                }
            }
            Op::Answer(shard, which) => {
                if model.lanes[*shard].calling.is_empty() {
                    continue;
                }
                let place = which.index(model.lanes[*shard].calling.len());
                let id = model.lanes[*shard].calling[place];
                model.ended.insert(id, Ended::Served);
                model.leave(id);
                let endpoint = real.router.loads()[*shard].endpoint.clone();
                let address = SHARDS[*shard];
                assert!(real.backends.open(address) > place);
                real.backends
                    .take_call(address, place)
                    .send(Ok(endpoint))
                    .unwrap();
            }
            Op::Drop(which) => {
                if real.calls.is_empty() {
                    continue;
                }
                let id = *real
                    .calls
                    .keys()
                    .nth(which.index(real.calls.len()))
                    .unwrap();
                model.leave(id);
                real.calls.remove(&id);
            }
            Op::Ready(shard, ready) => {
                model.lanes[*shard].not_ready = !ready;
                model.settle();
                real.backends.set_ready(SHARDS[*shard], Ok(*ready));
            }
            Op::Tick => {
                model.tick();
                tokio::time::advance(Duration::from_millis(TICK)).await;
            }
        }
        real.settle();
        assert_eq!(real.ended, model.ended, "after {op:?}");
        for (lane, load) in model.lanes.iter().zip(real.router.loads()) {
            let expected = (lane.busy(), lane.waiting.len());
            assert_eq!(
                (load.in_flight, load.queued),
                expected,
                "{} after {op:?}",
                load.endpoint
            );
            let open = real.backends.open(load.endpoint.address());
            assert_eq!(open, lane.calling.len(), "{} after {op:?}", load.endpoint);
        }
    }
    real.calls.clear();
    common::assert_idle(&real.router);
}

fn paused() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn lanes_behave_as_their_model(ops in prop::collection::vec(op(), 1..120)) {
        paused().block_on(run(ops));
    }

    #[test]
    fn a_write_is_served_by_the_primary_of_its_shard_and_a_token_by_who_has_applied_it(
        replicas in prop::collection::vec(0..4_usize, 1..6),
        lag in prop::option::of(0..10_u64),
        positions in prop::collection::vec(0..20_u64, 30),
        requests in prop::collection::vec((0..16_384_u16, 0..3_u8, 0..20_u64), 1..100),
    ) {
        let shards = replicas.iter().enumerate().map(|(n, &replicas)| {
            Shard::new(format!("s{n}")).replicas((0..replicas).map(|r| format!("s{n}r{r}")))
        });
        let topology = Topology::slots(shards).unwrap();
        let backends = Backends::default();
        let mut router = router(topology.clone(), &backends, Bulkhead::default());
        if let Some(lag) = lag {
            router = router.max_lag(lag);
        }
        let at: BTreeMap<_, _> = topology.endpoints().zip(positions).collect();
        for (endpoint, &position) in &at {
            prop_assert!(router.report(endpoint, Position(position)));
        }
        paused().block_on(async {
            for (slot, kind, token) in requests {
                let slot = Slot::new(slot).unwrap();
                let access = match kind {
                    0 => Access::Write,
                    1 => Access::Read,
                    _ => Access::ReadYourWrites(Position(token)),
                };
                let served = router.call(Request { slot, access }).await.unwrap();
                assert_eq!(served.shard(), topology.owner(slot));
                let position = at[&served];
                match access {
                    Access::Write => assert!(served.role().is_primary()),
                    Access::ReadYourWrites(token) => {
                        assert!(served.role().is_primary() || position >= token.0);
                    }
                    Access::Read => {
                        let primary = topology.shard(served.shard().as_str()).unwrap().endpoints().next();
                        let behind = at[&primary.unwrap()].saturating_sub(position);
                        assert!(lag.is_none_or(|lag| behind <= lag));
                    }
                }
            }
        });
    }
}
