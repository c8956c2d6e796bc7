//! `show`: everything about one dead letter.

use std::io;

use shared::event::Millis;
use shared::queue::DeadLetter;

use super::Session;
use crate::cli::{Format, ShowArgs};
use crate::exit_code::{Failure, Outcome};
use crate::output::{Screen, body, counted, json, plain};
use crate::when;

/// Finds it, wherever it is, and prints it.
pub(super) async fn run(session: &mut Session, args: ShowArgs) -> Result<Outcome, Failure> {
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
            Ok(Outcome::Done)
        }
        several => {
            let names: Vec<_> = several.iter().map(|letter| letter.platform.as_str()).collect();
            Err(Failure::Usage(format!(
                "{} have a dead letter {}: {}. Say which with --platform",
                counted(several.len() as u64, "platform", "platforms"),
                args.id,
                names.join(", ")
            )))
        }
    }
}

fn print(screen: &mut Screen, letter: &DeadLetter) -> io::Result<()> {
    if screen.format() == Format::Json {
        return json::line(screen, letter);
    }
    screen.heading("event\n")?;
    line(screen, "id", Some(letter.id))?;
    line(screen, "platform", Some(&letter.platform))?;
    line(screen, "event id", letter.event_id.as_ref())?;
    line(screen, "event type", letter.event_type.as_ref())?;
    line(screen, "happened at", time(letter.occurred_at))?;
    line(screen, "received at", time(letter.received_at))?;
    line(screen, "first queued as", letter.origin)?;
    line(screen, "delivery id", letter.delivery_id.as_ref())?;
    line(screen, "traceparent", letter.traceparent.as_ref())?;
    line(screen, "wire version", letter.v)?;

    screen.heading("\nfailure\n")?;
    line(screen, "error code", letter.error_code.as_ref())?;
    line(screen, "error", letter.error.as_ref())?;
    line(screen, "attempts", letter.attempts)?;
    line(screen, "first failed at", time(letter.first_failed_at))?;
    line(screen, "failed at", time(letter.failed_at))?;
    line(screen, "worker", letter.worker.as_ref())?;
    line(screen, "last queued as", letter.source_id)?;
    line(screen, "replays", Some(letter.replays))?;

    if !letter.extra.is_empty() {
        screen.heading("\nother fields\n")?;
        for (name, value) in &letter.extra {
            line(screen, &plain(&String::from_utf8_lossy(name)), Some(String::from_utf8_lossy(value)))?;
        }
    }
    match &letter.body {
        None => screen.heading("\nno body\n"),
        Some(body) => {
            screen.heading(&format!("\nbody ({})\n", counted(body.0.len() as u64, "byte", "bytes")))?;
            screen.write(&body::pretty(&body.0))?;
            screen.write("\n")
        }
    }
}

/// One fact; an absent one is left out.
fn line<T: ToString>(screen: &mut Screen, name: &str, value: Option<T>) -> io::Result<()> {
    match value {
        Some(value) => screen.write(&format!("  {name:<16} {}\n", plain(&value.to_string()))),
        None => Ok(()),
    }
}

fn time(instant: Option<Millis>) -> Option<String> {
    instant.map(when::to_millis)
}
