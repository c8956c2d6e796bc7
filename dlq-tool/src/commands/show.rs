//! `show`: prints one dead letter with all its fields.

use std::io;

use shared::event::{EventTime, Millis};
use shared::queue::DeadLetter;
use unicode_width::UnicodeWidthStr;

use super::ToolSession;
use crate::cli::{OutputFormat, ShowArgs};
use crate::exit_code::{RunOutcome, ToolError};
use crate::output::{OutputWriter, body, count_noun, escaped, json};
use crate::time_arg;

/// Text in place of a time that the sender sent in an unreadable form.
const UNREADABLE_TIME: &str = "unreadable (older than every known time)";

/// Finds the dead letter in the platforms and prints it.
pub(super) async fn run(
    session: &mut ToolSession,
    args: ShowArgs,
) -> Result<RunOutcome, ToolError> {
    let platforms = session.platforms(args.platform.as_slice()).await?;
    let mut found = Vec::new();
    for platform in &platforms {
        let entry = session.queue.find_dead_letter(&session.queue.keys(platform), args.id).await?;
        found.extend(entry.map(|entry| DeadLetter::decode(platform, entry)));
    }
    match found.as_slice() {
        [] => session.nothing_matched(args.platform.as_slice()).await,
        [letter] => {
            print(&mut session.screen, letter)?;
            Ok(RunOutcome::Done)
        }
        several => {
            let names: Vec<_> = several.iter().map(|letter| letter.platform.as_str()).collect();
            Err(ToolError::Usage(format!(
                "{} have a dead letter {}: {}. Choose one with --platform",
                count_noun(several.len() as u64, "platform", "platforms"),
                args.id,
                names.join(", ")
            )))
        }
    }
}

fn print(screen: &mut OutputWriter, letter: &DeadLetter) -> io::Result<()> {
    if screen.format() == OutputFormat::Json {
        return json::line(screen, letter);
    }
    for part in parts(letter) {
        match part {
            DetailPart::Heading(text) => screen.heading(&text)?,
            DetailPart::Text(text) => screen.write(&text)?,
        }
        screen.write("\n")?;
    }
    Ok(())
}

/// Returns the dead letter as plain lines.
pub(super) fn detail_text(letter: &DeadLetter) -> String {
    let lines = parts(letter).into_iter().map(|part| match part {
        DetailPart::Heading(text) | DetailPart::Text(text) => text,
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Heading, or one or more lines of text.
enum DetailPart {
    Heading(String),
    Text(String),
}

fn parts(letter: &DeadLetter) -> Vec<DetailPart> {
    let mut parts = DetailBuilder(vec![DetailPart::Heading("event".to_owned())]);
    parts.line("id", Some(letter.id));
    parts.line("platform", Some(&letter.platform));
    parts.line("event id", letter.event_id.as_ref());
    parts.line("event type", letter.event_type.as_ref());
    let unreadable = letter.occurred_at.is_some_and(EventTime::is_unreadable);
    let happened_at =
        if unreadable { Some(UNREADABLE_TIME.to_owned()) } else { time(letter.occurred_at) };
    parts.line("happened at", happened_at);
    parts.line("received at", time(letter.received_at));
    parts.line("first queued as", letter.origin);
    parts.line("delivery id", letter.delivery_id.as_ref());
    parts.line("traceparent", letter.traceparent.as_ref());
    parts.line("wire version", letter.v);

    parts.heading("failure");
    parts.line("error code", letter.error_code.as_ref());
    parts.line("error", letter.error.as_ref());
    parts.line("attempts", letter.attempts);
    parts.line("first failed at", time(letter.first_failed_at));
    parts.line("failed at", time(letter.failed_at));
    parts.line("worker", letter.worker.as_ref());
    parts.line("last queued as", letter.source_id);
    parts.line("replays", Some(letter.replays));

    if !letter.extra.is_empty() {
        parts.heading("other fields");
        for (name, value) in &letter.extra {
            parts.line(
                &escaped(&String::from_utf8_lossy(name)),
                Some(String::from_utf8_lossy(value)),
            );
        }
    }
    match &letter.body {
        None => parts.heading("no body"),
        Some(body) => {
            parts.heading(&format!("body ({})", count_noun(body.0.len() as u64, "byte", "bytes")));
            parts.0.push(DetailPart::Text(body::pretty(&body.0)));
        }
    }
    parts.0
}

struct DetailBuilder(Vec<DetailPart>);

impl DetailBuilder {
    /// Adds a heading after an empty line.
    fn heading(&mut self, text: &str) {
        self.0.push(DetailPart::Text(String::new()));
        self.0.push(DetailPart::Heading(text.to_owned()));
    }

    /// Adds a line for a field; an absent field is left out.
    fn line<T: ToString>(&mut self, name: &str, value: Option<T>) {
        if let Some(value) = value {
            let gap = " ".repeat(16_usize.saturating_sub(name.width()));
            self.0.push(DetailPart::Text(format!("  {name}{gap} {}", escaped(&value.to_string()))));
        }
    }
}

fn time(instant: Option<Millis>) -> Option<String> {
    instant.map(time_arg::format_millis)
}
