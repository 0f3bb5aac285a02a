//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Redis, Kafka, PostgreSQL and HAProxy for the pipeline, on loopback and free ports.
#[derive(Debug, Parser)]
#[command(name = "services", bin_name = "cargo xtask services")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start them, wait until each answers, show where it is and write services.toml.
    Up(Up),
    /// Show where they are and whether they answer.
    Status {
        /// The directory that they were started in.
        #[arg(long, default_value = DIRECTORY, value_name = "DIR")]
        directory: PathBuf,
    },
    /// End them, and remove what they have written.
    Down {
        /// The directory that they were started in.
        #[arg(long, default_value = DIRECTORY, value_name = "DIR")]
        directory: PathBuf,
    },
    /// What `up` leaves behind.
    #[command(hide = true)]
    Keep(Up),
}

const DIRECTORY: &str = "target/services";

#[derive(Clone, Debug, Args)]
pub(crate) struct Up {
    /// Where they keep their files.
    #[arg(long, default_value = DIRECTORY, value_name = "DIR")]
    pub(crate) directory: PathBuf,
    /// Only these, with commas between.
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub(crate) only: Vec<Service>,
    /// Shards: databases of one PostgreSQL server, each with its copy on a streaming replica.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub(crate) shards: u16,
    /// Redis as a cluster of three primaries with a replica each instead of a single server.
    #[arg(long)]
    pub(crate) cluster: bool,
    /// Kafka brokers.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    pub(crate) brokers: u16,
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Service {
    Redis,
    Kafka,
    Postgres,
    Haproxy,
}

impl Up {
    pub(crate) fn wants(&self, service: Service) -> bool {
        self.only.is_empty() || self.only.contains(&service)
    }

    /// The same as it was typed.
    pub(crate) fn as_args(&self) -> Vec<std::ffi::OsString> {
        let mut args: Vec<std::ffi::OsString> =
            vec!["--directory".into(), self.directory.clone().into()];
        for service in &self.only {
            let name = service.to_possible_value();
            let name = name.map(|value| value.get_name().to_owned());
            args.extend(["--only".into(), name.unwrap_or_default().into()]);
        }
        if self.cluster {
            args.push("--cluster".into());
        }
        args.extend(["--shards".into(), self.shards.to_string().into()]);
        args.extend(["--brokers".into(), self.brokers.to_string().into()]);
        args
    }
}
