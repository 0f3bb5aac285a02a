//! `cargo xtask prove`: every claim, measured and held against its bar.

mod bar;
mod chaos;
mod compare;
mod demo;
mod table;
mod tests;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
pub(crate) use bar::Bar;
use bar::Figure;
use serde_json::Value;
use table::Row;

use crate::args::Which;
use crate::claims::{self, Claim, How};
use crate::interop;
use crate::process::say;

/// The figures that were found, by the claim's id; and what keeps a claim from holding whatever its figure.
#[derive(Debug, Default)]
struct Findings {
    figures: BTreeMap<String, Figure>,
    failed: BTreeMap<String, &'static str>,
}

pub(crate) fn run(which: &Which) -> Result<bool> {
    let (claims, left_out): (Vec<_>, Vec<_>) =
        claims::of(which.of.as_deref()).partition(|claim| which.long || !claim.long);

    let mut findings = Findings::default();
    for (package, file, claims) in in_files(&claims) {
        tests::measure(&package, file, &claims, &mut findings)?;
    }
    for (name, claims) in of_crates(&claims, |how| matches!(how, How::Compare { .. })) {
        compare::measure(name, &claims, &mut findings)?;
    }
    let by_demo = claims
        .iter()
        .copied()
        .filter(|claim| matches!(claim.how, How::Demo { .. }));
    demo::measure(&by_demo.collect::<Vec<_>>(), &mut findings)?;
    chaos::measure(&claims, &mut findings)?;
    for claim in claims.iter().filter(|claim| claim.how == How::Interop) {
        let read = interop::measure()?;
        findings.found(claim, Figure::Number(read.good as f64));
    }

    let rows: Vec<Row> = claims.iter().map(|claim| findings.row(claim)).collect();
    say(&table::printed(&rows));
    if let Some(file) = &which.json {
        std::fs::write(file, table::json(&rows))
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    if !left_out.is_empty() {
        say(&format!(
            "{} that take long were not run: --long",
            left_out.len()
        ));
    }
    let held = rows.iter().filter(|row| row.holds).count();
    say(&format!("{held} of {} claims hold", rows.len()));
    Ok(held == rows.len())
}

impl Findings {
    fn found(&mut self, claim: &Claim, figure: Figure) {
        self.figures.insert(claim.id.to_owned(), figure);
    }

    fn failed(&mut self, claim: &Claim, why: &'static str) {
        self.failed.insert(claim.id.to_owned(), why);
    }

    /// The figures at the pointers of a report, where there is one; and why none of its claims holds, if so.
    fn reported(&mut self, report: &Path, claims: &[(&Claim, &str)], failed: Option<&'static str>) {
        let report: Value = std::fs::read(report)
            .ok()
            .and_then(|json| serde_json::from_slice(&json).ok())
            .unwrap_or(Value::Null);
        for (claim, pointer) in claims {
            if let Some(figure) = report.pointer(pointer).and_then(Figure::of) {
                self.found(claim, figure);
            }
            if let Some(why) = failed {
                self.failed(claim, why);
            }
        }
    }

    fn row(&self, claim: &Claim) -> Row {
        let figure = self.figures.get(claim.id).cloned();
        let note = self.failed.get(claim.id).copied();
        let holds = note.is_none()
            && figure
                .as_ref()
                .is_some_and(|figure| claim.bar.holds(figure));
        Row {
            id: claim.id,
            claim: claim.claim,
            bar: claim.bar,
            note: note.or(figure.is_none().then_some("no figure")),
            figure,
            holds,
        }
    }
}

/// The claims that tests measure, by package and file: one run of cargo each.
fn in_files<'a>(claims: &[&'a Claim]) -> Vec<(String, &'static str, Vec<&'a Claim>)> {
    let mut files = BTreeMap::<_, Vec<_>>::new();
    for claim in claims {
        if let How::Test { file, .. } = claim.how {
            let package = claims::package(claim.of());
            files.entry((package, file)).or_default().push(*claim);
        }
    }
    files
        .into_iter()
        .map(|((package, file), claims)| (package, file, claims))
        .collect()
}

/// The claims of one kind, by crate.
fn of_crates<'a>(
    claims: &[&'a Claim],
    kind: impl Fn(&How) -> bool,
) -> BTreeMap<&'static str, Vec<&'a Claim>> {
    let mut crates = BTreeMap::<_, Vec<_>>::new();
    for claim in claims.iter().filter(|claim| kind(&claim.how)) {
        crates.entry(claim.of()).or_default().push(*claim);
    }
    crates
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn a_claim_holds_only_with_a_figure_and_nothing_against_it() {
        let claim = claims::of(Some("pipeline"))
            .find(|claim| claim.id == "pipeline/lost")
            .unwrap();
        let mut findings = Findings::default();
        let row = findings.row(claim);
        assert_eq!((row.holds, row.note), (false, Some("no figure")));

        findings.found(claim, Figure::Number(0.0));
        let row = findings.row(claim);
        assert_eq!((row.holds, row.note), (true, None));

        findings.failed(claim, "its test failed");
        let row = findings.row(claim);
        assert_eq!((row.holds, row.note), (false, Some("its test failed")));
        assert_eq!(row.figure, Some(Figure::Number(0.0)));
    }
}
