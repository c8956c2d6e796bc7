//! Reads and writes the accepted instruction counts of every function.

use std::error::Error;
use std::path::PathBuf;
use std::process::Command;

use crate::callgrind::InstructionCounts;

/// The counts in `expected.txt`.
pub(crate) struct ExpectedCounts {
    /// Toolchain and architecture that they were counted with.
    pub(crate) with: String,
    counts: Vec<(String, InstructionCounts)>,
}

impl ExpectedCounts {
    pub(crate) fn read() -> Result<Self, Box<dyn Error>> {
        let text = std::fs::read_to_string(path())
            .map_err(|error| format!("{}: {error}", path().display()))?;
        let with = text
            .lines()
            .next()
            .and_then(|line| line.strip_prefix("# "))
            .unwrap_or_default()
            .to_owned();
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        let counts = lines.map(|line| count(line).ok_or_else(|| format!("expected.txt: {line}")));
        Ok(Self { with, counts: counts.collect::<Result<_, _>>()? })
    }

    pub(crate) fn write(counted: &[(&str, InstructionCounts)]) -> Result<(), Box<dyn Error>> {
        let mut text = format!("# {}\n# function, instructions, of hashes, allocations\n", here());
        for (name, InstructionCounts { instructions, hashing, allocations }) in counted {
            text.push_str(&format!("{name}, {instructions}, {hashing}, {allocations}\n"));
        }
        print!("{text}");
        Ok(std::fs::write(path(), text)?)
    }

    pub(crate) fn of(&self, name: &str) -> Option<InstructionCounts> {
        self.counts.iter().find(|(known, _)| known == name).map(|(_, counted)| *counted)
    }

    /// Returns whether they were counted with this toolchain and architecture.
    pub(crate) fn is_same_toolchain(&self) -> bool {
        self.with == here()
    }
}

impl InstructionCounts {
    /// Returns the relative increase of instructions in `now`: 0.01 is 1 %.
    pub(crate) fn change(&self, now: &Self) -> f64 {
        now.instructions as f64 / self.instructions.max(1) as f64 - 1.0
    }
}

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("expected.txt")
}

/// Returns the compiler version and the architecture.
pub(crate) fn here() -> String {
    let version = Command::new("rustc")
        .arg("--version")
        .output()
        .map(|output| output.stdout)
        .unwrap_or_default();
    let version = String::from_utf8_lossy(&version);
    let version = version.split(" (").next().unwrap_or_default().trim();
    format!("{version}, {}", std::env::consts::ARCH)
}

fn count(line: &str) -> Option<(String, InstructionCounts)> {
    let mut pieces = line.split(", ");
    let name = pieces.next()?.to_owned();
    let mut number = || pieces.next()?.trim().parse().ok();
    Some((
        name,
        InstructionCounts { instructions: number()?, hashing: number()?, allocations: number()? },
    ))
}
