//! Deadline and breaker in paused time, over a source that does what it is told.

#![allow(clippy::unwrap_used, reason = "what is unwrapped here fails the test")]

use std::collections::VecDeque;
use std::error::Error as _;
use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis::{Cmd, Pipeline, RedisResult, Value};
use seawall_redis::{Breaker, BreakerState, Client, ConfigError, Error, Script, Source};
use test_support::drop_at_every_poll;
use tokio::time::Instant;

const DEADLINE: Duration = Duration::from_millis(100);
const COOL_OFF: Duration = Duration::from_secs(2);

/// What the server does with the next command.
#[derive(Debug, Clone)]
enum Does {
    Answer,
    Hang,
    /// Answers with this error, as on the wire: a code and some words.
    Refuse(&'static str),
    /// The connection breaks.
    Break,
}

/// Follows a plan, answers when it is at an end, and keeps the names of the commands it got.
#[derive(Debug, Clone, Default)]
struct Scripted {
    plan: Arc<Mutex<VecDeque<Does>>>,
    commands: Arc<Mutex<Vec<String>>>,
}

impl Scripted {
    fn plan(&self, plan: impl IntoIterator<Item = Does>) {
        self.plan.lock().unwrap().extend(plan);
    }

    fn sent(&self) -> usize {
        self.commands.lock().unwrap().len()
    }
}

fn refusal(words: &str) -> Value {
    redis::parse_redis_value(format!("-{words}\r\n").as_bytes()).unwrap()
}

impl Source for Scripted {
    async fn command(&self, cmd: &Cmd) -> RedisResult<Value> {
        let packed = cmd.get_packed_command();
        let name = String::from_utf8_lossy(&packed)
            .lines()
            .nth(2)
            .unwrap()
            .to_owned();
        self.commands.lock().unwrap().push(name);
        let does = self.plan.lock().unwrap().pop_front();
        tokio::task::yield_now().await;
        match does {
            None | Some(Does::Answer) => Ok(Value::Okay),
            Some(Does::Hang) => pending().await,
            Some(Does::Refuse(words)) => refusal(words).extract_error(),
            Some(Does::Break) => {
                Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset).into())
            }
        }
    }

    async fn pipeline(&self, pipe: &Pipeline) -> RedisResult<Vec<Value>> {
        let mut replies = Vec::new();
        for _ in 0..pipe.len() {
            replies.push(match self.plan.lock().unwrap().pop_front() {
                Some(Does::Refuse(words)) => refusal(words),
                _ => Value::Okay,
            });
        }
        Ok(replies)
    }
}

fn client() -> (Client<Scripted>, Scripted) {
    let source = Scripted::default();
    let client = Client::new(source.clone())
        .deadline(DEADLINE)
        .breaker(Breaker::new(2, COOL_OFF));
    (client, source)
}

async fn ping(client: &Client<Scripted>) -> Result<Value, Error> {
    client.command(&Cmd::ping()).await
}

/// Lets two calls hang, which opens the breaker.
async fn open(client: &Client<Scripted>, source: &Scripted) {
    source.plan([Does::Hang, Does::Hang]);
    for _ in 0..2 {
        assert!(matches!(ping(client).await, Err(Error::Deadline(_))));
    }
    assert_eq!(client.state(), BreakerState::Open { retry_in: COOL_OFF });
}

