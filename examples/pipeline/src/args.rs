//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// The full pipeline in one program: API, log, workers, shards, caches, load and accounting.
#[derive(Debug, Parser)]
#[command(
    name = "pipeline",
    version,
    args_conflicts_with_subcommands = true,
    args_override_self = true
)]
pub struct Cli {
    /// What to do; the demo if nothing is said.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The demo's settings, where no command is named.
    #[command(flatten)]
    pub demo: DemoArgs,
}

/// What the program can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run everything under load for a while, then report and close the accounting.
    Demo(DemoArgs),
    /// Serve real clients and apply their orders, until Ctrl-C.
    Serve(ServeArgs),
    /// Serve real clients; workers elsewhere apply their orders. Needs services.
    Api(ApiArgs),
    /// Apply what is in the log, as one of several. Needs services.
    Worker(WorkerArgs),
    /// Find out what a server of its own can do, then offer it three times that.
    Overload(OverloadArgs),
    /// Send load to a server, and keep a record of every answer.
    Load(LoadArgs),
    /// Compare such a record with a data directory that nobody has open: is anything lost, or there twice?
    Check(CheckArgs),
    /// Move slots to a shard that joins, while load runs. Needs services.
    Reshard(ReshardArgs),
}

/// Where the settings come from, and where the services are.
#[derive(Clone, Debug, Args)]
pub struct CommonArgs {
    /// A TOML file of settings by the names of the flags. Flags win, then variables named `PIPELINE_...`, then the
    /// file.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print the settings and where each comes from, with secrets hidden, and do nothing.
    #[arg(long)]
    pub print_config: bool,
}

/// Settings of `pipeline demo`.
#[derive(Clone, Debug, Args)]
pub struct DemoArgs {
    /// Where the settings come from.
    #[command(flatten)]
    pub common: CommonArgs,
    /// A TOML file that says where Redis, Kafka and PostgreSQL are, to run on them.
    #[arg(long, value_name = "FILE")]
    pub services: Option<PathBuf>,
    /// How long to send requests, in seconds.
    #[arg(long, default_value = "10", value_parser = seconds)]
    pub seconds: Duration,
    /// Requests a second to send.
    #[arg(long, default_value_t = 15_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub rate: u64,
    /// Write the report as JSON to this file as well.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Connections of the load.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u16).range(1..=4_096))]
    pub connections: u16,
    /// The share of requests that place orders; the rest read.
    #[arg(long, default_value = "0.2", value_parser = share)]
    pub writes: f64,
    /// Two runs of one seed send the same requests.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// The chance that a shard call is failed on purpose, before and after its transaction.
    #[arg(long, default_value = "0.002", value_parser = chance)]
    pub faults: f64,
    /// Retry waits are 1, 2, 4 ... 300 s times this.
    #[arg(long, default_value = "0.01", value_parser = scale)]
    pub retry_scale: f64,
    /// Shards; must divide the 100 partitions. On services there are as many as their file says.
    #[arg(long, default_value_t = 10, value_parser = shards)]
    pub shards: u16,
}

/// Settings of `pipeline serve`.
#[derive(Clone, Debug, Args)]
pub struct ServeArgs {
    /// Where the settings come from.
    #[command(flatten)]
    pub common: CommonArgs,
    /// Where to listen.
    #[command(flatten)]
    pub listen: ListenArgs,
    /// Its limits.
    #[command(flatten)]
    pub limits: LimitArgs,
    /// How its workers go about it.
    #[command(flatten)]
    pub work: WorkArgs,
    /// The data directory; made if it is not there.
    #[arg(
        long,
        default_value = "pipeline-data",
        value_name = "DIR",
        conflicts_with = "services"
    )]
    pub data: PathBuf,
    /// Shards; must divide the 100 partitions. Fixed when the data directory is made.
    #[arg(long, value_parser = shards, conflicts_with = "services")]
    pub shards: Option<u16>,
    /// A TOML file that says where Redis, Kafka and PostgreSQL are, to run on them instead of a data directory.
    #[arg(long, value_name = "FILE")]
    pub services: Option<PathBuf>,
}

/// Settings of `pipeline api`.
#[derive(Clone, Debug, Args)]
pub struct ApiArgs {
    /// Where the settings come from.
    #[command(flatten)]
    pub common: CommonArgs,
    /// Where to listen.
    #[command(flatten)]
    pub listen: ListenArgs,
    /// Its limits.
    #[command(flatten)]
    pub limits: LimitArgs,
    /// A TOML file that says where Redis, Kafka and PostgreSQL are.
    #[arg(long, value_name = "FILE")]
    pub services: PathBuf,
}

