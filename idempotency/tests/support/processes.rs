//! What processes of a test do, on one Redis: duplicates that race, and calls until they are killed.

use std::{
    collections::BTreeMap,
    future::Future,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::Duration,
};

use redis::{AsyncConnectionConfig, aio::MultiplexedConnection};
use seawall_idempotency::{
    Abandoned, BoxError, Error, InFlight, Key, RecordKey, RedisStore, State,
};
use seawall_redis::{Client, Shared};
use test_support::Redis;
use tower::{Layer, service_fn};

use crate::support::{Message, MessageLayer, call, layer, message, ours, spawn};

const MINUTE: Duration = Duration::from_secs(60);

/// Tells a process of this test what to do: port, first number, and how.
const ORDERS: &str = "SEAWALL_IDEMPOTENCY_ORDERS";

type Connection = MultiplexedConnection;
type Once = MessageLayer<RedisStore<Shared<Connection>>>;

/// Hundreds of calls at once on a busy machine outlast the usual deadlines.
async fn connect(port: u16) -> Connection {
    let config = AsyncConnectionConfig::new().set_response_timeout(Some(MINUTE));
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}/")).unwrap();
    let connection = client.get_multiplexed_async_connection_with_config(&config);
    connection.await.unwrap()
}

fn once(connection: &Connection) -> Once {
    let client = Client::shared(connection.clone()).deadline(MINUTE);
    layer(RedisStore::from(client)).in_flight(InFlight::Wait(MINUTE))
}

fn name(key: u64) -> &'static str {
    format!("key {key}").leak()
}

/// Executes where everybody can see it: the server counts each attempt at each key.
fn executing(
    connection: &Connection,
    steps: u32,
) -> impl Fn(Message) -> Executing + Clone + Send + 'static {
    let connection = connection.clone();
    move |m: Message| {
        let mut connection = connection.clone();
        Box::pin(async move {
            let field = format!("{} {}", m.key, m.attempt);
            let mut count = redis::cmd("HINCRBY");
            count.arg("executions").arg(field).arg(1);
            let times: u64 = count.query_async(&mut connection).await?;
            // A handler that takes a while, so that a process can die in the middle of it.
            for _ in 0..steps {
                let echo: String = redis::cmd("ECHO")
                    .arg("step")
                    .query_async(&mut connection)
                    .await?;
                assert_eq!(echo, "step");
            }
            Ok(format!("{} attempt {} execution {times}", m.key, m.attempt))
        })
    }
}

type Executing = std::pin::Pin<Box<dyn Future<Output = Result<String, BoxError>> + Send>>;

/// How often each attempt at each key was executed.
async fn executions(server: &Redis) -> BTreeMap<String, u64> {
    let all = server.ask(&["HGETALL", "executions"]).await;
    let lines: Vec<_> = all.lines().collect();
    let pairs = lines.chunks_exact(2);
    pairs
        .map(|pair| (pair[0].to_owned(), pair[1].parse().unwrap()))
        .collect()
}

/// This test once more, as a process of its own.
fn another(test: &str, orders: String) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(ORDERS, orders)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What this process is to do, if it was started by a test.
pub(crate) fn orders() -> Option<Vec<u64>> {
    let orders = std::env::var(ORDERS).ok()?;
    Some(
        orders
            .split(' ')
            .map(|number| number.parse().unwrap())
            .collect(),
    )
}

const PROCESSES: u64 = 8;
const DUPLICATES: u64 = 1_000;
/// How many keys are under way in a process at a time, each with all of its duplicates there.
const AT_A_TIME: u64 = 8;

/// A thousand duplicates of each of `keys` keys, from eight processes that run this test: what was not as it
/// should be.
pub(crate) async fn race(test: &str, keys: u64) -> usize {
    let server = Redis::start().await;
    let processes: Vec<_> = (0..PROCESSES)
        .map(|_| another(test, format!("{} {keys}", server.port())))
        .collect();
    let mut answers = BTreeMap::<String, usize>::new();
    for process in processes {
        let output = process.wait_with_output().unwrap();
        assert!(output.status.success());
        let told = String::from_utf8(output.stdout).unwrap();
        for line in told.lines().filter_map(|line| line.strip_prefix("answer ")) {
            let (times, answer) = line.split_once(' ').unwrap();
            *answers.entry(answer.to_owned()).or_default() += times.parse::<usize>().unwrap();
        }
    }
    // Everybody got the one answer of the one execution of the one attempt.
    let expected: BTreeMap<_, _> = (0..keys)
        .map(|key| {
            (
                format!("key {key} attempt 1 execution 1"),
                DUPLICATES as usize,
            )
        })
        .collect();
    let wrong_answers = expected
        .iter()
        .filter(|(answer, times)| answers.get(*answer) != Some(times));
    let wrong = wrong_answers.count() + answers.len().abs_diff(expected.len());
    let executed = executions(&server).await;
    let beyond: u64 = executed.values().sum::<u64>().abs_diff(keys);
    // One record for each key, and nothing else but the count.
    let records: u64 = server.ask(&["DBSIZE"]).await.parse().unwrap();
    let stored = records.abs_diff(keys + 1);
    wrong + (beyond + stored) as usize
}

