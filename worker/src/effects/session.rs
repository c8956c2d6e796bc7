//! Applies events to rows of `sessions`.
//!
//! # Guarantees
//! - The status and each column have a version guard of their own. So a title is kept even if the
//!   `offline` event arrives first (`five_events_end_in_the_same_row_in_every_order`).
//! - A `live` event begins a broadcast and empties the columns of the one before, also if their
//!   events arrive later (`new_broadcast_clears_the_viewer_count`).

use std::collections::BTreeMap;

use shared::event::{Millis, OrderKey};
use shared::platform::{SessionColumn, SessionScope, SessionStatus};

use super::guards::VersionGuards;
use super::result::EventAction;
use super::{SessionAnnouncement, SessionField};

/// Names of the guards that are not named after a column.
mod group {
    pub(super) const STATUS: &str = "status";
    pub(super) const BROADCAST: &str = "broadcast";
    pub(super) const CREATED: &str = "created";
    pub(super) const LAST: &str = "last";
    pub(super) const CONFIG: &str = "config";
    pub(super) const LIVE_STREAM_ID: &str = "live_stream_id";
}

/// Row of `sessions`: the columns that events read, and the ones that they write.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct SessionRow {
    pub room_id: String,
    /// Platform that created the session.
    pub platform: String,
    /// Platforms whose events may touch the session.
    pub scope: SessionScope,
    /// `None` if unset, or if an application wrote another text.
    pub status: Option<SessionStatus>,
    pub live_stream_id: Option<String>,
    /// `config.egress.live_stream_id`.
    pub egress_live_stream_id: Option<String>,
    pub created_at: Millis,
    pub guards: VersionGuards,
    pub written: WrittenColumns,
}

/// Columns that events have written. So a row can be changed without reading all of it, and other
/// columns keep what an application wrote. A value counts only if its bit is set.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs)]
pub struct WrittenColumns {
    /// Bits of [`bit`].
    pub mask: i32,
    pub config: Option<String>,
    pub title: Option<String>,
    pub streamer_id: Option<String>,
    pub app_id: Option<String>,
    pub viewer_count: Option<i64>,
    pub peak_viewers: Option<i64>,
    pub duration_seconds: Option<f64>,
    pub error_code: Option<String>,
    pub error_message: Option<String>,
    pub started_at: Option<Millis>,
    pub ended_at: Option<Millis>,
    /// Members of `data` as JSON, which are merged into the stored object.
    pub data: BTreeMap<String, String>,
    pub last_event_id: Option<String>,
    pub last_event_at: Option<Millis>,
}

impl WrittenColumns {
    /// Returns [`WrittenColumns::data`] as one JSON object, or `None` if it has no member.
    #[must_use]
    pub fn data_json(&self) -> Option<String> {
        let member = |(name, json): (&String, &String)| format!("\"{name}\":{json}");
        (!self.data.is_empty())
            .then(|| format!("{{{}}}", self.data.iter().map(member).collect::<Vec<_>>().join(",")))
    }
}

/// Bits of [`WrittenColumns::mask`]. The SQL statements contain them as numbers.
#[allow(missing_docs)]
pub mod bit {
    pub const STATUS: i32 = 1;
    pub const LIVE_STREAM_ID: i32 = 2;
    pub const CONFIG: i32 = 4;
    pub const TITLE: i32 = 8;
    pub const STREAMER_ID: i32 = 16;
    pub const APP_ID: i32 = 32;
    pub const PEAK_VIEWERS: i32 = 64;
    pub const DURATION_SECONDS: i32 = 128;
    pub const ERROR_CODE: i32 = 256;
    pub const ERROR_MESSAGE: i32 = 512;
    pub const STARTED_AT: i32 = 1024;
    pub const ENDED_AT: i32 = 2048;
    /// `last_event_id` and `last_event_at`.
    pub const LAST: i32 = 4096;
    /// `platform` and `created_at`.
    pub const CREATED: i32 = 8192;
    pub const VIEWER_COUNT: i32 = 16384;
    pub const DATA: i32 = 32768;
}

/// Sessions that a platform's events may touch. A registered third party must not be able to end
/// another platform's stream.
#[derive(Clone, Copy, Debug)]
pub struct Reach<'a> {
    /// Name of the platform.
    pub platform: &'a str,
    /// `session_scope` of the platform.
    pub scope: SessionScope,
}

impl Reach<'_> {
    /// Returns true for a session that `owner` created with the scope `of`.
    #[must_use]
    pub fn includes(self, owner: &str, of: SessionScope) -> bool {
        // The platform's own rows may be older than the scope of its definition.
        owner == self.platform || (self.scope == SessionScope::Shared && of == SessionScope::Shared)
    }
}

/// Effect of an event on a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SessionUpdate {
    pub(super) action: EventAction,
    pub(super) old: Option<SessionStatus>,
    pub(super) new: Option<SessionStatus>,
}

/// Event that writes to a row.
#[derive(Clone, Copy, Debug)]
pub(super) struct WritingEvent<'a> {
    pub(super) event_id: &'a str,
    pub(super) key: OrderKey,
}

