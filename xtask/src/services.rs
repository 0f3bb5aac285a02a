//! `cargo xtask services`: what the pipeline runs on, on loopback.

use anyhow::Result;

use crate::cargo::cargo;
use crate::process::{run as run_to_its_end, say, shown};
use crate::servers;

/// Runs the command with these arguments. To start servers it needs their programs, which are found or installed.
pub(crate) fn run(args: &[String]) -> Result<bool> {
    let mut command = cargo(["run", "--quiet", "--package", "services", "--"]);
    command.args(args);
    if args.first().is_some_and(|command| command == "up")
        && !args.iter().any(|arg| arg == "--help")
    {
        command.envs(servers::ready()?);
    }
    say(&format!("$ {}", shown(&command)));
    Ok(run_to_its_end(&mut command)?.success())
}
