use super::Claim;
use crate::prove::Bar::{AtLeast, AtMost, Equals};

pub(super) const CLAIMS: &[Claim] = &[
    Claim::test(
        "ratelimit/strict-memory",
        "never more than the limit in any trailing window, in memory",
        Equals(0.0),
        "strict_memory",
    ),
    Claim::test(
        "ratelimit/strict-redis",
        "never more than the limit in any trailing window, on Redis",
        Equals(0.0),
        "strict_redis",
    ),
    Claim::test(
        "ratelimit/same-decisions",
        "one trace under rules of all kinds of windows, the same decisions in memory and on Redis",
        Equals(0.0),
        "same_decisions",
    ),
    Claim::test(
        "ratelimit/refused-changes-nothing",
        "a refused request changes no counter of any rule",
        Equals(0.0),
        "refused_changes_nothing",
    ),
    Claim::test(
        "ratelimit/allocations-per-decision",
        "a decision in memory allocates nothing",
        Equals(0.0),
        "allocations_per_decision",
    ),
    Claim::test(
        "ratelimit/spoofed-forwarded-for",
        "of 200 requests with rotating forged addresses at limit 1 one is admitted",
        Equals(1.0),
        "spoofed_forwarded_for",
    ),
    Claim::test(
        "ratelimit/spoofed-chains",
        "the same by hop count and by trusted networks, in X-Forwarded-For and in Forwarded",
        Equals(1.0),
        "spoofed_chains",
    )
    .in_file("keys"),
    Claim::test(
        "ratelimit/retry-after",
        "`Retry-After` is never early and never 0",
        Equals(0.0),
        "retry_after_is_never_early_and_never_nothing",
    )
    .in_file("http"),
    Claim::test(
        "ratelimit/gcra-as-governor",
        "GCRA decides as governor does, to the microsecond of each wait",
        Equals(0.0),
        "gcra_as_governor",
    )
    .in_file("windows"),
    Claim::interop(
        "ratelimit/structured-field-parsers",
        "three parsers from npm and PyPI read our fields as they were meant",
        Equals(3.0),
    )
    .long(),
    Claim::test(
        "ratelimit/strict-processes",
        "never more than the limit in eight processes with leases and refunds, two more killed, scripts flushed, the \
         clock stepping back, batches sent twice",
        Equals(0.0),
        "strict_in_eight_processes",
    )
    .in_file("processes"),
    Claim::test(
        "ratelimit/strict-memory-10m",
        "no window over the limit in 10 million random requests in memory",
        Equals(0.0),
        "strict_memory_for_long",
    )
    .in_file("claims_long")
    .long(),
    Claim::test(
        "ratelimit/strict-processes-10m",
        "the same of 10 million requests in eight processes on Redis, with leases",
        Equals(0.0),
        "strict_in_eight_processes_for_long",
    )
    .in_file("claims_long")
    .long(),
    Claim::test(
        "ratelimit/memory-of-10m-keys",
        "10 million keys in a store for a million: its memory after all of them, by that after 4 million",
        AtMost(1.02),
        "memory_stays_flat",
    )
    .in_file("claims_long")
    .long(),
    Claim::test(
        "ratelimit/frozen-ms-beyond-deadline",
        "Redis frozen by SIGSTOP: the longest wait beyond the deadline, in ms",
        AtMost(50.0),
        "frozen_redis",
    ),
    Claim::test(
        "ratelimit/open-breaker-ms",
        "what a request waits while the breaker is open, in ms",
        AtMost(1.0),
        "frozen_redis",
    ),
    Claim::test(
        "ratelimit/recovers-in-s",
        "after SIGCONT it decides again within so many seconds",
        AtMost(2.0),
        "frozen_redis",
    ),
    Claim::compare(
        "ratelimit/memory-zipf",
        "a decision in memory, Zipf over 1M keys, one thread, against governor's check_key",
        AtMost(1.3),
        ("ratelimit/store/zipf/1t", "governor", "ratio"),
    ),
    Claim::compare(
        "ratelimit/memory-hot-two-threads",
        "two threads on one key in memory, against governor",
        AtMost(1.0),
        ("ratelimit/store/hot/2t", "governor", "ratio"),
    ),
    Claim::compare(
        "ratelimit/layer",
        "the layer with one rule, Zipf over 1M header values: what it adds to a call, against tower_governor",
        AtMost(0.6),
        ("ratelimit/layer/zipf/1t", "tower_governor", "ratio"),
    ),
    Claim::compare(
        "ratelimit/layer-3-rules",
        "the layer with three rules, against tower_governor with one",
        AtMost(1.2),
        ("ratelimit/layer-3-rules/zipf/1t", "tower_governor", "ratio"),
    ),
    Claim::compare(
        "ratelimit/layer-allocations",
        "what the layer with three rules allocates for a call that passes",
        Equals(0.0),
        ("ratelimit/layer-3-rules/zipf/1t", "tower_governor", "allocs"),
    ),
    Claim::compare(
        "ratelimit/redis-strict-multiplexed",
        "strict on Redis, Zipf over 100k keys, against one script call per decision",
        AtLeast(2.0),
        ("ratelimit/redis-strict/zipf", "multiplexed-script", "ratio"),
    ),
    Claim::compare(
        "ratelimit/redis-strict-pooled",
        "the same against one script call through a bb8 pool",
        AtLeast(3.5),
        ("ratelimit/redis-strict/zipf", "bb8-script", "ratio"),
    ),
    Claim::compare(
        "ratelimit/redis-strict-p99",
        "what 99 of 100 of those wait at most, when 256 ask, against one script call per decision",
        AtMost(1.0),
        (
            "ratelimit/redis-strict/p99/zipf",
            "multiplexed-script",
            "ratio",
        ),
    ),
    Claim::compare(
        "ratelimit/redis-strict-even",
        "strict over a million keys drawn evenly, against one script call per decision",
        AtLeast(3.0),
        ("ratelimit/redis-strict/even", "multiplexed-script", "ratio"),
    ),
    Claim::compare(
        "ratelimit/leased-zipf",
        "leases, Zipf over 100k keys, against one script call per decision",
        AtLeast(8.0),
        ("ratelimit/redis-leased/zipf", "multiplexed-script", "ratio"),
    ),
    Claim::compare(
        "ratelimit/leased-hot",
        "leases on one hot key",
        AtLeast(40.0),
        ("ratelimit/redis-leased/hot", "multiplexed-script", "ratio"),
    ),
    Claim::compare(
        "ratelimit/leased-even",
        "leases over a million keys drawn evenly are no slower than the same store without them",
        AtLeast(1.0),
        ("ratelimit/redis-leased/even", "strict", "ratio"),
    ),
];
