//! The command line tool; see the library's documentation for how it works.

#![forbid(unsafe_code)]

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use lissom_load::args::Args;
use lissom_load::plan::Plan;
use lissom_load::report::Report;
use lissom_load::{engine, limits};

fn main() -> ExitCode {
    let args = Args::parse();
    match run(args) {
        Ok(report) if report.errors_total == 0 => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(1),
        Err(message) => {
            eprintln!("lissom-load: {message}");
            ExitCode::from(2)
        }
    }
}

fn run(args: Args) -> Result<Report, String> {
    let json = args.json.clone();
    let plan = Plan::new(args)?;
    for warning in &plan.warnings {
        eprintln!("lissom-load: warning: {warning}");
    }
    limits::raise_open_files(plan.connections)?;
    if let Some(cpu) = plan.cpu {
        limits::pin_to_cpu(cpu)?;
    }
    let outcome = engine::run(&plan).map_err(|error| error.to_string())?;
    let report = Report::new(&plan, &outcome);
    write(&report, json.as_deref())?;
    Ok(report)
}

/// Writes JSON to where it is asked for, and the table to standard output unless JSON goes there.
fn write(report: &Report, json: Option<&Path>) -> Result<(), String> {
    let text = |report| serde_json::to_string_pretty(report).map_err(|error| error.to_string());
    let output = match json {
        Some(path) if path.as_os_str() == "-" => text(report)? + "\n",
        Some(path) => {
            fs::write(path, text(report)? + "\n").map_err(|error| format!("--json {}: {error}", path.display()))?;
            report.to_string()
        }
        None => report.to_string(),
    };
    io::stdout().write_all(output.as_bytes()).map_err(|error| format!("standard output: {error}"))
}
