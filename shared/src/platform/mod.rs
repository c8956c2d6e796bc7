//! A platform is data: how to verify, where id, type, time and session are found, and what each event type does.
//!
//! Guarantee: a [`Platform`] that exists has passed every check of [`registry`]; nothing after start-up meets an
//! unknown scheme, column or status. Secrets are references here ([`SecretRef`]); only ingress resolves them.

pub mod bundled;
pub mod definition;
pub mod derive;
pub mod registry;
mod schema;
mod secrets;
mod types;

pub use schema::{PayloadError, Schemas};
pub use types::{
    ChatColumn, ContentColumn, ContentState, CredentialRef, DataMember, Effect, EffectSpec,
    EventSpec, Handshake, InvalidRequestPolicy, JobColumn, Locator, MAX_RESULT_WAIT,
    MissingSession, NameError, Platform, PlatformName, PlatformSource, Pointer, PointerError,
    RateLimit, RecordingColumn, RecordingState, SecretRef, SecretRefs, SessionColumn, SessionScope,
    SessionStatus,
};
