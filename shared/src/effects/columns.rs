//! Lists the columns that a change sets, for display.

use std::borrow::Cow;

use super::change::{
    ChatField, ContentField, JobField, PlannedChange, PlannedEvent, RecordingField, SessionField,
};
use crate::clock;
use crate::event::Millis;
use crate::platform::{ContentColumn, MissingSession, Platform, RecordingColumn};

/// Name of a column, and its value as JSON.
pub type DisplayColumn = (Cow<'static, str>, String);

impl PlannedEvent {
    /// Returns true if the event waits for a session that another event has to create.
    #[must_use]
    pub fn needs_session(&self, platform: &Platform) -> bool {
        match self.change {
            PlannedChange::Status { .. } | PlannedChange::Viewers { .. } => {
                self.room.is_none() || platform.missing_session == MissingSession::Retry
            }
            PlannedChange::Chat { .. } => self.room.is_none() && self.live_stream_id.is_some(),
            PlannedChange::Announce(_)
            | PlannedChange::Recording { .. }
            | PlannedChange::Content { .. }
            | PlannedChange::Job { .. }
            | PlannedChange::Log => false,
        }
    }
}

impl PlannedChange {
    /// The row's id and the columns that the body sets. Empty for an announcement.
    #[must_use]
    pub fn columns(&self) -> Vec<DisplayColumn> {
        match self {
            Self::Status { set, .. } | Self::Viewers { set } => set.iter().map(session).collect(),
            Self::Recording { id, set, .. } => {
                with_id("recording_id", id, set.iter().map(recording))
            }
            Self::Content { id, set, .. } => with_id("content_id", id, set.iter().map(content)),
            Self::Job { id, set, .. } => with_id("job_id", id, set.iter().map(job)),
            Self::Chat { id, set } => with_id("message_id", id, set.iter().map(chat)),
            Self::Announce(_) | Self::Log => Vec::new(),
        }
    }
}

fn with_id(
    column: &'static str,
    id: &str,
    others: impl Iterator<Item = DisplayColumn>,
) -> Vec<DisplayColumn> {
    std::iter::once((column.into(), text(id))).chain(others).collect()
}

fn session(field: &SessionField) -> DisplayColumn {
    let name = match (field, field.column()) {
        (_, Some(column)) => column.as_str().into(),
        (SessionField::Data { name, .. }, None) => format!("data.{name}").into(),
        (_, None) => Cow::Borrowed("data"),
    };
    let value = match field {
        SessionField::Title(value)
        | SessionField::StreamerId(value)
        | SessionField::AppId(value)
        | SessionField::ErrorCode(value)
        | SessionField::ErrorMessage(value) => text(value),
        SessionField::ViewerCount(count) | SessionField::PeakViewers(count) => number(*count),
        SessionField::DurationSeconds(seconds) => number(*seconds),
        SessionField::StartedAt(at) | SessionField::EndedAt(at) => time(*at),
        SessionField::Data { json, .. } => json.clone(),
    };
    (name, value)
}

fn recording(field: &RecordingField) -> DisplayColumn {
    let value = match field {
        RecordingField::Url(url) => text(url),
        RecordingField::DurationSeconds(seconds) => number(*seconds),
        RecordingField::SizeBytes(bytes) => number(*bytes),
    };
    (field.column().as_str().into(), value)
}

fn content(field: &ContentField) -> DisplayColumn {
    let value = match field {
        ContentField::Title(value) | ContentField::ContentType(value) => text(value),
        ContentField::Data(json) => json.clone(),
    };
    (field.column().as_str().into(), value)
}

fn job(field: &JobField) -> DisplayColumn {
    let value = match field {
        JobField::Progress(progress) => number(*progress),
        JobField::CurrentStep(value) | JobField::VideoUrl(value) | JobField::Error(value) => {
            value.as_deref().map_or_else(|| "null".to_owned(), text)
        }
        JobField::RetryCount(count) => number(*count),
        JobField::Data(json) => json.clone(),
    };
    (field.column().as_str().into(), value)
}

fn chat(field: &ChatField) -> DisplayColumn {
    let value = match field {
        ChatField::UserId(value) | ChatField::UserName(value) | ChatField::Message(value) => {
            text(value)
        }
        ChatField::SentAt(at) => time(*at),
    };
    (field.column().as_str().into(), value)
}

fn text(value: &str) -> String {
    serde_json::Value::from(value).to_string()
}

fn number<N: Into<serde_json::Value>>(value: Option<N>) -> String {
    value.map_or(serde_json::Value::Null, Into::into).to_string()
}

fn time(at: Millis) -> String {
    text(&clock::rfc3339(at))
}

impl RecordingField {
    /// Column of this value.
    #[must_use]
    pub fn column(&self) -> RecordingColumn {
        match self {
            Self::Url(_) => RecordingColumn::Url,
            Self::DurationSeconds(_) => RecordingColumn::DurationSeconds,
            Self::SizeBytes(_) => RecordingColumn::SizeBytes,
        }
    }
}

impl ContentField {
    /// Column of this value.
    #[must_use]
    pub fn column(&self) -> ContentColumn {
        match self {
            Self::Title(_) => ContentColumn::Title,
            Self::ContentType(_) => ContentColumn::ContentType,
            Self::Data(_) => ContentColumn::Data,
        }
    }
}
