//! Bodies of each platform, as in the providers' guides, with their expected effects.

use rand::RngExt;
use serde_json::{Map, Value, json};

use super::{
    FOUNDING_ROOMS, Generator, NETFLIX_SECRET, REALCAST_SECRET, RequestStyle, STREAMGANK_SECRET,
    STUDIO_SECRET, SentEvent,
};
use crate::model::{ColumnValues, EventMeaning, EventTable, ExpectedEnd, SessionRef};
use crate::sender::rfc3339;

const REALCAST: RequestStyle =
    RequestStyle::Body { header: "x-realcast-signature", secret: REALCAST_SECRET };
const NETFLIX: RequestStyle =
    RequestStyle::Body { header: "x-webhook-signature", secret: NETFLIX_SECRET };
const STREAMGANK: RequestStyle =
    RequestStyle::Body { header: "x-streamgank-signature", secret: STREAMGANK_SECRET };
const OWN: RequestStyle =
    RequestStyle::Body { header: "x-webhook-signature", secret: STUDIO_SECRET };

/// Builder of a body and of the columns that it sets.
#[derive(Default)]
struct BodyBuilder {
    body: Map<String, Value>,
    set: ColumnValues,
}

impl BodyBuilder {
    /// Adds a member to the body only.
    fn body(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.body.insert(name.to_owned(), value.into());
        self
    }

    /// Adds a member, and its value to a column.
    fn both(mut self, name: &str, column: &str, value: impl Into<Value>) -> Self {
        let value = value.into();
        self.set.insert(column.to_owned(), value.clone());
        self.body(name, value)
    }

    /// Sets a column only.
    fn column(mut self, column: &str, value: impl Into<Value>) -> Self {
        self.set.insert(column.to_owned(), value.into());
        self
    }

    /// Adds a member and its column if `include` is true.
    fn both_if(self, include: bool, name: &str, column: &str, value: impl Into<Value>) -> Self {
        if include { self.both(name, column, value) } else { self }
    }
}

impl Generator {
    /// Returns the next event other than the announcement of a new room.
    pub(super) fn event(&mut self) -> SentEvent {
        match self.rng.random_range(0..1000) {
            0..110 => self.mux_by_stream(),
            110..270 => self.mux_by_room(),
            270..340 => self.mux_asset(),
            340..370 => self.mux_logged(),
            370..480 => self.livekit(),
            480..670 => self.realcast_stream(),
            670..720 => self.realcast_recording(),
            720..770 => self.realcast_chat(),
            770..850 => self.netflix(),
            850..920 => self.streamgank(),
            920..965 => self.studio(),
            965..980 => {
                let room = self.current();
                self.announcement(self.announced_room(room), None)
            }
            980..987 => self.session_conflict(),
            987..994 => self.invalid(),
            _ => self.never_announced(),
        }
    }

    fn id(&self, kind: &str) -> String {
        format!("{:x}-{kind}-{}", self.seed, self.number)
    }

    /// Returns the id of a random active object.
    fn active_thing(&mut self, kind: &str) -> String {
        let n = self.current();
        format!("{:x}-{kind}-{n}", self.seed)
    }

    fn mux_status(&mut self, room: String, session_ref: SessionRef, data: Value) -> SentEvent {
        let (kind, status) = [
            ("video.live_stream.active", "live"),
            ("video.live_stream.idle", "idle"),
            ("video.live_stream.disconnected", "ended"),
        ][self.rng.random_range(0..3)];
        let meaning = Self::session(
            room,
            session_ref,
            Some(status),
            ColumnValues::new(),
            ColumnValues::new(),
        );
        self.mux(kind, meaning, data)
    }

    fn mux(&mut self, kind: &'static str, meaning: EventMeaning, data: Value) -> SentEvent {
        let at = self.at();
        let body = json!({
            "type": kind,
            "id": self.id("mux"),
            "created_at": rfc3339(at),
            "attempts": [],
            "data": data,
            "environment": {"name": "production", "id": "env_1"},
        });
        self.sent_event("mux", kind, Some(at), meaning, body, RequestStyle::Mux)
    }

    fn mux_by_stream(&mut self) -> SentEvent {
        let n = self.rng.random_range(0..FOUNDING_ROOMS);
        let (room, stream) = (self.founding_room(n), self.stream(n));
        self.mux_status(room, SessionRef::LiveStream, json!({"id": stream, "status": "x"}))
    }

