use super::Claim;
use crate::prove::Bar::{AtLeast, AtMost, Equals};

pub(super) const CLAIMS: &[Claim] = &[
    Claim::test(
        "idempotency/one-execution",
        "50 concurrent duplicates of each key, over two connections to one Redis: one execution a key, none beyond",
        Equals(0.0),
        "one_execution",
    ),
    Claim::test(
        "idempotency/eight-processes",
        "1,000 duplicates of each of 50 keys from 8 processes: one execution and one stored answer each, and everybody gets it",
        Equals(0.0),
        "one_execution_in_eight_processes",
    )
    .in_file("processes"),
    Claim::test(
        "idempotency/eight-processes-1m",
        "and of each of 1,000 keys",
        Equals(0.0),
        "one_execution_of_a_million_calls",
    )
    .in_file("claims_long")
    .long(),
    Claim::test(
        "idempotency/kill-9",
        "processes killed at 20 random points: one execution an attempt; Reject never executes again, Reexecute once",
        Equals(0.0),
        "killed_at_random_points",
    )
    .in_file("processes"),
    Claim::test(
        "idempotency/kill-9-100",
        "and at 100",
        Equals(0.0),
        "killed_a_hundred_times",
    )
    .in_file("claims_long"),
    Claim::test(
        "idempotency/commands-first",
        "a first request takes two commands on Redis",
        Equals(2.0),
        "commands_first",
    ),
    Claim::test(
        "idempotency/commands-replay",
        "a replay takes one command on Redis",
        Equals(1.0),
        "commands_replay",
    ),
    Claim::test(
        "idempotency/dropped-at-every-poll",
        "a caller that goes away at any poll leaves no key wedged, and what began is finished",
        Equals(0.0),
        "dropped_at_every_poll",
    ),
    Claim::test(
        "idempotency/lost-replies",
        "any one reply of the store that is lost or late leads to no conflict with oneself and no second execution",
        Equals(0.0),
        "lost_replies",
    ),
    Claim::test(
        "idempotency/swallowed-replies",
        "nor does any one reply of a real Redis that a proxy swallows, whether the connection ends or falls silent",
        Equals(0.0),
        "swallowed_replies",
    ),
    Claim::test(
        "idempotency/stale-owner",
        "an owner that was taken over can neither complete, renew nor release",
        Equals(0.0),
        "stale_owner",
    ),
    Claim::test(
        "idempotency/aof-restart",
        "a Redis that is killed and started again with appendfsync always: nothing is executed again",
        Equals(0.0),
        "restarted_with_its_log",
    ),
    Claim::test(
        "idempotency/failover-replicated",
        "after a failover, of 50 calls whose records the replica had seen none is executed again",
        Equals(0.0),
        "failed_over",
    ),
    Claim::test(
        "idempotency/failover-unreplicated",
        "and of 50 whose records it had not, all are: replication is asynchronous",
        Equals(50.0),
        "failed_over",
    ),
    Claim::test(
        "idempotency/field-vectors",
        "the Idempotency-Key field is read as RFC 9651 says, on some 560 values",
        Equals(0.0),
        "strings_of_structured_fields",
    )
    .in_file("fields"),
    Claim::test(
        "idempotency/without-scope",
        "a layer that leaves out its scope, key or codec is no Layer, and does not compile",
        Equals(0.0),
        "without_scope",
    ),
    Claim::compare(
        "idempotency/redis-first",
        "a claim on Redis costs what the bare SET NX GET PX on the same kind of connection does",
        AtLeast(0.9),
        (FIRST, RAW, "ratio"),
    ),
    Claim::compare(
        "idempotency/redis-replay",
        "and so does finding an answer",
        AtLeast(0.9),
        (REPLAY, RAW, "ratio"),
    ),
    Claim::compare(
        "idempotency/redis-first-bb8",
        "a claim is at least 2.5 times as fast as the same command on a bb8 pool",
        AtLeast(2.5),
        (FIRST, POOL, "ratio"),
    ),
    Claim::compare(
        "idempotency/redis-replay-bb8",
        "and so is a replay",
        AtLeast(2.5),
        (REPLAY, POOL, "ratio"),
    ),
    Claim::compare(
        "idempotency/memory-first",
        "a first request costs at most 3 us in memory, HTTP and the service included",
        AtMost(3_000.0),
        ("idempotency/memory/first/1t", "bare", "ours"),
    ),
    Claim::compare(
        "idempotency/memory-replay",
        "a replay at most 1.5 us",
        AtMost(1_500.0),
        ("idempotency/memory/replay/1t", "bare", "ours"),
    ),
    Claim::compare(
        "idempotency/memory-no-key",
        "a request without a key at most 100 ns more than without the layer",
        AtMost(100.0),
        ("idempotency/memory/no-key/1t", "bare", "added"),
    ),
];

const FIRST: &str = "idempotency/redis-begin/first";
const REPLAY: &str = "idempotency/redis-begin/replay";
const RAW: &str = "raw-set-nx-get";
const POOL: &str = "bb8-set-nx-get";
