use super::Claim;
use crate::prove::Bar::{AtMost, Equals};

pub(super) const CLAIMS: &[Claim] = &[
    Claim::test(
        "shard-router/moves-51st",
        "adding a 51st shard to 50 moves 321 slots",
        Equals(321.0),
        "moves_51st",
    ),
    Claim::test(
        "shard-router/balance-excess",
        "of 1 to 300 equal shards none owns more than its share rounded up",
        Equals(0.0),
        "balance_excess",
    ),
    Claim::test(
        "shard-router/removal-moves-others",
        "removing a shard moves only its own slots",
        Equals(0.0),
        "removal_moves_others",
    ),
    Claim::test(
        "shard-router/weights-off-by",
        "each shard's weight is met within one slot",
        AtMost(1.0),
        "weights_off_by",
    ),
    Claim::test(
        "shard-router/hung-shard-delays-others",
        "one hung shard of fifty delays no request of the other 49",
        Equals(0.0),
        "hung_shard_delays_others",
    ),
    Claim::test(
        "shard-router/reload-dropped",
        "a new topology under load drops no request",
        Equals(0.0),
        "reload_dropped",
    ),
    Claim::test(
        "shard-router/allocations",
        "routing allocates nothing where the shard answers at once",
        Equals(0.0),
        "allocations",
    ),
];