    fn mux_by_room(&mut self) -> SentEvent {
        let n = self.current();
        let (room, stream) = (self.announced_room(n), self.id("nobodys"));
        self.mux_status(room.clone(), SessionRef::Room, json!({"id": stream, "passthrough": room}))
    }

    fn mux_asset(&mut self) -> SentEvent {
        let n = self.current();
        let (id, room) = (format!("{:x}-asset-{n}", self.seed), self.announced_room(n));
        let ready = self.chance(60.0);
        let builder =
            BodyBuilder::default().body("id", id.as_str()).both("passthrough", "room_id", room);
        let builder = builder.column("state", if ready { "ready" } else { "created" });
        let seconds = f64::from(self.rng.random_range(0..8_000)) / 2.0;
        let builder =
            builder.both_if(ready && self.chance(80.0), "duration", "duration_seconds", seconds);
        let kind = if ready { "video.asset.ready" } else { "video.asset.created" };
        let meaning = EventMeaning::Upsert { table: EventTable::Recordings, id, set: builder.set };
        self.mux(kind, meaning, Value::Object(builder.body))
    }

    fn mux_logged(&mut self) -> SentEvent {
        let kind =
            ["video.live_stream.connected", "video.live_stream.recording", "video.upload.created"]
                [self.rng.random_range(0..3)];
        let stream = self.stream(0);
        self.mux(kind, EventMeaning::LogOnly, json!({"id": stream}))
    }

    fn livekit(&mut self) -> SentEvent {
        let n = self.rng.random_range(0..3);
        let (kind, status) = [
            ("room_started", Some("live")),
            ("room_finished", Some("stopped")),
            ("participant_joined", None),
        ][n];
        let room = if self.chance(50.0) {
            let n = self.current();
            self.announced_room(n)
        } else {
            let n = self.rng.random_range(0..FOUNDING_ROOMS);
            self.founding_room(n)
        };
        let at = self.at() / 1000;
        let body = json!({
            "event": kind,
            "id": self.id("lk"),
            "createdAt": at.to_string(),
            "room": {"name": room},
        });
        let session = |status| {
            Self::session(
                room,
                SessionRef::Room,
                Some(status),
                ColumnValues::new(),
                ColumnValues::new(),
            )
        };
        self.sent_event(
            "livekit",
            kind,
            Some(at * 1000),
            status.map_or(EventMeaning::LogOnly, session),
            body,
            RequestStyle::LiveKit,
        )
    }

    /// RealCast signs no id, so a counter in the body tells events apart.
    fn realcast(
        &mut self,
        kind: &'static str,
        meaning: EventMeaning,
        data: Map<String, Value>,
    ) -> SentEvent {
        let at = (!self.chance(3.0)).then(|| self.at());
        let mut body = json!({"event": kind, "data": data, "n": self.number});
        if let Some(at) = at {
            body["timestamp"] = rfc3339(at).into();
        }
        self.sent_event("realcast", kind, at, meaning, body, REALCAST)
    }

    fn realcast_stream(&mut self) -> SentEvent {
        let room = self.active_thing("cast");
        let builder = BodyBuilder::default().body("stream_id", room.as_str());
        let (n, at) = (self.number, rfc3339(self.began + self.rng.random_range(0..600_000)));
        let few = self.rng.random_range(0..5_000);
        let mut include = || self.rng.random_bool(0.7);
        let (a, b, c, d) = (include(), include(), include(), include());
        let mut data = ColumnValues::new();
        let (kind, status, builder) = match self.rng.random_range(0..5) {
            0 => {
                let builder = builder.both_if(a, "title", "title", format!("Title {n}"));
                let builder =
                    builder.both_if(b, "streamer_id", "streamer_id", format!("user_{few}"));
                let builder = builder.both_if(c, "app_id", "app_id", format!("app_{few}"));
                ("stream.live", Some("live"), builder.both_if(d, "started_at", "started_at", at))
            }
            1 => {
                let builder =
                    builder.both_if(a, "duration", "duration_seconds", f64::from(few) / 4.0);
                let builder = builder.both_if(b, "peak_viewers", "peak_viewers", few);
                ("stream.offline", Some("ended"), builder.both_if(c, "ended_at", "ended_at", at))
            }
            2 => {
                let builder = builder.both_if(a, "error_code", "error_code", format!("E{few}"));
                (
                    "stream.error",
                    Some("error"),
                    builder.both_if(b, "error_message", "error_message", "it broke: ü"),
                )
            }
            3 => {
                data.insert("change".to_owned(), json!(few - 2_500));
                let builder =
                    builder.both("viewer_count", "viewer_count", few).body("change", few - 2_500);
                ("viewer.count.update", None, builder)
            }
            _ => {
                data.insert("viewer_id".to_owned(), json!(format!("viewer_{few}")));
                let builder = builder.both("viewer_count", "viewer_count", few);
                ("viewer.joined", None, builder.body("viewer_id", format!("viewer_{few}")))
            }
        };
        let meaning = Self::session(room, SessionRef::RoomOrCreate, status, builder.set, data);
        self.realcast(kind, meaning, builder.body)
    }

