//! The example of PostgreSQL servers as shards, with real servers: replicas that lag, a primary that is killed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../examples/postgres_replicas.rs"]
mod postgres_replicas;

use postgres_replicas::{Answer, Query, Reporter, Router, router, topology};
use seawall_shard_router::{Access, Position, Shard, Topology};
use test_support::Postgres;
use tower::{Service, ServiceExt};

const TABLE: &str = "CREATE TABLE notes (tenant text PRIMARY KEY, note text NOT NULL)";

/// A primary and two replicas as shard s00, another primary as s01.
struct Servers {
    primary: Postgres,
    replicas: [Postgres; 2],
    other: Postgres,
}

impl Servers {
    async fn start() -> Self {
        let (primary, other) = tokio::join!(Postgres::start(), Postgres::start());
        tokio::join!(primary.ask(TABLE), other.ask(TABLE));
        let replicas = tokio::join!(primary.replica(), primary.replica());
        let servers = Self {
            primary,
            replicas: replicas.into(),
            other,
        };
        servers.all_caught_up().await;
        servers
    }

    fn topology(&self) -> Topology {
        let [one, two] = self.replicas.each_ref().map(Postgres::url);
        topology(&[vec![self.primary.url(), one, two], vec![self.other.url()]]).unwrap()
    }

    async fn all_caught_up(&self) {
        let position = self.primary.position().await;
        for replica in &self.replicas {
            replica.caught_up(position).await;
        }
    }
}

/// A tenant that lies on this shard.
fn tenant_of(topology: &Topology, shard: &str) -> String {
    (0..)
        .map(|number| format!("tenant-{number}"))
        .find(|tenant| *topology.shard_of(tenant) == shard)
        .unwrap()
}

async fn put(router: &mut Router, tenant: &str, note: &str) -> Answer {
    let (tenant, note) = (tenant.to_owned(), note.to_owned());
    let router = router.ready().await.unwrap();
    router.call(Query::Put { tenant, note }).await.unwrap()
}

async fn get(router: &mut Router, tenant: &str, access: Access) -> Answer {
    let tenant = tenant.to_owned();
    let router = router.ready().await.unwrap();
    router.call(Query::Get { tenant, access }).await.unwrap()
}

#[tokio::test]
async fn reads_stay_under_the_lag_bound_and_who_wrote_reads_what_he_wrote() {
    const BOUND: u64 = 64 << 10;
    let servers = Servers::start().await;
    let topology = servers.topology();
    let mut router = router(topology.clone().into(), BOUND);
    let mut reporter = Reporter::default();
    let (here, there) = (tenant_of(&topology, "s00"), tenant_of(&topology, "s01"));
    let ports = servers
        .replicas
        .each_ref()
        .map(|server| i32::from(server.port()));
    let primary = i32::from(servers.primary.port());
    let [still, moving] = &servers.replicas;

    // Each key lies on its shard's primary, and on no other.
    assert_eq!(
        put(&mut router, &there, "theirs").await.port,
        i32::from(servers.other.port())
    );
    assert_eq!(put(&mut router, &here, "note 0").await.port, primary);
    let count = "SELECT string_agg(note, ',') FROM notes";
    assert_eq!(servers.primary.ask(count).await, "note 0");
    assert_eq!(servers.other.ask(count).await, "theirs");

    // Plain reads go to both replicas, and never to the primary.
    servers.all_caught_up().await;
    reporter.report(&router).await;
    let mut seen = [0; 2];
    for _ in 0..50 {
        let read = get(&mut router, &here, Access::Read).await;
        assert_eq!(read.note.as_deref(), Some("note 0"));
        seen[ports.iter().position(|port| *port == read.port).unwrap()] += 1;
    }
    assert!(seen[0] > 0 && seen[1] > 0, "{seen:?}");

    // One lags, by less than the bound: plain reads may be stale there, reads by token never are.
    still.pause_replay().await;
    let (mut stale, mut by_replica, mut broken) = (0, 0, 0);
    for number in 1..=100 {
        let note = format!("note {number}");
        let token = put(&mut router, &here, &note).await.token.unwrap();
        if number % 2 == 0 {
            moving.caught_up(token.0).await;
            reporter.report(&router).await;
        }
        let read = get(&mut router, &here, Access::ReadYourWrites(token)).await;
        // The one that lags has not applied that.
        broken += usize::from(read.note.as_ref() != Some(&note) || read.port == ports[0]);
        by_replica += usize::from(read.port == ports[1]);
        stale += usize::from(get(&mut router, &here, Access::Read).await.note != Some(note));
    }
    println!("figure shard-router/postgres-stale-reads: {broken}");
    assert_eq!(broken, 0, "who wrote reads what he wrote");
    assert!(
        stale > 0,
        "a replica that lags under the bound serves plain reads"
    );
    assert_eq!(
        by_replica, 50,
        "a replica that is known to have it serves it"
    );

    // It lags by more than the bound: no plain read goes there.
    let filler = "SELECT pg_logical_emit_message(true, '', repeat('x', 200000))";
    servers.primary.ask(filler).await;
    put(&mut router, &here, "last").await;
    moving.caught_up(servers.primary.position().await).await;
    reporter.report(&router).await;
    for _ in 0..50 {
        let read = get(&mut router, &here, Access::Read).await;
        assert_eq!((read.port, read.note.as_deref()), (ports[1], Some("last")));
    }
    // With none near enough the primary serves.
    moving.pause_replay().await;
    servers.primary.ask(filler).await;
    reporter.report(&router).await;
    assert_eq!(get(&mut router, &here, Access::Read).await.port, primary);
    // Both are back once they have caught up and it is known.
    still.resume_replay().await;
    moving.resume_replay().await;
    servers.all_caught_up().await;
    reporter.report(&router).await;
    assert_ne!(get(&mut router, &here, Access::Read).await.port, primary);
}

