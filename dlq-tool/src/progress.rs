//! Progress bar on stderr, with rate and remaining time.

use std::fmt::Write;
use std::io::{self, IsTerminal};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::cli::OutputFormat;
use crate::output::eprint_line;

/// The bar; hidden if stderr is not a terminal, or if JSON goes to the terminal.
#[derive(Debug)]
pub(crate) struct ProgressIndicator(ProgressBar);

impl ProgressIndicator {
    /// Creates a bar up to `total`, or a counter if the total is unknown.
    pub(crate) fn new(format: OutputFormat, total: Option<usize>) -> Self {
        if format == OutputFormat::Json && io::stdout().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let total = total.map(|total| total as u64);
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
        let template = match total {
            Some(_) => "{bar:30} {pos}/{len}  {rate}  {eta} left  {msg}",
            None => "{pos}  {rate}  {elapsed}  {msg}",
        };
        Self(match ProgressStyle::with_template(template) {
            Ok(style) => bar.with_style(style.with_key(
                "rate",
                |state: &ProgressState, out: &mut dyn Write| {
                    let _ = write!(out, "{:.0}/s", state.per_sec());
                },
            )),
            Err(_) => bar,
        })
    }

    /// Advances by `count`.
    pub(crate) fn inc(&self, count: usize) {
        self.0.inc(count as u64);
    }

    /// Shows the current step.
    pub(crate) fn set_message(&self, what: &str) {
        self.0.set_message(what.to_owned());
    }

    /// Prints a line to stderr without breaking the bar.
    pub(crate) fn eprint_line(&self, text: &str) {
        self.0.suspend(|| eprint_line(text));
    }

    /// Removes the bar.
    pub(crate) fn end(&self) {
        self.0.finish_and_clear();
    }
}
