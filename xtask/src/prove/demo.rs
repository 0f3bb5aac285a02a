//! Figures of reports of the demo.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::Findings;
use crate::cargo::cargo;
use crate::claims::{Claim, Demo, How};
use crate::process::{run, say, shown};
use crate::services;

/// Runs each demo once for all that is claimed of it.
pub(super) fn measure(claims: &[&Claim], findings: &mut Findings) -> Result<()> {
    let mut demos = BTreeMap::<Demo, Vec<_>>::new();
    for claim in claims {
        if let How::Demo { demo, pointer } = claim.how {
            demos.entry(demo).or_default().push((*claim, pointer));
        }
    }
    for (demo, claims) in demos {
        let directory = tempfile::tempdir().context("no directory for temporary files")?;
        let file = directory.path().join("report.json");
        let succeeded = match demo {
            Demo::Embedded(args) => finish(&mut command("demo", args, &file))?,
            Demo::Overload(args) => finish(&mut command("overload", args, &file))?,
            Demo::OnServices(args) => on_services(args, &file, directory.path())?,
        };
        findings.reported(&file, &claims, (!succeeded).then_some("the demo failed"));
    }
    Ok(())
}

fn command(what: &str, args: &[&str], report: &Path) -> Command {
    let mut command = cargo(["run", "--release", "--package", "pipeline"]);
    if args.contains(&"--services") {
        command.args(["--features", "services"]);
    }
    command.args(["--", what]).args(args);
    command.arg("--report").arg(report);
    command
}

/// Starts services in a directory, runs the demo on them and ends them, whatever became of it.
fn on_services(args: &[&str], report: &Path, directory: &Path) -> Result<bool> {
    let directory = directory.join("services");
    let at = directory.to_string_lossy().into_owned();
    let asked = |what: &str| services::run(&[what, "--directory", &at].map(str::to_owned));
    ensure!(asked("up")?, "the services do not start");
    let places = directory.join("services.toml");
    let places = places.to_string_lossy();
    let succeeded = finish(&mut command(
        "demo",
        &[args, &["--services", &*places]].concat(),
        report,
    ));
    ensure!(asked("down")?, "the services do not end");
    succeeded
}

fn finish(command: &mut Command) -> Result<bool> {
    say(&format!("$ {}", shown(command)));
    Ok(run(command)?.success())
}
