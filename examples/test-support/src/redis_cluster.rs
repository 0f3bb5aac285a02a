use std::{iter, ops::RangeInclusive, time::Duration};

use tokio::time::{sleep, timeout};

use crate::{Redis, free_port};

const SLOTS: u16 = 16_384;
/// Three processes on a machine that is busy with other tests need their time to agree.
const PATIENCE: Duration = Duration::from_secs(60);

/// A Redis Cluster of the test's own: primaries that share the slots evenly, without replicas unless
/// [`with_replicas`](RedisCluster::with_replicas) gives each of them one.
///
/// Its servers are ended by their process ids when the value is dropped.
#[derive(Debug)]
pub struct RedisCluster {
    nodes: Vec<Redis>,
    replicas: Vec<Redis>,
}

impl RedisCluster {
    /// Starts three primaries and returns once each of them knows who has which slots.
    ///
    /// # Panics
    ///
    /// When redis-server is not installed or does not start, or the servers do not agree.
    pub async fn start() -> Self {
        Self::with_args::<&str>(3, &[]).await
    }

    /// So many primaries, with further arguments for each server.
    ///
    /// # Panics
    ///
    /// As [`start`](Self::start), and when there is to be no server.
    pub async fn with_args<A: AsRef<str>>(primaries: u16, args: &[A]) -> Self {
        assert!(primaries > 0, "a cluster has at least one server");
        let mut nodes = Vec::new();
        let mut buses = Vec::new();
        for _ in 0..primaries {
            let (node, bus) = member(args).await;
            nodes.push(node);
            buses.push(bus);
        }
        for (number, node) in iter::zip(0.., &nodes) {
            let slots = slots_of(number, primaries);
            let (first, last) = (slots.start().to_string(), slots.end().to_string());
            node.ask(&["CLUSTER", "ADDSLOTSRANGE", &first, &last]).await;
            let epoch = (number + 1).to_string();
            node.ask(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch]).await;
        }
        for (node, bus) in iter::zip(&nodes, &buses).skip(1) {
            meet(&nodes[0], node, bus).await;
        }
        let cluster = Self {
            nodes,
            replicas: Vec::new(),
        };
        cluster.agree().await;
        cluster
    }

    /// Three primaries with a replica each, which takes over by itself some seconds after its primary is gone.
    ///
    /// # Panics
    ///
    /// As [`start`](Self::start).
    pub async fn with_replicas() -> Self {
        let mut cluster = Self::start().await;
        for _ in 0..cluster.nodes.len() {
            let (replica, bus) = member::<&str>(&[]).await;
            meet(&cluster.nodes[0], &replica, &bus).await;
            cluster.replicas.push(replica);
        }
        cluster.agree().await;
        for (primary, replica) in iter::zip(&cluster.nodes, &cluster.replicas) {
            let id = primary.ask(&["CLUSTER", "MYID"]).await;
            replica.ask(&["CLUSTER", "REPLICATE", id.trim()]).await;
        }
        timeout(PATIENCE, cluster.replicated())
            .await
            .expect("the replicas of a cluster follow within a minute");
        cluster
    }

    /// The replicas; number `n` is that of server number `n`.
    pub fn replicas(&self) -> &[Redis] {
        &self.replicas
    }

    /// The server that takes the writes of slots that server number `n` had at first: it, or its replica.
    ///
    /// # Panics
    ///
    /// When they have no replicas, or do not agree within a minute which of the two it is.
    pub async fn primary_of(&self, number: usize) -> &Redis {
        let two = self.two(number);
        let found = async {
            loop {
                let one = is_primary(two[0]).await;
                match (one, is_primary(two[1]).await) {
                    (true, false) => return two[0],
                    (false, true) => return two[1],
                    // One that was away has not heard yet.
                    _ => sleep(Duration::from_millis(20)).await,
                }
            }
        };
        timeout(PATIENCE, found)
            .await
            .expect("one of two servers is the primary within a minute")
    }

    /// Kills the primary of the slots that server number `n` had at first, waits until its replica has taken over,
    /// and starts the one that was killed: it follows the other from then on.
    ///
    /// # Panics
    ///
    /// When they have no replicas, or the replica does not take over, or the other not follow, within a minute each.
    pub async fn fail_over(&self, number: usize) {
        let old = self.primary_of(number).await;
        let [one, other] = self.two(number);
        let new = if old.port() == one.port() { other } else { one };
        old.kill();
        let taken_over = async {
            while !is_primary(new).await {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, taken_over)
            .await
            .expect("the replica takes over within a minute");
        old.restart().await;
        timeout(PATIENCE, follows(old))
            .await
            .expect("who was the primary follows within a minute");
    }

    fn two(&self, number: usize) -> [&Redis; 2] {
        [&self.nodes[number], &self.replicas[number]]
    }

    /// The servers that were made primaries; number `n` of `N` has the slots from `n * 16384 / N` on.
    pub fn nodes(&self) -> &[Redis] {
        &self.nodes
    }

    /// The server that has a slot.
    ///
    /// # Panics
    ///
    /// When there is no such slot.
    pub fn node_of(&self, slot: u16) -> &Redis {
        let primaries = u16::try_from(self.nodes.len()).expect("it was one");
        let mut numbers = 0..primaries;
        let number = numbers.find(|number| slots_of(*number, primaries).contains(&slot));
        let number = number.unwrap_or_else(|| panic!("there is no slot {slot}"));
        &self.nodes[usize::from(number)]
    }

    /// The URL of each server, replicas too, for a client of clusters.
    pub fn urls(&self) -> Vec<String> {
        self.all().map(Redis::url).collect()
    }

    fn all(&self) -> impl Iterator<Item = &Redis> {
        self.nodes.iter().chain(&self.replicas)
    }

    async fn agree(&self) {
        timeout(PATIENCE, self.agreed())
            .await
            .expect("the servers of a cluster agree within a minute");
    }

    async fn agreed(&self) {
        let known = format!("cluster_known_nodes:{}", self.all().count());
        for node in self.all() {
            loop {
                let info = node.ask(&["CLUSTER", "INFO"]).await;
                if info.contains("cluster_state:ok") && info.contains(&known) {
                    break;
                }
                sleep(Duration::from_millis(20)).await;
            }
        }
    }

    async fn replicated(&self) {
        for replica in &self.replicas {
            follows(replica).await;
        }
    }
}

