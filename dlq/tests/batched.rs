//! Messages that are handled together, each with its own end.
#![allow(clippy::unwrap_used)] // in helpers, which are tests as well

mod support;

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::FutureExt;
use seawall_dlq::{Batched, BoxError, Consumer, DeadLetterLayer, Message, Queue, RedisSink};
use support::{all, connect, seconds};
use test_support::Redis;
use tokio::time::{Instant, advance};
use tower::{Layer, Service, ServiceExt, service_fn};

type Batches = Arc<Mutex<Vec<Vec<String>>>>;
type Answers = Vec<Result<String, BoxError>>;

/// Notes each batch. `bad` fails by itself, `worse` all of its batch, `worst` with a panic.
fn handler(
    batches: &Batches,
) -> impl Service<
    Vec<String>,
    Response = Answers,
    Error = BoxError,
    Future = impl Future<Output = Result<Answers, BoxError>> + Send,
> + Clone
+ Send
+ 'static {
    let batches = Arc::clone(batches);
    service_fn(move |batch: Vec<String>| {
        batches.lock().unwrap().push(batch.clone());
        async move {
            tokio::task::yield_now().await;
            let has = |what: &str| batch.iter().any(|text| text == what);
            assert!(!has("worst"), "worst");
            match (has("worse"), has("short")) {
                (true, _) => Err("worse".into()),
                (_, true) => Ok(Vec::new()),
                _ => Ok({ batch.into_iter() }
                    .map(|text| match &*text {
                        "bad" => Err("bad".into()),
                        _ => Ok(text),
                    })
                    .collect()),
            }
        }
    })
}

fn said(batches: &Batches) -> Vec<Vec<String>> {
    batches.lock().unwrap().clone()
}

/// Calls all of these at once.
async fn calls<S>(service: &S, texts: &[&str]) -> Vec<Result<String, String>>
where
    S: Service<String, Response = String, Error = BoxError> + Clone,
{
    let calls = texts.iter().map(|text| {
        let mut service = service.clone();
        let call = async move { service.ready().await?.call((*text).to_owned()).await };
        AssertUnwindSafe(call)
            .catch_unwind()
            .map(|ended| match ended {
                Ok(ended) => ended.map_err(|error| error.to_string()),
                Err(_) => Err("panic".to_owned()),
            })
    });
    futures_util::future::join_all(calls).await
}

#[tokio::test(start_paused = true)]
async fn a_batch_begins_when_it_is_full_or_the_first_has_waited() {
    let batches = Batches::default();
    let service = Batched::new(handler(&batches), 3, seconds(1));
    let began = Instant::now();
    let answers = calls(&service, &["a", "b", "c"]).await;
    assert_eq!(answers, ["a", "b", "c"].map(|text| Ok(text.to_owned())));
    assert_eq!(began.elapsed(), Duration::ZERO, "it was full");
    calls(&service, &["d", "e", "f", "g"]).await;
    assert_eq!(began.elapsed(), seconds(1), "the last waited for others");
    let expected = [&["a", "b", "c"][..], &["d", "e", "f"], &["g"]];
    assert_eq!(said(&batches), expected);
}

#[tokio::test(start_paused = true)]
async fn each_has_its_own_result() {
    let batches = Batches::default();
    let service = Batched::new(handler(&batches), 3, seconds(1));
    let answers = calls(&service, &["a", "bad", "c"]).await;
    let [a, bad, c] = ["a", "bad", "c"].map(str::to_owned);
    assert_eq!(answers, [Ok(a), Err(bad), Ok(c)]);
    assert_eq!(said(&batches).len(), 1);
}

