//! A cluster of Redis servers.

use std::time::Duration;

use redis::{cluster::ClusterClient, cluster_async::ClusterConnection};
use test_support::{Redis, free_port};

pub(crate) struct Cluster {
    nodes: Vec<Redis>,
}

impl Cluster {
    /// So many primaries, each with its part of the slots.
    pub(crate) async fn start(nodes: u16) -> Self {
        const SLOTS: u16 = 16_384;
        let mut started: Vec<Redis> = Vec::new();
        for node in 0..nodes {
            let bus = free_port().to_string();
            let args = ["--cluster-enabled", "yes", "--cluster-port", &bus];
            let server = Redis::with_args(&args).await;
            let slot = |node: u16| u32::from(SLOTS) * u32::from(node) / u32::from(nodes);
            let (first, last) = (slot(node).to_string(), (slot(node + 1) - 1).to_string());
            server
                .ask(&["CLUSTER", "ADDSLOTSRANGE", &first, &last])
                .await;
            if let Some(other) = started.first() {
                let port = server.port().to_string();
                other
                    .ask(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus])
                    .await;
            }
            started.push(server);
        }
        let cluster = Self { nodes: started };
        cluster.agreed().await;
        cluster
    }

    /// Asks until each node says that all slots are served. The pause is between questions.
    async fn agreed(&self) {
        for node in &self.nodes {
            loop {
                let info = node.ask(&["CLUSTER", "INFO"]).await;
                let known = format!("cluster_known_nodes:{}", self.nodes.len());
                if info.contains("cluster_state:ok") && info.contains(&known) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    pub(crate) async fn connect(&self) -> ClusterConnection {
        let urls: Vec<_> = self.nodes.iter().map(Redis::url).collect();
        let client = ClusterClient::new(urls).unwrap();
        client.get_async_connection().await.unwrap()
    }

    /// How many keys each node has.
    pub(crate) async fn keys(&self) -> Vec<u64> {
        let mut keys = Vec::new();
        for node in &self.nodes {
            keys.push(node.ask(&["DBSIZE"]).await.parse().unwrap());
        }
        keys
    }
}
