use super::{Claim, Demo};
use crate::chaos;
use crate::prove::Bar::{AtLeast, AtMost, Equals, Is};

pub(super) const CLAIMS: &[Claim] = &[
    Claim::demo(
        "pipeline/closed",
        "the accounting of the demo closes",
        Is("true"),
        "/accounting/closed",
    ),
    Claim::demo(
        "pipeline/lost",
        "nothing that was accepted is lost",
        Equals(0.0),
        "/accounting/lost",
    ),
    Claim::demo(
        "pipeline/double-applied",
        "nothing is applied twice",
        Equals(0.0),
        "/accounting/double_applied",
    ),
    Claim::demo(
        "pipeline/applied",
        "ten seconds apply at least 20,000 durable writes",
        AtLeast(20_000.0),
        "/accounting/applied",
    ),
    Claim::test(
        "pipeline/rows-of-two",
        "the same order sent twice is one row and the same bytes",
        Equals(1.0),
        "embedded::the_same_order_twice_gives_the_same_bytes_and_one_row",
    )
    .in_file("serve"),
    Claim::test(
        "pipeline/rows-of-fifty",
        "the same order sent fifty times at once is one row",
        Equals(1.0),
        "embedded::fifty_at_once_give_one_row_and_one_answer",
    )
    .in_file("serve"),
    Claim::test(
        "pipeline/reused-key-status",
        "another body under the same key is 422",
        Equals(422.0),
        "embedded::another_body_under_the_same_key_is_refused_before_and_after_a_restart",
    )
    .in_file("serve"),
    Claim::test(
        "pipeline/lost-over-kills",
        "kill -9 under load and a restart lose nothing",
        Equals(0.0),
        CRASH,
    )
    .in_file("crash"),
    Claim::test(
        "pipeline/twice-over-kills",
        "kill -9 under load and a restart apply nothing twice",
        Equals(0.0),
        CRASH,
    )
    .in_file("crash"),
    Claim::chaos(
        "pipeline/chaos-lost",
        "six seeded runs of kills, freezes, crashes at a step, a full disk and cut connections lose nothing",
        Equals(0.0),
        chaos::SHORT,
        "/lost",
    ),
    Claim::chaos(
        "pipeline/chaos-twice",
        "six such runs apply nothing twice",
        Equals(0.0),
        chaos::SHORT,
        "/double_applied",
    ),
    Claim::chaos(
        "pipeline/chaos-lost-long",
        "two hundred such runs lose nothing",
        Equals(0.0),
        LONG,
        "/lost",
    )
    .long(),
    Claim::chaos(
        "pipeline/chaos-closed-long",
        "the books of all two hundred close",
        Equals(200.0),
        LONG,
        "/closed",
    )
    .long(),
    Claim::chaos(
        "pipeline/chaos-on-services-lost",
        "fifty runs of kills, freezes and failovers of Kafka, Redis, PostgreSQL and the pipeline itself lose nothing",
        Equals(0.0),
        ON_SERVICES,
        "/lost",
    )
    .long(),
    Claim::chaos(
        "pipeline/chaos-on-services-twice",
        "fifty such runs apply nothing twice",
        Equals(0.0),
        ON_SERVICES,
        "/double_applied",
    )
    .long(),
    Claim::chaos(
        "pipeline/chaos-on-services-closed",
        "the books of all fifty close",
        Equals(50.0),
        ON_SERVICES,
        "/closed",
    )
    .long(),
    Claim::of_demo(
        "pipeline/services-closed",
        "the accounting of the demo on Kafka, PostgreSQL and Redis closes",
        Is("true"),
        Demo::OnServices(&["--seconds", "10", "--rate", "1000"]),
        "/accounting/closed",
    )
    .long(),
    Claim::of_demo(
        "pipeline/writes-a-second",
        "writes alone are accepted and applied at 10,000 a second, their generator on the same two cores",
        AtLeast(10_000.0),
        Demo::Embedded(WRITES),
        APPLIED,
    )
    .long(),
    Claim::of_demo(
        "pipeline/writes-a-second-on-services",
        "writes alone are accepted and applied at 5,000 a second on Kafka and PostgreSQL on the same two cores",
        AtLeast(5_000.0),
        Demo::OnServices(WRITES_ON_SERVICES),
        APPLIED,
    )
    .long(),
    Claim::of_demo(
        "pipeline/goodput-under-overload",
        "offered three times what it can do, by clients who give up, a server accepts nine tenths of what it can in time",
        AtLeast(0.9),
        Demo::Overload(OVERLOAD),
        "/goodput_of_peak",
    )
    .long(),
    Claim::of_demo(
        "pipeline/memory-under-overload",
        "offered three times what it can do, a server needs at most half as much memory again",
        AtMost(1.5),
        Demo::Overload(OVERLOAD),
        "/memory_of_peak",
    )
    .long(),
    Claim::test(
        "pipeline/letters-of-a-shard-outage",
        "while a shard is out none of its orders is written off",
        Equals(0.0),
        OUTAGE,
    )
    .in_file("services"),
    Claim::test(
        "pipeline/others-p99-in-a-shard-outage",
        "while a shard is out the 99th percentile of the other's users is within a tenth of what it was",
        AtMost(1.1),
        OUTAGE,
    )
    .in_file("services"),
    Claim::demo(
        "pipeline/hit-rate",
        "the demo's reads are answered from the cache four times out of five",
        AtLeast(0.8),
        "/cache/hit_rate",
    ),
    Claim::test(
        "pipeline/stale-sets",
        "over a million orders of commits, invalidations and late loads nothing stale stays cached",
        Equals(0.0),
        "over_a_million_interleavings_nothing_stale_is_left",
    )
    .in_file("cache"),
    Claim::test(
        "pipeline/loads-of-a-hot-expiry",
        "of a hundred readers in two processes one goes to the shard",
        Equals(1.0),
        "cache::of_many_in_two_processes_one_loads",
    )
    .in_file("services"),
    Claim::test(
        "pipeline/stale-under-a-token",
        "while half of all readers ask for one user who orders all the time, nobody is shown less than they have seen",
        Equals(0.0),
        CELEBRITY,
    )
    .in_file("services"),
    Claim::test(
        "pipeline/celebrity-reads-at-the-primary",
        "of the reads of such a user at most one in ten goes to the primary",
        AtMost(0.1),
        CELEBRITY,
    )
    .in_file("services"),
    Claim::test(
        "pipeline/rows-at-two-processes",
        "one key at two API processes at once is one row",
        Equals(1.0),
        "roles::one_key_at_two_processes_at_once_is_one_order",
    )
    .in_file("services"),
    Claim::test(
        "pipeline/two-brokers-down-status",
        "with two of three brokers down orders are refused with 503",
        Equals(503.0),
        BROKERS,
    )
    .in_file("services"),
    Claim::test(
        "pipeline/two-brokers-down-lost",
        "two of three brokers down and back lose nothing",
        Equals(0.0),
        BROKERS,
    )
    .in_file("services"),
    Claim::test(
        "pipeline/lost-over-failover",
        "a PostgreSQL replica that lagged takes over and nothing is lost",
        Equals(0.0),
        FAILOVER,
    )
    .in_file("services"),
    Claim::test(
        "pipeline/twice-over-failover",
        "a PostgreSQL replica that lagged takes over and nothing is applied twice",
        Equals(0.0),
        FAILOVER,
    )
    .in_file("services"),
    Claim::test(
        "pipeline/lost-over-kills-on-services",
        "kill -9 under load and a restart lose nothing on Kafka and PostgreSQL either",
        Equals(0.0),
        "nothing_accepted_is_lost_on_services_when_the_server_is_killed_under_load",
    )
    .in_file("crash"),
    Claim::demo(
        "pipeline/spanning-batches",
        "until slots move, every batch touches one shard",
        Equals(0.0),
        "/batches/spanning",
    ),
    Claim::test(
        "pipeline/failed-while-growing",
        "a shard joins under load, killed on the way and gone on with, and no request fails",
        Equals(0.0),
        GROWING,
    )
    .in_file("services"),
    Claim::test(
        "pipeline/lost-while-growing",
        "a shard joins under load, killed on the way and gone on with, and nothing is lost",
        Equals(0.0),
        GROWING,
    )
    .in_file("services"),
    Claim::test(
        "pipeline/twice-while-growing",
        "a shard joins under load, killed on the way and gone on with, and nothing is applied twice",
        Equals(0.0),
        GROWING,
    )
    .in_file("services"),
    Claim::test(
        "pipeline/open-over-kills-while-growing",
        "killed behind each step, a move is gone on with and the books close",
        Equals(0.0),
        "reshard::killed_behind_each_step_a_move_is_gone_on_with_and_the_books_close",
    )
    .in_file("services"),
    Claim::test(
        "pipeline/failed-while-rolling",
        "two API processes and two workers are restarted one by one behind HAProxy under load, and no request fails",
        Equals(0.0),
        "rolling::api_and_workers_are_restarted_one_by_one_under_load_and_no_request_fails",
    )
    .in_file("services"),
];

