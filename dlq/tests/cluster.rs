//! A worker on a Redis Cluster: letters, delays, order, suspects; a slot that moves and a primary that dies while it works.
#![allow(clippy::unwrap_used)] // in helpers, which are tests as well

mod support;

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use redis::{
    AsyncCommands, ErrorKind, RedisError, RedisResult, Value, cluster::ClusterClient,
    cluster_async::ClusterConnection,
};
use seawall_dlq::{
    BoxError, Consumer, DeadLetterLayer, Disposition, HeldKeys, Message, Queue, RedisSink, Redrive,
    Requeue, Totals,
};
use seawall_redis::Shared;
use support::{all, seconds};
use test_support::{Redis, RedisCluster, free_port};
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tower::{Layer, service_fn};

/// A busy machine and an election both take their time.
const PATIENCE: Duration = seconds(120);
const TICK: Duration = Duration::from_millis(10);

struct World {
    cluster: RedisCluster,
    client: ClusterClient,
    connection: ClusterConnection,
    /// Payloads in the order in which they were handled.
    done: watch::Sender<Vec<String>>,
    /// Whether nothing fails any more.
    mended: Arc<Mutex<bool>>,
}

struct Worker {
    stop: oneshot::Sender<()>,
    work: JoinHandle<Totals>,
}

impl Worker {
    async fn end(self) -> Totals {
        self.stop.send(()).unwrap();
        timeout(PATIENCE, self.work).await.unwrap().unwrap()
    }
}

impl World {
    async fn new(args: &[&str]) -> Self {
        let cluster = RedisCluster::with_args(3, args).await;
        let client = ClusterClient::builder(cluster.urls())
            .retries(30)
            .response_timeout(seconds(60))
            .build()
            .unwrap();
        Self {
            connection: client.get_async_connection().await.unwrap(),
            client,
            cluster,
            done: watch::Sender::new(Vec::new()),
            mended: Arc::default(),
        }
    }

    async fn ask(&self, words: &[&str]) -> Value {
        let mut ask = redis::cmd(words[0]);
        ask.arg(&words[1..]);
        let answer = ask.query_async(&mut self.connection.clone()).await;
        answer.unwrap()
    }

    async fn group(&self, stream: &str) {
        let group = ["XGROUP", "CREATE", stream, "workers", "0", "MKSTREAM"];
        self.ask(&group).await;
    }

    async fn try_add(&self, stream: &str, payload: &str) -> RedisResult<String> {
        let key = payload.split(':').next().unwrap();
        let fields = [("key", key), ("payload", payload)];
        self.connection.clone().xadd(stream, "*", &fields).await
    }

    async fn add(&self, stream: &str, payload: &str) {
        self.try_add(stream, payload).await.unwrap();
    }

    fn sink(&self, stream: &str) -> RedisSink<Shared<ClusterConnection>> {
        RedisSink::new(self.connection.clone(), format!("{stream}.dead"))
            .acknowledging(stream, "workers")
            .holding_keys()
    }

    fn consumer(&self, stream: &str) -> Consumer {
        Consumer::redis_cluster(&self.client, stream, "workers")
            .claim_after(Duration::from_millis(300))
            .concurrency(8)
            .window(64)
    }

    /// What ends in `dead` dies until it is mended, what ends in `late` is put off once.
    fn start(&self, consumer: Consumer, stream: &str) -> Worker {
        let (done, mended) = (self.done.clone(), Arc::clone(&self.mended));
        let handler = DeadLetterLayer::new(self.sink(stream))
            .capture(Message::to_letter)
            .dispose(|error| match error.to_string() == "late" {
                true => Disposition::Park(Duration::from_millis(100)),
                false => Disposition::DeadLetter,
            })
            .layer(service_fn(move |message: Message| {
                let text = String::from_utf8(message.payload.to_vec()).unwrap();
                let fails = text.ends_with("dead") && !*mended.lock().unwrap();
                let late = text.ends_with("late") && message.parked == 0;
                if !fails && !late {
                    done.send_modify(|done| done.push(text));
                }
                async move {
                    match (fails, late) {
                        (true, _) => Err(BoxError::from("dead")),
                        (_, true) => Err("late".into()),
                        _ => Ok(()),
                    }
                }
            }));
        let (stop, stopped) = oneshot::channel();
        let work = tokio::spawn(async move {
            let stopped = async { drop(stopped.await) };
            consumer.run(handler, stopped).await.unwrap()
        });
        Worker { stop, work }
    }

    async fn until(&self, holds: impl FnMut(&Vec<String>) -> bool) {
        let mut done = self.done.subscribe();
        let held = timeout(PATIENCE, done.wait_for(holds)).await;
        drop(held.unwrap_or_else(|_| panic!("{:?}", self.done.borrow().len())));
    }

    /// How many of these were not handled.
    fn missing(&self, wanted: &HashSet<String>) -> usize {
        let done: HashSet<_> = self.done.borrow().iter().cloned().collect();
        wanted.difference(&done).count()
    }

    /// As many were handled, at least once.
    async fn until_all(&self, wanted: &HashSet<String>) {
        self.until(|done| done.iter().collect::<HashSet<_>>().len() >= wanted.len())
            .await;
    }

