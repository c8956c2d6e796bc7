//! The rows that one transaction works on, and events applied to them in order of arrival.
//!
//! Guarantee: an event answered [`Applied::MissingSession`] or [`Applied::Conflict`] has changed no row. A session that an
//! earlier event of the batch created counts as present.

use std::collections::HashMap;

use shared::event::Millis;
use shared::platform::{MissingSession, Platform, SessionStatus};

use super::chat::ChatRow;
use super::content::ContentRow;
use super::job::JobRow;
use super::recording::RecordingRow;
use super::result::{Action, Applied, EventResult};
use super::session::{Cause, Reach, SessionRow, Touched};
use super::{Announcement, Change, ChatField, Planned, RecordingField, SessionField};

/// How much older than a session an event may be and still be of its live stream id's present holder.
const REUSE_SLACK_MS: Millis = 5 * 60 * 1000;

/// A row and what has to be written.
#[derive(Clone, Debug)]
pub struct Held<R> {
    /// The row as it is now.
    pub row: R,
    /// Whether the database has it.
    pub stored: bool,
    /// Whether it differs from what the database has.
    pub changed: bool,
}

/// Keys of the rows that a batch needs: sorted, without repetition.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Needs<'a> {
    /// Rooms.
    pub rooms: Vec<&'a str>,
    /// Live stream ids, each with the room that its event names: its session, where it is in
    /// reach, makes the look-up by stream needless.
    pub live_streams: Vec<(&'a str, Option<&'a str>)>,
    /// Recordings.
    pub recordings: Vec<&'a str>,
    /// Contents.
    pub contents: Vec<&'a str>,
    /// Jobs.
    pub jobs: Vec<&'a str>,
    /// Chat messages.
    pub chats: Vec<&'a str>,
}

impl<'a> Needs<'a> {
    /// What `events` need.
    pub fn of(events: impl Iterator<Item = &'a Planned>) -> Self {
        let mut needs = Self::default();
        for event in events {
            match &event.change {
                Change::Log => continue,
                Change::Content { id, .. } => needs.contents.push(id),
                Change::Job { id, .. } => needs.jobs.push(id),
                Change::Recording { id, .. } => needs.recordings.push(id),
                Change::Chat { id, .. } => needs.chats.push(id),
                Change::Status { .. } | Change::Viewers { .. } | Change::Announce(_) => {}
            }
            needs.rooms.extend(event.room.as_deref());
            if !matches!(event.change, Change::Announce(_)) {
                let room = event.room.as_deref();
                needs.live_streams.extend(event.live_stream_id.as_deref().map(|stream| (stream, room)));
            }
        }
        let Self { rooms, live_streams, recordings, contents, jobs, chats } = &mut needs;
        for list in [rooms, recordings, contents, jobs, chats] {
            list.sort_unstable();
            list.dedup();
        }
        live_streams.sort_unstable();
        live_streams.dedup();
        needs
    }
}

/// The rows of one transaction.
#[derive(Debug)]
pub struct Rows<'p> {
    platform: &'p Platform,
    sessions: Vec<Held<SessionRow>>,
    by_room: HashMap<String, usize>,
    /// May name sessions that hold the id no longer.
    by_stream: HashMap<String, Vec<usize>>,
    recordings: HashMap<String, Held<RecordingRow>>,
    contents: HashMap<String, Held<ContentRow>>,
    jobs: HashMap<String, Held<JobRow>>,
    chats: HashMap<String, Held<ChatRow>>,
}

/// Where an event's session is.
enum Found {
    At(usize),
    /// Nowhere, and the event may create it.
    Absent,
    Missing,
    /// Every session that its live stream id leads to is younger than the event.
    Stale,
    Conflict,
}

impl<'p> Rows<'p> {
    /// No rows yet.
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

    /// A session that the database has.
    pub fn load_session(&mut self, row: SessionRow) {
        self.hold(row, true);
    }

