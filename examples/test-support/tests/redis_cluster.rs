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
