//! The compiled form of a platform definition: closed enums and checked names, ready to be used without looking back.

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

/// Fate of a verified request that is no usable event: no JSON, without a type, or against the
/// schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidRequestPolicy {
    /// Accepted and kept as a dead letter, for senders that never retry after a 4xx.
    Keep,
    /// Refused with 400.
    Refuse,
}

/// Where a definition came from.
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
    /// `meta`: a dashboard asks by GET, with a token that the operator has typed into it.
    Meta {
        /// Reference to the token.
        verify_token: SecretRef,
    },
}

/// How long a request may wait for what becomes of its event.
pub const MAX_RESULT_WAIT: Duration = Duration::from_secs(30);

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
    pub source: PlatformSource,
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
    /// See [`InvalidRequestPolicy`].
    pub invalid: InvalidRequestPolicy,
    /// How long duplicates are remembered in Redis; `None`: `DEDUP_TTL_HOURS`.
    pub dedup_ttl: Option<Duration>,
    /// How long a request waits for its event's result unless it says otherwise, at most [`MAX_RESULT_WAIT`]; `None`: not
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
