//! The full pipeline: API, log, workers, shards, caches, load and accounting in one binary.

use std::process::ExitCode;

use pipeline::args::Command;
use pipeline::settings::{self, Asked};
use pipeline::{chaos, demo, outside, overload, reshard, serve, telemetry};

/// Requests begin on one thread and end on another, and so does what they allocate. The system's allocator takes a
/// quarter of the API's time for that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = match settings::read(std::env::args_os(), std::env::vars_os()) {
        Ok(Asked::Run(cli)) => cli,
        Ok(Asked::Say(said)) => {
            print!("{said}");
            return ExitCode::SUCCESS;
        }
        Err(wrong) => {
            eprintln!("pipeline: {wrong}");
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
        Command::Api(args) => serve::api(&args),
        Command::Worker(args) => serve::worker(&args),
        Command::Overload(args) => overload::run(&args),
        Command::Load(args) => outside::load(&args),
        Command::Check(args) => outside::check(&args),
        Command::Reshard(args) => reshard::run(&args).map(|()| true),
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