/// What each of the processes does that race.
pub(crate) async fn duplicates(orders: &[u64]) {
    let (port, keys) = (u16::try_from(orders[0]).unwrap(), orders[1]);
    let connection = connect(port).await;
    let service = once(&connection)
        .lease(MINUTE)
        .layer(service_fn(executing(&connection, 0)));
    let mut answers = BTreeMap::<String, u64>::new();
    let keys: Vec<_> = (0..keys).collect();
    for keys in keys.chunks(AT_A_TIME as usize) {
        let calls: Vec<_> = (0..DUPLICATES / PROCESSES)
            .flat_map(|_| {
                keys.iter()
                    .map(|&key| (key, spawn(service.clone(), message(name(key)))))
            })
            .collect();
        for (key, answer) in calls {
            let answer = answer.await.unwrap().unwrap();
            assert!(answer.starts_with(&format!("key {key} ")));
            *answers.entry(answer).or_default() += 1;
        }
    }
    println!();
    for (answer, times) in answers {
        println!("answer {times} {answer}");
    }
}

/// Each process makes calls with these many keys at a time until it is killed.
const WORKERS: u64 = 4;
/// Short, so that what was abandoned is soon seen as such; long enough for a busy machine.
const LEASE: Duration = Duration::from_millis(1_500);

/// So many processes, which run this test, are killed at random moments in the middle of their calls; what they
/// left is called again, by layers that never execute again and by layers that do. Says what was not as it
/// should be.
pub(crate) async fn kill(test: &str, kills: u64) -> usize {
    let server = Redis::start().await;
    let connection = connect(server.port()).await;
    let mut random = fastrand::Rng::new();
    let mut called = Vec::new();
    for kill in 0..kills {
        let mut process = another(test, format!("{} {}", server.port(), kill * 1_000_000));
        let told = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut calls = told
            .map_while(Result::ok)
            .filter_map(|line| line.strip_prefix("call ")?.parse::<u64>().ok());
        // It is at work, and dies somewhere in one of its next calls.
        called.extend(calls.next());
        tokio::time::sleep(Duration::from_micros(random.u64(0..20_000))).await;
        process.kill().unwrap();
        process.wait().unwrap();
        called.extend(calls);
    }
    let before = executions(&server).await;
    let mut wrong = before.values().filter(|times| **times != 1).count();
    assert!(before.keys().all(|attempt| attempt.ends_with(" 1")));

    // What was in the middle of its call when its process died.
    let records = once(&connection).records();
    let mut left = Vec::new();
    for &key in &called {
        let seen = records
            .look_up(&RecordKey::new(None, &Key::from(name(key))))
            .await
            .unwrap();
        let is_pending = seen.is_some_and(|seen| {
            matches!(seen.state, State::InFlight { .. } | State::Abandoned { .. })
        });
        if is_pending {
            left.push(name(key));
        }
    }
    assert!(
        left.len() as u64 > kills / 2,
        "kills met calls: {}",
        left.len()
    );

    // `Reject` waits out the lease, and executes none of them.
    let reject = once(&connection)
        .lease(LEASE)
        .layer(service_fn(executing(&connection, 0)));
    let calls: Vec<_> = left
        .iter()
        .map(|key| spawn(reject.clone(), message(key)))
        .collect();
    for answer in calls {
        let refused = matches!(
            ours(answer.await.unwrap().unwrap_err()),
            Error::Abandoned { attempt: 1 }
        );
        wrong += usize::from(!refused);
    }
    wrong += usize::from(executions(&server).await != before);

    // `Reexecute` executes each once, however many call.
    let again = once(&connection)
        .lease(LEASE)
        .abandoned(Abandoned::Reexecute)
        .layer(service_fn(executing(&connection, 3)));
    let calls: Vec<_> = (0..5)
        .flat_map(|_| {
            left.iter()
                .map(|key| (*key, spawn(again.clone(), message(key))))
        })
        .collect();
    for (key, answer) in calls {
        let answer = answer.await.unwrap().unwrap();
        wrong += usize::from(answer != format!("{key} attempt 2 execution 1"));
    }
    let after = executions(&server).await;
    let second = after
        .keys()
        .filter(|attempt| attempt.ends_with(" 2"))
        .count();
    wrong += after.values().filter(|times| **times != 1).count();
    wrong += second.abs_diff(left.len());
    wrong
}

/// What each of the processes does that are killed: calls, each with a key of its own, which it tells before.
pub(crate) async fn works_until_killed(orders: &[u64]) {
    let (port, first) = (u16::try_from(orders[0]).unwrap(), orders[1]);
    // What the test harness has begun to write is on a line of its own.
    println!();
    let connection = connect(port).await;
    let service = once(&connection)
        .lease(LEASE)
        .layer(service_fn(executing(&connection, 10)));
    let workers: Vec<_> = (0..WORKERS)
        .map(|worker| {
            let service = service.clone();
            tokio::spawn(async move {
                let mut service = service;
                for key in (first + worker..).step_by(WORKERS as usize) {
                    println!("call {key}");
                    call(&mut service, message(name(key))).await.unwrap();
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.unwrap();
    }
}
