use super::Claim;
use crate::prove::Bar::Equals;

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
        "one trace, the same decisions in memory and on Redis",
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
];
