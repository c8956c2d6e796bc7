//! The compiled form of a platform definition: closed enums and checked names, ready to be used without looking back.

use std::borrow::Borrow;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::Schemas;
use crate::signature::Scheme;

/// A platform's canonical name: `^[a-z0-9][a-z0-9_-]{0,63}$`. Aliases are resolved before one of these exists.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct PlatformName(Arc<str>);

/// A text outside the closed set that it should name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{what} must be {expected}")]
pub struct UnknownName {
    /// What was named.
    pub what: &'static str,
    /// What it may be.
    pub expected: &'static str,
}

impl PlatformName {
    /// The reserved platform on which applications announce sessions (`PUT /api/v1/sessions/{room_id}`).
    pub const SESSIONS: &'static str = "sessions";
    /// What stands before a destination's name in that of its queue.
    const OUT: &'static str = "out:";

    /// Checks the grammar. Reserved words are the registry's business, since the system itself uses one.
    ///
    /// # Errors
    /// When `name` does not match `^[a-z0-9][a-z0-9_-]{0,63}$`.
    pub fn new(name: &str) -> Result<Self, UnknownName> {
        let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = name.as_bytes();
        let fits = (1..=64).contains(&bytes.len())
            && bytes.first().is_some_and(|b| good(*b))
            && bytes.iter().all(|b| good(*b) || matches!(b, b'_' | b'-'));
        if fits {
            Ok(Self(name.into()))
        } else {
            Err(UnknownName {
                what: "a platform name",
                expected: "1 to 64 of a-z, 0-9, '_' and '-', beginning with a letter or digit",
            })
        }
    }

    /// The name of a queue: a platform's, or `out:` and a destination's. No platform can be called so: names hold no
    /// colon. Only those who look at queues ask for this.
    ///
    /// # Errors
    /// When it is neither.
    pub fn queue(name: &str) -> Result<Self, UnknownName> {
        match name.strip_prefix(Self::OUT) {
            Some(destination) => Self::new(destination).map(|_| Self(name.into())),
            None => Self::new(name),
        }
    }

    /// The destination whose queue this is the name of; `None`: it is a platform's.
    #[must_use]
    pub fn destination(&self) -> Option<&str> {
        self.0.strip_prefix(Self::OUT)
    }

    /// The name's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for PlatformName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PlatformName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A JSON pointer (RFC 6901) into the signed body, already split into unescaped segments.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pointer {
    /// Unescaped reference tokens, outermost first; empty: the whole body.
    pub segments: Vec<String>,
}

/// A text that is not a JSON pointer. Parsing is in the definition's syntax.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("must be a JSON pointer such as \"/data/id\", with ~0 for ~ and ~1 for /")]
pub struct InvalidPointer;

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.segments.iter().try_for_each(|one| write!(f, "/{}", one.replace('~', "~0").replace('/', "~1")))
    }
}

/// Where a value is found.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Locator {
    /// In the signed body.
    Body(Pointer),
    /// In a header, lower-case name. Only where the signature covers it, or where the definition says `unsigned`.
    Header(String),
}

/// A reference to a secret; never the secret itself, so it may be printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretRef {
    /// `env:NAME` (the variable, or the file that `NAME_FILE` names).
    Env(String),
    /// `file:/path`.
    File(String),
}

/// A LiveKit-style key pair by reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialRef {
    /// The API key (the JWT's issuer).
    pub key: SecretRef,
    /// The API secret.
    pub secret: SecretRef,
}

/// What a platform verifies with, by reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretRefs {
    /// Any of them verifies.
    Secrets(Vec<SecretRef>),
    /// Any of them verifies; the token's issuer chooses.
    Credentials(Vec<CredentialRef>),
}

impl SecretRefs {
    /// Whether there is nothing to verify with (`E_WEBHOOK_CONFIG_MISSING`).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Secrets(list) => list.is_empty(),
            Self::Credentials(list) => list.is_empty(),
        }
    }
}

/// The platform's limit across all ingress replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Accepted events per minute, at least 1. `None`: no limit (only the reserved platform `sessions`).
    pub per_minute: Option<u32>,
    /// Events that may come at once, at least 1.
    pub burst: u32,
}

/// What to do with an event whose session does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissingSession {
    /// Create it.
    Create,
    /// Wait for it, then dead-letter `session_not_found`.
    Retry,
}

/// Which sessions a platform may touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionScope {
    /// Only those that it created.
    Own,
    /// The common room namespace of announced sessions.
    Shared,
}

/// Where a definition came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Compiled in, unchanged.
    Bundled,
    /// Named in `PLATFORMS_FILE`.
    File,
    /// Registered while the system runs.
    Registered,
    /// Part of the system: the reserved platform `sessions`.
    Reserved,
}

