//! Confirmation by the operator. Code that changes entries takes a [`Consent`], and only this file
//! creates one.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Write};

use crate::exit_code::ToolError;

/// Proof that the operator agreed to the announced change.
#[derive(Debug)]
pub(crate) struct Consent(());

/// Answer of the operator.
#[derive(Debug)]
pub(crate) enum ConfirmAnswer {
    /// Agreed.
    Yes(Consent),
    /// Declined.
    No,
}

/// Facts that decide whether to ask.
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

/// Asks for confirmation to `verb` (such as `"replay"`) on `entries` entries. One entry and `--yes`
/// need no question.
///
/// # Errors
/// [`ToolError::Usage`] if a confirmation is required and there is no terminal; I/O errors of the
/// terminal.
pub(crate) fn ask(verb: &str, entries: u64, yes: bool) -> Result<ConfirmAnswer, ToolError> {
    let terminal = io::stdin().is_terminal() && io::stderr().is_terminal();
    match decide(ConfirmContext { entries, yes, terminal }) {
        Decision::Go => Ok(ConfirmAnswer::Yes(Consent(()))),
        Decision::Refuse => Err(ToolError::Usage(format!(
            "{entries} entries match; to {verb} more than one without a terminal, add --yes \
             (preview with --dry-run)"
        ))),
        Decision::Ask => prompt(
            &format!("{} {entries} dead letters", capitalised(verb)),
            &mut io::stdin().lock(),
        ),
    }
}

/// Asks like [`ask`], for more than one entry read from stdin. The question goes to the controlling
/// terminal.
///
/// # Errors
/// As for [`ask`].
pub(crate) fn ask_on_tty(
    question: &str,
    verb: &str,
    yes: bool,
) -> Result<ConfirmAnswer, ToolError> {
    let terminal = if io::stderr().is_terminal() { File::open("/dev/tty").ok() } else { None };
    match (decide(ConfirmContext { entries: 2, yes, terminal: terminal.is_some() }), terminal) {
        (Decision::Go, _) => Ok(ConfirmAnswer::Yes(Consent(()))),
        (Decision::Ask, Some(terminal)) => prompt(question, &mut BufReader::new(terminal)),
        _ => Err(ToolError::Usage(format!(
            "the input has more than one entry; to {verb} them without a terminal, add --yes"
        ))),
    }
}

/// Prints `question` and reads the answer.
fn prompt(question: &str, terminal: &mut impl BufRead) -> Result<ConfirmAnswer, ToolError> {
    let mut screen = io::stderr().lock();
    write!(screen, "{question}? [y/N] ")?;
    screen.flush()?;
    let mut answer = String::new();
    terminal.read_line(&mut answer)?;
    let agreed = matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes");
    Ok(if agreed { ConfirmAnswer::Yes(Consent(())) } else { ConfirmAnswer::No })
}

/// Returns the consent of the operator who confirmed a dialogue of `top`.
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
