//! Builds the binaries of the current sources for a tool.

use std::error::Error;
use std::process::Command;

/// Builds `ingress` and `worker` with the profile of this program, since `cargo run` builds the
/// binaries of one package only. Without cargo, this program uses the binaries next to it. `tool`
/// is the prefix of messages.
///
/// # Errors
/// If the build fails.
pub fn build(tool: &str) -> Result<(), Box<dyn Error>> {
    let Some(cargo) = std::env::var_os("CARGO") else { return Ok(()) };
    eprintln!("{tool}: building ingress and worker");
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--package", "ingress", "--package", "worker", "--bins"]);
    if cfg!(debug_assertions) {
        eprintln!("{tool}: debug build; its measurements mean little (use --release)");
    } else {
        command.arg("--release");
    }
    if let Some(folder) = std::env::var_os("CARGO_MANIFEST_DIR") {
        command.current_dir(folder);
    }
    // Standard output is reserved for the report.
    command.stdout(std::io::stderr());
    if command.status()?.success() { Ok(()) } else { Err("cannot build ingress and worker".into()) }
}
