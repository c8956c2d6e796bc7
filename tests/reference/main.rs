//! Checks or updates the generated parts of the documentation, and `env.local.example`.

#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, ExitCode};

use clap::Parser;
use tests::reference::{GeneratedFile, WRITE_COMMAND, generated_files};

/// Checks or updates the generated parts of the documentation
///
/// Exit status: 0 all files are current or were updated, 1 a file is out of date, 2 failed.
#[derive(Debug, Parser)]
#[command(name = "reference")]
struct Args {
    /// Lists the files that are out of date (the default)
    #[arg(long, conflicts_with = "write")]
    check: bool,
    /// Updates the files that are out of date
    #[arg(long)]
    write: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(args.write) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("run: {WRITE_COMMAND}");
            ExitCode::FAILURE
        }
        Err(reason) => {
            eprintln!("reference: {reason}");
            ExitCode::from(2)
        }
    }
}

/// Returns true if every file is current in the end.
fn run(write: bool) -> Result<bool, String> {
    if let Some(cargo) = std::env::var_os("CARGO") {
        build_binaries(cargo)?;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("the repository is missing")?;
    let files = generated_files(root).map_err(|error| error.to_string())?;
    let mut is_current = true;
    for file in &files {
        let Some(difference) = file.difference() else { continue };
        if write {
            write_file(root, file)?;
            println!("updated {}", file.path.display());
        } else {
            println!("{difference}");
            is_current = false;
        }
    }
    Ok(is_current)
}

fn write_file(root: &Path, file: &GeneratedFile) -> Result<(), String> {
    let path = root.join(&file.path);
    std::fs::write(&path, &file.generated)
        .map_err(|error| format!("{}: cannot be written: {error}", path.display()))
}

/// Builds the binaries whose help texts are in the documentation. Otherwise those of an earlier
/// build would be asked.
fn build_binaries(cargo: OsString) -> Result<(), String> {
    let mut build = Command::new(cargo);
    build.args(["build", "--quiet", "--workspace", "--bins", "--locked"]);
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    let status = build.status().map_err(|error| format!("cargo cannot be run: {error}"))?;
    if status.success() { Ok(()) } else { Err("the binaries cannot be built".to_owned()) }
}