impl SessionRow {
    /// Creates a row for an event of `platform`.
    pub(super) fn new(room_id: &str, platform: &str, scope: SessionScope, key: OrderKey) -> Self {
        let mut guards = VersionGuards::default();
        guards.advance(group::CREATED, key);
        Self {
            room_id: room_id.to_owned(),
            platform: platform.to_owned(),
            scope,
            status: None,
            live_stream_id: None,
            egress_live_stream_id: None,
            created_at: key.display_time(),
            guards,
            written: WrittenColumns { mask: bit::CREATED, ..WrittenColumns::default() },
        }
    }

    /// Returns true if `stream` is a live stream id of this session.
    pub(super) fn holds(&self, stream: &str) -> bool {
        self.live_stream_id.as_deref() == Some(stream)
            || self.egress_live_stream_id.as_deref() == Some(stream)
    }

    /// Returns the time at which `stream` was announced for this session. For a row that an
    /// application inserted, that is its creation.
    pub(super) fn announced_at(&self, stream: &str) -> OrderKey {
        let by_hand = OrderKey { at: self.created_at, ..OrderKey::default() };
        let held = |is: &Option<String>, group| {
            (is.as_deref() == Some(stream)).then(|| self.guards.get(group).unwrap_or(by_hand))
        };
        let column = held(&self.live_stream_id, group::LIVE_STREAM_ID);
        column.max(held(&self.egress_live_stream_id, group::CONFIG)).unwrap_or(by_hand)
    }

    /// Records an event that may have created the row. The oldest such event is the creator, in any
    /// order of arrival.
    pub(super) fn note_creator(&mut self, platform: &str, key: OrderKey) {
        if self.guards.get(group::CREATED).is_some_and(|created| key.precedes(created)) {
            self.guards.put(group::CREATED, key);
            self.created_at = key.display_time();
            platform.clone_into(&mut self.platform);
            self.written.mask |= bit::CREATED;
        }
    }

    /// Sets the live stream id. Returns true if the event is its newest writer.
    pub(super) fn set_live_stream_id(&mut self, stream: &str, key: OrderKey) -> bool {
        let wins = self.guards.advance(group::LIVE_STREAM_ID, key);
        if wins {
            self.live_stream_id = Some(stream.to_owned());
            self.written.mask |= bit::LIVE_STREAM_ID;
        }
        wins
    }

    /// Applies a `session.status` effect.
    pub(super) fn apply_status(
        &mut self,
        status: SessionStatus,
        set: &[SessionField],
        cause: WritingEvent<'_>,
    ) -> SessionUpdate {
        let old = self.status;
        let is_newest = self.set_status(status, cause.key);
        let mut recorded = false;
        for field in set {
            recorded |= self.set(field, cause.key);
        }
        self.touch(cause);
        let action = match (is_newest, self.status == old, recorded) {
            (true, false, _) => EventAction::StatusUpdated,
            (true, true, _) => EventAction::StatusUnchanged,
            (false, _, true) => EventAction::Recorded,
            (false, _, false) => EventAction::StaleIgnored,
        };
        SessionUpdate { action, old, new: self.status }
    }

    /// Applies a `session.viewers` effect. `created` is true if this event created the row.
    pub(super) fn apply_viewers(
        &mut self,
        set: &[SessionField],
        created: bool,
        cause: WritingEvent<'_>,
    ) -> SessionUpdate {
        let old = self.status;
        if created {
            self.status = Some(SessionStatus::Ready);
            self.written.mask |= bit::STATUS;
        }
        let mut recorded = false;
        for field in set {
            recorded |= self.set(field, cause.key);
        }
        self.touch(cause);
        SessionUpdate {
            action: if recorded { EventAction::Recorded } else { EventAction::StaleIgnored },
            old,
            new: self.status,
        }
    }

    /// Applies a `session.announce` effect. `created` is true if this announcement created the row.
    pub(super) fn apply_announce(
        &mut self,
        given: &SessionAnnouncement,
        created: bool,
        cause: WritingEvent<'_>,
    ) -> SessionUpdate {
        let old = self.status;
        let mut recorded = created;
        if let Some(stream) = &given.live_stream_id {
            recorded |= self.set_live_stream_id(stream, cause.key);
        }
        if let Some(config) = &given.config
            && self.guards.advance(group::CONFIG, cause.key)
        {
            self.written.mask |= bit::CONFIG;
            self.written.config = Some(config.json.clone());
            self.egress_live_stream_id.clone_from(&config.live_stream_id);
            recorded = true;
        }
        if created {
            self.status = Some(SessionStatus::Ready);
            self.written.mask |= bit::STATUS;
        }
        // `ready` only initializes the status, so it leaves the guard alone.
        let asked = given.status.filter(|status| *status != SessionStatus::Ready);
        let is_newest = asked.is_some_and(|status| self.set_status(status, cause.key));
        self.touch(cause);
        let is_empty = given.live_stream_id.is_none() && given.config.is_none();
        let action = match given.status {
            Some(_) if self.status != old => EventAction::StatusUpdated,
            _ if recorded => EventAction::Recorded,
            Some(SessionStatus::Ready) if is_empty => EventAction::StatusUnchanged,
            Some(_) if is_newest => EventAction::StatusUnchanged,
            None if is_empty => EventAction::Recorded,
            _ => EventAction::StaleIgnored,
        };
        SessionUpdate { action, old, new: self.status }
    }