#[tokio::test]
async fn a_primary_is_killed_a_replica_promoted_and_the_writes_that_came_meanwhile_arrive() {
    let servers = Servers::start().await;
    let topology = servers.topology();
    let mut router = router(topology.clone().into(), u64::MAX);
    let mut reporter = Reporter::default();
    let tenant = tenant_of(&topology, "s00");
    let token = put(&mut router, &tenant, "before").await.token.unwrap();
    servers.all_caught_up().await;
    reporter.report(&router).await;

    servers.primary.kill();
    let [next, other] = &servers.replicas;
    // Reads that a replica may serve go on: plain ones, and those whose token it is known to have.
    for access in [Access::Read, Access::ReadYourWrites(token)] {
        let read = get(&mut router, &tenant, access).await;
        assert_eq!(read.note.as_deref(), Some("before"));
    }
    // Writes wait, though none of them can be sent.
    let writes: Vec<_> = (0..20)
        .map(|number| {
            let (mut router, tenant) = (router.clone(), format!("{tenant}/{number}"));
            // To the shard of the tenant, wherever else its name would lie.
            let lies_here = *router.topology().current().shard_of(&tenant) == "s00";
            tokio::spawn(async move { (lies_here, put(&mut router, &tenant, "held").await) })
        })
        .collect();
    next.promote().await;
    other.follow(next).await;
    let shard = Shard::new("s00").primary(next.url()).replica(other.url());
    let failed_over = topology.with_shard_replaced(shard).unwrap();
    router.topology().update(failed_over).unwrap();
    let mut held = 0;
    for write in writes {
        let (lies_here, written) = write.await.unwrap();
        let server = if lies_here { next } else { &servers.other };
        assert_eq!(written.port, i32::from(server.port()));
        held += usize::from(lies_here);
    }
    assert!(held > 0);
    let there = next
        .ask("SELECT count(*) FROM notes WHERE note = 'held'")
        .await;
    let there: usize = there.parse().unwrap();
    println!(
        "figure shard-router/postgres-failover-lost: {}",
        held.abs_diff(there)
    );
    assert_eq!(there, held, "each is applied, and once");

    // The other replica follows the new primary, and serves tokens of its writes.
    let after = put(&mut router, &tenant, "after").await;
    let token = after.token.unwrap();
    assert!(token > Position(0));
    other.caught_up(token.0).await;
    reporter.report(&router).await;
    let read = get(&mut router, &tenant, Access::ReadYourWrites(token)).await;
    assert_eq!(read.port, i32::from(other.port()));
    assert_eq!(read.note.as_deref(), Some("after"));
}
