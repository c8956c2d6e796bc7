//! One process under callgrind, and what its report says.

use std::collections::HashMap;
use std::error::Error;
use std::process::{Command, Stdio};

/// What one function takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct InstructionCounts {
    /// Instructions, those of hash functions left out.
    pub(crate) instructions: u64,
    /// Instructions of hash functions.
    pub(crate) hashing: u64,
    /// Calls that ask for memory, or for more of it.
    pub(crate) allocations: u64,
}

impl InstructionCounts {
    /// The same for one of `events`.
    pub(crate) fn per(self, events: u64) -> Self {
        let one = |all: u64| all.div_ceil(events.max(1));
        Self {
            instructions: one(self.instructions),
            hashing: one(self.hashing),
            allocations: one(self.allocations),
        }
    }
}

/// Where counting begins and ends: callgrind knows it by its name.
#[inline(never)]
pub(crate) fn counted(events: usize, work: &mut dyn FnMut(usize)) {
    for event in 0..events {
        work(std::hint::black_box(event));
    }
    std::hint::black_box(work);
}

/// Whether there is a valgrind.
pub(crate) fn is_installed() -> bool {
    let asked = Command::new("valgrind")
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    asked.is_ok_and(|status| status.success())
}

/// Runs this program with `arguments` and counts what happens inside [`counted`].
pub(crate) fn count(arguments: &[&str]) -> Result<InstructionCounts, Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let report = folder.path().join("report");
    let run = Command::new("valgrind")
        .args([
            "--tool=callgrind",
            "--collect-atstart=no",
            "--toggle-collect=instructions::callgrind::counted*",
        ])
        .arg(format!("--callgrind-out-file={}", report.display()))
        .arg(std::env::current_exe()?)
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .output()?;
    if !run.status.success() {
        return Err(format!("valgrind: {}", String::from_utf8_lossy(&run.stderr)).into());
    }
    let counted = read(&std::fs::read_to_string(report)?);
    if counted.instructions == 0 {
        Err("callgrind has counted nothing".into())
    } else {
        Ok(counted)
    }
}

/// Adds a report up. Names stand in it once, as `(number) name`, then as `(number)`; costs stand in lines of a position and
/// a number; the line behind `calls=` is what the callee took, which its own lines hold already.
fn read(report: &str) -> InstructionCounts {
    let mut names: HashMap<&str, &str> = HashMap::new();
    let (mut function, mut callee, mut behind_call) = ("", "", false);
    let mut all = InstructionCounts::default();
    for line in report.lines() {
        if let Some(named) = line.strip_prefix("fn=") {
            function = name(&mut names, named);
        } else if let Some(named) = line.strip_prefix("cfn=") {
            callee = name(&mut names, named);
        } else if let Some(calls) = line.strip_prefix("calls=") {
            behind_call = true;
            let calls = calls.split_ascii_whitespace().next().and_then(|calls| calls.parse().ok());
            if is_allocation(callee) && !is_allocation(function) {
                all.allocations += calls.unwrap_or(0);
            }
        } else if line
            .starts_with(|first: char| first.is_ascii_digit() || matches!(first, '+' | '-' | '*'))
            && !std::mem::take(&mut behind_call)
        {
            let cost = line
                .split_ascii_whitespace()
                .nth(1)
                .and_then(|cost| cost.parse().ok())
                .unwrap_or(0);
            *(if is_hash(function) { &mut all.hashing } else { &mut all.instructions }) += cost;
        }
    }
    all
}

fn name<'r>(names: &mut HashMap<&'r str, &'r str>, named: &'r str) -> &'r str {
    match named.split_once(' ') {
        Some((number, name)) => {
            names.insert(number, name);
            name
        }
        None => names.get(named).copied().unwrap_or_default(),
    }
}

fn is_hash(function: &str) -> bool {
    function.contains("sha2::") || function.contains("sha1::")
}

fn is_allocation(function: &str) -> bool {
    ["mi_malloc", "mi_zalloc", "mi_calloc", "mi_realloc"]
        .iter()
        .any(|name| function.starts_with(name))
}
