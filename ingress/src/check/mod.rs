//! `ingress check-platform`: what ingress would make of a captured request, and precisely why not.
//!
//! Guarantee: the verdict comes from the code that judges real requests, and the changes of an
//! event from the plan that workers run. Nothing is sent or stored, Redis is not needed, and
//! neither a secret nor a signature is printed.

mod capture;
mod event;
mod print;
mod signature;

use std::path::PathBuf;

use bytes::Bytes;
use clap::{Args, ValueEnum};
use serde::Serialize;
use shared::clock;
use shared::config::{Env, Problem};
use shared::event::{Millis, NewEvent};
use shared::platform::{InvalidRequestPolicy, Platform};
use shared::signature::Verified;

use crate::pipeline::handshake;
use crate::pipeline::identify::{Identified, identify};
use capture::Capture;
use event::{EffectReport, EventReport};
use signature::{SignatureCheck, SignatureReport, SignatureVerdict};

const EXAMPLE: &str = "\
Example, with a request as it was captured:
  ingress check-platform --platform mux --headers headers.txt --body body.json \\
    --at 2026-01-31T12:00:00Z

The headers' file has a line `Name: value` for each; the body's file holds the bytes as they
were sent, without a line break that an editor has added. Secrets come from where ingress has
them: PLATFORMS_FILE and the environment. Neither secrets nor signatures are printed.

What an event changes is what a worker would change. A value that its column cannot take is a
warning: the column is left alone, the event takes effect. Sessions are not looked up.

Exit status: 0 verified, identified and fit to take effect; 1 not, or a handshake only: a dead
letter `invalid_event`, a disabled platform and a type outside `event_types` are 1, too; 2 usage or
configuration.";

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
    #[arg(long, value_enum, default_value_t = ReportFormat::Table, value_name = "FORMAT")]
    output: ReportFormat,
}

/// How a verdict is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ReportFormat {
    /// Lines for people
    Table,
    /// One JSON object
    Json,
}

fn instant(text: &str) -> Result<Millis, &'static str> {
    shared::json::time::parse_text(text)
        .ok_or("must be RFC 3339 with an offset, or a number since the epoch")
}

/// The verdict.
#[derive(Debug, Serialize)]
struct CheckReport {
    platform: String,
    verified: bool,
    identified: bool,
    /// True where at least one event of it would be queued, and none that is would become a dead
    /// letter `invalid_event`.
    takes_effect: bool,
    /// Why not.
    reason: Option<String>,
    /// What may help, or should be known.
    notes: Vec<String>,
    signature: SignatureReport,
    event: Option<EventReport>,
    effect: Option<EffectReport>,
    /// Instead of `event` and `effect`, where the request holds several events.
    #[serde(skip_serializing_if = "Option::is_none")]
    batch: Option<Vec<CheckedBatchEvent>>,
}

impl CheckReport {
    fn effects(&self) -> impl Iterator<Item = &EffectReport> {
        self.effect.iter().chain(self.batch.iter().flatten().map(|part| &part.effect))
    }

    /// The reason for which an identified request takes no effect.
    fn blocking_reason(&self) -> Option<String> {
        let mut queued = self.effects().filter(|effect| effect.not_queued.is_none()).peekable();
        if queued.peek().is_none() {
            let why = self.effects().find_map(|effect| effect.not_queued);
            return Some(format!(
                "nothing of it is queued: {}",
                why.unwrap_or("the batch is empty (200)")
            ));
        }
        let refused = queued.find_map(|effect| effect.refusal.as_deref())?;
        Some(format!("a worker would dead-letter it (invalid_event): {refused}"))
    }
}

/// One event of a batch.
#[derive(Debug, Serialize)]
struct CheckedBatchEvent {
    event: EventReport,
    effect: EffectReport,
    /// The body that is queued for it.
    body: String,
}

/// What a check ended with.
pub struct CheckOutcome {
    /// What to print.
    pub text: String,
    /// True where the request verifies, is an event and would take effect.
    pub good: bool,
}

