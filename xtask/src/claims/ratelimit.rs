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
];
