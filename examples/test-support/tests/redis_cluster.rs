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
    let (primary, replica) = (&cluster.nodes()[2], &cluster.replicas()[2]);
    assert_eq!(primary.ask(&["SET", "foo", "bar"]).await, "OK");
    assert_eq!(primary.ask(&["WAIT", "1", "0"]).await, "1");
    primary.kill();
    let taken_over = async {
        while !replica.ask(&["ROLE"]).await.starts_with("master") {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        while !replica
            .ask(&["CLUSTER", "INFO"])
            .await
            .contains("cluster_state:ok")
        {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), taken_over)
        .await
        .expect("it takes over within a minute");
    assert_eq!(replica.ask(&["GET", "foo"]).await, "bar");
}
