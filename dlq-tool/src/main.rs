//! `dlq-tool`: inspects, replays and removes dead letters.
//!
//! # Guarantees
//!
//! - Nothing changes without the operator's consent. `stats`, `list`, `show`, `export`, `watch` and
//!   every `--dry-run` only read; all other code paths take a [`confirm::Consent`]
//!   (`replay_needs_consent_previews_and_moves`,
//!   `purge_of_several_needs_yes_and_a_dry_run_does_not`).
//! - Each change is one script in Redis. A run that is stopped at any time loses nothing and
//!   duplicates nothing (`interrupted_replay_stops_between_entries`).

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
