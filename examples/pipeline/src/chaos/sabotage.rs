//! Ways to break the pipeline on purpose, to see that the checker notices.
//!
//! Each takes one rule away that the protocol rests on. They exist only under the feature `failpoints`, where
//! `SEAWALL_SABOTAGE=NAME,NAME` chooses; without it [`on`] is false at compile time.

#[cfg(feature = "failpoints")]
pub(super) use armed::arm;

super::named! {
    /// A rule that is taken away.
    Sabotage:
    /// An order is answered with 202 before it is in the log, and gets there a little later.
    EarlyAccept = "early-202",
    /// A client's retry is taken for a new order: neither the keys' records nor the shards are asked.
    ForgetKeys = "forget-keys",
    /// An answer holds something that a replay cannot know.
    OtherBytes = "other-bytes",
    /// A worker commits the position before the shard has the records.
    CommitBeforeWrite = "commit-before-write",
    /// A worker goes on from the committed position, not from the shard's watermark.
    SeekToCommitted = "seek-to-committed",
    /// A shard applies a batch that does not continue from its watermark.
    JumpGaps = "jump-gaps",
    /// A shard applies what lies below its watermark again.
    NoWatermark = "no-watermark",
    /// A shard applies an operation that it has already.
    NoConflict = "no-on-conflict",
    /// A record that can never apply is passed over, without a letter.
    DropPoison = "drop-poison",
    /// Readers are not told what changed.
    NoInvalidation = "no-invalidation",
}

/// Whether a rule is taken away.
#[cfg(feature = "failpoints")]
pub fn on(what: Sabotage) -> bool {
    armed::CHOSEN
        .get()
        .is_some_and(|chosen| chosen.contains(&what))
}

/// Whether a rule is taken away: never, in this build.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub const fn on(_: Sabotage) -> bool {
    false
}

#[cfg(feature = "failpoints")]
mod armed {
    use std::sync::OnceLock;

    use super::Sabotage;

    const VARIABLE: &str = "SEAWALL_SABOTAGE";

    pub(super) static CHOSEN: OnceLock<Vec<Sabotage>> = OnceLock::new();

    pub(in crate::chaos) fn arm() -> Result<(), String> {
        let text = std::env::var(VARIABLE).unwrap_or_default();
        let mut chosen = Vec::new();
        for name in text.split(',').filter(|name| !name.is_empty()) {
            chosen.push(Sabotage::by_name(name).map_err(|why| format!("{VARIABLE}: {why}"))?);
        }
        // Whoever was first has read the same environment.
        let _ = CHOSEN.set(chosen);
        Ok(())
    }
}
