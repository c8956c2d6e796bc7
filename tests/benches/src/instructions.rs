//! Machine instructions of the pure functions that every event passes through: what a regression changes, and the mood of
//! the machine does not.
//!
//! Guarantee: each function is counted alone, in a process of its own under callgrind, over the same inputs every time,
//! compiled as the released binaries are and on their allocator. Two runs of one build differ by what the seeds of hash maps
//! change, an instruction or two. Nothing is installed: without valgrind there is one line that says so, and status 0.
//!
//! ```text
//! cargo bench -p benches             # beside expected.txt; status 1 where one is more than 3 % above
//! cargo bench -p benches -- --update # write expected.txt
//! ```
//!
//! What is expected was counted with one compiler on one architecture: with another, changes are shown and not judged.
//! Under valgrind there are no SHA instructions, so that a hash takes many times what it does outside; it stands in a column
//! of its own and is not compared.

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

/// How far a count may be above what is expected; what is as far below is worth writing down.
const TOLERANCE: f64 = 0.03;
/// Events that are worked on before anything is counted, and then counted.
const EVENTS: usize = 64;
/// How expected.txt is written.
const UPDATE: &str = "cargo bench -p benches -- --update";
/// The argument by which the process under callgrind is told what to do.
const RUN_ONE: &str = "--alone";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let done = match arguments.iter().position(|argument| argument == RUN_ONE) {
        Some(at) => alone(arguments.get(at + 1).map_or("", String::as_str)).map(|()| true),
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

/// Does what is to be counted, under callgrind.
fn alone(name: &str) -> Result<(), Box<dyn Error>> {
    let (_, prepare) = SUBJECTS.iter().find(|(one, _)| *one == name).ok_or("no such function")?;
    let mut work = prepare()?;
    (0..EVENTS).for_each(&mut work);
    callgrind::counted(EVENTS, &mut work);
    Ok(())
}

fn all(update: bool) -> Result<bool, Box<dyn Error>> {
    if cfg!(debug_assertions) {
        return Err("a debug build says nothing: use `cargo bench`".into());
    }
    if !callgrind::is_installed() {
        println!(
            "instructions: skipped, since there is no valgrind (Debian, Ubuntu: apt-get install valgrind)"
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
        "of one event", "instructions", "expected", "change", "hashing", "allocations"
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
            "{name:<34}{instructions:>13}{before:>10}{change:>9}{hashing:>9}{allocations:>13}  {verdict}"
        );
        println!("{}", line.trim_end());
    }
    if !judged {
        println!(
            "Not judged: what is expected was counted with {}; this is {}.",
            expected.with,
            expected::here()
        );
    } else if !good {
        println!(
            "More than {:.0} % above what is expected. If that is meant: {UPDATE}",
            TOLERANCE * 100.0
        );
    } else if better {
        println!("Some take fewer; so that it stays like that: {UPDATE}");
    }
    Ok(good || !judged)
}
