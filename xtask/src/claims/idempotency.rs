use super::Claim;
use crate::prove::Bar::Equals;

pub(super) const CLAIMS: &[Claim] = &[
    Claim::test(
        "idempotency/one-execution",
        "50 concurrent duplicates of each key, over two connections to one Redis: one execution a key, none beyond",
        Equals(0.0),
        "one_execution",
    ),
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
        "idempotency/stale-owner",
        "an owner that was taken over can neither complete, renew nor release",
        Equals(0.0),
        "stale_owner",
    ),
];