impl CheckPlatform {
    /// Checks.
    ///
    /// # Errors
    /// What of usage or configuration makes it impossible.
    pub fn run(self, env: &Env) -> Result<CheckOutcome, Vec<Problem>> {
        let capture = Capture::read(&self.headers, &self.body).map_err(|problem| vec![problem])?;
        let (platform, keys) =
            crate::tool_platform::load(&self.platform, self.platforms_file, env)?;
        let max_body = env.bytes(
            "MAX_BODY_BYTES",
            crate::config::DEFAULT_MAX_BODY,
            1..=crate::config::MAX_BODY_LIMIT,
        );
        env.finish()?;
        let at = self.at.unwrap_or_else(clock::now_ms);

        let decoded = signature::decode(&capture, max_body);
        let (scheme, keys, invalid) = (&platform.scheme, &keys, platform.invalid);
        let checked = SignatureCheck {
            scheme,
            keys,
            capture: &capture,
            decoded: &decoded,
            at,
            max_body,
            invalid,
        }
        .answer();
        let report = match &checked {
            SignatureVerdict { verified: Ok((verified, body)), .. } => {
                let asked = handshake::answer_challenge(
                    &platform,
                    keys,
                    &capture.headers,
                    verified,
                    body,
                    at,
                )
                .is_some();
                describe_verified(&platform, verified, body, asked, at)
            }
            SignatureVerdict { verified: Err(reason), .. } => {
                EventVerdict { reason: Some(reason.clone()), ..EventVerdict::default() }
            }
        };
        let mut notes = checked.notes;
        notes.extend(env.warnings().iter().map(ToString::to_string));
        if !platform.enabled {
            notes.push(
                "the platform is disabled: ingress answers 403 before it looks at a signature"
                    .to_owned(),
            );
        }
        if platform.paused {
            notes.push(
                "the platform is paused: its events are kept, and take effect once it is resumed"
                    .to_owned(),
            );
        }
        let EventVerdict { reason, event, effect, batch } = report;
        let identified = event.is_some() || batch.is_some();
        let mut report = CheckReport {
            platform: platform.name.to_string(),
            verified: checked.verified.is_ok(),
            identified,
            takes_effect: false,
            reason,
            notes,
            signature: checked.report,
            event,
            effect,
            batch,
        };
        if report.identified {
            report.reason = report.blocking_reason();
            report.takes_effect = report.reason.is_none();
        }
        let text = match self.output {
            ReportFormat::Json => serde_json::to_string(&report).unwrap_or_default(),
            ReportFormat::Table => print::table(&report),
        };
        Ok(CheckOutcome { text, good: report.takes_effect })
    }
}

/// What is known of the event.
#[derive(Default)]
struct EventVerdict {
    reason: Option<String>,
    event: Option<EventReport>,
    effect: Option<EffectReport>,
    batch: Option<Vec<CheckedBatchEvent>>,
}

fn describe_verified(
    platform: &Platform,
    verified: &Verified<'_>,
    body: &Bytes,
    handshake: bool,
    at: Millis,
) -> EventVerdict {
    let refused = |reason: String| EventVerdict { reason: Some(reason), ..EventVerdict::default() };
    if handshake {
        return refused(
            "it is the provider's handshake, which is answered at once and is no event".to_owned(),
        );
    }
    match identify(platform, verified, body) {
        Ok(Identified::One(event)) => {
            let (event, effect) = event::describe_event(platform, verified, event, at);
            EventVerdict { event: Some(event), effect: Some(effect), ..EventVerdict::default() }
        }
        Ok(Identified::Batch(events)) => {
            let part = |event: NewEvent| {
                let body = String::from_utf8_lossy(&event.body).into_owned();
                let (event, effect) = event::describe_event(platform, verified, event, at);
                CheckedBatchEvent { event, effect, body }
            };
            EventVerdict {
                batch: Some(events.into_iter().map(part).collect()),
                ..EventVerdict::default()
            }
        }
        // Made by what refuses or keeps such a request, which is not asked here.
        Ok(Identified::Unusable(_)) => EventVerdict::default(),
        Err(invalid) if platform.invalid == InvalidRequestPolicy::Keep => refused(format!(
            "it is no usable event of this platform (kept as a dead letter): {invalid}"
        )),
        Err(invalid) => refused(format!("it is no event of this platform (400): {invalid}")),
    }
}

#[cfg(test)]
mod tests;