/// Settings of `pipeline worker`.
#[derive(Clone, Debug, Args)]
pub struct WorkerArgs {
    /// Where the settings come from.
    #[command(flatten)]
    pub common: CommonArgs,
    /// Where to listen: for health and figures only.
    #[command(flatten)]
    pub listen: ListenArgs,
    /// How its workers go about it.
    #[command(flatten)]
    pub work: WorkArgs,
    /// A TOML file that says where Redis, Kafka and PostgreSQL are.
    #[arg(long, value_name = "FILE")]
    pub services: PathBuf,
}

/// Where a process listens, and how it ends.
#[derive(Clone, Debug, Args)]
pub struct ListenArgs {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// How long to finish what was begun after Ctrl-C, in seconds.
    #[arg(long, default_value = "30", value_parser = seconds)]
    pub drain: Duration,
}

/// The limits of an API.
#[derive(Clone, Debug, Args)]
pub struct LimitArgs {
    /// Requests a minute for each user.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub user_limit: u32,
    /// Requests a minute for each client address.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub ip_limit: u32,
    /// Requests a minute for each API key.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub key_limit: u32,
    /// Proxies in front that add to X-Forwarded-For.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=16))]
    pub proxies: u8,
    /// Requests that are worked on at once; more wait a quarter of a second and are answered 503 then.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..=8_192))]
    pub at_once: u16,
}

/// How workers go about it.
#[derive(Clone, Debug, Args)]
pub struct WorkArgs {
    /// Retry waits are 1, 2, 4 ... 300 s times this.
    #[arg(long, default_value = "1", value_parser = scale)]
    pub retry_scale: f64,
}

/// Settings of `pipeline overload`.
#[derive(Clone, Debug, Args)]
pub struct OverloadArgs {
    /// Where the settings come from.
    #[command(flatten)]
    pub common: CommonArgs,
    /// How long to send requests each time, in seconds.
    #[arg(long, default_value = "10", value_parser = seconds)]
    pub seconds: Duration,
    /// How often each is measured, in turns.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=99))]
    pub rounds: u16,
    /// Connections for finding out what it can do; three times as many for the overload.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u16).range(1..=2_048))]
    pub connections: u16,
    /// How long clients wait for an answer, in seconds.
    #[arg(long, default_value = "1", value_parser = seconds)]
    pub deadline: Duration,
    /// The processor that the server is held to; the load is held to the next. Needs `taskset`. Both share all
    /// processors if not given.
    #[arg(long, value_name = "NUMBER")]
    pub pin: Option<u16>,
    /// Requests that the server works on at once.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..=8_192))]
    pub at_once: u16,
    /// Write the report as JSON to this file as well.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
}

/// Settings of `pipeline load`. The server has to run with `--proxies 1`: the load names its clients' addresses
/// as a load balancer would.
#[derive(Clone, Debug, Args)]
pub struct LoadArgs {
    /// Where the settings come from.
    #[command(flatten)]
    pub common: CommonArgs,
    /// The server.
    #[arg(long, default_value = "127.0.0.1:8080")]
    pub target: SocketAddr,
    /// The record of answers: one JSON object a line, synced before each order is sent. Added to if it is there.
    #[arg(long, value_name = "FILE")]
    pub log: PathBuf,
    /// How long to send requests, in seconds.
    #[arg(long, default_value = "10", value_parser = seconds)]
    pub seconds: Duration,
    /// Requests a second to send.
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub rate: u64,
    /// Connections.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u16).range(1..=4_096))]
    pub connections: u16,
    /// The share of requests that place orders; the rest read.
    #[arg(long, default_value = "0.2", value_parser = share)]
    pub writes: f64,
    /// The seed, and with it the keys of orders; drawn at random if not given.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Accounts to read back at the end, with all their orders, once the server has caught up.
    #[arg(long, default_value_t = 200)]
    pub read_back: usize,
    /// The server stands behind a proxy that sends a request again where it got no answer: a refusal then leaves the
    /// order in doubt.
    #[arg(long)]
    pub resent: bool,
}

/// Settings of `pipeline check`.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// Where the settings come from.
    #[command(flatten)]
    pub common: CommonArgs,
    /// The record that `pipeline load` kept.
    #[arg(long, value_name = "FILE")]
    pub log: PathBuf,
    /// The data directory of the server.
    #[arg(
        long,
        default_value = "pipeline-data",
        value_name = "DIR",
        conflicts_with = "services"
    )]
    pub data: PathBuf,
    /// A TOML file that says where the services of the server are, where it ran on such.
    #[arg(long, value_name = "FILE")]
    pub services: Option<PathBuf>,
    /// Write the accounting as JSON to this file as well.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
}