/// A provider's question, which is answered at once and is no event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Handshake {
    /// `twitch`: a challenge is sent back as it came; a revocation is noted.
    Twitch,
    /// `zoom`: a token is sent back beside its HMAC.
    Zoom,
    /// `echo`: the challenge of a `url_verification` is sent back as it came.
    Echo,
    /// `websub`: a hub asks by GET whether a subscription is meant.
    WebSub {
        /// The topics that are.
        topics: HashSet<String>,
    },
}

/// Where an event's parts are found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventSpec {
    /// Where a request holds several events, the list of them. Each becomes an event of its own, whose body is the
    /// request's with that one element in the list's place; all other pointers point into that body.
    pub batch: Option<Pointer>,
    /// The provider's event id; the first present counts. Empty: identity is the content hash.
    pub id: Vec<Locator>,
    /// The event type; never empty.
    pub kind: Vec<Locator>,
    /// The provider's time.
    pub time: Vec<Locator>,
    /// The room id.
    pub session: Vec<Pointer>,
    /// The live stream id, tried when no session has the room id.
    pub live_stream_id: Vec<Pointer>,
    /// A field that, if present, must equal the path's platform or one of its aliases.
    pub platform: Vec<Pointer>,
    /// The provider's id of the delivery: kept with the event, decides nothing.
    pub delivery_id: Vec<Locator>,
    /// Left out of the content hash.
    pub ignore: Vec<Pointer>,
    /// Identical bodies without id and time are separate events.
    pub repeatable: bool,
}

macro_rules! closed_set {
    ($(#[$doc:meta])* $name:ident: $what:literal = $($(#[$vdoc:meta])* $variant:ident $text:literal),+ $(,)?) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            /// All of them, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Its name in definitions, columns and answers.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(self.as_str()) }
        }

        impl FromStr for $name {
            type Err = UnknownName;

            fn from_str(text: &str) -> Result<Self, UnknownName> {
                Self::ALL.iter().copied().find(|one| one.as_str() == text).ok_or(UnknownName {
                    what: $what,
                    expected: concat!("one of:", $(" ", $text),+),
                })
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }
    };
}

closed_set! {
    /// A session's status.
    SessionStatus: "a session status" =
    /// Announced, nothing has happened yet.
    Ready "ready",
    /// Broadcasting.
    Live "live",
    /// Connected before, not broadcasting now.
    Idle "idle",
    /// The broadcast is over.
    Ended "ended",
    /// The room is closed.
    Stopped "stopped",
    /// Broken.
    Error "error",
}

closed_set! {
    /// A session column that a definition may set; each is its own last-writer register.
    SessionColumn: "a session column" =
    /// Text.
    Title "title",
    /// Text.
    StreamerId "streamer_id",
    /// Text.
    AppId "app_id",
    /// Non-negative integer.
    ViewerCount "viewer_count",
    /// Non-negative integer.
    PeakViewers "peak_viewers",
    /// Seconds, may be fractional.
    DurationSeconds "duration_seconds",
    /// Text.
    ErrorCode "error_code",
    /// Text.
    ErrorMessage "error_message",
    /// Time.
    StartedAt "started_at",
    /// Time.
    EndedAt "ended_at",
}

closed_set! {
    /// A recording's state.
    RecordingState: "a recording state" =
    /// Known.
    Created "created",
    /// Being made.
    Recording "recording",
    /// Playable.
    Ready "ready",
    /// Will not become playable.
    Failed "failed",
}

closed_set! {
    /// A recording column that a definition may set.
    RecordingColumn: "a recording column" =
    /// Text.
    Url "url",
    /// Seconds, may be fractional.
    DurationSeconds "duration_seconds",
    /// Bytes.
    SizeBytes "size_bytes",
}

closed_set! {
    /// A content's state.
    ContentState: "a content state" =
    /// In the catalogue.
    Active "active",
    /// Taken out.
    Removed "removed",
}

closed_set! {
    /// A content column that a definition may set.
    ContentColumn: "a content column" =
    /// Text.
    Title "title",
    /// Text.
    ContentType "content_type",
    /// Any JSON.
    Data "data",
}

closed_set! {
    /// A job column that a definition may set; an explicit null empties it.
    JobColumn: "a job column" =
    /// Number, as the sender counts it.
    Progress "progress",
    /// Text.
    CurrentStep "current_step",
    /// Text.
    VideoUrl "video_url",
    /// Text; anything else is kept as JSON text.
    Error "error",
    /// Non-negative integer.
    RetryCount "retry_count",
    /// Any JSON; of an object, the members that have no column.
    Data "data",
}

closed_set! {
    /// A chat message's column that a definition may set.
    ChatColumn: "a chat column" =
    /// Text.
    UserId "user_id",
    /// Text.
    UserName "user_name",
    /// Text.
    Message "message",
    /// Time; without it, the event's.
    SentAt "sent_at",
}

/// A member of a session's `data` and where its value is found: a text, a number or a truth value.
pub type DataMember = (String, Vec<Pointer>);

/// What an event type does: a closed set, fed by the definition. In every list of pointers the first present counts; an
/// absent value leaves its column alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// `session.status`: a status, and columns beside it.
    SessionStatus {
        /// The new status.
        status: SessionStatus,
        /// Columns to set.
        set: Vec<(SessionColumn, Vec<Pointer>)>,
        /// Members of the column `data`, for what has no column of its own; each is its own register, too.
        data: Vec<DataMember>,
    },
    /// `session.viewers`: how many watch. The status stays as it is.
    SessionViewers {
        /// Columns to set: `viewer_count`, always, and perhaps `peak_viewers`.
        set: Vec<(SessionColumn, Vec<Pointer>)>,
        /// As beside a status.
        data: Vec<DataMember>,
    },
    /// `recording`.
    Recording {
        /// The new state.
        state: RecordingState,
        /// The recording's id.
        id: Vec<Pointer>,
        /// Columns to set.
        set: Vec<(RecordingColumn, Vec<Pointer>)>,
    },
    /// `content`.
    Content {
        /// The new state.
        state: ContentState,
        /// The content's id.
        id: Vec<Pointer>,
        /// Columns to set.
        set: Vec<(ContentColumn, Vec<Pointer>)>,
    },
    /// `job`.
    Job {
        /// The new status.
        status: String,
        /// The job's id.
        id: Vec<Pointer>,
        /// Columns to set.
        set: Vec<(JobColumn, Vec<Pointer>)>,
    },
    /// `chat`: a message. It needs no session, and makes none.
    Chat {
        /// The message's id.
        id: Vec<Pointer>,
        /// Columns to set.
        set: Vec<(ChatColumn, Vec<Pointer>)>,
    },
    /// `session.announce`: the body of `PUT /api/v1/sessions/{room_id}`; only the reserved platform has it.
    SessionAnnounce,
    /// `log`: a ledger row and nothing else. Types without an entry do this.
    Log,
}

