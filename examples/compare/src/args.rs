//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

const USAGE: &str = "usage: compare [--only PREFIX] [--json FILE]";

/// What is to be measured, and where the rows go beside the table.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Args {
    /// The beginning of the names of the rows to measure; empty for all.
    pub(crate) only: String,
    pub(crate) json: Option<PathBuf>,
}

impl Args {
    /// Reads the arguments after the program's name.
    ///
    /// # Errors
    ///
    /// One line that says what is wrong.
    pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, String> {
        let mut arguments = arguments.into_iter();
        let (mut only, mut json) = (None, None);
        while let Some(flag) = arguments.next() {
            let flag = flag.to_string_lossy().into_owned();
            let (name, mut value) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(OsString::from(value))),
                None => (flag.as_str(), None),
            };
            let mut value = || {
                value
                    .take()
                    .or_else(|| arguments.next())
                    .filter(|value| !value.is_empty())
                    .ok_or_else(|| format!("{name} needs a value; {USAGE}"))
            };
            let again = match name {
                "--only" => only
                    .replace(value()?.to_string_lossy().into_owned())
                    .is_some(),
                "--json" => json.replace(PathBuf::from(value()?)).is_some(),
                _ => return Err(format!("unknown argument {flag:?}; {USAGE}")),
            };
            if again {
                return Err(format!("{name} is given twice; {USAGE}"));
            }
        }
        Ok(Self {
            only: only.unwrap_or_default(),
            json,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Args, String> {
        Args::parse(arguments.iter().map(OsString::from))
    }

    #[test]
    fn both_flags_are_read_in_either_form() {
        let expected = Args {
            only: "retry/".to_owned(),
            json: Some("rows.json".into()),
        };
        assert_eq!(
            parse(&["--only", "retry/", "--json", "rows.json"]).as_ref(),
            Ok(&expected)
        );
        assert_eq!(
            parse(&["--json=rows.json", "--only=retry/"]).as_ref(),
            Ok(&expected)
        );
        assert_eq!(parse(&[]), Ok(Args::default()));
    }

    #[test]
    fn what_is_wrong_is_said_in_one_line() {
        for wrong in [
            &["--fast"][..],
            &["retry"],
            &["--only"],
            &["--json="],
            &["--only", "a", "--only", "b"],
        ] {
            let error = parse(wrong).unwrap_err();
            assert!(
                error.contains(USAGE) && error.lines().count() == 1,
                "{error}"
            );
        }
    }
}
