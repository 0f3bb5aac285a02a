//! What was asked for on the command line.

use std::path::PathBuf;

use crate::claims;

pub(crate) const USAGE: &str = "\
cargo xtask test [-- ARGS]                        every test, against real servers; ARGS go to cargo test
cargo xtask ci                                    format, clippy, docs, every test, the demo
cargo xtask interop                               our header fields by parsers from npm and PyPI; Redis tests on Valkey
cargo xtask services up|status|down [ARGS]        Redis, Kafka, PostgreSQL and HAProxy for the pipeline; more: --help
cargo xtask chaos [ARGS]                          failures against the pipeline, and the books after each run
                  --runs N --seed S --step STEP   how many, from which seed on, only this failure; more: --help
                  --services                      on Kafka, PostgreSQL and Redis, which fail as well
cargo xtask prove [CRATE] [--long] [--json FILE]  measures every claim (of one crate) against its bar
                  --long                          also the claims that take long
                  --json FILE                     writes the table as JSON, too";

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Request {
    Help,
    Do(Chore),
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Chore {
    Test { extra: Vec<String> },
    Ci,
    Interop,
    Services { args: Vec<String> },
    Chaos { args: Vec<String> },
    Prove(Which),
}

/// The claims to prove.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Which {
    pub(crate) of: Option<String>,
    pub(crate) long: bool,
    pub(crate) json: Option<PathBuf>,
}

/// Reads the arguments after the program's name; the error is one line for the user.
pub(crate) fn parse(args: impl IntoIterator<Item = String>) -> Result<Request, String> {
    let mut args = args.into_iter().peekable();
    let Some(chore) = args.next() else {
        return Err(
            "which chore? test, ci, interop, services, chaos or prove (cargo xtask --help)"
                .to_owned(),
        );
    };
    let chore = match chore.as_str() {
        "help" | "--help" | "-h" => return Ok(Request::Help),
        // These two have a help of their own.
        chore
            if !["services", "chaos"].contains(&chore)
                && args
                    .peek()
                    .is_some_and(|arg| arg == "--help" || arg == "-h") =>
        {
            return Ok(Request::Help);
        }
        "test" => Chore::Test {
            extra: extra(args)?,
        },
        "ci" => match args.next() {
            None => Chore::Ci,
            Some(arg) => return Err(format!("ci takes no argument, and got {arg:?}")),
        },
        "interop" => match args.next() {
            None => Chore::Interop,
            Some(arg) => return Err(format!("interop takes no argument, and got {arg:?}")),
        },
        "services" => Chore::Services {
            args: args.collect(),
        },
        "chaos" => Chore::Chaos {
            args: args.collect(),
        },
        "prove" => Chore::Prove(which(args)?),
        other => {
            return Err(format!(
                "no chore {other:?}: test, ci, interop, services, chaos or prove (cargo xtask --help)"
            ));
        }
    };
    Ok(Request::Do(chore))
}

fn extra(mut args: impl Iterator<Item = String>) -> Result<Vec<String>, String> {
    match args.next().as_deref() {
        None => Ok(Vec::new()),
        Some("--") => Ok(args.collect()),
        Some(arg) => Err(format!(
            "test got {arg:?}: arguments for cargo test go behind a --"
        )),
    }
}

fn which(mut args: impl Iterator<Item = String>) -> Result<Which, String> {
    let mut which = Which::default();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--long" => which.long = true,
            "--json" => match args.next() {
                Some(file) => which.json = Some(file.into()),
                None => return Err("--json needs the name of a file".to_owned()),
            },
            flag if flag.starts_with('-') => {
                return Err(format!("prove has no {flag}: --long or --json FILE"));
            }
            name if which.of.is_some() => {
                return Err(format!("prove takes one crate, and got {name:?} as well"));
            }
            name if claims::crates().any(|known| known == name) => which.of = Some(arg),
            name => {
                let known: Vec<_> = claims::crates().collect();
                return Err(format!("no claims of {name:?}: {}", known.join(", ")));
            }
        }
    }
    Ok(which)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Result<Request, String> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn reads_each_chore() {
        let chore = |line| match of(line) {
            Ok(Request::Do(chore)) => chore,
            other => panic!("{line}: {other:?}"),
        };
        assert_eq!(chore("test"), Chore::Test { extra: vec![] });
        assert_eq!(
            chore("test -- -p seawall-redis -- --nocapture"),
            Chore::Test {
                extra: ["-p", "seawall-redis", "--", "--nocapture"]
                    .map(str::to_owned)
                    .into()
            }
        );
        assert_eq!(chore("ci"), Chore::Ci);
        assert_eq!(chore("interop"), Chore::Interop);
        assert_eq!(
            chore("services up"),
            Chore::Services {
                args: vec!["up".to_owned()]
            }
        );
        assert_eq!(
            chore("chaos --runs 3 --help"),
            Chore::Chaos {
                args: ["--runs", "3", "--help"].map(str::to_owned).into()
            }
        );
        assert_eq!(chore("prove"), Chore::Prove(Which::default()));
        assert_eq!(
            chore("prove --json out.json retry --long"),
            Chore::Prove(Which {
                of: Some("retry".to_owned()),
                long: true,
                json: Some("out.json".into()),
            })
        );
        assert_eq!(of("--help"), Ok(Request::Help));
        assert_eq!(of("prove --help"), Ok(Request::Help));
    }

    #[test]
    fn wrong_usage_is_one_line_that_says_what_is_right() {
        for (line, says) in [
            ("", "test, ci, interop, services, chaos or prove"),
            ("tset", "test, ci, interop, services, chaos or prove"),
            ("ci now", "no argument"),
            ("interop now", "no argument"),
            ("test redis", "behind a --"),
            ("prove --json", "name of a file"),
            ("prove --quick", "--long or --json FILE"),
            ("prove retry dlq", "one crate"),
            (
                "prove nothing",
                "ratelimit, idempotency, retry, dlq, shard-router, redis, pipeline",
            ),
        ] {
            let mistake = of(line).unwrap_err();
            assert!(mistake.contains(says), "{line}: {mistake}");
            assert!(!mistake.contains('\n'), "{line}: {mistake}");
        }
    }
}
