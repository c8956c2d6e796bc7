//! Describes platforms as data: verification, the locations of id, type, time and session, and the
//! effect of each event type.
//!
//! # Guarantees
//!
//! - A [`Platform`] has passed all checks of [`registry`], so no unknown scheme, column or status
//!   appears after the start (`compile_reports_all_problems_at_once`).
//!
//! # Design
//!
//! A platform holds references to secrets ([`SecretRef`]). Only ingress resolves them.

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
