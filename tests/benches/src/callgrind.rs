//! Runs one process under callgrind and reads its report.

use std::collections::HashMap;
use std::error::Error;
use std::process::{Command, Stdio};

/// Cost of one function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct InstructionCounts {
    /// Instructions outside of hash functions.
    pub(crate) instructions: u64,
    /// Instructions of hash functions.
    pub(crate) hashing: u64,
    /// Calls that allocate or grow memory.
    pub(crate) allocations: u64,
}

impl InstructionCounts {
    /// Returns the cost per event.
    pub(crate) fn per(self, events: u64) -> Self {
        let per_event = |total: u64| total.div_ceil(events.max(1));
        Self {
            instructions: per_event(self.instructions),
            hashing: per_event(self.hashing),
            allocations: per_event(self.allocations),
        }
    }
}

/// Runs the counted work. callgrind toggles collection by the name of this function.
#[inline(never)]
pub(crate) fn counted(events: usize, work: &mut dyn FnMut(usize)) {
    for event in 0..events {
        work(std::hint::black_box(event));
    }
    std::hint::black_box(work);
}

/// Returns whether valgrind is installed.
pub(crate) fn is_installed() -> bool {
    let version = Command::new("valgrind")
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    version.is_ok_and(|status| status.success())
}

/// Runs this program with `arguments` and counts the instructions inside [`counted`].
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
        Err("callgrind counted no instructions".into())
    } else {
        Ok(counted)
    }
}

/// Sums up a callgrind report.
///
/// A name appears once as `(number) name` and then as `(number)`. A cost line holds a position and
/// a number. The line after `calls=` is the cost of the callee, which its own lines already
/// contain.
fn read(report: &str) -> InstructionCounts {
    let mut names: HashMap<&str, &str> = HashMap::new();
    let (mut function, mut callee, mut after_call) = ("", "", false);
    let mut all = InstructionCounts::default();
    for line in report.lines() {
        if let Some(named) = line.strip_prefix("fn=") {
            function = name(&mut names, named);
        } else if let Some(named) = line.strip_prefix("cfn=") {
            callee = name(&mut names, named);
        } else if let Some(calls) = line.strip_prefix("calls=") {
            after_call = true;
            let calls = calls.split_ascii_whitespace().next().and_then(|calls| calls.parse().ok());
            if is_allocation(callee) && !is_allocation(function) {
                all.allocations += calls.unwrap_or(0);
            }
        } else if line
            .starts_with(|first: char| first.is_ascii_digit() || matches!(first, '+' | '-' | '*'))
            && !std::mem::take(&mut after_call)
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
