//! What the README and the docs promise, each with its bar and where its figure comes from.
//!
//! To add a claim is to add a line to the file of its crate:
//!
//! ```text
//! Claim::test("retry/budget-ratio", "the sentence as the docs have it", AtMost(0.6), "name_of_the_test"),
//! Claim::compare("retry/overhead", "...", AtMost(1.0), ("retry/call/1t", "tower::retry", "ratio")),
//! Claim::demo("pipeline/lost", "...", Equals(0.0), "/accounting/lost"),
//! ```
//!
//! A test is one of the crate's `tests/claims.rs` unless [`Claim::in_file`] names another, and prints
//! `figure <id>: <value>`; a value is a number or a word. [`Claim::long`] marks what only `--long` runs.

mod dlq;
mod idempotency;
mod pipeline;
mod ratelimit;
mod redis;
mod retry;
mod shard_router;

use crate::prove::Bar;

/// One promise.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Claim {
    /// `<crate>/<claim>`.
    pub(crate) id: &'static str,
    /// The sentence.
    pub(crate) claim: &'static str,
    pub(crate) bar: Bar,
    pub(crate) how: How,
    /// Whether only `--long` runs it.
    pub(crate) long: bool,
}

/// A run of the demo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Demo {
    /// In one process, with these arguments.
    Embedded(&'static [&'static str]),
    /// On services that are started for it and ended again, with these arguments.
    OnServices(&'static [&'static str]),
    /// Not the demo: `pipeline overload`, with these arguments.
    Overload(&'static [&'static str]),
}

/// Where a figure comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// A test of the crate prints it: the test's file without its ending, and its name.
    Test {
        file: &'static str,
        name: &'static str,
    },
    /// A row of the comparison has it, in this field.
    Compare {
        row: &'static str,
        peer: &'static str,
        field: &'static str,
    },
    /// The report of a demo has it, at this JSON pointer.
    Demo { demo: Demo, pointer: &'static str },
    /// A campaign with these arguments has it, at this JSON pointer of its summary.
    Chaos {
        args: &'static [&'static str],
        pointer: &'static str,
    },
    /// So many parsers of others read our header fields as they were meant: `cargo xtask interop`.
    Interop,
}

impl Claim {
    const fn test(id: &'static str, claim: &'static str, bar: Bar, name: &'static str) -> Self {
        Self::new(
            id,
            claim,
            bar,
            How::Test {
                file: "claims",
                name,
            },
        )
    }

    /// Row, peer and field.
    const fn compare(
        id: &'static str,
        claim: &'static str,
        bar: Bar,
        (row, peer, field): (&'static str, &'static str, &'static str),
    ) -> Self {
        Self::new(id, claim, bar, How::Compare { row, peer, field })
    }

    const fn demo(id: &'static str, claim: &'static str, bar: Bar, pointer: &'static str) -> Self {
        let demo = Demo::Embedded(&["--seconds", "10"]);
        Self::of_demo(id, claim, bar, demo, pointer)
    }

    const fn of_demo(
        id: &'static str,
        claim: &'static str,
        bar: Bar,
        demo: Demo,
        pointer: &'static str,
    ) -> Self {
        Self::new(id, claim, bar, How::Demo { demo, pointer })
    }

    const fn chaos(
        id: &'static str,
        claim: &'static str,
        bar: Bar,
        args: &'static [&'static str],
        pointer: &'static str,
    ) -> Self {
        Self::new(id, claim, bar, How::Chaos { args, pointer })
    }

    const fn interop(id: &'static str, claim: &'static str, bar: Bar) -> Self {
        Self::new(id, claim, bar, How::Interop)
    }

    const fn new(id: &'static str, claim: &'static str, bar: Bar, how: How) -> Self {
        Self {
            id,
            claim,
            bar,
            how,
            long: false,
        }
    }

    /// The test is in `tests/<file>.rs`.
    const fn in_file(mut self, file: &'static str) -> Self {
        if let How::Test { name, .. } = self.how {
            self.how = How::Test { file, name };
        }
        self
    }

    /// Runs with `--long` only.
    const fn long(mut self) -> Self {
        self.long = true;
        self
    }

    /// The crate's name as in the id, which is its folder's.
    pub(crate) fn of(&self) -> &'static str {
        self.id.split_once('/').map_or(self.id, |(of, _)| of)
    }
}

/// The package of a crate.
pub(crate) fn package(of: &str) -> String {
    match of {
        "pipeline" => of.to_owned(),
        library => format!("seawall-{library}"),
    }
}

const ALL: &[(&str, &[Claim])] = &[
    ("ratelimit", ratelimit::CLAIMS),
    ("idempotency", idempotency::CLAIMS),
    ("retry", retry::CLAIMS),
    ("dlq", dlq::CLAIMS),
    ("shard-router", shard_router::CLAIMS),
    ("redis", redis::CLAIMS),
    ("pipeline", pipeline::CLAIMS),
];

/// The crates that may be asked for.
pub(crate) fn crates() -> impl Iterator<Item = &'static str> {
    ALL.iter().map(|(name, _)| *name)
}

/// The claims of one crate, or of all.
pub(crate) fn of(which: Option<&str>) -> impl Iterator<Item = &'static Claim> {
    ALL.iter()
        .filter(move |(name, _)| which.is_none_or(|which| which == *name))
        .flat_map(|(_, claims)| *claims)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::cargo::root;

    #[test]
    fn ids_are_unique_and_begin_with_their_crate() {
        let mut seen = BTreeSet::new();
        for (name, claims) in ALL {
            for claim in *claims {
                assert_eq!(claim.of(), *name, "{}", claim.id);
                assert!(seen.insert(claim.id), "twice: {}", claim.id);
                assert!(!claim.claim.is_empty() && !claim.claim.contains('\n'));
            }
        }
    }

    #[test]
    fn each_named_test_exists() {
        for claim in of(None) {
            let How::Test { file, name } = claim.how else {
                continue;
            };
            let folder = match claim.of() {
                "pipeline" => root().join("examples/pipeline"),
                library => root().join(library),
            };
            let file = folder.join("tests").join(file);
            // A file, or a folder of them.
            let files: Vec<_> = match std::fs::read_dir(&file) {
                Ok(folder) => folder.map(|one| one.expect("it is read").path()).collect(),
                Err(_) => vec![file.with_extension("rs")],
            };
            let text: String = files
                .iter()
                .map(|file| {
                    std::fs::read_to_string(file)
                        .unwrap_or_else(|error| panic!("{}: {}: {error}", claim.id, file.display()))
                })
                .collect();
            // A test may lie in a module of that file, or be made there for each of several kinds.
            let function = format!("fn {}", name.rsplit("::").next().unwrap_or(name));
            let (once, of_kinds) = (format!("{function}("), format!("{function}<"));
            assert!(
                text.contains(&once) || text.contains(&of_kinds),
                "{}: no {name} in {}",
                claim.id,
                file.display()
            );
        }
    }
}