    /// A recording that the database has.
    pub fn load_recording(&mut self, row: RecordingRow) {
        self.recordings.insert(row.recording_id.clone(), Held { row, stored: true, changed: false });
    }

    /// A content that the database has.
    pub fn load_content(&mut self, row: ContentRow) {
        self.contents.insert(row.content_id.clone(), Held { row, stored: true, changed: false });
    }

    /// A job that the database has.
    pub fn load_job(&mut self, row: JobRow) {
        self.jobs.insert(row.job_id.clone(), Held { row, stored: true, changed: false });
    }

    /// A chat message that the database has.
    pub fn load_chat(&mut self, row: ChatRow) {
        self.chats.insert(row.message_id.clone(), Held { row, stored: true, changed: false });
    }

    /// The sessions to be written, in order of room.
    #[must_use]
    pub fn sessions(&self) -> Vec<&Held<SessionRow>> {
        changed(self.sessions.iter(), |row| &row.room_id)
    }

    /// The recordings to be written, in order of id.
    #[must_use]
    pub fn recordings(&self) -> Vec<&Held<RecordingRow>> {
        changed(self.recordings.values(), |row| &row.recording_id)
    }

    /// The contents to be written, in order of id.
    #[must_use]
    pub fn contents(&self) -> Vec<&Held<ContentRow>> {
        changed(self.contents.values(), |row| &row.content_id)
    }

    /// The jobs to be written, in order of id.
    #[must_use]
    pub fn jobs(&self) -> Vec<&Held<JobRow>> {
        changed(self.jobs.values(), |row| &row.job_id)
    }

    /// The chat messages to be written, in order of id.
    #[must_use]
    pub fn chats(&self) -> Vec<&Held<ChatRow>> {
        changed(self.chats.values(), |row| &row.message_id)
    }

    /// Applies one event.
    pub fn apply(&mut self, event: &Planned) -> Applied {
        match &event.change {
            Change::Log => done(event, Action::Logged, event.room.clone(), event.live_stream_id.clone(), None),
            Change::Content { id, state, set } => {
                let held = self.contents.entry(id.clone()).or_insert_with(|| fresh(ContentRow::new(id)));
                let won = held.row.apply(*state, set, event.order);
                held.changed |= won;
                done(event, recorded(won), None, None, None)
            }
            Change::Job { id, status, set } => {
                let held = self.jobs.entry(id.clone()).or_insert_with(|| fresh(JobRow::new(id)));
                let won = held.row.apply(status, set, event.order);
                held.changed |= won;
                done(event, recorded(won), None, None, None)
            }
            Change::Recording { id, state, set } => self.apply_recording(event, id, *state, set),
            Change::Chat { id, set } => self.apply_chat(event, id, set),
            Change::Announce(given) => self.apply_announce(event, given),
            Change::Status { status, set } => self.apply_session(event, Some(*status), set),
            Change::Viewers { set } => self.apply_session(event, None, set),
        }
    }

    fn apply_session(&mut self, event: &Planned, status: Option<SessionStatus>, set: &[SessionField]) -> Applied {
        match self.find(event) {
            Found::Missing => Applied::MissingSession,
            Found::Conflict => Applied::Conflict,
            Found::Stale => stale(event),
            Found::At(at) => self.apply_to(event, at, false, status, set),
            Found::Absent => {
                let at = self.create(event);
                self.apply_to(event, at, true, status, set)
            }
        }
    }

    fn apply_to(
        &mut self,
        event: &Planned,
        at: usize,
        created: bool,
        status: Option<SessionStatus>,
        set: &[SessionField],
    ) -> Applied {
        let creates = self.platform.missing_session == MissingSession::Create;
        let Some(held) = self.sessions.get_mut(at) else { return Applied::MissingSession };
        let row = &mut held.row;
        if creates && event.room.as_ref() == Some(&row.room_id) {
            row.created_by(self.platform.name.as_str(), event.order);
            if let Some(stream) = &event.live_stream_id
                && row.set_live_stream_id(stream, event.order)
            {
                self.by_stream.entry(stream.clone()).or_default().push(at);
            }
        }
        let touched = match status {
            Some(status) => row.apply_status(status, set, cause(event)),
            None => row.apply_viewers(set, created, cause(event)),
        };
        held.changed |= row.guards.moved();
        touched_session(event, row, touched)
    }

