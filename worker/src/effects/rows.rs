//! Holds the rows of one transaction, and applies events to them in order of arrival.
//!
//! # Guarantees
//! - An event with the outcome [`Applied::MissingSession`] or [`Applied::Conflict`] has changed no
//!   row (`missing_session_leaves_no_row`,
//!   `own_scope_touches_only_its_own_sessions`).
//! - A session that an earlier event of the batch created counts as present
//!   (`announcement_and_its_events_fit_in_one_batch`).

use std::collections::HashMap;

use shared::event::Millis;
use shared::platform::{MissingSession, Platform, SessionStatus};

use super::chat::ChatRow;
use super::content::ContentRow;
use super::job::JobRow;
use super::recording::RecordingRow;
use super::result::{Applied, EventAction, EventResult};
use super::session::{Reach, SessionRow, SessionUpdate, WritingEvent};
use super::{
    ChatField, PlannedChange, PlannedEvent, RecordingField, SessionAnnouncement, SessionField,
};

/// Tolerance by which an event may be older than a session and still match it by live stream id.
const STREAM_ID_REUSE_SLACK_MS: Millis = 5 * 60 * 1000;

/// A row, and how it has to be written.
#[derive(Clone, Debug)]
pub struct TrackedRow<R> {
    /// Current content of the row.
    pub row: R,
    /// True if the database has the row.
    pub stored: bool,
    /// True if the row differs from the database.
    pub changed: bool,
}

/// Keys of the rows that a batch needs, sorted and without duplicates.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RowKeys<'a> {
    /// Room ids.
    pub rooms: Vec<&'a str>,
    /// Live stream ids, each with the room that its event names. If the room's session is within
    /// reach, the look-up by stream id is skipped.
    pub live_streams: Vec<(&'a str, Option<&'a str>)>,
    /// Recording ids.
    pub recordings: Vec<&'a str>,
    /// Content ids.
    pub contents: Vec<&'a str>,
    /// Job ids.
    pub jobs: Vec<&'a str>,
    /// Message ids.
    pub chats: Vec<&'a str>,
}

impl<'a> RowKeys<'a> {
    /// Collects the keys that `events` need.
    pub fn of(events: impl Iterator<Item = &'a PlannedEvent>) -> Self {
        let mut row_keys = Self::default();
        for event in events {
            match &event.change {
                PlannedChange::Log => continue,
                PlannedChange::Content { id, .. } => row_keys.contents.push(id),
                PlannedChange::Job { id, .. } => row_keys.jobs.push(id),
                PlannedChange::Recording { id, .. } => row_keys.recordings.push(id),
                PlannedChange::Chat { id, .. } => row_keys.chats.push(id),
                PlannedChange::Status { .. }
                | PlannedChange::Viewers { .. }
                | PlannedChange::Announce(_) => {}
            }
            row_keys.rooms.extend(event.room.as_deref());
            if !matches!(event.change, PlannedChange::Announce(_)) {
                let room = event.room.as_deref();
                row_keys
                    .live_streams
                    .extend(event.live_stream_id.as_deref().map(|stream| (stream, room)));
            }
        }
        let Self { rooms, live_streams, recordings, contents, jobs, chats } = &mut row_keys;
        for list in [rooms, recordings, contents, jobs, chats] {
            list.sort_unstable();
            list.dedup();
        }
        live_streams.sort_unstable();
        live_streams.dedup();
        row_keys
    }
}

/// Rows of one transaction.
#[derive(Debug)]
pub struct TransactionRows<'p> {
    platform: &'p Platform,
    sessions: Vec<TrackedRow<SessionRow>>,
    by_room: HashMap<String, usize>,
    /// Sessions by live stream id. Some may not hold the id any more.
    by_stream: HashMap<String, Vec<usize>>,
    recordings: HashMap<String, TrackedRow<RecordingRow>>,
    contents: HashMap<String, TrackedRow<ContentRow>>,
    jobs: HashMap<String, TrackedRow<JobRow>>,
    chats: HashMap<String, TrackedRow<ChatRow>>,
}

/// Result of finding an event's session.
enum SessionLookup {
    At(usize),
    /// No session exists, and the event may create one.
    Absent,
    Missing,
    /// All sessions with the live stream id are younger than the event.
    Stale,
    Conflict,
}

