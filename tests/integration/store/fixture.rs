//! Test fixture: a fresh database with an open store, and events for it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use secrecy::SecretString;
use serde_json::{Value, json};
use shared::event::{Envelope, Millis, StreamId};
use shared::platform::Platform;
use shared::platform::registry::Registry;
use tests::database::Database;
use tests::postgres;
use worker::effects::{Applied, EventAction, EventResult, InvalidEventError, PlannedEvent, plan};
use worker::store::{Store, StoreError, StoreOptions};

/// Start of the test's event times.
pub(crate) const T0: Millis = 1_780_000_000_000;

const PLATFORMS: &str = r#"
[platforms.mux]
secrets = ["env:A"]

[platforms.netflix]
secrets = ["env:A"]

[platforms.studio]                    # creates its sessions and touches only those
secrets         = ["env:A"]
missing_session = "create"
session_scope   = "own"
[platforms.studio.signature]
header = "x-studio"
[platforms.studio.event]
id             = "/id"
type           = "/event"
session        = "/room"
live_stream_id = "/stream"
[platforms.studio.effects]
live    = { effect = "session.status", status = "live", set = { title = "/title", streamer_id = "/streamer", started_at = "/at" } }
offline = { effect = "session.status", status = "ended", set = { title = "/title", duration_seconds = "/duration", peak_viewers = "/peak", ended_at = "/at" } }
broken  = { effect = "session.status", status = "error", set = { error_code = "/code", error_message = "/message" } }
taped   = { effect = "recording", state = "ready", id = "/tape", set = { url = "/url", duration_seconds = "/duration", size_bytes = "/size" } }
taping  = { effect = "recording", state = "recording", id = "/tape" }
added   = { effect = "content", state = "active", id = "/item", set = { title = "/title", content_type = "/kind", data = "/more" } }
removed = { effect = "content", state = "removed", id = "/item" }
watched = { effect = "session.viewers", set = { viewer_count = "/n", peak_viewers = "/peak" }, data = { viewer = "/viewer", change = "/change" } }
said    = { effect = "chat", id = "/message", set = { user_id = "/user", user_name = "/name", message = "/text", sent_at = "/at" } }
worked  = { effect = "job", id = "/job", status = "worked", set = { progress = "/progress", current_step = ["/step", "/phase"], video_url = "/url", error = "/error", retry_count = "/retries", data = "" } }
failed  = { effect = "job", id = "/job", status = "failed", set = { error = "/error" } }

[platforms.rival]                     # has a scope of its own, too
preset          = "generic"
secrets         = ["env:A"]
missing_session = "create"
session_scope   = "own"
[platforms.rival.signature]
header = "x-rival"
[platforms.rival.event]
type           = "/event"
session        = "/room"
live_stream_id = "/stream"
[platforms.rival.effects]
live    = { effect = "session.status", status = "live" }
offline = { effect = "session.status", status = "ended" }
taped   = { effect = "recording", state = "ready", id = "/tape" }
watched = { effect = "session.viewers", set = { viewer_count = "/n" } }
said    = { effect = "chat", id = "/message", set = { message = "/text" } }

[platforms.partner]                   # may touch shared rooms
secrets         = ["env:A"]
missing_session = "retry"
session_scope   = "shared"
[platforms.partner.signature]
header = "x-partner"
[platforms.partner.event]
type           = "/event"
session        = "/room"
live_stream_id = "/stream"
[platforms.partner.effects]
offline = { effect = "session.status", status = "ended" }
watched = { effect = "session.viewers", set = { viewer_count = "/n" } }
said    = { effect = "chat", id = "/message", set = { message = "/text" } }
"#;

/// Runs each test on both databases, as `sqlite::name` and `postgres::name`.
macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod sqlite {
            $( #[tokio::test] async fn $name() { super::$name($crate::fixture::StoreFixture::sqlite().await).await } )+
        }
        mod postgres {
            $( #[tokio::test] async fn $name() { super::$name($crate::fixture::StoreFixture::postgres().await).await } )+
        }
    };
}

/// Database and store of one test.
pub(crate) struct StoreFixture {
    pub(crate) database: Database,
    pub(crate) store: Store,
    pub(crate) registry: Registry,
    next: AtomicU64,
    _folder: Option<tempfile::TempDir>,
}

/// Event as a test writes it. Times are milliseconds after [`T0`].
pub(crate) struct TestEvent {
    pub(crate) id: String,
    pub(crate) kind: &'static str,
    pub(crate) at: Millis,
    pub(crate) body: Value,
}

pub(crate) fn event(id: &str, kind: &'static str, at: Millis, body: Value) -> TestEvent {
    TestEvent { id: id.to_owned(), kind, at, body }
}

pub(crate) fn options() -> StoreOptions {
    let lock_timeout = Duration::from_secs(10);
    StoreOptions {
        busy_timeout: Duration::from_millis(200),
        lock_timeout,
        ..StoreOptions::default()
    }
}

