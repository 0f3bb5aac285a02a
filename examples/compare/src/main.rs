//! Side-by-side measurements of the layers against their peers, interleaved in one run.
//!
//! ```text
//! cargo run --release -p compare -- [--only PREFIX] [--json FILE]
//! ```
//!
//! Absolute times depend on the machine and on what else it does; ratios within one run do so much
//! less, since all contenders of a row take turns in short slices. So judge by the ratios.

mod args;
mod drive;
mod keys;
mod measure;
mod rows;
mod table;

use std::fs::File;
use std::io::Write;
use std::process::ExitCode;

use crate::args::Args;

fn main() -> ExitCode {
    let args = match Args::parse(std::env::args_os().skip(1)) {
        Ok(args) => args,
        Err(error) => return refuse(&error),
    };
    let chosen: Vec<_> = rows::ALL
        .iter()
        .filter(|entry| entry.name.starts_with(&args.only))
        .collect();
    if chosen.is_empty() {
        return refuse(&format!("no row's name begins with {:?}", args.only));
    }
    // Opened before anything is measured, so that a wrong path costs nobody two minutes.
    let mut json = match args.json.as_ref().map(File::create).transpose() {
        Ok(file) => file,
        Err(error) => return refuse(&format!("cannot write the file of --json: {error}")),
    };

    table::head();
    let mut rows = Vec::new();
    for entry in chosen {
        let measured = (entry.measure)(entry);
        let peers: Vec<_> = measured.iter().map(|row| row.peer).collect();
        assert_eq!(peers, entry.peers, "{} meets others", entry.name);
        measured.iter().for_each(table::line);
        rows.extend(measured);
    }
    table::foot();

    if let Some(file) = &mut json {
        let written = serde_json::to_writer_pretty(&mut *file, &rows)
            .map_err(std::io::Error::from)
            .and_then(|()| file.write_all(b"\n"));
        if let Err(error) = written {
            return refuse(&format!("cannot write the file of --json: {error}"));
        }
    }
    ExitCode::SUCCESS
}

/// One line that says what is wrong.
fn refuse(error: &str) -> ExitCode {
    eprintln!("compare: {error}");
    ExitCode::from(2)
}
