//! What errors of connections and codes of gRPC mean.
#![allow(clippy::unwrap_used)] // in helpers, which are tests as well

mod support;

use std::{
    error::Error,
    fmt,
    io::{self, ErrorKind},
};

use seawall_retry::{
    Backoff, BoxError, Class, Classify, Interrupted, IoErrors, RetryError, RetryLayer, Stopped,
};
use support::{Busy, call, seconds};
use tower::{Layer, service_fn};

/// A client's error around another.
#[derive(Debug)]
struct Wrapped(BoxError);

impl fmt::Display for Wrapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the client failed")
    }
}

impl Error for Wrapped {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.0)
    }
}

fn class(by: IoErrors, error: impl Into<BoxError>) -> Class {
    Classify::<()>::classify(&by, Err(&error.into()))
}

#[test]
fn errors_of_connections_are_judged_by_their_kind() {
    use Class::{Permanent, Transient};
    for (kind, passing, connecting) in [
        (ErrorKind::ConnectionRefused, Transient, Transient),
        (ErrorKind::HostUnreachable, Transient, Transient),
        (ErrorKind::NetworkUnreachable, Transient, Transient),
        (ErrorKind::NetworkDown, Transient, Transient),
        (ErrorKind::AddrNotAvailable, Transient, Transient),
        (ErrorKind::ConnectionReset, Transient, Permanent),
        (ErrorKind::ConnectionAborted, Transient, Permanent),
        (ErrorKind::BrokenPipe, Transient, Permanent),
        (ErrorKind::NotConnected, Transient, Permanent),
        (ErrorKind::UnexpectedEof, Transient, Permanent),
        (ErrorKind::TimedOut, Transient, Permanent),
        (ErrorKind::Interrupted, Transient, Permanent),
        (ErrorKind::WouldBlock, Transient, Permanent),
        (ErrorKind::PermissionDenied, Permanent, Permanent),
        (ErrorKind::InvalidInput, Permanent, Permanent),
        (ErrorKind::NotFound, Permanent, Permanent),
        (ErrorKind::Other, Permanent, Permanent),
    ] {
        assert_eq!(class(IoErrors::passing(), io::Error::from(kind)), passing);
        assert_eq!(
            class(IoErrors::connecting(), io::Error::from(kind)),
            connecting
        );
    }
}

#[test]
fn an_io_error_is_found_however_deep_it_lies() {
    let reset = || io::Error::from(ErrorKind::ConnectionReset);
    let passing = |error: BoxError| class(IoErrors::passing(), error);
    let deep: [BoxError; 4] = [
        Wrapped(reset().into()).into(),
        Wrapped(Wrapped(reset().into()).into()).into(),
        io::Error::other(reset()).into(),
        Wrapped(io::Error::other(Wrapped(reset().into())).into()).into(),
    ];
    for error in deep {
        assert_eq!(passing(error), Class::Transient);
    }
    assert_eq!(passing(Busy.into()), Class::Permanent);
    assert_eq!(passing(Wrapped(Busy.into()).into()), Class::Permanent);
    assert_eq!(passing(io::Error::other(Busy).into()), Class::Permanent);
}

#[test]
fn an_attempt_timeout_may_have_reached_the_server() {
    let timeout = Interrupted::AttemptTimeout(seconds(1));
    assert_eq!(class(IoErrors::passing(), timeout), Class::Transient);
    assert_eq!(class(IoErrors::connecting(), timeout), Class::Permanent);
    let answer = Classify::<u32>::classify(&IoErrors::connecting(), Ok(&1));
    assert_eq!(answer, Class::Success);
}

#[tokio::test(start_paused = true)]
async fn what_an_inner_layer_gave_up_on_stays_given_up() {
    let layer =
        RetryLayer::new(Backoff::constant(seconds(1)).attempts(3)).classify(IoErrors::passing());
    let calls = std::sync::atomic::AtomicU32::new(0);
    let refused = service_fn(|()| {
        calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        std::future::ready(Err::<(), _>(io::Error::from(ErrorKind::ConnectionRefused)))
    });
    let error = call(&mut layer.layer(layer.layer(refused)), ())
        .await
        .unwrap_err();
    let outer = RetryError::find(&error).unwrap();
    assert_eq!((outer.attempts, outer.stopped), (1, Stopped::Permanent));
    assert_eq!(calls.into_inner(), 3);
}

#[cfg(feature = "grpc")]
mod grpc {
    use std::time::Duration;

    use http::Response;
    use seawall_retry::GrpcStatus;