    fn apply_announce(&mut self, event: &Planned, given: &Announcement) -> Applied {
        let Some(room) = event.room.as_deref() else { return Applied::MissingSession };
        let known = self.by_room.get(room).copied();
        if known.and_then(|at| self.sessions.get(at)).is_some_and(|held| !self.may_touch(&held.row)) {
            return Applied::Conflict;
        }
        let at = known.unwrap_or_else(|| self.create(event));
        let Some(held) = self.sessions.get_mut(at) else { return Applied::MissingSession };
        held.row.created_by(self.platform.name.as_str(), event.order);
        let touched = held.row.apply_announce(given, known.is_none(), cause(event));
        // Whatever it won, a status that was unset is set now.
        held.changed = true;
        for stream in [&held.row.live_stream_id, &held.row.egress_live_stream_id].into_iter().flatten() {
            self.by_stream.entry(stream.clone()).or_default().push(at);
        }
        touched_session(event, &held.row, touched)
    }

    fn apply_recording(
        &mut self,
        event: &Planned,
        id: &str,
        state: shared::platform::RecordingState,
        set: &[RecordingField],
    ) -> Applied {
        let room = match self.find(event) {
            Found::Conflict => return Applied::Conflict,
            Found::At(at) => self.sessions.get(at).map(|held| held.row.room_id.clone()),
            Found::Absent | Found::Missing | Found::Stale => event.room.clone(),
        };
        let held = self.recordings.entry(id.to_owned()).or_insert_with(|| fresh(RecordingRow::new(id)));
        let won = held.row.apply(state, room.as_deref(), set, event.order);
        held.changed |= won;
        done(event, recorded(won), room, event.live_stream_id.clone(), None)
    }

    fn apply_chat(&mut self, event: &Planned, id: &str, set: &[ChatField]) -> Applied {
        let found = self.find(event);
        let room = match &found {
            Found::Conflict => return Applied::Conflict,
            Found::At(at) => self.sessions.get(*at).map(|held| held.row.room_id.clone()),
            Found::Absent | Found::Missing | Found::Stale => event.room.clone(),
        };
        if room.is_none() && event.live_stream_id.is_some() {
            return if matches!(found, Found::Stale) { stale(event) } else { Applied::MissingSession };
        }
        let held = self.chats.entry(id.to_owned()).or_insert_with(|| fresh(ChatRow::new(id)));
        let won = held.row.apply(room.as_deref(), set, event.order);
        held.changed |= won;
        done(event, recorded(won), room, event.live_stream_id.clone(), None)
    }

    fn find(&self, event: &Planned) -> Found {
        let by_room = event.room.as_ref().and_then(|room| self.by_room.get(room));
        if let Some((at, held)) = by_room.and_then(|at| Some((*at, self.sessions.get(*at)?))) {
            if self.may_touch(&held.row) {
                return Found::At(at);
            }
            // A room out of reach is as unusable as an unknown one, but never a room of the event.
            let holder = event.live_stream_id.as_deref().map(|stream| self.holder(stream, event));
            return holder.filter(|found| matches!(found, Found::At(_))).unwrap_or(Found::Conflict);
        }
        // A platform that creates its sessions means the room that it names, whoever used its stream before.
        if event.room.is_some() && self.platform.missing_session == MissingSession::Create {
            return Found::Absent;
        }
        event.live_stream_id.as_deref().map_or(Found::Missing, |stream| self.holder(stream, event))
    }

