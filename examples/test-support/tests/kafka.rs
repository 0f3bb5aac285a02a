//! The brokers come, stand still, go and come back.

use std::io;
use std::net::TcpStream;

use test_support::Kafka;

/// Whether somebody listens on this broker's port.
fn listens(kafka: &Kafka, broker: usize) -> io::Result<()> {
    TcpStream::connect(("127.0.0.1", kafka.port(broker))).map(drop)
}

#[tokio::test]
async fn three_brokers_are_paused_killed_and_started_again() {
    let kafka = Kafka::cluster().await;
    assert_eq!(kafka.bootstrap().split(',').count(), 3);
    for broker in 0..kafka.brokers() {
        listens(&kafka, broker).unwrap();
    }

    kafka.pause(0);
    listens(&kafka, 0).expect("a process that stands still keeps its port");
    kafka.resume(0);

    kafka.stop(2);
    kafka.kill(1);
    listens(&kafka, 1).unwrap_err();
    listens(&kafka, 2).unwrap_err();
    kafka.restart_all([1, 2]).await;
    listens(&kafka, 1).unwrap();
    listens(&kafka, 2).unwrap();

    let ports: Vec<_> = (0..3).map(|broker| kafka.port(broker)).collect();
    drop(kafka);
    for port in ports {
        TcpStream::connect(("127.0.0.1", port)).unwrap_err();
    }
}

#[tokio::test]
async fn the_shared_broker_is_one() {
    let first = Kafka::shared().await.port(0);
    assert_eq!(Kafka::shared().await.port(0), first);
    listens(Kafka::shared().await, 0).unwrap();
}
