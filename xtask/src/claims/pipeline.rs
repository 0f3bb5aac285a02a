use super::Claim;
use crate::chaos;
use crate::prove::Bar::{AtLeast, Equals, Is};

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
        "the_same_order_twice_gives_the_same_bytes_and_one_row",
    )
    .in_file("serve"),
    Claim::test(
        "pipeline/rows-of-fifty",
        "the same order sent fifty times at once is one row",
        Equals(1.0),
        "fifty_at_once_give_one_row_and_one_answer",
    )
    .in_file("serve"),
    Claim::test(
        "pipeline/reused-key-status",
        "another body under the same key is 422",
        Equals(422.0),
        "another_body_under_the_same_key_is_refused_before_and_after_a_restart",
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
];

/// Two hundred runs on the embedded store.
const LONG: &[&str] = &["--runs", "200", "--seed", "1", "--jobs", "2"];

const CRASH: &str =
    "nothing_accepted_is_lost_when_the_server_is_killed_under_load_and_nothing_applies_twice";
