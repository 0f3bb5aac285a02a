//! Figures of campaigns of failures.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use super::Findings;
use crate::chaos;
use crate::claims::{Claim, How};

/// Runs each campaign once for all that is claimed of it.
pub(super) fn measure(claims: &[&Claim], findings: &mut Findings) -> Result<()> {
    let mut campaigns = BTreeMap::<&[&str], Vec<_>>::new();
    for claim in claims {
        if let How::Chaos { args, pointer } = claim.how {
            campaigns.entry(args).or_default().push((*claim, pointer));
        }
    }
    for (args, claims) in campaigns {
        let directory = tempfile::tempdir().context("no directory for temporary files")?;
        let file = directory.path().join("chaos.json");
        let json = file.to_string_lossy().into_owned();
        let closed = chaos::run(&[args, &["--json", &json]].concat())?;
        let failed = (!closed).then_some("the books of a run did not close");
        findings.reported(&file, &claims, failed);
    }
    Ok(())
}
