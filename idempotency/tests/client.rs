//! Keys of outgoing requests, and what becomes of them when a request is sent again.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::{
    collections::HashSet,
    future::{Ready, ready},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt, Full};
use seawall_idempotency::{
    BoxError, IdempotencyKey, IdempotencyLayer, KeyError, MemoryStore, SetKeyLayer,
};
use seawall_retry::{Backoff, RetryLayer};
use support::call;
use tower::{
    Layer, Service, ServiceBuilder, ServiceExt, retry::Policy, service_fn, util::BoxCloneService,
};

const HEADER: &str = "idempotency-key";

type Client = BoxCloneService<Request<Full<Bytes>>, String, BoxError>;

/// A server behind a network.
#[derive(Clone, Default)]
struct Network {
    executed: Arc<AtomicU64>,
    /// Every key that arrived.
    keys: Arc<Mutex<Vec<String>>>,
}

impl Network {
    fn executed(&self) -> u64 {
        self.executed.load(SeqCst)
    }

    fn attempts(&self) -> usize {
        self.keys.lock().unwrap().len()
    }

    fn keys(&self) -> HashSet<String> {
        self.keys.lock().unwrap().iter().cloned().collect()
    }

    /// A client whose first `lost` answers are lost on their way, each after the server has executed.
    fn losing(&self, lost: u64) -> Client {
        let executed = Arc::clone(&self.executed);
        let keys = Arc::clone(&self.keys);
        let server = IdempotencyLayer::http(MemoryStore::with_capacity(100))
            .unscoped()
            .require_key()
            .layer(service_fn(move |_: Request<Full<Bytes>>| {
                let call = executed.fetch_add(1, SeqCst) + 1;
                let answer = Full::<Bytes>::from(format!("call {call}"));
                ready(Ok::<_, BoxError>(Response::new(answer)))
            }));
        // Boxed, as a server behind a network is of no type that its client could name.
        let server = BoxCloneService::new(server);
        let sent = Arc::new(AtomicU64::new(0));
        let network = service_fn(move |request: Request<Full<Bytes>>| {
            let key = request.headers()[HEADER].to_str().unwrap().to_owned();
            keys.lock().unwrap().push(key);
            let is_lost = sent.fetch_add(1, SeqCst) < lost;
            let mut server = server.clone();
            async move {
                let response = call(&mut server, request).await?;
                if is_lost {
                    return Err("the connection ended before the answer".into());
                }
                let body = response.into_body().collect().await?.to_bytes();
                Ok::<_, BoxError>(String::from_utf8(body.into())?)
            }
        });
        BoxCloneService::new(network)
    }
}

fn post() -> Request<Full<Bytes>> {
    Request::post("/orders").body(Full::from("tea")).unwrap()
}

fn retry() -> RetryLayer {
    RetryLayer::new(Backoff::exponential(Duration::from_millis(10)).attempts(5))
}

/// As `tower::retry` is used: again after any error, with a clone.
#[derive(Clone)]
struct Again(u32);

impl<Res> Policy<Request<Full<Bytes>>, Res, BoxError> for Again {
    type Future = Ready<()>;

    fn retry(
        &mut self,
        _: &mut Request<Full<Bytes>>,
        result: &mut Result<Res, BoxError>,
    ) -> Option<Ready<()>> {
        self.0 = self.0.checked_sub(1)?;
        result.is_err().then(|| ready(()))
    }

