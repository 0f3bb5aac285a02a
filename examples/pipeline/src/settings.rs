//! Where settings come from: flags, then `PIPELINE_...` variables, then a TOML file, then what the flags' help says.
//!
//! All of them end as flags, the strongest last, so that a value is checked by the same rule wherever it stands.
//! In the file, settings for all commands stand at the top and those for one command in a table of its name:
//!
//! ```toml
//! services = "services.toml"
//!
//! [api]
//! listen = "0.0.0.0:8080"
//! user-limit = 600
//! ```

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{ArgMatches, CommandFactory, FromArgMatches};

use crate::args::{Cli, one_line};
use crate::services::Places;

/// What variables begin with.
const PREFIX: &str = "PIPELINE_";

/// What the command line, the environment and the file came to.
#[derive(Debug)]
pub enum Asked {
    /// Do this.
    Run(Box<Cli>),
    /// Say this, and be done.
    Say(String),
}

/// What is wrong, in one line.
pub type Wrong = String;

/// A setting from somewhere.
#[derive(Clone, Debug)]
struct Setting {
    key: String,
    value: String,
    from: String,
}

/// Reads all of them. `args` begins with the program's name.
///
/// # Errors
///
/// What is wrong with which of them.
pub fn read(
    args: impl IntoIterator<Item = OsString>,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Asked, Wrong> {
    let mut args = args.into_iter();
    let program = args.next().unwrap_or_else(|| "pipeline".into());
    let rest: Vec<OsString> = args.collect();
    let (command, flags) = split(&rest);
    let known = Known::of(&command);

    let variables = from_variables(variables, &known)?;
    let file = flag(flags, "config").or_else(|| {
        let named = variables.iter().find(|one| one.key == "config")?;
        Some(PathBuf::from(&named.value))
    });
    let mut weak = match &file {
        Some(path) => from_file(path, &command, &known)?,
        None => Vec::new(),
    };
    // Each alone, so that what is wrong is said of where it stands.
    check(&program, &command, &weak, file.as_deref())?;
    check(&program, &command, &variables, None)?;
    weak.extend(variables);

    let mut all = vec![program];
    if !command.is_empty()
        && (rest.first().is_some_and(|first| *first == *command) || !weak.is_empty())
    {
        all.push(command.clone().into());
    }
    all.extend(weak.iter().map(Setting::as_flag));
    all.extend(flags.iter().cloned());
    let found = match Cli::command().try_get_matches_from(&all) {
        Ok(found) => found,
        Err(asked) if !asked.use_stderr() => return Ok(Asked::Say(asked.to_string())),
        Err(wrong) => return Err(one_line(&wrong)),
    };
    let (command, of) = match found.subcommand() {
        Some((command, of)) => (command, of),
        None => ("demo", &found),
    };
    if of.get_flag("print_config") {
        return print(command, of, &weak, flags).map(Asked::Say);
    }
    let cli = Cli::from_arg_matches(&found).map_err(|wrong| one_line(&wrong))?;
    Ok(Asked::Run(Box::new(cli)))
}

/// The command, the demo where none is named, and the flags behind it. Where what is asked is for the program itself,
/// there is no command.
fn split(rest: &[OsString]) -> (String, &[OsString]) {
    match rest.split_first() {
        Some((first, flags)) => {
            let first = first.to_string_lossy();
            if matches!(&*first, "-h" | "--help" | "-V" | "--version" | "help") {
                (String::new(), rest)
            } else if first.starts_with('-') {
                ("demo".to_owned(), rest)
            } else {
                (first.into_owned(), flags)
            }
        }
        None => ("demo".to_owned(), rest),
    }
}

/// What can be set.
struct Known {
    /// By command, whether a value is needed.
    by_command: BTreeMap<String, Vec<String>>,
    /// Of the command that runs.
    here: Vec<String>,
}

impl Known {
    fn of(command: &str) -> Self {
        let by_command: BTreeMap<String, Vec<String>> = Cli::command()
            .get_subcommands()
            .map(|command| {
                let long = command
                    .get_arguments()
                    .filter(|arg| arg.get_action().takes_values())
                    .filter_map(|arg| arg.get_long())
                    .map(str::to_owned);
                (command.get_name().to_owned(), long.collect())
            })
            .collect();
        let here = by_command.get(command).cloned().unwrap_or_default();
        Self { by_command, here }
    }

    fn anywhere(&self, key: &str) -> bool {
        self.by_command
            .values()
            .any(|keys| keys.iter().any(|known| known == key))
    }
}

impl Setting {
    fn as_flag(&self) -> OsString {
        format!("--{}={}", self.key, self.value).into()
    }
}

fn from_variables(
    variables: impl IntoIterator<Item = (OsString, OsString)>,
    known: &Known,
) -> Result<Vec<Setting>, Wrong> {
    let mut settings = Vec::new();
    for (name, value) in variables {
        let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else {
            continue;
        };
        let key = name[PREFIX.len()..].to_ascii_lowercase().replace('_', "-");
        if !known.anywhere(&key) {
            return Err(format!(
                "the variable {name} sets nothing: there is no --{key}"
            ));
        }
        let Some(value) = value.to_str() else {
            return Err(format!("the variable {name} is not UTF-8"));
        };
        if known.here.contains(&key) {
            settings.push(Setting {
                key,
                value: value.to_owned(),
                from: name.to_owned(),
            });
        }
    }
    settings.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(settings)
}

fn from_file(path: &Path, command: &str, known: &Known) -> Result<Vec<Setting>, Wrong> {
    let shown = path.display();
    let text =
        std::fs::read_to_string(path).map_err(|why| format!("cannot read {shown}: {why}"))?;
    let table: toml::Table = text
        .parse()
        .map_err(|why| format!("{shown}: {}", crate::services::one_line(&text, &why)))?;
    let mut settings = Vec::new();
    let mut own = Vec::new();
    for (key, value) in &table {
        match value {
            toml::Value::Table(of) if known.by_command.contains_key(key) => {
                for (inner, value) in of {
                    let known_there = &known.by_command[key];
                    if !known_there.contains(inner) {
                        return Err(format!("{shown}: [{key}] has no setting {inner:?}"));
                    }
                    let setting = setting(inner, value, &shown.to_string())?;
                    if key == command {
                        own.push(setting);
                    }
                }
            }
            _ if !known.anywhere(key) => {
                return Err(format!("{shown}: there is no setting {key:?}"));
            }
            value => {
                let setting = setting(key, value, &shown.to_string())?;
                if known.here.contains(key) {
                    settings.push(setting);
                }
            }
        }
    }
    // The command's own are stronger.
    settings.extend(own);
    Ok(settings)
}

fn setting(key: &str, value: &toml::Value, file: &str) -> Result<Setting, Wrong> {
    let value = match value {
        toml::Value::String(text) => text.clone(),
        toml::Value::Integer(number) => number.to_string(),
        toml::Value::Float(number) => number.to_string(),
        toml::Value::Boolean(yes) => yes.to_string(),
        _ => return Err(format!("{file}: {key} is a single value")),
    };
    if key == "config" {
        return Err(format!("{file}: config is not set in itself"));
    }
    Ok(Setting {
        key: key.to_owned(),
        value,
        from: file.to_owned(),
    })
}

/// Whether settings are right by themselves, as far as they go.
fn check(
    program: &OsString,
    command: &str,
    settings: &[Setting],
    file: Option<&Path>,
) -> Result<(), Wrong> {
    if settings.is_empty() {
        return Ok(());
    }
    let args = [program.clone(), command.into()]
        .into_iter()
        .chain(settings.iter().map(Setting::as_flag));
    match Cli::command().try_get_matches_from(args) {
        Ok(_) => Ok(()),
        Err(wrong) if wrong.kind() == ErrorKind::MissingRequiredArgument => Ok(()),
        Err(wrong) => Err(match file {
            Some(file) => format!("{}: {}", file.display(), one_line(&wrong)),
            None => format!("in a variable: {}", one_line(&wrong)),
        }),
    }
}

/// The value of a flag, where it is given.
fn flag(flags: &[OsString], name: &str) -> Option<PathBuf> {
    let long = format!("--{name}");
    let mut found = None;
    let mut flags = flags.iter();
    while let Some(flag) = flags.next() {
        let flag = flag.to_string_lossy();
        if *flag == *long {
            found = flags.next().map(PathBuf::from);
        } else if let Some(value) = flag.strip_prefix(&long).and_then(|v| v.strip_prefix('=')) {
            found = Some(value.into());
        }
    }
    found
}

/// The settings of a command as the file would hold them.
fn print(
    command: &str,
    of: &ArgMatches,
    weak: &[Setting],
    flags: &[OsString],
) -> Result<String, Wrong> {
    let mut said = format!("[{command}]\n");
    let all = Cli::command();
    let about = all
        .find_subcommand(command)
        .expect("the command was parsed");
    for arg in about.get_arguments() {
        let Some(key) = arg.get_long().filter(|_| arg.get_action().takes_values()) else {
            continue;
        };
        let Some(value) = of
            .try_get_raw(arg.get_id().as_str())
            .ok()
            .flatten()
            .and_then(|mut values| values.next_back())
        else {
            continue;
        };
        let from = if flag(flags, key).is_some() {
            "a flag"
        } else {
            let set = weak.iter().rev().find(|setting| setting.key == key);
            set.map_or("the default", |setting| &setting.from)
        };
        if key == "config" {
            continue;
        }
        let value = literal(&hide(&value.to_string_lossy()));
        // Writing to a string does not fail.
        let _ = writeln!(said, "{key} = {value}  # {from}");
    }
    if let Ok(Some(services)) = of.try_get_one::<PathBuf>("services") {
        Places::read(services).map_err(|why| format!("{why:#}"))?;
        let text = std::fs::read_to_string(services)
            .map_err(|why| format!("cannot read {}: {why}", services.display()))?;
        let _ = writeln!(said, "\n# {}", services.display());
        for line in text.lines() {
            let _ = writeln!(said, "# {}", hide(line));
        }
    }
    Ok(said)
}

/// A value as TOML has it.
fn literal(value: &str) -> String {
    if value.parse::<i64>().is_ok() || value.parse::<f64>().is_ok_and(f64::is_finite) {
        value.to_owned()
    } else {
        toml::Value::from(value).to_string()
    }
}

/// Hides what stands for passwords in addresses: between the user's colon and the `@`, and after `password=`.
fn hide(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        shown.push_str(before);
        let end = after
            .find(|c: char| c == '/' || c == '?' || c == '"' || c == '\'' || c.is_whitespace())
            .unwrap_or(after.len());
        let authority = &after[..end];
        match authority.rsplit_once('@') {
            Some((who, host)) => {
                let user = who.split_once(':');
                match user {
                    Some((user, _)) => {
                        let _ = write!(shown, "{user}:***@{host}");
                    }
                    None => shown.push_str(authority),
                }
            }
            None => shown.push_str(authority),
        }
        rest = &after[end..];
    }
    shown.push_str(rest);
    let mut hidden = String::with_capacity(shown.len());
    let mut rest = shown.as_str();
    while let Some(at) = rest.find("password=") {
        let (before, after) = rest.split_at(at + "password=".len());
        let end = after
            .find(|c: char| c == '&' || c == '"' || c == '\'' || c.is_whitespace())
            .unwrap_or(after.len());
        let _ = write!(hidden, "{before}***");
        rest = &after[end..];
    }
    hidden.push_str(rest);
    hidden
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Command;

    fn asked(args: &[&str], variables: &[(&str, &str)]) -> Result<Asked, Wrong> {
        read(
            std::iter::once("pipeline")
                .chain(args.iter().copied())
                .map(OsString::from),
            variables
                .iter()
                .map(|(name, value)| (name.into(), value.into())),
        )
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), text).expect("it is written");
        file
    }

    fn served(asked: Result<Asked, Wrong>) -> crate::args::ServeArgs {
        match asked.expect("it is right") {
            Asked::Run(cli) => match cli.command {
                Some(Command::Serve(args)) => args,
                other => panic!("{other:?}"),
            },
            Asked::Say(said) => panic!("{said}"),
        }
    }

    #[test]
    fn flags_win_over_variables_and_those_over_the_file() {
        let file = file(
            "user-limit = 1\nip-limit = 1\nkey-limit = 1\n[serve]\nproxies = 3\nkey-limit = 4\n",
        );
        let path = file.path().to_str().expect("a path");
        let args = served(asked(
            &["serve", "--config", path, "--user-limit", "3"],
            &[("PIPELINE_USER_LIMIT", "2"), ("PIPELINE_IP_LIMIT", "2")],
        ));
        let limits = args.limits;
        assert_eq!(
            (
                limits.user_limit,
                limits.ip_limit,
                limits.key_limit,
                limits.proxies
            ),
            (3, 2, 4, 3)
        );
        // The file can be named by a variable too.
        let args = served(asked(&["serve"], &[("PIPELINE_CONFIG", path)]));
        assert_eq!(args.limits.user_limit, 1);
    }

    #[test]
    fn settings_of_other_commands_are_left_to_them() {
        let file = file("seconds = 3\nuser-limit = 7\n[api]\nlisten = \"127.0.0.1:1\"\n");
        let path = file.path().to_str().expect("a path");
        let args = served(asked(
            &["serve", "--config", path],
            &[("PIPELINE_RATE", "9")],
        ));
        assert_eq!(args.limits.user_limit, 7);
        assert_eq!(args.listen.listen.port(), 8080);
    }

    #[test]
    fn the_demo_takes_them_without_being_named() {
        let Ok(Asked::Run(cli)) = asked(&[], &[("PIPELINE_RATE", "9")]) else {
            panic!("it is right");
        };
        let Some(Command::Demo(demo)) = cli.command else {
            panic!("it is the demo");
        };
        assert_eq!(demo.rate, 9);
        let Ok(Asked::Run(cli)) = asked(&["--rate", "5"], &[("PIPELINE_RATE", "9")]) else {
            panic!("it is right");
        };
        let Some(Command::Demo(demo)) = cli.command else {
            panic!("it is the demo");
        };
        assert_eq!(demo.rate, 5);
    }

    #[test]
    fn what_is_wrong_is_one_line_that_says_where_it_stands() {
        for (text, variables, said) in [
            (
                "user-limits = 3",
                &[][..],
                "there is no setting \"user-limits\"",
            ),
            (
                "[serve]\nseconds = 3",
                &[],
                "[serve] has no setting \"seconds\"",
            ),
            ("[fly]\nx = 3", &[], "there is no setting \"fly\""),
            ("user-limit = 0", &[], "user-limit"),
            ("user-limit = [1]", &[], "single value"),
            ("user-limit = ", &[], "line 1"),
            ("config = \"x\"", &[], "in itself"),
            (
                "",
                &[("PIPELINE_USER_LIMITS", "3")],
                "PIPELINE_USER_LIMITS sets nothing",
            ),
            ("", &[("PIPELINE_USER_LIMIT", "many")], "in a variable"),
        ] {
            let file = file(text);
            let path = file.path().to_str().expect("a path");
            let wrong = asked(&["serve", "--config", path], variables).expect_err(text);
            assert!(wrong.contains(said), "{text}: {wrong}");
            assert_eq!(wrong.lines().count(), 1, "{wrong}");
        }
        let wrong = asked(&["serve", "--config", "/no/such/file"], &[]).expect_err("no file");
        assert!(wrong.contains("/no/such/file"), "{wrong}");
        assert!(asked(&["fly"], &[]).is_err());
    }

    #[test]
    fn the_settings_are_printed_with_their_places_and_without_secrets() {
        let services = file(
            "[redis]\nurls = [\"redis://:hush@127.0.0.1:1\"]\n[kafka]\nbrokers = [\"127.0.0.1:2\"]\n\
             [postgres]\nshards = [{ primary = \"postgres://u:hush@h/a?password=hush&x=1\" }]\n",
        );
        let services = services.path().to_str().expect("a path");
        let Ok(Asked::Say(said)) = asked(
            &["api", "--print-config", "--user-limit=5"],
            &[("PIPELINE_SERVICES", services), ("PIPELINE_PROXIES", "1")],
        ) else {
            panic!("it is right");
        };
        assert!(said.contains("[api]\n"), "{said}");
        assert!(said.contains("user-limit = 5  # a flag\n"), "{said}");
        assert!(said.contains("proxies = 1  # PIPELINE_PROXIES\n"), "{said}");
        assert!(
            said.contains("listen = \"127.0.0.1:8080\"  # the default\n"),
            "{said}"
        );
        assert!(
            said.contains("postgres://u:***@h/a?password=***&x=1"),
            "{said}"
        );
        assert!(said.contains("redis://:***@127.0.0.1:1"), "{said}");
        assert!(!said.contains("hush"), "{said}");
        // What is printed can be read.
        let printed = file(&said);
        let again = asked(
            &["api", "--config", printed.path().to_str().expect("a path")],
            &[],
        );
        assert!(matches!(again, Ok(Asked::Run(_))), "{again:?}");
    }

    #[test]
    fn help_is_said_and_not_run() {
        for args in [
            &["--help"][..],
            &["serve", "--help"],
            &["--version"],
            &["help"],
        ] {
            assert!(
                matches!(asked(args, &[("PIPELINE_RATE", "9")]), Ok(Asked::Say(_))),
                "{args:?}"
            );
        }
    }
}
