//! Platforms that are registered while the system runs.
//!
//! Guarantee: what is registered is in Redis before it is answered for, is known to every process within a second and
//! after restarts, and never shows its secret: that is sealed in Redis ([`Sealer`]), and neither a log line nor an error
//! holds it. Whatever stands in Redis, no process stops over it: a record that this process cannot use (of a later
//! version, unsound, sealed with another key) is set aside, told and counted, and the others stand.
//!
//! [`RegistrationStore`] is how a process knows of registrations and changes them; [`Snapshot`] is what it knows.

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