impl<'p> TransactionRows<'p> {
    /// Creates an empty set of rows.
    #[must_use]
    pub fn new(platform: &'p Platform) -> Self {
        Self {
            platform,
            sessions: Vec::new(),
            by_room: HashMap::new(),
            by_stream: HashMap::new(),
            recordings: HashMap::new(),
            contents: HashMap::new(),
            jobs: HashMap::new(),
            chats: HashMap::new(),
        }
    }

    /// Adds a session that the database has.
    pub fn load_session(&mut self, row: SessionRow) {
        self.hold(row, true);
    }

    /// Adds a recording that the database has.
    pub fn load_recording(&mut self, row: RecordingRow) {
        self.recordings
            .insert(row.recording_id.clone(), TrackedRow { row, stored: true, changed: false });
    }

    /// Adds a content that the database has.
    pub fn load_content(&mut self, row: ContentRow) {
        self.contents
            .insert(row.content_id.clone(), TrackedRow { row, stored: true, changed: false });
    }

    /// Adds a job that the database has.
    pub fn load_job(&mut self, row: JobRow) {
        self.jobs.insert(row.job_id.clone(), TrackedRow { row, stored: true, changed: false });
    }

    /// Adds a chat message that the database has.
    pub fn load_chat(&mut self, row: ChatRow) {
        self.chats.insert(row.message_id.clone(), TrackedRow { row, stored: true, changed: false });
    }

    /// Returns the sessions to write, in order of room.
    #[must_use]
    pub fn sessions(&self) -> Vec<&TrackedRow<SessionRow>> {
        changed(self.sessions.iter(), |row| &row.room_id)
    }

    /// Returns the recordings to write, in order of id.
    #[must_use]
    pub fn recordings(&self) -> Vec<&TrackedRow<RecordingRow>> {
        changed(self.recordings.values(), |row| &row.recording_id)
    }

    /// Returns the contents to write, in order of id.
    #[must_use]
    pub fn contents(&self) -> Vec<&TrackedRow<ContentRow>> {
        changed(self.contents.values(), |row| &row.content_id)
    }

    /// Returns the jobs to write, in order of id.
    #[must_use]
    pub fn jobs(&self) -> Vec<&TrackedRow<JobRow>> {
        changed(self.jobs.values(), |row| &row.job_id)
    }

    /// Returns the chat messages to write, in order of id.
    #[must_use]
    pub fn chats(&self) -> Vec<&TrackedRow<ChatRow>> {
        changed(self.chats.values(), |row| &row.message_id)
    }

    /// Applies one event.
    pub fn apply(&mut self, event: &PlannedEvent) -> Applied {
        match &event.change {
            PlannedChange::Log => done(
                event,
                EventAction::Logged,
                event.room.clone(),
                event.live_stream_id.clone(),
                None,
            ),
            PlannedChange::Content { id, state, set } => {
                let tracked =
                    self.contents.entry(id.clone()).or_insert_with(|| new_row(ContentRow::new(id)));
                let won = tracked.row.apply(*state, set, event.order);
                tracked.changed |= won;
                done(event, recorded(won), None, None, None)
            }
            PlannedChange::Job { id, status, set } => {
                let tracked =
                    self.jobs.entry(id.clone()).or_insert_with(|| new_row(JobRow::new(id)));
                let won = tracked.row.apply(status, set, event.order);
                tracked.changed |= won;
                done(event, recorded(won), None, None, None)
            }
            PlannedChange::Recording { id, state, set } => {
                self.apply_recording(event, id, *state, set)
            }
            PlannedChange::Chat { id, set } => self.apply_chat(event, id, set),
            PlannedChange::Announce(given) => self.apply_announce(event, given),
            PlannedChange::Status { status, set } => self.apply_session(event, Some(*status), set),
            PlannedChange::Viewers { set } => self.apply_session(event, None, set),
        }
    }

    fn apply_session(
        &mut self,
        event: &PlannedEvent,
        status: Option<SessionStatus>,
        set: &[SessionField],
    ) -> Applied {
        match self.find(event) {
            SessionLookup::Missing => Applied::MissingSession,
            SessionLookup::Conflict => Applied::Conflict,
            SessionLookup::Stale => stale(event),
            SessionLookup::At(at) => self.apply_to(event, at, false, status, set),
            SessionLookup::Absent => {
                let at = self.create(event);
                self.apply_to(event, at, true, status, set)
            }
        }
    }

