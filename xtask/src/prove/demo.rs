//! Figures of the demo's report.

use anyhow::{Context, Result};
use serde_json::Value;

use super::Findings;
use super::bar::Figure;
use crate::cargo::cargo;
use crate::claims::{Claim, How};
use crate::process::{run, say, shown};

/// Runs the demo once for all its claims, and not at all for none.
pub(super) fn measure(claims: &[&Claim], findings: &mut Findings) -> Result<()> {
    if claims.is_empty() {
        return Ok(());
    }
    let directory = tempfile::tempdir().context("no directory for temporary files")?;
    let file = directory.path().join("report.json");
    let mut command = cargo(["run", "--release", "--package", "pipeline", "--"]);
    command
        .args(["demo", "--seconds", "10", "--report"])
        .arg(&file);
    say(&format!("$ {}", shown(&command)));
    let status = run(&mut command)?;
    let report: Value = std::fs::read(&file)
        .ok()
        .and_then(|json| serde_json::from_slice(&json).ok())
        .unwrap_or(Value::Null);
    for claim in claims {
        let How::Demo { pointer } = claim.how else {
            continue;
        };
        if let Some(figure) = report.pointer(pointer).and_then(Figure::of) {
            findings.found(claim, figure);
        }
        if !status.success() {
            findings.failed(claim, "the demo failed");
        }
    }
    Ok(())
}