    /// Who held `stream` when the event happened: the newest announcement, but for events clearly older than its session.
    /// Those matched an earlier holder, of whom nothing may be left; only an operator who replays such an event after
    /// announcing its session says that it means the one that is there.
    fn holder(&self, stream: &str, event: &Planned) -> Found {
        let named = self.by_stream.get(stream).into_iter().flatten();
        let mut holders: Vec<(usize, &SessionRow)> = named
            .filter_map(|at| Some((*at, &self.sessions.get(*at)?.row)))
            .filter(|(_, row)| row.holds(stream))
            .collect();
        if holders.is_empty() {
            return Found::Missing;
        }
        holders.retain(|(_, row)| self.may_touch(row));
        if holders.is_empty() {
            return Found::Conflict;
        }
        holders.sort_by(|(_, a), (_, b)| (b.announced(stream), &a.room_id).cmp(&(a.announced(stream), &b.room_id)));
        let fits = |row: &SessionRow| event.occurred_at >= row.created_at.saturating_sub(REUSE_SLACK_MS);
        let newest = holders.first().map(|(at, _)| *at).filter(|_| event.replayed);
        let found = holders.into_iter().find(|(_, row)| fits(row)).map(|(at, _)| at).or(newest);
        found.map_or(Found::Stale, Found::At)
    }

    fn may_touch(&self, row: &SessionRow) -> bool {
        let reach = Reach { platform: self.platform.name.as_str(), scope: self.platform.session_scope };
        reach.includes(&row.platform, row.scope)
    }

    fn create(&mut self, event: &Planned) -> usize {
        let room = event.room.as_deref().unwrap_or_default();
        let row = SessionRow::new(room, self.platform.name.as_str(), self.platform.session_scope, event.order);
        self.hold(row, false)
    }

    fn hold(&mut self, row: SessionRow, stored: bool) -> usize {
        let at = self.sessions.len();
        for stream in [&row.live_stream_id, &row.egress_live_stream_id].into_iter().flatten() {
            self.by_stream.entry(stream.clone()).or_default().push(at);
        }
        self.by_room.insert(row.room_id.clone(), at);
        self.sessions.push(Held { row, stored, changed: !stored });
        at
    }
}

fn fresh<R>(row: R) -> Held<R> {
    Held { row, stored: false, changed: true }
}

fn changed<'r, R: 'r>(rows: impl Iterator<Item = &'r Held<R>>, key: impl Fn(&R) -> &String) -> Vec<&'r Held<R>> {
    let mut rows: Vec<_> = rows.filter(|held| held.changed).collect();
    rows.sort_unstable_by(|a, b| key(&a.row).cmp(key(&b.row)));
    rows
}

fn cause(event: &Planned) -> Cause<'_> {
    Cause { event_id: &event.event_id, key: event.order }
}

fn recorded(won: bool) -> Action {
    if won { Action::Recorded } else { Action::StaleIgnored }
}

fn stale(event: &Planned) -> Applied {
    done(event, Action::StaleIgnored, None, event.live_stream_id.clone(), None)
}

fn touched_session(event: &Planned, row: &SessionRow, touched: Touched) -> Applied {
    let named = [&event.live_stream_id, &row.live_stream_id, &row.egress_live_stream_id];
    let stream = named.into_iter().flatten().next().cloned();
    done(event, touched.action, Some(row.room_id.clone()), stream, Some(touched))
}

fn done(
    event: &Planned,
    action: Action,
    room_id: Option<String>,
    live_stream_id: Option<String>,
    touched: Option<Touched>,
) -> Applied {
    Applied::Done(EventResult {
        processed: true,
        action,
        room_id,
        old_status: touched.and_then(|touched| touched.old),
        new_status: touched.and_then(|touched| touched.new),
        live_stream_id,
        event_id: event.event_id.clone(),
        event_type: event.event_type.clone(),
        edited: event.edited.clone(),
        warnings: event.warnings.clone(),
    })
}