    fn clone_request(&mut self, request: &Request<Full<Bytes>>) -> Option<Request<Full<Bytes>>> {
        Some(request.clone())
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_sent_again_has_one_key_and_is_executed_once() {
    let network = Network::default();
    let mut client = ServiceBuilder::new()
        .layer(SetKeyLayer::http())
        .layer(retry())
        .service(network.losing(3));
    assert_eq!(call(&mut client, post()).await.unwrap(), "call 1");
    assert_eq!(network.executed(), 1);
    assert_eq!((network.attempts(), network.keys().len()), (4, 1));

    // The next request is another one.
    assert_eq!(call(&mut client, post()).await.unwrap(), "call 2");
    assert_eq!(network.keys().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn so_it_is_under_the_retries_of_tower() {
    let network = Network::default();
    let mut client = ServiceBuilder::new()
        .layer(SetKeyLayer::http())
        .retry(Again(5))
        .service(network.losing(3));
    assert_eq!(call(&mut client, post()).await.unwrap(), "call 1");
    assert_eq!((network.executed(), network.keys().len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn inside_of_the_retries_each_attempt_would_be_another_request() {
    let network = Network::default();
    let mut client = ServiceBuilder::new()
        .layer(retry())
        .layer(SetKeyLayer::http())
        .service(network.losing(3));
    assert_eq!(call(&mut client, post()).await.unwrap(), "call 4");
    assert_eq!((network.executed(), network.keys().len()), (4, 4));
}

/// What the server behind a layer with these settings gets to see of a request.
async fn sent(
    layer: SetKeyLayer<seawall_idempotency::SetHeader>,
    request: Request<()>,
) -> Option<HeaderValue> {
    let service = service_fn(|request: Request<()>| {
        let values: Vec<_> = request.headers().get_all(HEADER).iter().cloned().collect();
        assert!(values.len() <= 1, "{values:?}");
        ready(Ok::<_, BoxError>(values.into_iter().next()))
    });
    call(&mut layer.layer(service), request).await.unwrap()
}

fn request(method: Method) -> Request<()> {
    Request::builder().method(method).uri("/").body(()).unwrap()
}

#[tokio::test]
async fn a_key_goes_to_the_methods_that_are_not_idempotent_by_themselves() {
    for method in [Method::POST, Method::PATCH] {
        let key = sent(SetKeyLayer::http(), request(method)).await.unwrap();
        let key = IdempotencyKey::parse(key.as_bytes()).unwrap();
        assert_eq!(key.as_str().len(), 36);
    }
    for method in [Method::GET, Method::PUT, Method::DELETE, Method::HEAD] {
        assert_eq!(sent(SetKeyLayer::http(), request(method)).await, None);
    }
    let only_put = SetKeyLayer::http().methods([Method::PUT]);
    assert!(sent(only_put.clone(), request(Method::PUT)).await.is_some());
    assert_eq!(sent(only_put, request(Method::POST)).await, None);
}

#[tokio::test]
async fn a_key_that_is_there_is_kept() {
    let mut with_header = request(Method::POST);
    with_header
        .headers_mut()
        .insert(HEADER, HeaderValue::from_static("\"mine\""));
    assert_eq!(
        sent(SetKeyLayer::http(), with_header).await.unwrap(),
        "\"mine\""
    );

    let mut with_extension = request(Method::POST);
    with_extension
        .extensions_mut()
        .insert(IdempotencyKey(r#"say "hi" \ "#.to_owned()));
    let field = sent(SetKeyLayer::http(), with_extension).await.unwrap();
    assert_eq!(field, r#""say \"hi\" \\ ""#);
}

#[tokio::test]
async fn a_key_that_no_header_can_carry_is_sent_as_one_that_it_can_and_stays_the_same() {
    for name in ["", "naïve", "tab\t", &"x".repeat(256)] {
        let named = || {
            let mut request = request(Method::POST);
            request
                .extensions_mut()
                .insert(IdempotencyKey(name.to_owned()));
            request
        };
        let first = sent(SetKeyLayer::http(), named()).await.unwrap();
        assert!(IdempotencyKey::parse(first.as_bytes()).is_ok(), "{first:?}");
        assert_eq!(sent(SetKeyLayer::http(), named()).await.unwrap(), first);
    }
}

#[tokio::test]
async fn inner_layers_find_the_fresh_key_in_the_extensions() {
    let service = service_fn(|request: Request<()>| {
        let found = request.extensions().get::<IdempotencyKey>().cloned();
        let field = request.headers()[HEADER].clone();
        ready(Ok::<_, BoxError>((found.unwrap(), field)))
    });
    let mut service = SetKeyLayer::http().layer(service);
    let (found, field) = service
        .ready()
        .await
        .unwrap()
        .call(request(Method::POST))
        .await
        .unwrap();
    assert_eq!(found.to_field().unwrap(), field);
}

#[test]
fn fresh_keys_are_uuids_of_version_4_and_none_comes_twice() {
    let keys: HashSet<_> = (0..10_000).map(|_| IdempotencyKey::fresh()).collect();
    assert_eq!(keys.len(), 10_000);
    for IdempotencyKey(key) in &keys {
        let parts: Vec<_> = key.split('-').map(str::len).collect();
        assert_eq!(parts, [8, 4, 4, 4, 12], "{key}");
        assert!(
            key.bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-'))
        );
        assert_eq!(&key[14..15], "4", "{key}");
        assert!(matches!(&key[19..20], "8" | "9" | "a" | "b"), "{key}");
    }
    // Each of the 122 bits is sometimes set and sometimes not.
    let bits = keys
        .iter()
        .map(|key| u128::from_str_radix(&key.0.replace('-', ""), 16).unwrap());
    let (any, all) = bits.fold((0, u128::MAX), |(any, all), key| (any | key, all & key));
    assert_eq!((any & !all).count_ones(), 122);
}

#[test]
fn what_is_written_as_a_field_is_read_again() {
    for key in ["a", "a b", r#"a"b\c"#, &"x".repeat(255)] {
        let key = IdempotencyKey(key.to_owned());
        assert_eq!(
            IdempotencyKey::parse(key.to_field().unwrap().as_bytes()),
            Ok(key)
        );
    }
    assert_eq!(
        IdempotencyKey(String::new()).to_field(),
        Err(KeyError::Length(0))
    );
    assert_eq!(
        IdempotencyKey("é".to_owned()).to_field(),
        Err(KeyError::NotAString)
    );
}
