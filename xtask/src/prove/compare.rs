//! Figures of the comparison with peers.

use anyhow::{Context, Result};
use serde_json::Value;

use super::Findings;
use super::bar::Figure;
use crate::cargo::cargo;
use crate::claims::{Claim, How};
use crate::process::{run, say, shown};

/// Measures the rows of one crate.
pub(super) fn measure(of: &str, claims: &[&Claim], findings: &mut Findings) -> Result<()> {
    let directory = tempfile::tempdir().context("no directory for temporary files")?;
    let file = directory.path().join("rows.json");
    let mut command = cargo(["run", "--release", "--package", "compare", "--"]);
    command
        .args(["--only", &format!("{of}/"), "--json"])
        .arg(&file);
    say(&format!("$ {}", shown(&command)));
    let status = run(&mut command)?;
    let rows = std::fs::read(&file)
        .ok()
        .and_then(|json| serde_json::from_slice(&json).ok())
        .unwrap_or(Value::Null);
    for claim in claims {
        if let Some(figure) = figure(&rows, claim) {
            findings.found(claim, figure);
        }
        if !status.success() {
            findings.failed(claim, "the comparison failed");
        }
    }
    Ok(())
}

fn figure(rows: &Value, claim: &Claim) -> Option<Figure> {
    let How::Compare { row, peer, field } = claim.how else {
        return None;
    };
    let found = rows
        .as_array()?
        .iter()
        .find(|found| found["name"] == row && found["peer"] == peer)?;
    Figure::of(&found[field])
}

#[cfg(test)]
mod unit {
    use super::*;
    use crate::prove::Bar;

    #[test]
    fn finds_the_row_by_name_and_peer() {
        let rows = serde_json::json!([
            { "name": "retry/call/1t", "peer": "backon", "unit": "ns", "ours": 4.5, "ratio": 0.9 },
            { "name": "retry/call/1t", "peer": "tower::retry", "unit": "ns", "ours": 4.5, "ratio": 0.5 },
        ]);
        let mut claim = Claim {
            id: "retry/overhead",
            claim: "costs less than its peer",
            bar: Bar::AtMost(1.0),
            how: How::Compare {
                row: "retry/call/1t",
                peer: "tower::retry",
                field: "ratio",
            },
            long: false,
        };
        assert_eq!(figure(&rows, &claim), Some(Figure::Number(0.5)));
        assert_eq!(figure(&Value::Null, &claim), None);
        claim.how = How::Compare {
            row: "retry/call/2t",
            peer: "tower::retry",
            field: "ratio",
        };
        assert_eq!(figure(&rows, &claim), None);
    }
}