impl StoreFixture {
    pub(crate) async fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::Sqlite(folder.path().join("tributary.db"));
        Self::on(database, Some(folder)).await
    }

    pub(crate) async fn postgres() -> Self {
        Self::on(Database::Postgres(postgres::shared().await.database().await), None).await
    }

    pub(crate) async fn on(database: Database, folder: Option<tempfile::TempDir>) -> Self {
        let store = open(&database).await;
        let registry = Registry::from_text("test", PLATFORMS)
            .unwrap_or_else(|problems| panic!("{problems:?}"));
        Self { database, store, registry, next: AtomicU64::new(1), _folder: folder }
    }

    pub(crate) fn platform(&self, name: &str) -> &Platform {
        if name == "sessions" {
            self.registry.sessions()
        } else {
            self.registry.get(name).expect(name)
        }
    }

    pub(crate) fn envelope(&self, event: &TestEvent) -> Envelope {
        let origin =
            StreamId { ms: 1_780_000_000_000, seq: self.next.fetch_add(1, Ordering::Relaxed) };
        Envelope {
            id: origin,
            event_id: event.id.clone(),
            event_type: event.kind.to_owned(),
            occurred_at: T0 + event.at,
            time_unreadable: false,
            received_at: T0 + event.at + 5,
            attempt: 1,
            origin,
            body: Bytes::from(event.body.to_string()),
            delivery_id: None,
            traceparent: None,
            reply_to: None,
            hops: 0,
            first_failed_at: None,
            replays: 0,
            edited: None,
        }
    }

    pub(crate) fn try_plan(
        &self,
        platform: &str,
        event: &TestEvent,
    ) -> Result<PlannedEvent, InvalidEventError> {
        plan(self.platform(platform), &self.envelope(event))
    }

    pub(crate) fn plan(&self, platform: &str, event: &TestEvent) -> PlannedEvent {
        self.try_plan(platform, event).unwrap()
    }

    pub(crate) async fn try_apply(
        &self,
        platform: &str,
        events: &[PlannedEvent],
    ) -> Result<Vec<Applied>, StoreError> {
        let applied = self.store.apply(self.platform(platform), events).await?;
        assert_eq!(applied.len(), events.len());
        Ok(applied)
    }

    pub(crate) async fn apply(&self, platform: &str, events: &[TestEvent]) -> Vec<Applied> {
        let planned: Vec<PlannedEvent> =
            events.iter().map(|event| self.plan(platform, event)).collect();
        self.try_apply(platform, &planned).await.unwrap()
    }

    pub(crate) async fn one(&self, platform: &str, event: TestEvent) -> Applied {
        self.apply(platform, &[event]).await.remove(0)
    }

    /// Announces a session.
    pub(crate) async fn announce(&self, id: &str, at: Millis, body: Value) -> EventResult {
        done(self.one("sessions", event(id, "session.announced", at, body)).await)
    }

    /// Adds an application rule to the database: no new session may have this title.
    pub(crate) async fn refuse_title(&self, title: &str) {
        let sql = match &self.database {
            Database::Sqlite(_) => format!(
                "CREATE TRIGGER forbid BEFORE INSERT ON sessions WHEN new.title = '{title}' \
                 BEGIN SELECT RAISE(ABORT, 'forbidden'); END"
            ),
            Database::Postgres(_) => {
                format!("ALTER TABLE sessions ADD CONSTRAINT forbid CHECK (title <> '{title}')")
            }
        };
        self.database.execute(&sql).await;
    }

    pub(crate) async fn session(&self, room: &str) -> Value {
        self.database.session(room).await.unwrap_or_else(|| panic!("no session {room}"))
    }
}

pub(crate) async fn open(database: &Database) -> Store {
    Store::open(&SecretString::from(database.url()), &options()).await.unwrap()
}

/// Returns the result of an event that took effect. Panics for any other outcome.
pub(crate) fn done(applied: Applied) -> EventResult {
    match applied {
        Applied::Done(result) => result,
        other => panic!("the event did not take effect: {other:?}"),
    }
}

pub(crate) fn action(applied: Applied) -> EventAction {
    done(applied).action
}

/// Live stream event of `mux`. Without `room` it names its session by live stream id only.
pub(crate) fn mux(
    id: &str,
    kind: &'static str,
    at: Millis,
    room: Option<&str>,
    stream: &str,
) -> TestEvent {
    event(
        id,
        kind,
        at,
        json!({"type": kind, "id": id, "data": {"id": stream, "passthrough": room}}),
    )
}

pub(crate) const ACTIVE: &str = "video.live_stream.active";
pub(crate) const IDLE: &str = "video.live_stream.idle";
pub(crate) const DISCONNECTED: &str = "video.live_stream.disconnected";

/// Returns the instant `T0 + at` as RFC 3339 text.
pub(crate) fn time(at: Millis) -> String {
    shared::clock::rfc3339(T0 + at)
}
