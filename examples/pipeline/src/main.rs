//! The full pipeline: API, log, workers, shards, caches, load and accounting in one binary.

use std::process::ExitCode;

use pipeline::args::{Cli, Command, one_line};
use pipeline::{chaos, demo, outside, serve, telemetry};

fn main() -> ExitCode {
    let cli = match Cli::read(std::env::args_os()) {
        Ok(cli) => cli,
        Err(asked) if !asked.use_stderr() => {
            print!("{asked}");
            return ExitCode::SUCCESS;
        }
        Err(wrong) => {
            eprintln!("pipeline: {}", one_line(&wrong));
            return ExitCode::from(2);
        }
    };
    if let Err(wrong) = chaos::arm() {
        eprintln!("pipeline: {wrong}");
        return ExitCode::from(2);
    }
    telemetry::events();
    let done = match cli.command.unwrap_or(Command::Demo(cli.demo)) {
        Command::Demo(args) => demo::run(&args),
        Command::Serve(args) => serve::run(&args),
        Command::Load(args) => outside::load(&args),
        Command::Check(args) => outside::check(&args),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("pipeline: {error:#}");
            ExitCode::from(2)
        }
    }
}
