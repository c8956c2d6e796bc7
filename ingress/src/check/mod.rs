//! `ingress check-platform`: what ingress would make of a captured request, and precisely why not.
//!
//! Guarantee: the verdict comes from the code that judges real requests. Nothing is sent or stored, Redis is not needed,
//! and neither a secret nor a signature is printed.

mod capture;
mod print;
mod signature;

use std::path::PathBuf;

use bytes::Bytes;
use clap::{Args, ValueEnum};
use serde::Serialize;
use shared::clock;
use shared::config::{Env, Problem};
use shared::event::{Millis, NewEvent};
use shared::json::Document;
use shared::platform::{Locator, Platform, Pointer};
use shared::signature::Verified;

use crate::effects;
use crate::pipeline::handshake;
use crate::pipeline::identify::{Identified, identify};
use capture::Capture;
use signature::{Checked, Question, SignatureReport};

/// Longest value of a column that is printed, in characters.
const MAX_SHOWN: usize = 120;

const EXAMPLE: &str = "\
Example, with a request as it was captured:
  ingress check-platform --platform mux --headers headers.txt --body body.json \\
    --at 2026-01-31T12:00:00Z

The headers' file has a line `Name: value` for each; the body's file holds the bytes as they
were sent, without a line break that an editor has added. Secrets come from where ingress has
them: PLATFORMS_FILE and the environment. Neither secrets nor signatures are printed.

Exit status: 0 verified and identified, 1 not (or a handshake only), 2 usage or configuration.";

/// The arguments of `ingress check-platform`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct CheckPlatform {
    /// The platform, by its name or an alias
    #[arg(long, value_name = "NAME")]
    platform: String,
    /// Definitions [default: what PLATFORMS_FILE names]
    #[arg(long, value_name = "FILE")]
    platforms_file: Option<PathBuf>,
    /// The request's headers, a line `Name: value` for each
    #[arg(long, value_name = "FILE")]
    headers: PathBuf,
    /// The request's body, as sent
    #[arg(long, value_name = "FILE")]
    body: PathBuf,
    /// When it was received: RFC 3339, or s or ms since the epoch [default: now]
    #[arg(long, value_name = "TIME", value_parser = instant)]
    at: Option<Millis>,
    /// How the verdict is printed
    #[arg(long, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    output: Format,
}

/// How a verdict is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Lines for people
    Table,
    /// One JSON object
    Json,
}

fn instant(text: &str) -> Result<Millis, &'static str> {
    shared::json::time::parse_text(text).ok_or("must be RFC 3339 with an offset, or a number since the epoch")
}

/// The verdict.
#[derive(Debug, Serialize)]
struct Report {
    platform: String,
    verified: bool,
    identified: bool,
    /// Why not.
    reason: Option<String>,
    /// What may help, or should be known.
    notes: Vec<String>,
    signature: SignatureReport,
    event: Option<EventReport>,
    effect: Option<EffectReport>,
    /// Instead of `event` and `effect`, where the request holds several events.
    #[serde(skip_serializing_if = "Option::is_none")]
    batch: Option<Vec<Part>>,
}

/// One event of a batch.
#[derive(Debug, Serialize)]
struct Part {
    event: EventReport,
    effect: EffectReport,
    /// The body that is queued for it.
    body: String,
}

#[derive(Debug, Serialize)]
struct EventReport {
    event_id: String,
    /// `provider`, `content hash` or, in a batch, `message id and position`.
    id_from: &'static str,
    event_type: String,
    occurred_at: Option<String>,
    session: Option<String>,
    live_stream_id: Option<String>,
    delivery_id: Option<String>,
    /// Whether the definition's `event_types` take it.
    subscribed: bool,
}

#[derive(Debug, Serialize)]
struct EffectReport {
    effect: &'static str,
    columns: Vec<Column>,
}

#[derive(Debug, Serialize)]
struct Column {
    column: String,
    /// As JSON; absent: the column is left alone.
    value: Option<String>,
    /// Where it was looked for; nothing where the definition itself says the value.
    from: Option<String>,
}

/// What a check ended with.
pub struct Outcome {
    /// What to print.
    pub text: String,
    /// Whether the request verifies and is an event.
    pub good: bool,
}