    /// Sets the status. Returns true if the event is its newest writer.
    fn set_status(&mut self, status: SessionStatus, key: OrderKey) -> bool {
        if status == SessionStatus::Live && self.guards.advance(group::BROADCAST, key) {
            for column in BROADCAST_COLUMNS {
                if self.guards.get(column.as_str()).is_none_or(|held| held < key) {
                    self.guards.forget(column.as_str());
                    self.empty(column);
                }
            }
        }
        let wins = self.guards.advance(group::STATUS, key);
        if wins {
            self.status = Some(status);
            self.written.mask |= bit::STATUS;
        }
        wins
    }

    fn empty(&mut self, column: SessionColumn) {
        let to = &mut self.written;
        to.mask |= column_bit(column);
        match column {
            SessionColumn::Title => to.title = None,
            SessionColumn::StreamerId => to.streamer_id = None,
            SessionColumn::AppId => to.app_id = None,
            SessionColumn::ViewerCount => to.viewer_count = None,
            SessionColumn::PeakViewers => to.peak_viewers = None,
            SessionColumn::DurationSeconds => to.duration_seconds = None,
            SessionColumn::ErrorCode => to.error_code = None,
            SessionColumn::ErrorMessage => to.error_message = None,
            SessionColumn::StartedAt => to.started_at = None,
            SessionColumn::EndedAt => to.ended_at = None,
        }
    }

    /// Sets one column. Returns true if the event is its newest writer.
    fn set(&mut self, field: &SessionField, key: OrderKey) -> bool {
        let Some(column) = field.column() else { return self.set_member(field, key) };
        let is_of_earlier_broadcast = BROADCAST_COLUMNS.contains(&column)
            && self.guards.get(group::BROADCAST).is_some_and(|began| key < began);
        if is_of_earlier_broadcast || !self.guards.advance(column.as_str(), key) {
            return false;
        }
        let to = &mut self.written;
        to.mask |= column_bit(column);
        match field.clone() {
            SessionField::Title(text) => to.title = Some(text),
            SessionField::StreamerId(text) => to.streamer_id = Some(text),
            SessionField::AppId(text) => to.app_id = Some(text),
            SessionField::ViewerCount(count) => to.viewer_count = count,
            SessionField::PeakViewers(count) => to.peak_viewers = count,
            SessionField::DurationSeconds(seconds) => to.duration_seconds = seconds,
            SessionField::ErrorCode(text) => to.error_code = Some(text),
            SessionField::ErrorMessage(text) => to.error_message = Some(text),
            SessionField::StartedAt(at) => to.started_at = Some(at),
            SessionField::EndedAt(at) => to.ended_at = Some(at),
            SessionField::Data { .. } => {}
        }
        true
    }

    /// Sets one member of `data`. Returns true if the event is its newest writer.
    fn set_member(&mut self, field: &SessionField, key: OrderKey) -> bool {
        let SessionField::Data { name, json } = field else { return false };
        let wins = self.guards.advance(format!("data.{name}"), key);
        if wins {
            self.written.mask |= bit::DATA;
            self.written.data.insert(name.clone(), json.clone());
        }
        wins
    }

    fn touch(&mut self, cause: WritingEvent<'_>) {
        if self.guards.advance(group::LAST, cause.key) {
            self.written.mask |= bit::LAST;
            self.written.last_event_id = Some(cause.event_id.to_owned());
            self.written.last_event_at = Some(cause.key.display_time());
        }
    }
}

const fn column_bit(column: SessionColumn) -> i32 {
    match column {
        SessionColumn::Title => bit::TITLE,
        SessionColumn::StreamerId => bit::STREAMER_ID,
        SessionColumn::AppId => bit::APP_ID,
        SessionColumn::ViewerCount => bit::VIEWER_COUNT,
        SessionColumn::PeakViewers => bit::PEAK_VIEWERS,
        SessionColumn::DurationSeconds => bit::DURATION_SECONDS,
        SessionColumn::ErrorCode => bit::ERROR_CODE,
        SessionColumn::ErrorMessage => bit::ERROR_MESSAGE,
        SessionColumn::StartedAt => bit::STARTED_AT,
        SessionColumn::EndedAt => bit::ENDED_AT,
    }
}

/// Columns that belong to one broadcast: its viewers, and how it ended.
const BROADCAST_COLUMNS: [SessionColumn; 6] = [
    SessionColumn::ViewerCount,
    SessionColumn::PeakViewers,
    SessionColumn::DurationSeconds,
    SessionColumn::ErrorCode,
    SessionColumn::ErrorMessage,
    SessionColumn::EndedAt,
];
