use super::Claim;
use crate::prove::Bar::{AtMost, Equals};

pub(super) const CLAIMS: &[Claim] = &[
    Claim::test(
        "retry/backoff-exact",
        "without jitter the waits are 1, 2, 4 ... 256, 300, 300 s exactly",
        Equals(0.0),
        "backoff_exact",
    ),
    Claim::test(
        "retry/cap-exceeded",
        "no wait exceeds the cap, whatever the jitter and the attempt",
        Equals(0.0),
        "cap_exceeded",
    ),
    Claim::test(
        "retry/budget-exceeded",
        "retries in any window <= ratio x successes + burst, with threads racing",
        Equals(0.0),
        "budget_exceeded",
    ),
    Claim::test(
        "retry/budget-ratio-error",
        "ratios from 0.01 to 1 are met within 1/1000",
        AtMost(0.001),
        "budget_ratio_error",
    ),
    Claim::test(
        "retry/last-attempt-clones",
        "the last attempt sends the request itself, not a clone",
        Equals(0.0),
        "last_attempt_clones",
    ),
    Claim::test(
        "retry/allocations",
        "a call that succeeds allocates nothing",
        Equals(0.0),
        "allocations",
    ),
];
