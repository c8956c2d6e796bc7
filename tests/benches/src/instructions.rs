//! Counts machine instructions of the pure functions that every event passes through. Unlike times,
//! counts do not depend on other load of the machine.
//!
//! ```text
//! cargo bench -p benches             # compare; status 1 if a count is more than 3 % higher
//! cargo bench -p benches -- --update # write expected.txt
//! ```
//!
//! # Design
//!
//! - Each function runs alone in a process under callgrind, over the same inputs, with the compiler
//!   options and the allocator of the released binaries. Two runs of one build differ by an
//!   instruction or two, because of the seeds of hash maps.
//! - `expected.txt` belongs to one compiler and one architecture. With another, changes are shown
//!   and not judged.
//! - valgrind has no SHA instructions, so that a hash costs many times more than outside. Hashing
//!   has a column of its own and is not compared.
//! - Nothing is installed. Without valgrind the program prints one line and ends with status 0.

// A command-line tool: its report goes to standard output.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod callgrind;
mod expected;
mod subjects;

use std::error::Error;
use std::process::ExitCode;

use mimalloc::MiMalloc;

use callgrind::InstructionCounts;
use expected::ExpectedCounts;
use subjects::SUBJECTS;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Relative increase above which a count fails. A decrease of that size suggests an update.
const TOLERANCE: f64 = 0.03;
/// Number of events of the warm-up, and of the counted run.
const EVENTS: usize = 64;
/// Command that writes `expected.txt`.
const UPDATE: &str = "cargo bench -p benches -- --update";
/// Argument that makes the process run one function, under callgrind.
const RUN_ONE: &str = "--alone";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let done = match arguments.iter().position(|argument| argument == RUN_ONE) {
        Some(at) => run_one(arguments.get(at + 1).map_or("", String::as_str)).map(|()| true),
        None => all(arguments.iter().any(|argument| argument == "--update")),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("instructions: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs one function; callgrind counts it.
fn run_one(name: &str) -> Result<(), Box<dyn Error>> {
    let (_, prepare) =
        SUBJECTS.iter().find(|(known, _)| *known == name).ok_or("no such function")?;
    let mut work = prepare()?;
    (0..EVENTS).for_each(&mut work);
    callgrind::counted(EVENTS, &mut work);
    Ok(())
}

fn all(update: bool) -> Result<bool, Box<dyn Error>> {
    if cfg!(debug_assertions) {
        return Err("counts of a debug build are meaningless: use `cargo bench`".into());
    }
    if !callgrind::is_installed() {
        println!(
            "instructions: skipped, valgrind is not installed \
             (Debian, Ubuntu: apt-get install valgrind)"
        );
        return Ok(true);
    }
    let mut counted: Vec<(&str, InstructionCounts)> = Vec::new();
    for (name, _) in SUBJECTS {
        counted.push((name, callgrind::count(&[RUN_ONE, name])?.per(EVENTS as u64)));
    }
    if update {
        return ExpectedCounts::write(&counted).map(|()| true);
    }
    let expected = ExpectedCounts::read()?;
    let judged = expected.is_same_toolchain();
    println!(
        "{:<34}{:>13}{:>10}{:>9}{:>9}{:>13}",
        "per event", "instructions", "expected", "change", "hashing", "allocations"
    );
    let (mut good, mut better) = (true, false);
    for (name, now) in &counted {
        let InstructionCounts { instructions, hashing, allocations } = now;
        let (before, change, verdict) = match expected.of(name) {
            None => ("-".to_owned(), "-".to_owned(), "not in expected.txt"),
            Some(before) => {
                let change = before.change(now);
                let (worse, gained) = (change > TOLERANCE, change < -TOLERANCE);
                good &= !worse;
                better |= gained;
                let verdict = if worse {
                    "MORE"
                } else if gained {
                    "fewer"
                } else {
                    ""
                };
                (before.instructions.to_string(), format!("{:+.1} %", change * 100.0), verdict)
            }
        };
        let line = format!(
            "{name:<34}{instructions:>13}{before:>10}{change:>9}{hashing:>9}{allocations:>13}\
             \x20 {verdict}"
        );
        println!("{}", line.trim_end());
    }
    if !judged {
        println!(
            "Not judged: expected.txt was counted with {}, this is {}.",
            expected.with,
            expected::here()
        );
    } else if !good {
        println!(
            "A count is more than {:.0} % above expected.txt. If that is intended: {UPDATE}",
            TOLERANCE * 100.0
        );
    } else if better {
        println!("Some counts decreased. To keep the improvement: {UPDATE}");
    }
    Ok(good || !judged)
}