/// Settings of `pipeline reshard`.
#[derive(Clone, Debug, Args)]
pub struct ReshardArgs {
    /// Where the settings come from.
    #[command(flatten)]
    pub common: CommonArgs,
    /// What to do.
    #[arg(value_enum, default_value = "status")]
    pub action: ReshardAction,
    /// A TOML file that says where Redis, Kafka and PostgreSQL are: with the shards that there were at first.
    #[arg(long, value_name = "FILE")]
    pub services: PathBuf,
    /// The database of the shard that joins, on the server that is its primary. It has the password of the first shard,
    /// which need not be said: none is kept.
    #[arg(long, value_name = "URL", required_if_eq("action", "add"))]
    pub primary: Option<String>,
    /// The same on a replica of that server.
    #[arg(long, value_name = "URL", requires = "primary")]
    pub replica: Option<String>,
    /// Print what would move, and do nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Delete the slots where they were as soon as they have moved. There is no way back from there.
    #[arg(long)]
    pub finish: bool,
}

/// What `pipeline reshard` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReshardAction {
    /// Say how far the last move is.
    Status,
    /// Have a shard join: copy, catch up, compare, switch reads, freeze, switch writes.
    Add,
    /// Go on with a move that was interrupted.
    Resume,
    /// Delete the slots where they were.
    Finish,
    /// Take the move back.
    RollBack,
}

impl Cli {
    /// Reads the command line. What is wrong with it is one line.
    pub fn read<I, T>(args: I) -> Result<Self, clap::Error>
    where
        I: IntoIterator<Item = T>,
        T: Into<std::ffi::OsString> + Clone,
    {
        Self::try_parse_from(args)
    }
}

/// An error of the command line in one line.
pub fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let said = text.split("\n\nUsage:").next().unwrap_or(&text);
    let said: Vec<&str> = said
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    format!(
        "{}; see `pipeline --help`",
        said.join(" ").trim_start_matches("error: ")
    )
}

fn seconds(text: &str) -> Result<Duration, String> {
    let secs: f64 = text
        .parse()
        .map_err(|_| "give a number of seconds".to_owned())?;
    if !(0.1..=86_400.0).contains(&secs) {
        return Err("give from 0.1 to 86400 seconds".into());
    }
    Ok(Duration::from_secs_f64(secs))
}

fn chance(text: &str) -> Result<f64, String> {
    number_in(text, 0.0, 0.5)
}

fn share(text: &str) -> Result<f64, String> {
    number_in(text, 0.0, 1.0)
}

fn scale(text: &str) -> Result<f64, String> {
    number_in(text, 0.001, 1.0)
}

fn number_in(text: &str, low: f64, high: f64) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(x) if (low..=high).contains(&x) => Ok(x),
        _ => Err(format!("give a number from {low} to {high}")),
    }
}

fn shards(text: &str) -> Result<u16, String> {
    match text.parse::<u16>() {
        Ok(n) if n > 0 && crate::app::PARTITIONS.is_multiple_of(n) => Ok(n),
        _ => Err(format!(
            "give a divisor of the {} partitions, such as 10 or 50, so that a batch is one transaction",
            crate::app::PARTITIONS
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(args: &[&str]) -> String {
        one_line(&Cli::read(args).expect_err("a wrong command line"))
    }

    #[test]
    fn the_demo_is_what_runs_when_nothing_is_said() {
        let cli = Cli::read(["pipeline"]).expect("it parses");
        assert!(cli.command.is_none());
        assert_eq!(cli.demo.seconds, Duration::from_secs(10));
        let cli = Cli::read(["pipeline", "--seconds", "3"]).expect("it parses");
        assert_eq!(cli.demo.seconds, Duration::from_secs(3));
    }

    #[test]
    fn what_is_wrong_is_one_line_that_says_how_to_mend_it() {
        for args in [
            &["pipeline", "demo", "--seconds", "0"][..],
            &["pipeline", "demo", "--seconds", "NaN"],
            &["pipeline", "demo", "--rate", "0"],
            &["pipeline", "demo", "--shards", "7"],
            &["pipeline", "demo", "--faults", "2"],
            &["pipeline", "serve", "--listen", "nowhere"],
            &["pipeline", "serve", "--user-limit", "0"],
            &["pipeline", "fly"],
            &["pipeline", "demo", "--no-such-flag"],
        ] {
            let said = complaint(args);
            assert_eq!(said.lines().count(), 1, "{said}");
            assert!(said.contains("--help"), "{said}");
        }
        assert!(complaint(&["pipeline", "demo", "--shards", "7"]).contains("divisor"));
    }
}
