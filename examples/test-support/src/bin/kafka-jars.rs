//! Prints the directory of Kafka's jars, which it fetches when they are not there.

use std::process::ExitCode;

fn main() -> ExitCode {
    match test_support::kafka_jars() {
        Ok(directory) => {
            println!("{}", directory.display());
            ExitCode::SUCCESS
        }
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}
