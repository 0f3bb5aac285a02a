use super::Claim;
use crate::prove::Bar::{AtLeast, Equals};

pub(super) const CLAIMS: &[Claim] = &[
    Claim::test(
        "redis/pool-fairness",
        "of 256 tasks on a pool of 4, the least served gets at least half of an equal share",
        AtLeast(0.5),
        "a_small_pool_serves_every_task_alike",
    ),
    Claim::test(
        "redis/open-breaker-commands",
        "an open breaker sends nothing to the server",
        Equals(0.0),
        "an_open_breaker_sends_nothing",
    ),
    Claim::test(
        "redis/script-after-flush-commands",
        "a script that the server forgot costs two commands, once",
        Equals(2.0),
        "a_forgotten_script_costs_one_command_more",
    ),
    Claim::test(
        "redis/failures-after-restart",
        "after an outage that a call met, no call on a pool fails once the server is back",
        Equals(0.0),
        "a_pool_is_whole_again_when_the_server_is",
    ),
];
