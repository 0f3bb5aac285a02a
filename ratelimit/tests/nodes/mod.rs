//! Nodes in processes of their own, on one server, and what they were admitted. The clock by which the server decides
//! steps back again and again, and some of what they send is sent twice.

mod odd;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use seawall_ratelimit::{BoxError, Key, Leased, Quota, RateLimitLayer, RedisStore, Rule};
use seawall_redis::Client;
use test_support::Redis;
use tower::{Layer, Service, ServiceExt, service_fn};

use self::odd::Odd;

/// Tells a process that it is a node: port, seed, requests.
const NODE: &str = "SEAWALL_RATELIMIT_NODE";
const NODES: u64 = 8;
const KEYS: u64 = 3;
const LIMIT: usize = 600;
const WINDOW: Duration = Duration::from_millis(800);

fn quota() -> Quota {
    Quota::new(LIMIT as u32, WINDOW)
}

/// By the clock that the server goes by as well.
fn micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    since.as_micros() as u64
}

/// If this process is a node: makes its requests, some past the leases and some of which are given back, and
/// writes down what was admitted and kept, with the moments between which it was.
pub(crate) async fn be_a_node(port: u16, seed: u64, requests: u64, mut told: impl Write) {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}/")).unwrap();
    let connection = client.get_multiplexed_async_connection().await.unwrap();
    let client = Client::shared(Odd::new(connection, seed)).deadline(Duration::from_secs(30));
    let rule = || Rule::new("key", quota()).key(|work: &Work| Key::from(work.key));
    let store = RedisStore::from(client);
    let strict = RateLimitLayer::new(store.clone()).rule(rule());
    let leased = RateLimitLayer::new(Leased::over(store)).rule(rule());
    let undone = |answer: &Result<bool, BoxError>| matches!(answer, Ok(false));
    let work = service_fn(async |work: Work| Ok::<_, BoxError>(work.keep));
    let mut strict_undone = strict.clone().refund_if(undone).layer(work);
    let mut leased_undone = leased.clone().refund_if(undone).layer(work);
    let (strict, leased) = (strict.checker(), leased.checker());
    let mut random = fastrand::Rng::with_seed(seed);
    for turn in 0..requests {
        let key = random.u64(0..KEYS);
        let keep = random.bool();
        let before = micros();
        let work = Work { key, keep };
        let admitted = match turn % 50 {
            0 => strict.check(&work).await.is_ok(),
            1 => matches!(called(&mut strict_undone, work).await, Ok(true)),
            2..10 => matches!(called(&mut leased_undone, work).await, Ok(true)),
            _ => leased.check(&work).await.is_ok(),
        };
        if admitted {
            writeln!(told, "admitted {key} {before} {}", micros()).unwrap();
        }
        if turn % 16 == 0 {
            tokio::task::yield_now().await;
        }
    }
}

/// What is asked for, and whether it is kept or given back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    key: u64,
    keep: bool,
}

async fn called<S>(service: &mut S, work: Work) -> Result<bool, BoxError>
where
    S: Service<Work, Response = bool, Error = BoxError>,
{
    service.ready().await?.call(work).await
}

/// What this process is to do, if it is a node.
pub(crate) fn orders() -> Option<(u16, u64, u64)> {
    let orders = std::env::var(NODE).ok()?;
    let mut numbers = orders.split(',').map(|number| number.parse().unwrap());
    let mut next = || numbers.next().unwrap();
    Some((next() as u16, next(), next()))
}

/// Starts this very test binary as a node; `test` is the name of the test that obeys the orders.
fn start(test: &str, port: u16, seed: u64, requests: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(NODE, format!("{port},{seed},{requests}"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Windows that held more than the limit while eight nodes made so many requests each, two more were killed with
/// leases in their hands, and the server forgot its scripts again and again. And how many were admitted.
pub(crate) async fn violations(test: &str, requests: u64) -> (usize, usize) {
    let server = Redis::start().await;
    let mut nodes: Vec<Child> = (0..NODES)
        .map(|seed| start(test, server.port(), seed, requests))
        .collect();
    let mut killed: Vec<Child> = (NODES..NODES + 2)
        .map(|seed| start(test, server.port(), seed, u64::MAX))
        .collect();
    let readers: Vec<_> = nodes
        .iter_mut()
        .chain(&mut killed)
        .map(|node| {
            let told = BufReader::new(node.stdout.take().unwrap());
            std::thread::spawn(move || {
                let lines = told.lines().map_while(Result::ok);
                lines.filter_map(|line| admitted(&line)).collect::<Vec<_>>()
            })
        })
        .collect();
    while nodes
        .iter_mut()
        .any(|node| node.try_wait().unwrap().is_none())
    {
        server.flush_scripts().await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        if let Some(mut node) = killed.pop() {
            node.kill().unwrap();
            node.wait().unwrap();
        }
    }
    for mut node in nodes {
        assert!(node.wait().unwrap().success(), "a node failed");
    }
    let mut all: Vec<(u64, u64, u64)> = Vec::new();
    for reader in readers {
        all.extend(reader.join().unwrap());
    }
    let broken = (0..KEYS).map(|key| {
        let mine = all.iter().filter(|(other, ..)| *other == key);
        let mut mine: Vec<(u64, u64)> = mine.map(|(_, from, to)| (*from, *to)).collect();
        mine.sort_unstable();
        broken_windows(&mine)
    });
    (broken.sum(), all.len())
}

fn admitted(line: &str) -> Option<(u64, u64, u64)> {
    // The harness may have begun the line.
    let (_, rest) = line.split_once("admitted ")?;
    let mut numbers = rest.split(' ').map(|number| number.parse().ok());
    let mut next = || numbers.next().flatten();
    Some((next()?, next()?, next()?))
}

/// Windows that hold more than the limit for certain: of what was admitted between two moments within them.
fn broken_windows(admitted: &[(u64, u64)]) -> usize {
    let window = WINDOW.as_micros() as u64;
    let mut broken = 0;
    for (n, (start, _)) in admitted.iter().enumerate() {
        let later = admitted[n..]
            .iter()
            .take_while(|(from, _)| *from < start + window);
        let inside = later.filter(|(_, to)| *to < start + window).count();
        broken += usize::from(inside > LIMIT);
    }
    broken
}
