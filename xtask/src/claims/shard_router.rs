use super::Claim;
use crate::prove::Bar::{AtLeast, AtMost, Equals};

pub(super) const CLAIMS: &[Claim] = &[
    Claim::test(
        "shard-router/moves-51st",
        "adding a 51st shard to 50 moves 321 slots",
        Equals(321.0),
        "moves_51st",
    ),
    Claim::test(
        "shard-router/balance-excess",
        "of 1 to 300 equal shards none owns more than its share rounded up",
        Equals(0.0),
        "balance_excess",
    ),
    Claim::test(
        "shard-router/removal-moves-others",
        "removing a shard moves only its own slots",
        Equals(0.0),
        "removal_moves_others",
    ),
    Claim::test(
        "shard-router/weights-off-by",
        "each shard's weight is met within one slot",
        AtMost(1.0),
        "weights_off_by",
    ),
    Claim::test(
        "shard-router/hung-shard-delays-others",
        "one hung shard of fifty delays no request of the other 49",
        Equals(0.0),
        "hung_shard_delays_others",
    ),
    Claim::test(
        "shard-router/reload-dropped",
        "a new topology under load drops no request",
        Equals(0.0),
        "reload_dropped",
    ),
    Claim::test(
        "shard-router/allocations",
        "routing allocates nothing where the shard answers at once",
        Equals(0.0),
        "allocations",
    ),
    Claim::test(
        "shard-router/random-steps-move-others",
        "over 1,000 random steps that add, remove and reweigh, no other slot moves than those of the shard in question",
        Equals(0.0),
        "over_a_thousand_random_steps_no_other_key_moves",
    )
    .in_file("planner"),
    Claim::test(
        "shard-router/hung-shard-throughput",
        "one hung shard of fifty: the other 49 keep their throughput, though clients ask all of them in turn",
        AtLeast(0.98),
        "hung_shard_throughput",
    ),
    Claim::test(
        "shard-router/hung-shard-p99",
        "and their 99th percentile",
        AtMost(1.1),
        "hung_shard_throughput",
    ),
    Claim::test(
        "shard-router/killed-primary-failed-reads",
        "with its primary killed, no read fails that a replica may serve",
        Equals(0.0),
        "killed_primary",
    )
    .in_file("health"),
    Claim::test(
        "shard-router/killed-primary-untyped-writes",
        "and each write gets an error that says that the shard never saw it, or the shard's own",
        Equals(0.0),
        "killed_primary",
    )
    .in_file("health"),
    Claim::test(
        "shard-router/flapping-ejected",
        "of 50 shards that all flap at 10 Hz no more are ejected at once than the tenth that may be",
        AtMost(5.0),
        "endpoints_that_flap_stay_within_the_cap",
    )
    .in_file("health"),
    Claim::test(
        "shard-router/refresh-once",
        "a thousand requests that are refused at once fetch the topology once",
        Equals(1.0),
        "a_thousand_who_are_refused_fetch_once",
    )
    .in_file("refresh"),
    Claim::test(
        "shard-router/stale-reads",
        "of a million reads by token, over replicas that lag, none is stale",
        Equals(0.0),
        "stale_reads",
    ),
    Claim::test(
        "shard-router/postgres-stale-reads",
        "nor on PostgreSQL, where one replica has stopped applying",
        Equals(0.0),
        "reads_stay_under_the_lag_bound_and_who_wrote_reads_what_he_wrote",
    )
    .in_file("postgres"),
    Claim::test(
        "shard-router/postgres-failover-lost",
        "writes that came while a PostgreSQL primary was dead arrive at its successor, each once",
        Equals(0.0),
        "a_primary_is_killed_a_replica_promoted_and_the_writes_that_came_meanwhile_arrive",
    )
    .in_file("postgres"),
    Claim::test(
        "shard-router/colliding-keys-spread",
        "a million keys that collide under the plain hash spread over 50 shards under a keyed one: the most over the mean",
        AtMost(1.05),
        "colliding_keys_spread",
    ),
    Claim::test(
        "shard-router/reshard-broken-states",
        "in no state of a moving slot that can be reached, with a failover of either side, do two shards own it or is a write missing",
        Equals(0.0),
        "in_no_state_that_can_be_reached_do_two_own_a_slot_or_is_a_write_missing",
    )
    .in_file("protocol"),
    Claim::test(
        "shard-router/reshard-kills-broken",
        "a move of slots that is killed before, during or after any step is gone on with by another process, and loses nothing",
        Equals(0.0),
        "killed_at_every_step_another_process_goes_on",
    )
    .in_file("reshard"),
    Claim::test(
        "shard-router/hot-keys-recall",
        "every key above 0.1% is found, for Zipf exponents 0.8, 1.0 and 1.2",
        Equals(1.0),
        "every_key_above_the_share_is_found_and_next_to_no_other",
    )
    .in_file("hot"),
    Claim::test(
        "shard-router/hot-keys-precision",
        "and next to no other",
        AtLeast(0.99),
        "every_key_above_the_share_is_found_and_next_to_no_other",
    )
    .in_file("hot"),
    Claim::test(
        "shard-router/hot-keys-kib",
        "in at most 64 KiB for each thread",
        AtMost(64.0),
        "a_thread_takes_at_most_64_kib_and_recording_allocates_nothing",
    )
    .in_file("hot"),
    Claim::compare(
        "shard-router/hot-keys-ns",
        "counting a request for a key takes at most 50 ns, its hash included",
        AtMost(50.0),
        ("shard-router/hot-keys/record", "hash-only", "ours"),
    ),
    Claim::test(
        "shard-router/coalesced-calls",
        "10,000 identical reads at once make one call",
        Equals(1.0),
        "ten_thousand_identical_reads_make_one_call",
    )
    .in_file("hot"),
    Claim::compare(
        "shard-router/lookup-hash-50",
        "finding the shard of a key costs little more than hashing it, with 50 shards",
        AtMost(1.2),
        ("shard-router/lookup/50", "hash-only", "ratio"),
    ),
    Claim::compare(
        "shard-router/lookup-hash-1000",
        "and with 1,000",
        AtMost(1.2),
        ("shard-router/lookup/1000", "hash-only", "ratio"),
    ),
    Claim::compare(
        "shard-router/lookup-hashring-50",
        "that is at most 0.6 of what hashring takes with 50 nodes",
        AtMost(0.6),
        ("shard-router/lookup/50", "hashring", "ratio"),
    ),
    Claim::compare(
        "shard-router/lookup-ring-50",
        "and of what consistent_hash_ring takes",
        AtMost(0.6),
        ("shard-router/lookup/50", "consistent_hash_ring", "ratio"),
    ),
    Claim::compare(
        "shard-router/lookup-hashring-1000",
        "at most 0.6 of what hashring takes with 1,000 nodes",
        AtMost(0.6),
        ("shard-router/lookup/1000", "hashring", "ratio"),
    ),
    Claim::compare(
        "shard-router/lookup-ring-1000",
        "and of what consistent_hash_ring takes",
        AtMost(0.6),
        ("shard-router/lookup/1000", "consistent_hash_ring", "ratio"),
    ),
    Claim::compare(
        "shard-router/plan-ns",
        "one more shard for 50 is planned in at most 200 us",
        AtMost(200_000.0),
        ("shard-router/plan-add-one/50", "hashring", "ours"),
    ),
    Claim::compare(
        "shard-router/layer-ns",
        "a request is routed to one of 50 shards in at most 250 ns, the service included",
        AtMost(250.0),
        ("shard-router/layer/50", "tower-steer", "ours"),
    ),
    Claim::compare(
        "shard-router/layer-allocations",
        "without an allocation",
        Equals(0.0),
        ("shard-router/layer/50", "tower-steer", "allocs"),
    ),
];
