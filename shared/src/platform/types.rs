//! Defines the compiled form of a platform definition: closed enums and checked names.

mod column;
mod effect;
mod locator;
mod name;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

pub use column::{
    ChatColumn, ContentColumn, ContentState, JobColumn, RecordingColumn, RecordingState,
    SessionColumn, SessionStatus,
};
pub use effect::{DataMember, Effect, EffectSpec};
pub use locator::{EventSpec, Locator, Pointer, PointerError};
pub use name::{NameError, PlatformName};

use super::Schemas;
use crate::signature::Scheme;

/// Reference to a secret. It holds no secret, so it may be printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretRef {
    /// `env:NAME`: the variable, or the file that `NAME_FILE` names.
    Env(String),
    /// `file:/path`.
    File(String),
}

/// References to a LiveKit-style key pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialRef {
    /// API key, which is the issuer of the JWT.
    pub key: SecretRef,
    /// API secret.
    pub secret: SecretRef,
}

/// References to the secrets of a platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretRefs {
    /// Any of them verifies.
    Secrets(Vec<SecretRef>),
    /// Any of them verifies. The issuer of the token selects one.
    Credentials(Vec<CredentialRef>),
}

impl SecretRefs {
    /// Returns true if there are no references (`E_WEBHOOK_CONFIG_MISSING`).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Secrets(list) => list.is_empty(),
            Self::Credentials(list) => list.is_empty(),
        }
    }
}

/// Rate limit of a platform across all ingress replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Accepted events per minute, at least 1. `None`: no limit, which only the reserved platform
    /// `sessions` has.
    pub per_minute: Option<u32>,
    /// Largest burst of events, at least 1.
    pub burst: u32,
}

/// Policy for an event whose session does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissingSession {
    /// Create the session.
    Create,
    /// Retry until it exists, then dead-letter as `session_not_found`.
    Retry,
}

/// Sessions that a platform may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionScope {
    /// Only those that it created.
    Own,
    /// Sessions with announced room ids, shared by all such platforms.
    Shared,
}

/// Policy for a verified request that is no usable event: invalid JSON, no type, or a schema
/// violation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidRequestPolicy {
    /// Accept it as a dead letter, for senders that never retry after a 4xx.
    Keep,
    /// Refuse it with 400.
    Refuse,
}

/// Source of a definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlatformSource {
    /// Compiled in, unchanged.
    Bundled,
    /// Named in `PLATFORMS_FILE`.
    File,
    /// Registered while the system runs.
    Registered,
    /// Part of the system: the reserved platform `sessions`.
    Reserved,
}

/// Probe of a provider, which is answered at once and is not an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Handshake {
    /// `twitch`: returns the challenge, and records a revocation.
    Twitch,
    /// `zoom`: returns the token with its HMAC.
    Zoom,
    /// `echo`: returns the challenge of a `url_verification`.
    Echo,
    /// `websub`: answers a hub that asks by GET whether a subscription is intended.
    WebSub {
        /// Intended topics.
        topics: HashSet<String>,
    },
    /// `meta`: answers a GET with the token that the operator typed into the dashboard.
    Meta {
        /// Reference to the token.
        verify_token: SecretRef,
    },
}

/// Longest time for which a request may wait for the result of its event.
pub const MAX_RESULT_WAIT: Duration = Duration::from_secs(30);

/// A checked platform definition.
#[derive(Clone, Debug)]
pub struct Platform {
    /// Canonical name.
    pub name: PlatformName,
    /// Other names in paths.
    pub aliases: Vec<PlatformName>,
    /// Name in log lines.
    pub label: PlatformName,
    /// Source of the definition.
    pub source: PlatformSource,
    /// If false, requests are refused with 403.
    pub enabled: bool,
    /// If true, events are accepted and kept, but not processed.
    pub paused: bool,
    /// Signature scheme of requests.
    pub scheme: Scheme,
    /// References to the secrets.
    pub secrets: SecretRefs,
    /// Rate limit.
    pub rate_limit: RateLimit,
    /// Limits per event type and minute, within `rate_limit`.
    pub limits: HashMap<String, u32>,
    /// Accepted event types. `None`: all.
    pub event_types: Option<HashSet<String>>,
    /// Status of an accepted request, 2xx.
    pub ack_status: u16,
    /// Status that replaces 429 and 408.
    pub busy_status: Option<u16>,
    /// See [`InvalidRequestPolicy`].
    pub invalid: InvalidRequestPolicy,
    /// Time for which duplicates are remembered in Redis. `None`: `DEDUP_TTL_HOURS`.
    pub dedup_ttl: Option<Duration>,
    /// Time for which a request waits for its result by default, at most [`MAX_RESULT_WAIT`].
    /// `None`: it does not wait.
    pub wait: Option<Duration>,
    /// See [`MissingSession`].
    pub missing_session: MissingSession,
    /// See [`SessionScope`].
    pub session_scope: SessionScope,
    /// Probes that the provider sends.
    pub handshake: Option<Handshake>,
    /// Locations of the parts of an event.
    pub event: EventSpec,
    /// Schemas of bodies.
    pub schemas: Schemas,
    /// Effects by event type. Other types have [`Effect::Log`].
    pub effects: HashMap<String, EffectSpec>,
}
