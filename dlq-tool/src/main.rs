//! `dlq-tool`: looks at dead letters and puts them back to work.
//!
//! Guarantee: nothing is changed without the operator's word. `stats`, `list`, `show`, `export`, `watch` and every `--dry-run` only
//! read;
//! what changes an entry needs a [`confirm::Consent`], and each change is one script on the server, so that stopping at
//! any instant loses and doubles nothing.

mod cli;
mod commands;
mod confirm;
mod edit;
mod exit_code;
mod output;
mod plan;
mod progress;
mod rate;
mod scan;
mod select;
mod time_arg;

fn main() -> std::process::ExitCode {
    commands::main()
}
