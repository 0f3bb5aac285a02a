//! What a client of tonic gets to see.

#![allow(clippy::unwrap_used, reason = "in a test it is the assertion")]

use tokio::net::TcpListener;
use tonic::Code;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

#[tokio::test]
async fn a_client_is_told_that_it_is_over_its_limit_and_when_to_come_back() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(tonic_api::serve(listener));
    let server = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let mut client = HealthClient::new(server.connect().await.unwrap());

    for _ in 0..3 {
        let answer = client.check(HealthCheckRequest::default()).await.unwrap();
        let left = answer
            .metadata()
            .get("ratelimit")
            .unwrap()
            .to_str()
            .unwrap();
        assert!(left.contains(r#""client";r="#), "{left}");
    }
    let refused = client
        .check(HealthCheckRequest::default())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(
        refused
            .message()
            .starts_with("over the rate limit of client")
    );
    let pushback = refused.metadata().get("grpc-retry-pushback-ms").unwrap();
    // One of three that come back over a minute.
    let millis: u64 = pushback.to_str().unwrap().parse().unwrap();
    assert!((1..=20_000).contains(&millis));
    // The details name the type that says so.
    let name = b"type.googleapis.com/google.rpc.RetryInfo";
    assert!(
        refused
            .details()
            .windows(name.len())
            .any(|part| part == name)
    );
}
