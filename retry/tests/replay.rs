//! Bodies that are kept as they are sent.
#![cfg(feature = "http")]
#![allow(clippy::unwrap_used)] // in helpers, which are tests as well

mod support;

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Method, Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full, StreamBody};
use proptest::prelude::*;
use seawall_retry::{
    Backoff, BoxError, CloneRequest, HttpStatus, ReplayBody, ReplayError, ReplayRequests,
    RetryLayer,
};
use support::{call, seconds};
use tower::{Layer, service_fn};

type Chunks = Vec<Result<Frame<Bytes>, &'static str>>;

fn chunked(chunks: &[&'static str]) -> Chunks {
    let data = |chunk: &&'static str| Ok(Frame::data(Bytes::from_static(chunk.as_bytes())));
    chunks.iter().map(data).collect()
}

fn body(
    chunks: Chunks,
    bound: usize,
) -> ReplayBody<impl Body<Data = Bytes, Error: Into<BoxError>>> {
    ReplayBody::new(StreamBody::new(stream::iter(chunks)), bound)
}

async fn text<B>(body: ReplayBody<B>) -> Result<String, BoxError>
where
    B: Body<Error: Into<BoxError>>,
{
    let bytes = body.collect().await?.to_bytes();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn why(error: &BoxError) -> Option<&ReplayError> {
    error.downcast_ref()
}

#[tokio::test]
async fn a_clone_is_sent_from_the_first_byte() {
    let first = body(chunked(&["a", "bc", "d"]), 4);
    let (second, third) = (first.clone(), first.clone());
    assert_eq!(text(first).await.unwrap(), "abcd");
    assert!(second.is_whole());
    assert_eq!(text(second).await.unwrap(), "abcd");
    assert_eq!(text(third).await.unwrap(), "abcd");
}

#[tokio::test]
async fn a_clone_goes_on_where_an_earlier_attempt_stopped_reading() {
    let mut first = body(chunked(&["a", "bc", "d"]), 4);
    let second = first.clone();
    let frame = first.frame().await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "a");
    assert_eq!(text(second).await.unwrap(), "abcd");
    // What is left of the first cannot take anything from under the second.
    let error = first.frame().await.unwrap().unwrap_err();
    assert_eq!(why(&error), Some(&ReplayError::Superseded));
    assert!(first.frame().await.is_none());
}

#[tokio::test]
async fn over_the_bound_it_is_sent_through_once_and_never_cut_short() {
    let first = body(chunked(&["abc", "d", "e"]), 4);
    let second = first.clone();
    assert!(second.is_whole(), "nothing is known of its length yet");
    assert_eq!(text(first).await.unwrap(), "abcde");
    assert!(!second.is_whole());
    assert_eq!(
        why(&text(second).await.unwrap_err()),
        Some(&ReplayError::TooLong(4))
    );
}

#[tokio::test]
async fn a_body_that_says_it_is_longer_is_not_kept() {
    let long = ReplayBody::new(Full::new(Bytes::from_static(b"abcde")), 4);
    assert!(!long.is_whole());
    assert_eq!(long.size_hint().exact(), Some(5));
    let request = Request::put("/").body(long).unwrap();
    assert!(
        ReplayRequests::idempotent()
            .clone_request(&request)
            .is_none()
    );
    assert_eq!(text(request.into_body()).await.unwrap(), "abcde");
}

#[tokio::test]
async fn trailers_and_length_are_those_of_the_body() {
    let mut trailers = HeaderMap::new();
    trailers.insert("sum", "6".parse().unwrap());
    let mut chunks = chunked(&["ab"]);
    chunks.push(Ok(Frame::trailers(trailers.clone())));
    let first = body(chunks, 10);
    let second = first.clone();
    for body in [first, second] {
        let collected = body.collect().await.unwrap();
        assert_eq!(collected.trailers(), Some(&trailers));
        assert_eq!(collected.to_bytes(), "ab");
    }

    let mut first = ReplayBody::new(Full::new(Bytes::from_static(b"ab")), 10);
    let second = first.clone();
    assert_eq!(first.size_hint().exact(), Some(2));
    first.frame().await.unwrap().unwrap();
    assert!(first.is_end_stream());
    assert!(!second.is_end_stream());
    assert_eq!(second.size_hint().exact(), Some(2));
}

#[tokio::test]
async fn a_body_that_fails_cannot_be_sent_again() {
    let mut chunks = chunked(&["ab"]);
    chunks.push(Err("the disk is gone"));
    let first = body(chunks, 10);
    let second = first.clone();
    assert_eq!(
        text(first).await.unwrap_err().to_string(),
        "the disk is gone"
    );
    assert!(!second.is_whole());
    assert!(text(second).await.is_err());
}

#[test]
fn only_what_may_be_sent_twice_is_repeated() {
    let copied = |by: ReplayRequests, method: Method, key: bool| {
        let mut request = Request::builder().method(method);
        if key {
            request = request.header("Idempotency-Key", "\"k\"");
        }
        let request = request.body(ReplayBody::new(Full::new(Bytes::new()), 0));
        by.clone_request(&request.unwrap()).is_some()
    };
    let idempotent = ReplayRequests::idempotent();
    assert!(copied(idempotent, Method::PUT, false) && copied(idempotent, Method::POST, true));
    assert!(!copied(idempotent, Method::POST, false));
    assert!(copied(ReplayRequests::any_method(), Method::POST, false));
}

/// Through the layer: each attempt sends the whole body, or there is none.
#[tokio::test(start_paused = true)]
async fn each_attempt_sends_the_whole_body_or_there_is_none() {
    for (bound, attempts) in [(6, 3), (5, 1)] {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&seen);
        let mut service = RetryLayer::new(Backoff::exponential(seconds(1)).attempts(3))
            .classify(HttpStatus::new())
            .clone_with(ReplayRequests::idempotent())
            .layer(service_fn(move |request: Request<ReplayBody<_>>| {
                let noted = Arc::clone(&noted);
                async move {
                    let sent = text(request.into_body()).await?;
                    noted.lock().unwrap().push(sent);
                    Ok::<_, BoxError>(Response::builder().status(503).body(()).unwrap())
                }
            }));
        let request = Request::put("/").body(body(chunked(&["abc", "def"]), bound));
        let answer = call(&mut service, request.unwrap()).await.unwrap();
        assert_eq!(answer.status(), 503);
        assert_eq!(*seen.lock().unwrap(), vec!["abcdef"; attempts]);
    }
}

proptest! {
    /// Whatever the chunks, the bound and where each attempt breaks off: what a clone that is whole
    /// sends is the body.
    #[test]
    fn a_whole_clone_sends_the_body(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..6), 0..8),
        bound in 0..30_usize,
        breaks in prop::collection::vec(0..9_usize, 0..4),
    ) {
        let sent = chunks.concat();
        let frames: Vec<_> = chunks
            .into_iter()
            .map(|chunk| Ok::<_, Infallible>(Frame::data(Bytes::from(chunk))))
            .collect();
        let mut body = ReplayBody::new(StreamBody::new(stream::iter(frames)), bound);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            for frames in breaks {
                let next = body.clone();
                for _ in 0..frames {
                    if body.frame().await.is_none() {
                        break;
                    }
                }
                body = next;
            }
            let whole = body.is_whole();
            match body.collect().await {
                Ok(collected) => prop_assert_eq!(&collected.to_bytes()[..], &sent[..]),
                Err(error) => prop_assert!(!whole, "{}", error),
            }
            Ok(())
        })?;
    }
}
