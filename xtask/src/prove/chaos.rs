//! Figures of campaigns of failures.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::Value;

use super::Findings;
use super::bar::Figure;
use crate::chaos;
use crate::claims::{Claim, How};

/// Runs one campaign for each number of runs that is claimed something of.
pub(super) fn measure(claims: &[&Claim], findings: &mut Findings) -> Result<()> {
    let mut campaigns = BTreeMap::<u32, Vec<_>>::new();
    for claim in claims {
        if let How::Chaos { runs, pointer } = claim.how {
            campaigns.entry(runs).or_default().push((*claim, pointer));
        }
    }
    for (runs, claims) in campaigns {
        let directory = tempfile::tempdir().context("no directory for temporary files")?;
        let file = directory.path().join("chaos.json");
        let json = file.to_string_lossy().into_owned();
        let runs = runs.to_string();
        let closed = chaos::run(&["--runs", &runs, "--seed", "1", "--json", &json])?;
        let report: Value = std::fs::read(&file)
            .ok()
            .and_then(|json| serde_json::from_slice(&json).ok())
            .unwrap_or(Value::Null);
        for (claim, pointer) in claims {
            if let Some(figure) = report.pointer(pointer).and_then(Figure::of) {
                findings.found(claim, figure);
            }
            if !closed {
                findings.failed(claim, "the books of a run did not close");
            }
        }
    }
    Ok(())
}
