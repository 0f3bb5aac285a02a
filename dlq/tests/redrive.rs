//! Redrive: what is sent, what is removed, what stays.

use seawall_dlq::{BoxError, Letter, MemorySink, Redrive};

#[tokio::test]
async fn a_run_can_be_spawned() {
    let sink = MemorySink::with_capacity(1);
    let run = Redrive::new(sink).run(async |_: Letter| Ok::<(), BoxError>(()));
    let summary = tokio::spawn(run).await.unwrap().unwrap();
    assert_eq!(summary.matched, 0);
}

#[tokio::test]
async fn a_run_through_a_service_can_be_spawned() {
    let sink = MemorySink::with_capacity(1);
    let service = tower::service_fn(|_: Letter| async { Ok::<(), BoxError>(()) });
    let summary = tokio::spawn(Redrive::new(sink).through(service))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(summary.matched, 0);
}