    fn apply_to(
        &mut self,
        event: &PlannedEvent,
        at: usize,
        created: bool,
        status: Option<SessionStatus>,
        set: &[SessionField],
    ) -> Applied {
        let creates = self.platform.missing_session == MissingSession::Create;
        let Some(tracked) = self.sessions.get_mut(at) else { return Applied::MissingSession };
        let row = &mut tracked.row;
        if creates && event.room.as_ref() == Some(&row.room_id) {
            row.note_creator(self.platform.name.as_str(), event.order);
            if let Some(stream) = &event.live_stream_id
                && row.set_live_stream_id(stream, event.order)
            {
                self.by_stream.entry(stream.clone()).or_default().push(at);
            }
        }
        let update = match status {
            Some(status) => row.apply_status(status, set, cause(event)),
            None => row.apply_viewers(set, created, cause(event)),
        };
        tracked.changed |= row.guards.changed();
        touched_session(event, row, update)
    }

    fn apply_announce(&mut self, event: &PlannedEvent, given: &SessionAnnouncement) -> Applied {
        let Some(room) = event.room.as_deref() else { return Applied::MissingSession };
        let known = self.by_room.get(room).copied();
        if known
            .and_then(|at| self.sessions.get(at))
            .is_some_and(|tracked| !self.may_touch(&tracked.row))
        {
            return Applied::Conflict;
        }
        let at = known.unwrap_or_else(|| self.create(event));
        let Some(tracked) = self.sessions.get_mut(at) else { return Applied::MissingSession };
        tracked.row.note_creator(self.platform.name.as_str(), event.order);
        let update = tracked.row.apply_announce(given, known.is_none(), cause(event));
        // The announcement may have set an unset status, whichever guards it won.
        tracked.changed = true;
        for stream in
            [&tracked.row.live_stream_id, &tracked.row.egress_live_stream_id].into_iter().flatten()
        {
            self.by_stream.entry(stream.clone()).or_default().push(at);
        }
        touched_session(event, &tracked.row, update)
    }

    fn apply_recording(
        &mut self,
        event: &PlannedEvent,
        id: &str,
        state: shared::platform::RecordingState,
        set: &[RecordingField],
    ) -> Applied {
        let room = match self.find(event) {
            SessionLookup::Conflict => return Applied::Conflict,
            SessionLookup::At(at) => {
                self.sessions.get(at).map(|tracked| tracked.row.room_id.clone())
            }
            SessionLookup::Absent | SessionLookup::Missing | SessionLookup::Stale => {
                event.room.clone()
            }
        };
        let tracked =
            self.recordings.entry(id.to_owned()).or_insert_with(|| new_row(RecordingRow::new(id)));
        let won = tracked.row.apply(state, room.as_deref(), set, event.order);
        tracked.changed |= won;
        done(event, recorded(won), room, event.live_stream_id.clone(), None)
    }

    fn apply_chat(&mut self, event: &PlannedEvent, id: &str, set: &[ChatField]) -> Applied {
        let found = self.find(event);
        let room = match &found {
            SessionLookup::Conflict => return Applied::Conflict,
            SessionLookup::At(at) => {
                self.sessions.get(*at).map(|tracked| tracked.row.room_id.clone())
            }
            SessionLookup::Absent | SessionLookup::Missing | SessionLookup::Stale => {
                event.room.clone()
            }
        };
        if room.is_none() && event.live_stream_id.is_some() {
            return if matches!(found, SessionLookup::Stale) {
                stale(event)
            } else {
                Applied::MissingSession
            };
        }
        let tracked = self.chats.entry(id.to_owned()).or_insert_with(|| new_row(ChatRow::new(id)));
        let won = tracked.row.apply(room.as_deref(), set, event.order);
        tracked.changed |= won;
        done(event, recorded(won), room, event.live_stream_id.clone(), None)
    }

    fn find(&self, event: &PlannedEvent) -> SessionLookup {
        let by_room = event.room.as_ref().and_then(|room| self.by_room.get(room));
        if let Some((at, tracked)) = by_room.and_then(|at| Some((*at, self.sessions.get(*at)?))) {
            if self.may_touch(&tracked.row) {
                return SessionLookup::At(at);
            }
            // A room out of reach is as unusable as an unknown one, but it never counts as the
            // event's room.
            let holder =
                event.live_stream_id.as_deref().map(|stream| self.find_by_stream(stream, event));
            return holder
                .filter(|found| matches!(found, SessionLookup::At(_)))
                .unwrap_or(SessionLookup::Conflict);
        }
        // A platform that creates its sessions means the room that it names, even if another room
        // used the stream id before.
        if event.room.is_some() && self.platform.missing_session == MissingSession::Create {
            return SessionLookup::Absent;
        }
        event
            .live_stream_id
            .as_deref()
            .map_or(SessionLookup::Missing, |stream| self.find_by_stream(stream, event))
    }

