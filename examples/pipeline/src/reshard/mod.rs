//! `pipeline reshard`: moves slots to a shard that joins, while load runs.

#[cfg(feature = "services")]
mod command;
#[cfg(feature = "services")]
mod mover;

#[cfg(feature = "services")]
pub use command::run;
#[cfg(feature = "services")]
pub use mover::PostgresMover;

/// Says that this program cannot.
///
/// # Errors
///
/// Always.
#[cfg(not(feature = "services"))]
pub fn run(_: &crate::args::ReshardArgs) -> anyhow::Result<()> {
    anyhow::bail!("{}", crate::services::NOT_BUILT)
}
