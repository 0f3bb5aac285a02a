//! `cargo xtask chaos`: a campaign of failures against the pipeline.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::cargo::{cargo, target_directory};
use crate::process::{run as run_to_its_end, say, shown, succeed};
use crate::servers;

/// The campaign that fits into `ci`.
pub(crate) const SHORT: &[&str] = &["--runs", "6", "--seed", "1"];

/// Builds what the campaign needs and runs it with these arguments; whether every run's books closed.
pub(crate) fn run<A: AsRef<str>>(args: &[A]) -> Result<bool> {
    let services = args.iter().any(|arg| arg.as_ref() == "--services");
    let mut command = Command::new(built(services)?);
    command.args(args.iter().map(AsRef::as_ref));
    if services {
        command.envs(servers::ready()?);
    }
    say(&format!("$ {}", shown(&command)));
    Ok(run_to_its_end(&mut command)?.success())
}

/// Builds the campaign beside a pipeline that can be made to fail. Together, so that both share what they are made of.
fn built(services: bool) -> Result<PathBuf> {
    let mut build = cargo(["build", "--release"]);
    build.args(["--package", "pipeline", "--package", "chaos"]);
    build.args(["--features", "pipeline/failpoints"]);
    if services {
        build.args(["--features", "pipeline/services"]);
    }
    say(&format!("$ {}", shown(&build)));
    succeed(&mut build).context("the campaign cannot be built")?;
    Ok(target_directory()?.join("release").join("chaos"))
}