    fn realcast_recording(&mut self) -> SentEvent {
        let room = self.active_thing("cast");
        let (id, n) = (format!("{room}-rec"), self.number);
        let ready = self.chance(60.0);
        let builder = BodyBuilder::default().body("recording_id", id.as_str()).both(
            "stream_id",
            "room_id",
            room,
        );
        let builder = builder.column("state", if ready { "ready" } else { "recording" });
        let builder = builder.both_if(
            ready && self.chance(70.0),
            "cdn_url",
            "url",
            format!("https://cdn.example/{n}"),
        );
        let builder =
            builder.both_if(ready && self.chance(70.0), "duration", "duration_seconds", n % 7_000);
        let builder =
            builder.both_if(ready && self.chance(70.0), "file_size", "size_bytes", n * 1_000);
        let kind = if ready { "recording.ready" } else { "recording.started" };
        self.realcast(
            kind,
            EventMeaning::Upsert { table: EventTable::Recordings, id, set: builder.set },
            builder.body,
        )
    }

    fn realcast_chat(&mut self) -> SentEvent {
        let room = self.active_thing("cast");
        let (id, n) = (format!("{room}-msg-{}", self.rng.random_range(0..4)), self.number);
        let builder = BodyBuilder::default().body("message_id", id.as_str()).both(
            "stream_id",
            "room_id",
            room,
        );
        let builder = builder.both_if(self.chance(70.0), "user_id", "user_id", format!("user_{n}"));
        let builder =
            builder.both_if(self.chance(70.0), "user_name", "user_name", format!("Näme {n}"));
        let builder =
            builder.both_if(self.chance(70.0), "message", "message", format!("Great stream! №{n}"));
        let at = rfc3339(self.began + self.rng.random_range(0..600_000));
        let builder = builder.both_if(self.chance(50.0), "created_at", "sent_at", at);
        self.realcast(
            "chat.message.new",
            EventMeaning::Upsert { table: EventTable::ChatMessages, id, set: builder.set },
            builder.body,
        )
    }

    fn netflix(&mut self) -> SentEvent {
        let (id, n) = (self.active_thing("film"), self.number);
        let builder = BodyBuilder::default().body("content_id", id.as_str());
        let (kind, builder) = if self.chance(25.0) {
            ("content_removed", builder.column("state", "removed"))
        } else {
            let builder =
                builder.both_if(self.chance(70.0), "title", "title", format!("Title {n}"));
            let builder = builder
                .both_if(self.chance(70.0), "content_type", "content_type", "series")
                .body("n", n);
            let payload = builder.body.clone();
            (
                ["content_added", "content_updated"][self.rng.random_range(0..2)],
                builder.column("data", payload),
            )
        };
        let builder =
            if kind == "content_removed" { builder } else { builder.column("state", "active") };
        let at = (!self.chance(3.0)).then(|| self.at());
        let mut body = json!({"event_type": kind, "payload": builder.body, "n": n});
        if let Some(at) = at {
            body["timestamp"] = rfc3339(at).into();
        }
        self.sent_event(
            "netflix",
            kind,
            at,
            EventMeaning::Upsert { table: EventTable::Contents, id, set: builder.set },
            body,
            NETFLIX,
        )
    }

