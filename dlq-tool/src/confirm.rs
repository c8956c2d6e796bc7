//! The operator's word, as a value: what changes entries takes a [`Consent`], and only this file makes one.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Write};

use crate::exit_code::ToolError;

/// The operator agreed to change what was announced.
#[derive(Debug)]
pub(crate) struct Consent(());

/// How the operator was asked.
#[derive(Debug)]
pub(crate) enum ConfirmAnswer {
    /// Go ahead.
    Yes(Consent),
    /// Leave everything as it is.
    No,
}

/// What decides without asking.
#[derive(Clone, Copy, Debug)]
struct ConfirmContext {
    entries: u64,
    yes: bool,
    terminal: bool,
}

enum Decision {
    Go,
    Ask,
    Refuse,
}

fn decide(circumstances: ConfirmContext) -> Decision {
    match circumstances {
        ConfirmContext { yes: true, .. } | ConfirmContext { entries: 0 | 1, .. } => Decision::Go,
        ConfirmContext { terminal: true, .. } => Decision::Ask,
        ConfirmContext { terminal: false, .. } => Decision::Refuse,
    }
}

/// Asks whether to `act` (`"replay"`) on so many entries, where that needs an answer: one entry does not, `--yes` is one.
///
/// # Errors
/// [`ToolError::Usage`] where an answer is needed and nobody can give it; I/O errors of the terminal.
pub(crate) fn ask(act: &str, entries: u64, yes: bool) -> Result<ConfirmAnswer, ToolError> {
    let terminal = io::stdin().is_terminal() && io::stderr().is_terminal();
    match decide(ConfirmContext { entries, yes, terminal }) {
        Decision::Go => Ok(ConfirmAnswer::Yes(Consent(()))),
        Decision::Refuse => Err(ToolError::Usage(format!(
            "{entries} entries match: to {act} more than one without a terminal to ask on, add --yes \
             (or look first, with --dry-run)"
        ))),
        Decision::Ask => {
            prompt(&format!("{} {entries} dead letters", capitalised(act)), &mut io::stdin().lock())
        }
    }
}

/// As [`ask`], of several entries that come in on stdin, so that the question needs another way to the operator.
///
/// # Errors
/// As [`ask`].
pub(crate) fn ask_on_tty(question: &str, act: &str, yes: bool) -> Result<ConfirmAnswer, ToolError> {
    let terminal = if io::stderr().is_terminal() { File::open("/dev/tty").ok() } else { None };
    match (decide(ConfirmContext { entries: 2, yes, terminal: terminal.is_some() }), terminal) {
        (Decision::Go, _) => Ok(ConfirmAnswer::Yes(Consent(()))),
        (Decision::Ask, Some(terminal)) => prompt(question, &mut BufReader::new(terminal)),
        _ => Err(ToolError::Usage(format!(
            "there is more than one entry: to {act} them without a terminal to ask on, add --yes"
        ))),
    }
}

/// Puts `question` to the operator.
fn prompt(question: &str, terminal: &mut impl BufRead) -> Result<ConfirmAnswer, ToolError> {
    let mut screen = io::stderr().lock();
    write!(screen, "{question}? [y/N] ")?;
    screen.flush()?;
    let mut answer = String::new();
    terminal.read_line(&mut answer)?;
    let agreed = matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes");
    Ok(if agreed { ConfirmAnswer::Yes(Consent(())) } else { ConfirmAnswer::No })
}

/// The operator has agreed on the screen of `top`, where a dialogue names what is to be done.
pub(crate) fn consent_from_top() -> Consent {
    Consent(())
}

fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decision(entries: u64, yes: bool, terminal: bool) -> &'static str {
        match decide(ConfirmContext { entries, yes, terminal }) {
            Decision::Go => "go",
            Decision::Ask => "ask",
            Decision::Refuse => "refuse",
        }
    }

    #[test]
    fn confirmation_is_asked_for_more_than_one_entry() {
        assert_eq!(decision(1, false, false), "go");
        assert_eq!(decision(2, false, false), "refuse");
        assert_eq!(decision(2, false, true), "ask");
        assert_eq!(decision(2, true, false), "go");
        assert_eq!(decision(2, true, true), "go");
    }
}
