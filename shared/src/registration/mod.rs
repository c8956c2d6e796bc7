//! Manages platforms that are registered while the system runs.
//!
//! # Guarantees
//!
//! - A registration is in Redis before the request is answered. Every process knows it within two
//!   seconds, and after restarts (`registered_platform_is_known_everywhere_in_two_seconds`,
//!   `registration_is_encrypted_and_survives_restarts`).
//! - Secrets are sealed in Redis ([`Sealer`]) and appear in no log line and no error
//!   (`sealed_secret_opens_again_and_shows_nothing`).
//! - An unusable record stops no process and affects no other platform. It is logged and counted
//!   (`unusable_records_are_listed_and_the_others_load`).
//!
//! A process reads and changes registrations through [`RegistrationStore`]. A [`Snapshot`] is the
//! state that it knows.

mod change;
mod destinations;
mod record;
mod request;
mod seal;
mod snapshot;
mod store;

pub use change::RegistrationError;
pub use record::{RegistrationRecord, RegistrationState, SigningSecret, StoredSecret};
pub use request::{MAX_REQUEST_BYTES, MAX_SECRET_BYTES, Registration};
pub use seal::{Sealer, SealingKey, SealingKeyError};
pub use snapshot::Snapshot;
pub use store::{RegistrationStore, watch_registrations};