    /// Finds the session that held `stream` at the time of the event: the newest announcement whose
    /// session is not clearly younger. A younger session means that the event matched an earlier
    /// holder, which may be gone. An operator who replays an event after an announcement means the
    /// newest session.
    fn find_by_stream(&self, stream: &str, event: &PlannedEvent) -> SessionLookup {
        let named = self.by_stream.get(stream).into_iter().flatten();
        let mut holders: Vec<(usize, &SessionRow)> = named
            .filter_map(|at| Some((*at, &self.sessions.get(*at)?.row)))
            .filter(|(_, row)| row.holds(stream))
            .collect();
        if holders.is_empty() {
            return SessionLookup::Missing;
        }
        holders.retain(|(_, row)| self.may_touch(row));
        if holders.is_empty() {
            return SessionLookup::Conflict;
        }
        holders.sort_by(|(_, a), (_, b)| {
            (b.announced_at(stream), &a.room_id).cmp(&(a.announced_at(stream), &b.room_id))
        });
        let is_old_enough = |row: &SessionRow| {
            event.occurred_at >= row.created_at.saturating_sub(STREAM_ID_REUSE_SLACK_MS)
        };
        let newest = holders.first().map(|(at, _)| *at).filter(|_| event.replayed);
        let found =
            holders.into_iter().find(|(_, row)| is_old_enough(row)).map(|(at, _)| at).or(newest);
        found.map_or(SessionLookup::Stale, SessionLookup::At)
    }

    fn may_touch(&self, row: &SessionRow) -> bool {
        let reach =
            Reach { platform: self.platform.name.as_str(), scope: self.platform.session_scope };
        reach.includes(&row.platform, row.scope)
    }

    fn create(&mut self, event: &PlannedEvent) -> usize {
        let room = event.room.as_deref().unwrap_or_default();
        let row = SessionRow::new(
            room,
            self.platform.name.as_str(),
            self.platform.session_scope,
            event.order,
        );
        self.hold(row, false)
    }

    fn hold(&mut self, row: SessionRow, stored: bool) -> usize {
        let at = self.sessions.len();
        for stream in [&row.live_stream_id, &row.egress_live_stream_id].into_iter().flatten() {
            self.by_stream.entry(stream.clone()).or_default().push(at);
        }
        self.by_room.insert(row.room_id.clone(), at);
        self.sessions.push(TrackedRow { row, stored, changed: !stored });
        at
    }
}

fn new_row<R>(row: R) -> TrackedRow<R> {
    TrackedRow { row, stored: false, changed: true }
}

fn changed<'r, R: 'r>(
    rows: impl Iterator<Item = &'r TrackedRow<R>>,
    key: impl Fn(&R) -> &String,
) -> Vec<&'r TrackedRow<R>> {
    let mut rows: Vec<_> = rows.filter(|tracked| tracked.changed).collect();
    rows.sort_unstable_by(|a, b| key(&a.row).cmp(key(&b.row)));
    rows
}

fn cause(event: &PlannedEvent) -> WritingEvent<'_> {
    WritingEvent { event_id: &event.event_id, key: event.order }
}

fn recorded(won: bool) -> EventAction {
    if won { EventAction::Recorded } else { EventAction::StaleIgnored }
}

fn stale(event: &PlannedEvent) -> Applied {
    done(event, EventAction::StaleIgnored, None, event.live_stream_id.clone(), None)
}

fn touched_session(event: &PlannedEvent, row: &SessionRow, update: SessionUpdate) -> Applied {
    let named = [&event.live_stream_id, &row.live_stream_id, &row.egress_live_stream_id];
    let stream = named.into_iter().flatten().next().cloned();
    done(event, update.action, Some(row.room_id.clone()), stream, Some(update))
}

fn done(
    event: &PlannedEvent,
    action: EventAction,
    room_id: Option<String>,
    live_stream_id: Option<String>,
    update: Option<SessionUpdate>,
) -> Applied {
    Applied::Done(EventResult {
        processed: true,
        action,
        room_id,
        old_status: update.and_then(|update| update.old),
        new_status: update.and_then(|update| update.new),
        live_stream_id,
        event_id: event.event_id.clone(),
        event_type: event.event_type.clone(),
        edited: event.edited.clone(),
        warnings: event.warnings.clone(),
    })
}