/// Had they shared the failure, all of them would be dead for one.
#[tokio::test(start_paused = true)]
async fn a_batch_that_fails_as_a_whole_is_handled_one_by_one() {
    for (culprit, end) in [
        ("worse", "worse"),
        ("worst", "panic"),
        ("short", "0 results for a batch of 1"),
    ] {
        let batches = Batches::default();
        let service = Batched::new(handler(&batches), 3, seconds(1));
        let answers = calls(&service, &["a", culprit, "c"]).await;
        let [a, c] = ["a", "c"].map(|text| Ok(text.to_owned()));
        assert_eq!(answers, [a, Err(end.to_owned()), c]);
        let expected = [&["a", culprit, "c"][..], &["a"], &[culprit], &["c"]];
        assert_eq!(said(&batches), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_leaves_the_others_alone() {
    let batches = Batches::default();
    let mut service = Batched::new(handler(&batches), 3, seconds(1));
    let first = service.ready().await.unwrap().call("a".to_owned());
    let second = service.ready().await.unwrap().call("b".to_owned());
    drop(first);
    advance(seconds(1)).await;
    assert_eq!(second.await.unwrap(), "b");
    assert_eq!(
        said(&batches),
        [["b"]],
        "nobody would acknowledge the first"
    );
}

#[test]
fn a_batch_of_nothing_is_refused_when_built() {
    let batches = Batches::default();
    assert!(Batched::<_, String, String>::try_new(handler(&batches), 0, seconds(1)).is_err());
}

/// Through a worker: one of a key at a time, the bad ones dead by themselves, everything acknowledged.
#[tokio::test]
async fn a_worker_handles_batches_and_keeps_the_order_of_keys() {
    let server = Redis::start().await;
    let connection = connect(server.port()).await;
    let client = redis::Client::open(server.url()).unwrap();
    let group = ["XGROUP", "CREATE", "{orders}", "workers", "0", "MKSTREAM"];
    server.ask(&group).await;
    for number in 0..60 {
        let (key, payload) = ((number % 6).to_string(), number.to_string());
        let add = ["XADD", "{orders}", "*", "key", &key, "payload", &payload];
        server.ask(&add).await;
    }
    let sink = RedisSink::new(connection, "{orders}.dead").acknowledging("{orders}", "workers");
    let (done, mut seen) = tokio::sync::watch::channel(Vec::<Vec<usize>>::new());
    let insert = service_fn(move |batch: Vec<Message>| {
        let number = |message: &Message| -> usize {
            let text = std::str::from_utf8(&message.payload).unwrap();
            text.parse().unwrap()
        };
        let numbers: Vec<_> = batch.iter().map(number).collect();
        done.send_modify(|done| done.push(numbers.clone()));
        async move {
            tokio::task::yield_now().await;
            let each = numbers.into_iter().map(|number| match number {
                25 => Err(BoxError::from("it cannot be read")),
                _ => Ok(()),
            });
            Ok::<_, BoxError>(each.collect::<Vec<_>>())
        }
    });
    let handler = DeadLetterLayer::new(sink.clone())
        .capture(Message::to_letter)
        .layer(Batched::new(insert, 6, Duration::from_millis(20)));
    let all_seen = async {
        let count = |done: &Vec<Vec<usize>>| done.iter().flatten().count() == 60;
        seen.wait_for(count).await.unwrap();
        while sink.depth().await.unwrap().letters == 0 {
            tokio::task::yield_now().await;
        }
    };
    let totals = Consumer::redis(&client, "{orders}", "workers")
        .ordered_by_key()
        .pass_dead()
        .concurrency(12)
        .run(handler, all_seen)
        .await
        .unwrap();
    assert_eq!((totals.done, totals.dead), (59, 1));
    assert_eq!(&all(&sink).await[0].payload[..], b"25");
    let pending = server.ask(&["XPENDING", "{orders}", "workers"]).await;
    assert!(pending.starts_with('0'), "{pending}");
    let seen = seen.borrow().clone();
    assert!(seen.len() < 60, "some were together: {seen:?}");
    for batch in &seen {
        let keys: std::collections::HashSet<_> = batch.iter().map(|number| number % 6).collect();
        assert_eq!(keys.len(), batch.len(), "two of a key: {batch:?}");
    }
    for key in 0..6 {
        let of_key = seen.iter().flatten().filter(|number| *number % 6 == key);
        assert!(of_key.is_sorted(), "{seen:?}");
    }
}
