//! A cluster of real servers.

use test_support::RedisCluster;

#[tokio::test]
async fn each_server_has_its_slots_and_names_the_others() {
    let cluster = RedisCluster::start().await;
    // The slot of `foo`, by the specification of Redis Cluster.
    let owner = cluster.node_of(12_182);
    assert_eq!(owner.ask(&["SET", "foo", "bar"]).await, "OK");
    assert_eq!(owner.port(), cluster.nodes()[2].port());
    for node in cluster.nodes() {
        let slots = node.ask(&["CLUSTER", "SLOTS"]).await;
        for other in cluster.nodes() {
            assert!(slots.contains(&other.port().to_string()), "{slots}");
        }
    }
    assert_eq!(cluster.urls().len(), 3);
}

#[tokio::test]
async fn the_replica_of_a_primary_that_is_killed_takes_over_with_what_it_had() {
    let cluster = RedisCluster::with_replicas().await;
    assert_eq!(cluster.urls().len(), 6);
    // Number 2 has the slot of `foo`.
    let (first, second) = (&cluster.nodes()[2], &cluster.replicas()[2]);
    assert_eq!(cluster.primary_of(2).await.port(), first.port());
    assert_eq!(first.ask(&["SET", "foo", "bar"]).await, "OK");
    assert_eq!(first.ask(&["WAIT", "1", "0"]).await, "1");
    cluster.fail_over(2).await;
    assert_eq!(cluster.primary_of(2).await.port(), second.port());
    assert_eq!(second.ask(&["GET", "foo"]).await, "bar");
    // And back again.
    assert_eq!(second.ask(&["SET", "foo", "baz"]).await, "OK");
    assert_eq!(second.ask(&["WAIT", "1", "0"]).await, "1");
    cluster.fail_over(2).await;
    assert_eq!(first.ask(&["GET", "foo"]).await, "baz");
}
