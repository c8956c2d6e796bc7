//! Runs `ingress check-platform`: checks a captured request as ingress would, and explains the
//! verdict.
//!
//! # Guarantees
//!
//! - The verdict comes from the code that processes real requests. The changes of an event come
//!   from the plan that workers use. (`check_reports_a_verified_request_in_full`)
//! - Neither a secret nor a signature is printed. (`check_reports_a_verified_request_in_full`)
//!
//! # Design
//!
//! Nothing is sent or stored, and Redis is not needed.

mod capture;
mod event;
mod print;
mod signature;

use std::path::PathBuf;

use bytes::Bytes;
use clap::{Args, ValueEnum};
use serde::Serialize;
use shared::clock;
use shared::config::variables::MAX_BODY_BYTES;
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
Example:
  ingress check-platform --platform mux --headers headers.txt --body body.json \\
    --at 2026-01-31T12:00:00Z

The file of headers has one line `Name: value` for each header. The file of the body holds the
bytes as they were sent, without a line break added by an editor. Secrets come from PLATFORMS_FILE
and the environment, as for ingress. Neither secrets nor signatures are printed.

The changes are those that a worker would make. If a value does not fit its column, a warning is
printed: the column is left alone, and the event still takes effect. Sessions are not looked up.

Exit status: 0 verified, identified and fit to take effect; 1 otherwise, also for a handshake, a
dead letter `invalid_event`, a disabled platform and a type outside `event_types`; 2 usage or
configuration.";

/// Arguments of `ingress check-platform`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct CheckPlatform {
    /// The platform, by its name or an alias
    #[arg(long, value_name = "NAME")]
    platform: String,
    /// Definitions [default: the file in PLATFORMS_FILE]
    #[arg(long, value_name = "FILE")]
    platforms_file: Option<PathBuf>,
    /// Headers of the request, one line `Name: value` for each
    #[arg(long, value_name = "FILE")]
    headers: PathBuf,
    /// Body of the request, as sent
    #[arg(long, value_name = "FILE")]
    body: PathBuf,
    /// Time of receipt: RFC 3339, or s or ms since the epoch [default: now]
    #[arg(long, value_name = "TIME", value_parser = instant)]
    at: Option<Millis>,
    /// Format of the verdict
    #[arg(long, value_enum, default_value_t = ReportFormat::Table, value_name = "FORMAT")]
    output: ReportFormat,
}

/// Format of the verdict.
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

/// Verdict.
#[derive(Debug, Serialize)]
struct CheckReport {
    platform: String,
    verified: bool,
    identified: bool,
    /// True if at least one event would be queued, and no queued one would become a dead letter
    /// `invalid_event`.
    takes_effect: bool,
    /// Reason of a negative verdict.
    reason: Option<String>,
    /// Hints.
    notes: Vec<String>,
    signature: SignatureReport,
    event: Option<EventReport>,
    effect: Option<EffectReport>,
    /// Events of a batch, instead of `event` and `effect`.
    #[serde(skip_serializing_if = "Option::is_none")]
    batch: Option<Vec<CheckedBatchEvent>>,
}

impl CheckReport {
    fn effects(&self) -> impl Iterator<Item = &EffectReport> {
        self.effect.iter().chain(self.batch.iter().flatten().map(|part| &part.effect))
    }

    /// Returns the reason why an identified request takes no effect.
    fn blocking_reason(&self) -> Option<String> {
        let mut queued = self.effects().filter(|effect| effect.not_queued.is_none()).peekable();
        if queued.peek().is_none() {
            let why = self.effects().find_map(|effect| effect.not_queued);
            return Some(format!(
                "nothing is queued: {}",
                why.unwrap_or("the batch is empty (200)")
            ));
        }
        let refused = queued.find_map(|effect| effect.refusal.as_deref())?;
        Some(format!("a worker would dead-letter it (invalid_event): {refused}"))
    }
}

/// Event of a batch.
#[derive(Debug, Serialize)]
struct CheckedBatchEvent {
    event: EventReport,
    effect: EffectReport,
    /// Body that is queued for the event.
    body: String,
}

/// Result of a check.
pub struct CheckOutcome {
    /// Text to print.
    pub text: String,
    /// True if the request verifies, is an event and would take effect.
    pub good: bool,
}

impl CheckPlatform {
    /// Runs the check.
    ///
    /// # Errors
    /// Problems of usage or configuration.
    pub fn run(self, env: &Env) -> Result<CheckOutcome, Vec<Problem>> {
        let capture = Capture::read(&self.headers, &self.body).map_err(|problem| vec![problem])?;
        let (platform, keys) =
            crate::tool_platform::load(&self.platform, self.platforms_file, env)?;
        let max_body = env.size(&MAX_BODY_BYTES);
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
                "the platform is disabled: ingress answers 403 before it checks the signature"
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

/// Verdict about the events of a verified request.
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
            "it is a handshake of the provider, which is answered at once and is no event"
                .to_owned(),
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
        // Ingress builds these from a refused request; `identify` does not.
        Ok(Identified::Unusable(_)) => EventVerdict::default(),
        Err(invalid) if platform.invalid == InvalidRequestPolicy::Keep => refused(format!(
            "it is no usable event of this platform (kept as a dead letter): {invalid}"
        )),
        Err(invalid) => refused(format!("it is no event of this platform (400): {invalid}")),
    }
}

#[cfg(test)]
mod tests;