    async fn pending(&self, stream: &str) -> i64 {
        match self.ask(&["XPENDING", stream, "workers"]).await {
            Value::Array(answer) => match answer[0] {
                Value::Int(pending) => pending,
                _ => panic!("{answer:?}"),
            },
            answer => panic!("{answer:?}"),
        }
    }

    async fn slot(&self, stream: &str) -> u16 {
        let node = &self.cluster.nodes()[0];
        let slot = node.ask(&["CLUSTER", "KEYSLOT", stream]).await;
        slot.trim().parse().unwrap()
    }
}

async fn id_of(node: &Redis) -> String {
    node.ask(&["CLUSTER", "MYID"]).await.trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_done_or_dead_or_put_off_and_redriven_on_every_server() {
    let world = World::new(&[]).await;
    // Three slots, of three servers.
    let streams = ["{a}", "{b}", "{c}"];
    let mut servers = HashSet::new();
    for stream in streams {
        servers.insert(world.cluster.node_of(world.slot(stream).await).port());
        world.group(stream).await;
        for number in 0..60 {
            let how = match number % 10 {
                3 => "dead",
                7 => "late",
                _ => "",
            };
            world.add(stream, &format!("{stream}{number}:{how}")).await;
        }
    }
    assert_eq!(servers.len(), 3);
    let workers: Vec<_> = streams
        .iter()
        .map(|stream| world.start(world.consumer(stream).park_up_to(Duration::ZERO), stream))
        .collect();
    world.until(|done| done.len() == 3 * 54).await;
    for stream in streams {
        while world.sink(stream).depth().await.unwrap().letters < 6 {
            sleep(TICK).await;
        }
    }
    *world.mended.lock().unwrap() = true;
    for stream in streams {
        let back = Requeue::new(world.connection.clone());
        let redrive = Redrive::new(world.sink(stream)).per_second(10_000.0);
        assert_eq!(redrive.through(back).await.unwrap().redriven, 6);
    }
    world.until(|done| done.len() == 180).await;
    for (worker, stream) in workers.into_iter().zip(streams) {
        let totals = worker.end().await;
        assert_eq!((totals.done, totals.dead, totals.parked), (60, 6, 6));
        assert_eq!(world.pending(stream).await, 0);
        assert_eq!(all(&world.sink(stream)).await, []);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_message_holds_its_key_until_it_is_let_go() {
    let world = World::new(&[]).await;
    world.group("{a}").await;
    for payload in ["x:dead", "x:1", "y:1", "x:2", "y:2"] {
        world.add("{a}", payload).await;
    }
    let worker = world.start(world.consumer("{a}").ordered_by_key(), "{a}");
    world.until(|done| done[..] == ["y:1", "y:2"]).await;
    let held = HeldKeys::new(world.connection.clone(), "{a}", "workers").unwrap();
    loop {
        let keys = held.list().await.unwrap();
        if keys.iter().any(|key| key.key == "x" && key.behind == 2) {
            break;
        }
        sleep(TICK).await;
    }
    assert!(held.let_go(b"x").await.unwrap());
    world
        .until(|done| done[..] == ["y:1", "y:2", "x:1", "x:2"])
        .await;
    worker.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_worker_left_is_taken_over_and_what_kills_workers_is_dead() {
    let world = World::new(&[]).await;
    world.group("{a}").await;
    let poison = world.try_add("{a}", "poison").await.unwrap();
    world.add("{a}", "innocent").await;
    let read = ["XREADGROUP", "GROUP", "workers", "gone", "COUNT", "2"];
    world
        .ask(&[&read[..], &["STREAMS", "{a}", ">"]].concat())
        .await;
    let mark = ["HSET", "{a}:workers:starts", &poison, "3 gone.1"];
    world.ask(&mark).await;
    let worker = world.start(world.consumer("{a}"), "{a}");
    world.until(|done| done[..] == ["innocent"]).await;
    let letters = loop {
        let letters = all(&world.sink("{a}")).await;
        if !letters.is_empty() {
            break letters;
        }
        sleep(TICK).await;
    };
    assert_eq!(
        (&letters[0].failure.class[..], &letters[0].payload[..]),
        ("poison", &b"poison"[..])
    );
    let totals = worker.end().await;
    assert_eq!((totals.taken_over, totals.condemned), (2, 1));
    assert_eq!(world.pending("{a}").await, 0);
}

/// The slot of the stream, all its keys with it, goes from server to server, while messages come and are read. A read that
/// waits is told by the server that its stream, or its group, is gone: it had ended the consumer.
#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_moves_while_it_works_costs_nothing() {
    let world = World::new(&[]).await;
    world.group("{a}").await;
    let slot = world.slot("{a}").await;
    let number = slot.to_string();
    let worker = world.start(world.consumer("{a}").park_up_to(Duration::ZERO), "{a}");
    let mut wanted = HashSet::new();
    let nodes = world.cluster.nodes();
    let at = { nodes.iter() }.position(|node| node.port() == world.cluster.node_of(slot).port());
    let mut at = at.unwrap();
    for round in 0..4 {
        for message in 0..50 {
            let how = if message % 9 == 4 { "late" } else { "" };
            let payload = format!("{round}.{message}:{how}");
            world.add("{a}", &payload).await;
            wanted.insert(payload);
            if message != 25 {
                continue;
            }
            let to = (at + 1) % nodes.len();
            let (from, target) = (&nodes[at], &nodes[to]);
            let (from_id, target_id) = (id_of(from).await, id_of(target).await);
            let set = ["CLUSTER", "SETSLOT", &number];
            let set = |rest: [&'static str; 1], id: &str| {
                let words = set.iter().map(|word| (*word).to_owned());
                let words = words.chain([rest[0].to_owned(), id.to_owned()]);
                words.collect::<Vec<_>>()
            };
            let say = async |node: &Redis, words: Vec<String>| {
                let words: Vec<&str> = words.iter().map(|word| &**word).collect();
                let answer = node.ask(&words).await;
                assert_eq!(answer.trim(), "OK", "{words:?}");
            };
            say(target, set(["IMPORTING"], &from_id)).await;
            say(from, set(["MIGRATING"], &target_id)).await;
            loop {
                let keys = from.ask(&["CLUSTER", "GETKEYSINSLOT", &number, "10"]).await;
                let keys: Vec<&str> = keys.lines().map(str::trim).collect();
                let keys: Vec<&str> = keys.into_iter().filter(|key| !key.is_empty()).collect();
                if keys.is_empty() {
                    break;
                }
                let port = target.port().to_string();
                let migrate = ["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
                from.ask(&[&migrate[..], &keys].concat()).await;
            }
            for node in [target, from].into_iter().chain(nodes) {
                say(node, set(["NODE"], &target_id)).await;
            }
            at = to;
        }
        world.until_all(&wanted).await;
    }
    let totals = worker.end().await;
    println!("figure dlq/slot-moves-lost: {}", world.missing(&wanted));
    assert_eq!(world.missing(&wanted), 0);
    assert_eq!(world.pending("{a}").await, 0);
    assert_eq!((totals.dead, totals.condemned), (0, 0));
}

/// The primary of the stream is killed, and its replica takes over. What the replica had is handled, and nothing is condemned.
#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_dies_while_it_works_costs_none_of_what_its_replica_had() {
    let world = World::new(&["--cluster-node-timeout", "1000"]).await;
    world.group("{a}").await;
    let slot = world.slot("{a}").await;
    let primary = world.cluster.node_of(slot);
    let bus = free_port().to_string();
    let replica = Redis::with_args(&[
        "--cluster-enabled",
        "yes",
        "--cluster-port",
        &bus,
        "--cluster-node-timeout",
        "1000",
    ])
    .await;
    // It is met from there: the cluster knows its own buses.
    let meet = ["CLUSTER", "MEET", "127.0.0.1"];
    let its = replica.port().to_string();
    primary.ask(&[&meet[..], &[&its, &bus]].concat()).await;
    let id = id_of(primary).await;
    let replicating = async {
        while !replica.ask(&["CLUSTER", "NODES"]).await.contains(&id) {
            sleep(TICK).await;
        }
        replica.ask(&["CLUSTER", "REPLICATE", &id]).await;
        while !replica
            .ask(&["INFO", "replication"])
            .await
            .contains("master_link_status:up")
        {
            sleep(TICK).await;
        }
        // A replica is known to all, or nobody votes for it.
        for node in world.cluster.nodes() {
            while !node
                .ask(&["CLUSTER", "NODES"])
                .await
                .contains(&format!("slave {id}"))
            {
                sleep(TICK).await;
            }
        }
    };
    timeout(PATIENCE, replicating).await.unwrap();

    let worker = world.start(world.consumer("{a}"), "{a}");
    let mut wanted = HashSet::new();
    for number in 0..100 {
        let payload = format!("before {number}");
        world.add("{a}", &payload).await;
        wanted.insert(payload);
    }
    // All of it is on the replica.
    while primary.ask(&["WAIT", "1", "1000"]).await.trim() != "1" {}
    primary.kill();
    // Whoever adds messages waits until there is a primary again.
    for number in 0..50 {
        let payload = format!("after {number}");
        let adding = async {
            while let Err(error) = world.try_add("{a}", &payload).await {
                assert!(is_outage(&error), "{error:?}");
                sleep(TICK).await;
            }
        };
        timeout(PATIENCE, adding).await.unwrap();
        wanted.insert(payload);
    }
    world.until_all(&wanted).await;
    while world.pending("{a}").await > 0 {
        sleep(TICK).await;
    }
    let totals = worker.end().await;
    println!("figure dlq/failover-lost: {}", world.missing(&wanted));
    assert_eq!(world.missing(&wanted), 0);
    assert_eq!((totals.dead, totals.condemned), (0, 0));
    drop(replica);
}

fn is_outage(error: &RedisError) -> bool {
    !matches!(
        error.kind(),
        ErrorKind::Parse | ErrorKind::InvalidClientConfig | ErrorKind::AuthenticationFailed
    )
}
