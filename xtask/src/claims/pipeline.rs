use super::Claim;
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
];