#[tokio::test(start_paused = true)]
async fn a_call_that_hangs_ends_at_its_deadline() {
    let (client, source) = client();
    source.plan([Does::Hang]);
    let start = Instant::now();
    let error = ping(&client).await.unwrap_err();
    assert_eq!(start.elapsed(), DEADLINE);
    assert!(matches!(error, Error::Deadline(DEADLINE)));
    assert!(error.is_indeterminate() && error.is_outage());
    assert_eq!(error.to_string(), "no reply from Redis within 100ms");
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_sends_nothing_and_takes_no_time() {
    let (client, source) = client();
    open(&client, &source).await;
    let sent = source.sent();
    let start = Instant::now();
    for _ in 0..1_000 {
        let error = ping(&client).await.unwrap_err();
        assert!(matches!(error, Error::Open { retry_in: COOL_OFF }));
        assert!(!error.is_indeterminate() && error.is_outage());
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(source.sent(), sent);
}

#[tokio::test(start_paused = true)]
async fn one_probe_goes_through_after_the_cool_off_and_closes_it() {
    let (client, source) = client();
    open(&client, &source).await;
    tokio::time::advance(COOL_OFF).await;
    let sent = source.sent();
    let calls = (0..10).map(|_| {
        let client = client.clone();
        tokio::spawn(async move { ping(&client).await.is_ok() })
    });
    let mut served = 0;
    for call in calls.collect::<Vec<_>>() {
        served += usize::from(call.await.unwrap());
    }
    assert_eq!((served, source.sent() - sent), (1, 1));
    assert_eq!(client.state(), BreakerState::Closed);
    ping(&client).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_hangs_opens_it_for_another_cool_off() {
    let (client, source) = client();
    open(&client, &source).await;
    tokio::time::advance(COOL_OFF).await;
    source.plan([Does::Hang]);
    let probe = tokio::spawn({
        let client = client.clone();
        async move { ping(&client).await }
    });
    tokio::task::yield_now().await;
    assert_eq!(client.state(), BreakerState::HalfOpen);
    // Whoever comes meanwhile is told when the probe's fate will be known.
    let refused = ping(&client).await.unwrap_err();
    assert!(matches!(refused, Error::Open { retry_in: DEADLINE }));
    assert!(matches!(probe.await.unwrap(), Err(Error::Deadline(_))));
    assert_eq!(client.state(), BreakerState::Open { retry_in: COOL_OFF });
}

#[tokio::test(start_paused = true)]
async fn a_dropped_probe_wedges_nothing_wherever_it_is_dropped() {
    let (client, source) = client();
    open(&client, &source).await;
    tokio::time::advance(COOL_OFF).await;
    let reply = drop_at_every_poll(
        || ping(&client),
        async |_| {
            assert_eq!(
                client.state(),
                BreakerState::Open {
                    retry_in: Duration::ZERO
                }
            );
        },
    )
    .await;
    assert_eq!(reply.unwrap(), Value::Okay);
    assert_eq!(client.state(), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn calls_dropped_by_their_callers_count_for_nothing() {
    let (client, source) = client();
    for _ in 0..100 {
        source.plan([Does::Hang]);
        let early = tokio::time::timeout(DEADLINE / 2, ping(&client)).await;
        assert!(early.is_err());
    }
    assert_eq!(client.state(), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn an_error_that_answers_the_command_is_no_outage() {
    for answer in [
        "WRONGTYPE Operation against a key holding the wrong kind of value",
        "ERR unknown command",
        "NOSCRIPT No matching script",
        "NOPERM this user has no permissions",
        "CROSSSLOT Keys in request don't hash to the same slot",
        "OOM command not allowed when used memory > 'maxmemory'",
        "EXECABORT Transaction discarded because of previous errors.",
    ] {
        let (client, source) = client();
        for _ in 0..10 {
            source.plan([Does::Refuse(answer)]);
            let error = ping(&client).await.unwrap_err();
            assert!(!error.is_outage() && !error.is_indeterminate(), "{answer}");
            let code = answer.split(' ').next();
            let Error::Redis(inner) = &error else {
                panic!("{error:?}")
            };
            assert_eq!(inner.code(), code);
            assert!(error.source().is_some());
        }
        assert_eq!(client.state(), BreakerState::Closed, "{answer}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_cannot_serve_is_an_outage() {
    for answer in [
        "LOADING Redis is loading the dataset in memory",
        "READONLY You can't write against a read only replica.",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "CLUSTERDOWN The cluster is down",
        "TRYAGAIN Multiple keys request during rehashing of slot",
        "BUSY Redis is busy running a script.",
    ] {
        let (client, source) = client();
        source.plan([Does::Refuse(answer), Does::Refuse(answer)]);
        for _ in 0..2 {
            let error = ping(&client).await.unwrap_err();
            assert!(error.is_outage() && !error.is_indeterminate(), "{answer}");
        }
        assert!(
            matches!(client.state(), BreakerState::Open { .. }),
            "{answer}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_pipeline_keeps_each_reply_and_still_opens_the_breaker() {
    let (client, source) = client();
    let mut pipe = Pipeline::new();
    pipe.cmd("GET").arg("a").cmd("SET").arg("b").arg("c");
    for _ in 0..2 {
        source.plan([Does::Answer, Does::Refuse("READONLY not here")]);
        let replies = client.pipeline(&pipe).await.unwrap();
        assert_eq!(replies[0], Value::Okay);
        assert_eq!(replies[1], refusal("READONLY not here"));
    }
    assert!(matches!(client.state(), BreakerState::Open { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_script_goes_by_digest_and_by_source_once_when_forgotten() {
    static SCRIPT: Script = Script::new("return 1");
    let (client, source) = client();
    source.plan([Does::Refuse("NOSCRIPT No matching script")]);
    client.script(&SCRIPT, &[b"key"], &[]).await.unwrap();
    client.script(&SCRIPT, &[b"key"], &[]).await.unwrap();
    assert_eq!(
        *source.commands.lock().unwrap(),
        ["EVALSHA", "EVAL", "EVALSHA"]
    );
}

#[tokio::test(start_paused = true)]
async fn both_attempts_of_a_script_share_one_deadline() {
    static SCRIPT: Script = Script::new("return 1");
    let (client, source) = client();
    source.plan([Does::Refuse("NOSCRIPT No matching script"), Does::Hang]);
    let start = Instant::now();
    let error = client.script(&SCRIPT, &[], &[]).await.unwrap_err();
    assert!(matches!(error, Error::Deadline(DEADLINE)));
    assert_eq!(start.elapsed(), DEADLINE);
}

#[tokio::test(start_paused = true)]
async fn steadiness_counts_from_the_last_thing_that_befell_the_connection() {
    const MINUTE: Duration = Duration::from_secs(60);
    let (client, source) = client();
    tokio::time::advance(MINUTE).await;
    assert_eq!(client.steady_for(), MINUTE);

    source.plan([Does::Break]);
    ping(&client).await.unwrap_err();
    assert_eq!(client.steady_for(), Duration::ZERO);

    tokio::time::advance(MINUTE).await;
    source.plan([Does::Hang]);
    ping(&client).await.unwrap_err();
    assert_eq!(client.steady_for(), Duration::ZERO);

    // Answers, refusals among them, disturb nothing, and clones know the same.
    tokio::time::advance(MINUTE).await;
    source.plan([Does::Answer, Does::Refuse("WRONGTYPE no")]);
    ping(&client).await.unwrap();
    ping(&client).await.unwrap_err();
    assert_eq!(client.clone().steady_for(), MINUTE);
    assert_eq!(client.breaker(Breaker::never()).steady_for(), MINUTE);
}

#[tokio::test(start_paused = true)]
async fn clones_share_the_breaker() {
    let (client, source) = client();
    let clone = client.clone().deadline(DEADLINE * 2);
    open(&client, &source).await;
    assert!(matches!(ping(&clone).await, Err(Error::Open { .. })));
}

#[test]
fn settings_that_cannot_work_are_refused() {
    assert_eq!(Breaker::try_new(0, COOL_OFF), Err(ConfigError::NoFailures));
    let client = Client::new(Scripted::default());
    let error = client.try_deadline(Duration::ZERO).unwrap_err();
    assert_eq!(error, ConfigError::NoDeadline);
    assert_eq!(
        error.to_string(),
        "the deadline is zero, so every call would fail"
    );
}

#[test]
#[should_panic(expected = "the deadline is zero")]
fn a_deadline_of_zero_in_code_panics() {
    let _ = Client::new(Scripted::default()).deadline(Duration::ZERO);
}

#[test]
#[should_panic(expected = "zero failures")]
fn a_breaker_of_zero_failures_in_code_panics() {
    let _ = Breaker::new(0, COOL_OFF);
}