    fn streamgank(&mut self) -> SentEvent {
        let (kind, status) = [
            ("job.completed", "completed"),
            ("job.failed", "failed"),
            ("job.script_completed", "script_completed"),
            ("job.timeout", "timeout"),
        ][self.rng.random_range(0..4)];
        let (id, n) = (self.active_thing("job"), self.number);
        let rest = json!({"n": n, "status": status, "parameters": {"country": "us"}});
        let builder = BodyBuilder::default().body("job_id", id.as_str());
        let builder = builder.both_if(self.chance(70.0), "progress", "progress", n % 101);
        let builder =
            builder.both_if(self.chance(70.0), "current_step", "current_step", format!("step {n}"));
        let builder = builder.both_if(
            self.chance(30.0),
            "video_url",
            "video_url",
            format!("https://video.example/{n}"),
        );
        // An explicit null empties the column.
        let error = if self.chance(50.0) { Value::Null } else { format!("error {n}").into() };
        let builder = builder.both_if(self.chance(70.0), "error", "error", error);
        let builder = builder.both_if(self.chance(50.0), "retry_count", "retry_count", n % 4);
        let builder = builder.column("status", status).column("data", rest.clone());
        let mut data = builder.body;
        data.extend(rest.as_object().cloned().unwrap_or_default());
        let at = self.at();
        // The webhook id of the endpoint is not part of the event's identity.
        let body = json!({
            "event": kind,
            "timestamp": rfc3339(at),
            "data": data,
            "webhook_id": format!("wh_{n}"),
        });
        self.sent_event(
            "streamgank",
            kind,
            Some(at),
            EventMeaning::Upsert { table: EventTable::Jobs, id, set: builder.set },
            body,
            STREAMGANK,
        )
    }

    fn studio_event(
        &mut self,
        kind: &'static str,
        meaning: EventMeaning,
        members: Map<String, Value>,
    ) -> SentEvent {
        let at = (!self.chance(10.0)).then(|| self.at());
        let mut body = Value::Object(members);
        body["kind"] = kind.into();
        body["n"] = self.number.into();
        if let Some(at) = at {
            body["at"] = at.into();
        }
        self.sent_event("studio", kind, at, meaning, body, OWN)
    }

    fn studio(&mut self) -> SentEvent {
        let room = self.active_thing("hall");
        let (n, at) = (self.number, rfc3339(self.began + self.rng.random_range(0..600_000)));
        let builder = BodyBuilder::default().body("room", room.as_str());
        let mut data = ColumnValues::new();
        let (kind, status, builder) = match self.rng.random_range(0..3) {
            0 => {
                let builder =
                    builder.both_if(self.chance(70.0), "title", "title", format!("Title {n}"));
                (
                    "stage.open",
                    Some("live"),
                    builder.both_if(self.chance(70.0), "since", "started_at", at),
                )
            }
            1 => {
                let builder = builder.both_if(self.chance(70.0), "peak", "peak_viewers", n % 900);
                (
                    "stage.closed",
                    Some("ended"),
                    builder.both_if(self.chance(70.0), "until", "ended_at", at),
                )
            }
            _ => {
                data.insert("door".to_owned(), json!(n % 3));
                (
                    "stage.counted",
                    None,
                    builder.both("people", "viewer_count", n % 900).body("door", n % 3),
                )
            }
        };
        let meaning = Self::session(room, SessionRef::RoomOrCreate, status, builder.set, data);
        self.studio_event(kind, meaning, builder.body)
    }

    /// Returns an event of a platform that does not own the session.
    fn session_conflict(&mut self) -> SentEvent {
        let room = self.founding_room(self.number % FOUNDING_ROOMS);
        let sent_event = if self.chance(50.0) {
            let builder = BodyBuilder::default().body("stream_id", room);
            self.realcast("stream.offline", EventMeaning::LogOnly, builder.body)
        } else {
            let builder = BodyBuilder::default().body("room", room);
            self.studio_event("stage.open", EventMeaning::LogOnly, builder.body)
        };
        dead(sent_event, "session_conflict")
    }

    /// Returns a validly signed body without a usable value.
    fn invalid(&mut self) -> SentEvent {
        let builder = BodyBuilder::default()
            .body("stream_id", self.active_thing("cast"))
            .body("viewer_count", "many");
        dead(
            self.realcast("viewer.count.update", EventMeaning::LogOnly, builder.body),
            "invalid_event",
        )
    }

    /// Returns an event of a session that is never announced.
    fn never_announced(&mut self) -> SentEvent {
        let room = self.id("nowhere");
        self.mux_status(
            room.clone(),
            SessionRef::Room,
            json!({"id": self.id("nobodys"), "passthrough": room}),
        )
    }
}

fn dead(mut sent_event: SentEvent, code: &'static str) -> SentEvent {
    sent_event.event.expected_end = ExpectedEnd::Dead(code);
    sent_event
}