/// An effect and where its session is found, when that differs from [`EventSpec`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EffectSpec {
    /// What it does.
    pub effect: Effect,
    /// Instead of [`EventSpec::session`].
    pub session: Option<Vec<Pointer>>,
    /// Instead of [`EventSpec::live_stream_id`].
    pub live_stream_id: Option<Vec<Pointer>>,
}

/// How long a request may wait for what becomes of its event.
pub const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// A checked platform definition.
#[derive(Clone, Debug)]
pub struct Platform {
    /// Canonical name.
    pub name: PlatformName,
    /// Other names in the path.
    pub aliases: Vec<PlatformName>,
    /// What log lines call it.
    pub label: PlatformName,
    /// Where it came from.
    pub source: Source,
    /// `false`: refused with 403.
    pub enabled: bool,
    /// `true`: accepted and kept, not processed.
    pub paused: bool,
    /// How requests prove themselves.
    pub scheme: Scheme,
    /// What they are verified with.
    pub secrets: SecretRefs,
    /// The limit.
    pub rate_limit: RateLimit,
    /// Limits per event type and minute, inside `rate_limit`.
    pub limits: HashMap<String, u32>,
    /// Types to queue; `None`: all.
    pub event_types: Option<HashSet<String>>,
    /// Status of "accepted", 2xx.
    pub ack_status: u16,
    /// Status instead of 429 and 408.
    pub busy_status: Option<u16>,
    /// How long duplicates are remembered in Redis; `None`: `DEDUP_TTL_HOURS`.
    pub dedup_ttl: Option<Duration>,
    /// How long a request waits for its event's result unless it says otherwise, at most [`LONGEST_WAIT`]; `None`: not
    /// at all.
    pub wait: Option<Duration>,
    /// See [`MissingSession`].
    pub missing_session: MissingSession,
    /// See [`SessionScope`].
    pub session_scope: SessionScope,
    /// What the provider may ask.
    pub handshake: Option<Handshake>,
    /// Where an event's parts are.
    pub event: EventSpec,
    /// What bodies must look like.
    pub schemas: Schemas,
    /// By event type; others do [`Effect::Log`].
    pub effects: HashMap<String, EffectSpec>,
}
