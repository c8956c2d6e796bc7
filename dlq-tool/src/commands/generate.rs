//! `completions` and `man`: generated from the command line. Neither needs Redis.

use std::io::{self, Write};

use clap::{Command, CommandFactory};
use clap_mangen::Man;

use crate::cli::{CompletionsArgs, ToolArgs};
use crate::exit_code::{RunOutcome, ToolError};

/// Prints a completion script.
pub(super) fn completions(args: &CompletionsArgs) -> Result<RunOutcome, ToolError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut ToolArgs::command(), "dlq-tool", &mut script);
    print(&script)
}

/// Prints the manual page: the tool, then each verb.
pub(super) fn man() -> Result<RunOutcome, ToolError> {
    let mut command = ToolArgs::command();
    command.build();
    let mut page = Vec::new();
    // The list of subcommands is left out: it names pages that are sections of this page.
    let man = Man::new(command.clone());
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    man.render_extra_section(&mut page)?;
    for verb in command.get_subcommands() {
        section(verb, &mut page)?;
    }
    print(&page)
}

/// Writes a verb's sections, one level down.
fn section(verb: &Command, page: &mut Vec<u8>) -> io::Result<()> {
    let mut text = Vec::new();
    let man = Man::new(verb.clone());
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if verb.get_after_help().is_some() || verb.get_after_long_help().is_some() {
        man.render_extra_section(&mut text)?;
    }
    writeln!(page, ".SH \"DLQ\\-TOOL {}\"", verb.get_name().to_uppercase())?;
    for line in String::from_utf8_lossy(&text).lines() {
        match line.strip_prefix(".SH ") {
            Some(title) => writeln!(page, ".SS {title}")?,
            None => writeln!(page, "{line}")?,
        }
    }
    Ok(())
}

fn print(text: &[u8]) -> Result<RunOutcome, ToolError> {
    let mut out = io::stdout().lock();
    out.write_all(text).and_then(|()| out.flush())?;
    Ok(RunOutcome::Done)
}
