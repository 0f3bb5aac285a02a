use super::Claim;
use crate::prove::Bar::{AtMost, Equals, Is};

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
        "retries in any window <= ratio x successes + burst, with 64 threads racing",
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
        "retry/budget-racing-error",
        "and by 64 threads that race",
        AtMost(0.001),
        "budget_racing_error",
    ),
    Claim::test(
        "retry/earlier-than-asked",
        "no retry comes earlier than the server asked",
        Equals(0.0),
        "earlier_than_asked",
    ),
    Claim::test(
        "retry/hedges-beyond-budget",
        "no more requests are hedged than the budget allows",
        Equals(0.0),
        "there_are_never_more_hedges_than_the_budget_allows",
    )
    .in_file("hedge"),
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
    Claim::test(
        "retry/jitter-chi-square",
        "the waits of 10,000 sessions are uniform over their range, with each jitter",
        AtMost(148.2),
        "jitter_chi_square",
    ),
    Claim::test(
        "retry/jitter-correlation",
        "the waits of different sessions, and of one session, are uncorrelated",
        AtMost(0.04),
        "jitter_correlation",
    ),
    Claim::test(
        "retry/jitter-study",
        "a hundred contending clients need as many calls as in the study of AWS, within 5%, with each jitter",
        AtMost(0.05),
        "calls_of_contending_clients",
    )
    .in_file("jitter_study"),
    Claim::test(
        "retry/brownout-recovery",
        "a service at 85% load that drops to 20% for 10 s recovers in at most 1.25x the time without retries",
        AtMost(1.25),
        "brownout_recovery",
    )
    .in_file("brownout"),
    Claim::test(
        "retry/brownout-without-budget",
        "the same retries without a budget keep it down for ever",
        Is("never"),
        "brownout_without_budget",
    )
    .in_file("brownout"),
    Claim::test(
        "retry/outage-amplification",
        "three nested layers of four attempts send at most 1% more to a service that is down",
        AtMost(1.01),
        "outage_amplification",
    )
    .in_file("brownout"),
    Claim::compare(
        "retry/cost",
        "a call that succeeds, with classifier, budget and stamp, costs at most 15 ns, the service included",
        AtMost(15.0),
        (ONE, TPS, "ours"),
    ),
    Claim::compare(
        "retry/cost-allocations",
        "and allocates nothing",
        Equals(0.0),
        (ONE, TPS, "allocs"),
    ),
    Claim::compare(
        "retry/cost-1t",
        "that is at most a quarter of what tower::retry with TpsBudget costs on one thread",
        AtMost(0.25),
        (ONE, TPS, "ratio"),
    ),
    Claim::compare(
        "retry/cost-2t",
        "and at most 0.15 of it on two threads",
        AtMost(0.15),
        (TWO, TPS, "ratio"),
    ),
];

const ONE: &str = "retry/layer/1t";
const TWO: &str = "retry/layer/2t";
const TPS: &str = "tower-retry-tps-budget";
