//! The binaries that run are those of the sources at hand.

use std::error::Error;
use std::process::Command;

/// Builds `ingress` and `worker` with the profile of this program. `cargo run` builds one package's binaries only; run
/// without cargo, this program takes what lies beside it.
pub(crate) fn build() -> Result<(), Box<dyn Error>> {
    let Some(cargo) = std::env::var_os("CARGO") else { return Ok(()) };
    eprintln!("chaos: building ingress and worker");
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--package", "ingress", "--package", "worker", "--bins"]);
    if cfg!(debug_assertions) {
        eprintln!("chaos: this is a debug build: the times say little (use --release)");
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
