//! A bar on stderr that says how far a run is, how fast it goes, and how long it still takes.

use std::fmt::Write;
use std::io::{self, IsTerminal};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::cli::OutputFormat;
use crate::output::eprint_line;

/// The bar; hidden where stderr is no terminal, or where data run over it.
#[derive(Debug)]
pub(crate) struct ProgressIndicator(ProgressBar);

impl ProgressIndicator {
    /// A bar up to `total`; `None`: nobody knows how many there are.
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

    /// `count` more are done.
    pub(crate) fn inc(&self, count: usize) {
        self.0.inc(count as u64);
    }

    /// What it is at.
    pub(crate) fn set_message(&self, what: &str) {
        self.0.set_message(what.to_owned());
    }

    /// Says something without tearing the bar.
    pub(crate) fn eprint_line(&self, text: &str) {
        self.0.suspend(|| eprint_line(text));
    }

    /// Takes the bar away.
    pub(crate) fn end(&self) {
        self.0.finish_and_clear();
    }
}