impl CheckPlatform {
    /// Checks.
    ///
    /// # Errors
    /// What of usage or configuration makes it impossible.
    pub fn run(self, env: &Env) -> Result<Outcome, Vec<Problem>> {
        let capture = Capture::read(&self.headers, &self.body).map_err(|problem| vec![problem])?;
        let (platform, keys) = crate::platform::load(&self.platform, self.platforms_file, env)?;
        let max_body = env.bytes("MAX_BODY_BYTES", crate::config::DEFAULT_BODY, 1..=crate::config::LARGEST_BODY);
        env.finish()?;
        let at = self.at.unwrap_or_else(clock::now_ms);

        let decoded = signature::decode(&capture, max_body);
        let (scheme, keys) = (&platform.scheme, &keys);
        let checked = Question { scheme, keys, capture: &capture, decoded: &decoded, at, max_body }.answer();
        let report = match &checked {
            Checked { verified: Ok((verified, body)), .. } => {
                let asked = handshake::asked(&platform, keys, &capture.headers, verified, body, at).is_some();
                genuine(&platform, verified, body, asked)
            }
            Checked { verified: Err(reason), .. } => Draft { reason: Some(reason.clone()), ..Draft::default() },
        };
        let mut notes = checked.notes;
        notes.extend(env.warnings().iter().map(ToString::to_string));
        if !platform.enabled {
            notes.push("the platform is disabled: ingress answers 403 before it looks at a signature".to_owned());
        }
        let Draft { reason, event, effect, batch } = report;
        let report = Report {
            platform: platform.name.to_string(),
            verified: checked.verified.is_ok(),
            identified: event.is_some() || batch.is_some(),
            reason,
            notes,
            signature: checked.report,
            event,
            effect,
            batch,
        };
        let text = match self.output {
            Format::Json => serde_json::to_string(&report).unwrap_or_default(),
            Format::Table => print::table(&report),
        };
        Ok(Outcome { text, good: report.identified })
    }
}

/// What is known of the event.
#[derive(Default)]
struct Draft {
    reason: Option<String>,
    event: Option<EventReport>,
    effect: Option<EffectReport>,
    batch: Option<Vec<Part>>,
}

fn genuine(platform: &Platform, verified: &Verified<'_>, body: &Bytes, handshake: bool) -> Draft {
    let refused = |reason: String| Draft { reason: Some(reason), ..Draft::default() };
    if handshake {
        return refused("it is the provider's handshake, which is answered at once and is no event".to_owned());
    }
    match identify(platform, verified, body) {
        Ok(Identified::One(event)) => {
            let (event, effect) = told(platform, verified, event);
            Draft { event: Some(event), effect: Some(effect), ..Draft::default() }
        }
        Ok(Identified::Batch(events)) => {
            let part = |event: NewEvent| {
                let body = String::from_utf8_lossy(&event.body).into_owned();
                let (event, effect) = told(platform, verified, event);
                Part { event, effect, body }
            };
            Draft { batch: Some(events.into_iter().map(part).collect()), ..Draft::default() }
        }
        Err(invalid) => refused(format!("it is no event of this platform (400): {invalid}")),
    }
}

/// What is known of one event and of what it does.
fn told(platform: &Platform, verified: &Verified<'_>, event: NewEvent) -> (EventReport, EffectReport) {
    // It was parsed a moment ago; what could not be would have no values.
    let document = Document::parse(&event.body).ok();
    let first = |at: &[Pointer]| document.as_ref().and_then(|document| document.first(at));
    let spec = platform.effects.get(&event.event_type);
    let session = spec.and_then(|spec| spec.session.as_deref()).unwrap_or(&platform.event.session);
    let stream = spec.and_then(|spec| spec.live_stream_id.as_deref()).unwrap_or(&platform.event.live_stream_id);
    let text = |at: &[Pointer]| first(at).and_then(|node| node.as_text()).map(|text| text.into_owned());
    let given = |id: &str| {
        platform.event.id.iter().any(|locator| match locator {
            Locator::Body(at) => text(std::slice::from_ref(at)).as_deref() == Some(id),
            Locator::Header(name) => verified.signed_header(name) == Some(id),
        })
    };
    let id_from = match event.event_id.rsplit_once('#') {
        _ if given(&event.event_id) => "provider",
        Some((message, _)) if given(message) => "message id and position",
        _ => "content hash",
    };
    let effect = spec.map_or(EffectReport { effect: "log", columns: Vec::new() }, |spec| {
        let parts = effects::parts(&spec.effect);
        let fixed = parts.fixed.into_iter().map(|(column, value)| Column {
            column: column.to_owned(),
            value: Some(value),
            from: None,
        });
        let read = parts.read.into_iter().map(|(column, at)| Column {
            column,
            value: first(at).map(|node| shown(node.raw())),
            from: Some(at.iter().map(Pointer::to_string).collect::<Vec<_>>().join(" or ")),
        });
        EffectReport { effect: parts.name, columns: fixed.chain(read).collect() }
    });
    let event = EventReport {
        id_from,
        subscribed: platform.event_types.as_ref().is_none_or(|types| types.contains(&event.event_type)),
        occurred_at: event.occurred_at.map(clock::rfc3339),
        session: text(session),
        live_stream_id: text(stream),
        delivery_id: event.delivery_id,
        event_type: event.event_type,
        event_id: event.event_id,
    };
    (event, effect)
}

/// `raw`, cut where it is long.
fn shown(raw: &str) -> String {
    match raw.char_indices().nth(MAX_SHOWN) {
        Some((at, _)) => format!("{}…", raw.get(..at).unwrap_or_default()),
        None => raw.to_owned(),
    }
}

#[cfg(test)]
mod tests;
