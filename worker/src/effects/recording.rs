//! Applies events to rows of `recordings`.
//!
//! # Guarantees
//! - The state and each column have a version guard of their own
//!   (`recording_keeps_newer_values`).

use shared::event::OrderKey;
use shared::platform::RecordingState;

use super::RecordingField;
use super::guards::VersionGuards;

/// Row of `recordings`. The batch has its platform.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs)]
pub struct RecordingRow {
    pub recording_id: String,
    pub room_id: Option<String>,
    /// `None` if unset, or if an application wrote another text.
    pub state: Option<RecordingState>,
    pub url: Option<String>,
    pub duration_seconds: Option<f64>,
    pub size_bytes: Option<i64>,
    pub guards: VersionGuards,
}

impl RecordingRow {
    /// Creates a recording without any values.
    pub(super) fn new(recording_id: &str) -> Self {
        Self { recording_id: recording_id.to_owned(), ..Self::default() }
    }

    /// Applies a `recording` effect. Returns true if the event changed anything.
    pub(super) fn apply(
        &mut self,
        state: RecordingState,
        room: Option<&str>,
        set: &[RecordingField],
        key: OrderKey,
    ) -> bool {
        let mut won = self.guards.advance("state", key);
        if won {
            self.state = Some(state);
        }
        if let Some(room) = room
            && self.guards.advance("room_id", key)
        {
            self.room_id = Some(room.to_owned());
            won = true;
        }
        for field in set {
            won |= self.set(field, key);
        }
        won
    }

    fn set(&mut self, field: &RecordingField, key: OrderKey) -> bool {
        let column = match field {
            RecordingField::Url(_) => "url",
            RecordingField::DurationSeconds(_) => "duration_seconds",
            RecordingField::SizeBytes(_) => "size_bytes",
        };
        if !self.guards.advance(column, key) {
            return false;
        }
        match field {
            RecordingField::Url(url) => self.url = Some(url.clone()),
            RecordingField::DurationSeconds(seconds) => self.duration_seconds = *seconds,
            RecordingField::SizeBytes(bytes) => self.size_bytes = *bytes,
        }
        true
    }
}