const CELEBRITY: &str =
    "celebrity::readers_of_a_celebrity_share_its_replicas_and_who_has_a_token_is_never_shown_less";

const GROWING: &str = "reshard::a_shard_joins_under_load_killed_on_the_way_and_no_request_fails";

/// Two hundred runs on the embedded store.
const LONG: &[&str] = &["--runs", "200", "--seed", "1", "--jobs", "2"];

/// Fifty runs on the services.
const ON_SERVICES: &[&str] = &["--services", "--runs", "50", "--seed", "101"];

/// Nothing but writes, more of them than the bar asks for, and no faults.
const WRITES: &[&str] = &[
    "--seconds",
    "10",
    "--rate",
    "12000",
    "--writes",
    "1",
    "--faults",
    "0",
];

/// The same on services.
const WRITES_ON_SERVICES: &[&str] = &[
    "--seconds",
    "20",
    "--rate",
    "6000",
    "--writes",
    "1",
    "--faults",
    "0",
    "--connections",
    "2000",
];

const APPLIED: &str = "/throughput/writes_applied_per_s";

/// The server has one processor and the load the other.
const OVERLOAD: &[&str] = &["--seconds", "10", "--rounds", "3", "--pin", "0"];

const OUTAGE: &str = "outages::a_shard_that_is_out_costs_no_letter_and_the_other_goes_on";

const BROKERS: &str =
    "outages::with_two_of_three_brokers_down_orders_are_refused_and_nothing_is_lost";

const FAILOVER: &str =
    "outages::a_replica_that_lagged_takes_over_and_the_log_is_applied_again_from_where_it_was";

const CRASH: &str =
    "nothing_accepted_is_lost_when_the_server_is_killed_under_load_and_nothing_applies_twice";
