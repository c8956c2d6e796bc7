//! Prints a verdict as lines for people.

use super::CheckReport;
use super::event::{EffectReport, EventReport};

/// Width of the names.
const WIDTH: usize = 16;

pub(super) fn table(report: &CheckReport) -> String {
    let mut lines = ReportLines::default();
    let verdict = match (report.verified, report.identified, report.takes_effect) {
        (true, true, true) => "verified and identified",
        (true, true, false) if report.effects().any(|effect| effect.not_queued.is_none()) => {
            "verified and identified, but a dead letter"
        }
        (true, true, false) => "verified and identified, but not queued",
        (true, false, _) => "verified, but not an event",
        (false, ..) => "not verified",
    };
    lines.add("platform", &report.platform);
    lines.add("verdict", verdict);
    lines.maybe("because", report.reason.as_deref());
    report.notes.iter().for_each(|note| lines.add("note", note));

    let signature = &report.signature;
    lines.add("signature", signature.scheme);
    lines.add("  computed over", &signature.computed);
    lines.add("  secret is", signature.secret_as);
    lines.maybe("  body", signature.over.map(|over| format!("as {over}")).as_deref());
    lines.add(
        "  captured body",
        &format!("{} bytes, SHA-256 {}", signature.body_bytes, signature.body_sha256),
    );
    let key = signature.key.map_or("no one of".to_owned(), |key| format!("number {key} of"));
    lines.add("  verified by", &format!("{key} {} key(s)", signature.keys));
    lines.maybe(
        "  tolerance",
        signature.tolerance_s.map(|seconds| format!("{seconds} s")).as_deref(),
    );
    for header in &signature.headers {
        lines.add("  header", &format!("{}: {}", header.name, header.found));
    }
    report.event.iter().for_each(|event| lines.event(event));
    report.effect.iter().for_each(|effect| lines.effect(effect));
    if let Some(batch) = &report.batch {
        let summary = match batch.len() {
            0 => "no events: answered with 200, nothing is queued".to_owned(),
            events => format!("{events} events, accepted together or not at all"),
        };
        lines.add("batch", &summary);
        for (index, part) in batch.iter().enumerate() {
            lines.add(&format!("--- {index}"), &format!("queued as {} bytes", part.body.len()));
            lines.event(&part.event);
            lines.effect(&part.effect);
        }
    }
    lines.text
}
#[derive(Default)]
struct ReportLines {
    text: String,
}

impl ReportLines {
    fn add(&mut self, name: &str, value: &str) {
        // Text of strangers must not control the terminal.
        let value: String =
            value.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        self.text.push_str(&format!("{name:<WIDTH$} {value}\n"));
    }

    fn event(&mut self, event: &EventReport) {
        self.add("event id", &format!("{} ({})", event.event_id, event.id_from));
        let ignored =
            if event.subscribed { "" } else { " (not subscribed: answered `ignored`, not queued)" };
        self.add("event type", &format!("{}{ignored}", event.event_type));
        let no_time = if event.time_unreadable {
            "unreadable: older than every known time, among such events by arrival"
        } else {
            "none: the time of arrival"
        };
        self.add("time", event.occurred_at.as_deref().unwrap_or(no_time));
        if let Some(arrival) = &event.ordered_by {
            let why = "more than five minutes ahead of its arrival: the time of arrival counts";
            self.add("  ordered by", &format!("{arrival} ({why})"));
        }
        self.add("session", event.session.as_deref().unwrap_or("none"));
        self.add("live stream id", event.live_stream_id.as_deref().unwrap_or("none"));
        self.maybe("delivery id", event.delivery_id.as_deref());
    }

    fn effect(&mut self, effect: &EffectReport) {
        self.add("effect", effect.effect);
        let outcome = match &effect.refusal {
            _ if effect.not_queued.is_some() => {
                format!("no: {}", effect.not_queued.unwrap_or_default())
            }
            Some(refusal) => format!("no: dead letter invalid_event: {refusal}"),
            None if effect.needs_session => "yes, once its session is there".to_owned(),
            None => "yes".to_owned(),
        };
        self.add("  takes effect", &outcome);
        effect.warnings.iter().for_each(|warning| self.add("  warning", &warning.to_string()));
        for column in &effect.columns {
            let warning =
                effect.warnings.iter().find(|warning| warning.column == column.column.as_str());
            let left_alone = match (&effect.refusal, warning) {
                (Some(_), _) => "nothing is set".to_owned(),
                (None, Some(warning)) => format!("left alone: {}", warning.reason),
                (None, None) => "absent: left alone".to_owned(),
            };
            let value = column.value.as_deref().unwrap_or(&left_alone);
            let from =
                column.from.as_deref().map(|from| format!(" (from {from})")).unwrap_or_default();
            self.add(&format!("  {}", column.column), &format!("{value}{from}"));
        }
    }

    fn maybe(&mut self, name: &str, value: Option<&str>) {
        value.into_iter().for_each(|value| self.add(name, value));
    }
}
