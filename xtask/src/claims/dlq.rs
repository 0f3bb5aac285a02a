use super::Claim;
use crate::prove::Bar::Equals;

pub(super) const CLAIMS: &[Claim] = &[
    Claim::test(
        "dlq/lost",
        "no letter that was reported as written is lost, whichever byte the file was cut at",
        Equals(0.0),
        "file::lost",
    ),
    Claim::test(
        "dlq/damage-unnoticed",
        "no flipped bit makes letters vanish in silence",
        Equals(0.0),
        "file::damage_unnoticed",
    ),
    Claim::test(
        "dlq/sink-down-acknowledged",
        "while the sink is down no failing request is acknowledged",
        Equals(0.0),
        "sink_down_acknowledged",
    ),
    Claim::test(
        "dlq/redrive-bytes-changed",
        "redrive hands key, headers and payload back byte for byte",
        Equals(0.0),
        "redrive_bytes_changed",
    ),
    Claim::test(
        "dlq/redrive-second-death-kept",
        "a redriven copy that dies again keeps a letter of its own",
        Equals(1.0),
        "redrive_second_death_kept",
    ),
    Claim::test(
        "dlq/repeat-is-one-letter",
        "a request that dies ten times in one generation has one letter",
        Equals(1.0),
        "repeat_is_one_letter",
    ),
];