    use super::*;

    fn response(status: u16, headers: &[(&str, &str)]) -> Response<()> {
        let mut builder = Response::builder().status(status);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap()
    }

    fn class(status: u16, headers: &[(&str, &str)]) -> Class {
        GrpcStatus::new().classify(Ok(&response(status, headers)))
    }

    #[test]
    fn a_code_says_whether_another_attempt_may_go_better() {
        for code in -3..40 {
            let expected = match code {
                0 => Class::Success,
                14 => Class::Transient,
                _ => Class::Permanent,
            };
            assert_eq!(GrpcStatus::new().class_of(code, None), expected, "{code}");
        }
        let more = GrpcStatus::new()
            .retry_on(GrpcStatus::RESOURCE_EXHAUSTED)
            .retry_on(GrpcStatus::ABORTED);
        for code in [8, 10, 14] {
            assert_eq!(more.class_of(code, None), Class::Transient, "{code}");
        }
        assert_eq!(more.class_of(13, None), Class::Permanent);
        for code in [i32::MIN, -1, 0, 17, 32, 46, i32::MAX] {
            assert!(GrpcStatus::new().try_retry_on(code).is_err(), "{code}");
            assert!(!matches!(more.class_of(code, None), Class::Transient));
        }
    }

    #[test]
    fn pushback_says_when_and_a_negative_one_stops() {
        let throttled = |millis| Class::Throttled(Duration::from_millis(millis));
        for (pushback, expected) in [
            ("0", throttled(0)),
            ("250", throttled(250)),
            ("99999999999999999999999", throttled(u64::MAX)),
            ("-1", Class::Permanent),
            ("-250", Class::Permanent),
            ("", Class::Permanent),
            ("soon", Class::Permanent),
            ("1.5", Class::Permanent),
            ("+5", Class::Permanent),
        ] {
            let class = GrpcStatus::new().class_of(14, Some(pushback));
            assert_eq!(class, expected, "{pushback:?}");
            // It makes no other code worth a retry.
            let other = GrpcStatus::new().class_of(3, Some(pushback));
            assert_eq!(other, Class::Permanent);
            assert_eq!(
                GrpcStatus::new().class_of(0, Some(pushback)),
                Class::Success
            );
        }
    }

    #[test]
    fn a_response_without_messages_has_its_status_in_the_headers() {
        let pushback = ("grpc-retry-pushback-ms", "40");
        assert_eq!(class(200, &[]), Class::Success);
        assert_eq!(class(200, &[("grpc-status", "0")]), Class::Success);
        assert_eq!(class(200, &[("grpc-status", "14")]), Class::Transient);
        assert_eq!(class(200, &[("grpc-status", "5")]), Class::Permanent);
        assert_eq!(class(200, &[("grpc-status", "x")]), Class::Permanent);
        assert_eq!(
            class(200, &[("grpc-status", "14"), pushback]),
            Class::Throttled(Duration::from_millis(40))
        );
        assert_eq!(
            class(200, &[("grpc-status", "14"), pushback, pushback]),
            Class::Permanent,
            "two that may differ are as good as none that can be read"
        );
        // No gRPC server was reached.
        for status in [429, 502, 503, 504] {
            assert_eq!(class(status, &[]), Class::Transient, "{status}");
        }
        for status in [400, 401, 403, 404, 500, 302] {
            assert_eq!(class(status, &[]), Class::Permanent, "{status}");
        }
        // The status of gRPC counts before that of HTTP.
        assert_eq!(class(503, &[("grpc-status", "3")]), Class::Permanent);
    }

    #[tokio::test(start_paused = true)]
    async fn pushback_is_never_early_and_stops_where_it_says_so() {
        for (pushback, waited, calls) in [("2500", 5_000, 3), ("-1", 0, 1)] {
            let start = tokio::time::Instant::now();
            let made = std::sync::atomic::AtomicU32::new(0);
            let mut service = RetryLayer::new(Backoff::exponential(seconds(1)).attempts(3))
                .classify(GrpcStatus::new())
                .layer(service_fn(|()| {
                    made.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let headers = [("grpc-status", "14"), ("grpc-retry-pushback-ms", pushback)];
                    std::future::ready(Ok::<_, Busy>(response(200, &headers)))
                }));
            let answer = call(&mut service, ()).await.unwrap();
            assert_eq!(answer.headers()["grpc-status"], "14");
            assert_eq!(start.elapsed(), Duration::from_millis(waited));
            assert_eq!(made.into_inner(), calls);
        }
    }
}
