//! Defines the error codes of dead letters, for Redis, metrics, logs and filters.
//!
//! # Guarantees
//!
//! - A code keeps its spelling once a release has written it to Redis
//!   (`code_spellings_are_stable`).
//!
//! Readers keep an unknown code of a later release as text.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// Error for a text that is not a [`DeadLetterCode`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a dead-letter code")]
pub struct DeadLetterCodeError;

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident $text:literal),+ $(,)?) => {
        /// Reason for which an event or a delivery became a dead letter.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum DeadLetterCode { $($(#[$doc])* $variant),+ }

        impl DeadLetterCode {
            /// All codes, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Spelling in Redis, metrics and responses.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }
    };
}

codes! {
    /// The event's session did not appear in time.
    SessionNotFound "session_not_found",
    /// The session belongs to another platform.
    SessionConflict "session_conflict",
    /// The event is verified, but its values cannot be applied (wrong type, too long, missing).
    InvalidEvent "invalid_event",
    /// The entry's fields are not an event. The dead letter keeps the raw fields.
    Undecodable "undecodable",
    /// A release with a newer wire version wrote the entry.
    UnsupportedVersion "unsupported_version",
    /// The database refused this event alone.
    StoreRejected "store_rejected",
    /// The event is an edited replay, but the ledger has it already.
    AlreadyProcessed "already_processed",
    /// The process ended repeatedly while it executed this event alone.
    CrashLoop "crash_loop",
    /// Outbound: the destination refused the delivery permanently.
    Http4xx "http_4xx",
    /// Outbound: the destination failed on every attempt.
    Http5xx "http_5xx",
    /// Outbound: the destination did not respond in time.
    Timeout "timeout",
    /// Outbound: no connection could be made.
    Unreachable "unreachable",
    /// Outbound: the address is not allowed.
    BlockedAddress "blocked_address",
    /// Outbound: the destination responded with status 410.
    Gone "gone",
    /// Outbound: the destination's queue was full.
    Overflow "overflow",
    /// Outbound: the event passed through too many Tributary instances.
    Loop "loop",
}

impl fmt::Display for DeadLetterCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for DeadLetterCode {
    type Err = DeadLetterCodeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.iter().copied().find(|code| code.as_str() == text).ok_or(DeadLetterCodeError)
    }
}

impl Serialize for DeadLetterCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_parses_from_its_spelling() {
        for code in DeadLetterCode::ALL {
            assert_eq!(code.as_str().parse(), Ok(*code));
        }
        assert_eq!("Session_not_found".parse::<DeadLetterCode>(), Err(DeadLetterCodeError));
    }

    #[test]
    fn code_spellings_are_stable() {
        let all: Vec<&str> = DeadLetterCode::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(
            all.join(" "),
            "session_not_found session_conflict invalid_event undecodable unsupported_version \
             store_rejected already_processed crash_loop http_4xx http_5xx timeout unreachable \
             blocked_address gone overflow loop"
        );
    }
}