async fn is_primary(server: &Redis) -> bool {
    let said = server.ask(&["INFO", "replication"]).await;
    said.contains("role:master")
}

/// Returns once the server has what its primary has.
async fn follows(server: &Redis) {
    while !server
        .ask(&["INFO", "replication"])
        .await
        .contains("master_link_status:up")
    {
        sleep(Duration::from_millis(20)).await;
    }
}

/// A server that may become one of a cluster, and the port on which it speaks with the others.
async fn member<A: AsRef<str>>(args: &[A]) -> (Redis, String) {
    // Ten thousand above the port, as by default, may be no port at all.
    let bus = free_port().to_string();
    let mut all = vec!["--cluster-enabled", "yes", "--cluster-port", &bus];
    all.extend(["--cluster-node-timeout", "5000"]);
    all.extend(args.iter().map(AsRef::as_ref));
    (Redis::with_args(&all).await, bus)
}

async fn meet(one: &Redis, other: &Redis, bus: &str) {
    let port = other.port().to_string();
    one.ask(&["CLUSTER", "MEET", "127.0.0.1", &port, bus]).await;
}

fn slots_of(number: u16, of: u16) -> RangeInclusive<u16> {
    let from = |number: u16| u32::from(number) * u32::from(SLOTS) / u32::from(of);
    let slot = |slot: u32| u16::try_from(slot).expect("a slot is below 16,384");
    slot(from(number))..=slot(from(number + 1) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_slot_has_one_server() {
        for of in 1..=7 {
            let mut next = 0;
            for number in 0..of {
                let slots = slots_of(number, of);
                assert_eq!(*slots.start(), next);
                next = slots.end() + 1;
            }
            assert_eq!(next, SLOTS);
        }
    }
}
