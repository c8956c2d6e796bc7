//! The binaries that a tool runs are those of the sources at hand.

use std::error::Error;
use std::process::Command;

/// Builds `ingress` and `worker` with the profile of this program. `cargo run` builds one package's binaries only; run
/// without cargo, this program takes what lies beside it. `tool` is what it calls itself.
///
/// # Errors
/// When they cannot be built.
pub fn build(tool: &str) -> Result<(), Box<dyn Error>> {
    let Some(cargo) = std::env::var_os("CARGO") else { return Ok(()) };
    eprintln!("{tool}: building ingress and worker");
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--package", "ingress", "--package", "worker", "--bins"]);
    if cfg!(debug_assertions) {
        eprintln!("{tool}: this is a debug build: its figures say little (use --release)");
    } else {
        command.arg("--release");
    }
    if let Some(folder) = std::env::var_os("CARGO_MANIFEST_DIR") {
        command.current_dir(folder);
    }
    // Standard output is the report's.
    command.stdout(std::io::stderr());
    if command.status()?.success() { Ok(()) } else { Err("cannot build ingress and worker".into()) }
}
