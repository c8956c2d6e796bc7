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
    (
        $($(#[doc = $doc:literal])+ $variant:ident $text:literal => $remedy:literal),+ $(,)?
    ) => {
        /// Reason for which an event or a delivery became a dead letter.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum DeadLetterCode { $($(#[doc = $doc])+ $variant),+ }

        impl DeadLetterCode {
            /// All codes, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Spelling in Redis, metrics and responses.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// Cause of the dead letter: the sentences of the doc comment.
            #[must_use]
            pub const fn description(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+).trim_ascii_start()),+ }
            }

            /// Remedy for the operator, in sentences.
            #[must_use]
            pub const fn remedy(self) -> &'static str {
                match self { $(Self::$variant => $remedy),+ }
            }
        }
    };
}

codes! {
    /// The event's session did not appear in time.
    SessionNotFound "session_not_found" => "Announce the session, then replay.",
    /// The session belongs to another platform, and no live stream id of the event leads to one of
    /// this platform.
    SessionConflict "session_conflict" => "Check `session_scope`, then replay.",
    /// The event is verified, but has no usable session, id or number of viewers.
    InvalidEvent "invalid_event" => "Read `error`, correct the definition, then replay.",
    /// The entry's fields are not an event. The dead letter keeps the raw fields.
    Undecodable "undecodable" => "Find the program that wrote it, upgrade, then replay.",
    /// A release with a newer wire version wrote the entry.
    UnsupportedVersion "unsupported_version" => "Upgrade the workers, then replay.",
    /// The database refused this event alone.
    StoreRejected "store_rejected" => "Read `error`, which names the table, then replay.",
    /// The event is an edited replay, but the ledger has it already.
    AlreadyProcessed "already_processed" => "Purge it.",
    /// The process ended repeatedly while it executed this event alone.
    CrashLoop "crash_loop" => "Report a bug. Replay after an upgrade.",
    /// The destination refused the delivery permanently.
    Http4xx "http_4xx" => "Correct the destination, then replay.",
    /// The destination failed on every attempt.
    Http5xx "http_5xx" => "Replay when the destination has recovered.",
    /// The destination did not respond in time.
    Timeout "timeout" => "Replay when the destination has recovered.",
    /// No connection to the destination could be made: no address, no answer, or TLS failed.
    Unreachable "unreachable" => "Check the URL and the network, then replay.",
    /// The destination's address is not public, and not allowed.
    BlockedAddress "blocked_address" => "Check the URL, or set `WEBHOOK_ALLOW_PRIVATE`.",
    /// The destination responded with status 410.
    Gone "gone" => "Remove the destination, and purge its dead letters.",
    /// The destination's queue was full.
    Overflow "overflow" => "Replay when the destination has recovered.",
    /// The event passed through too many Tributary instances.
    Loop "loop" => "Remove one destination from the circle, then purge.",
}

impl DeadLetterCode {
    /// Returns true if the dead letter is a delivery to a destination.
    #[must_use]
    pub const fn is_of_delivery(self) -> bool {
        match self {
            Self::SessionNotFound
            | Self::SessionConflict
            | Self::InvalidEvent
            | Self::Undecodable
            | Self::UnsupportedVersion
            | Self::StoreRejected
            | Self::AlreadyProcessed
            | Self::CrashLoop => false,
            Self::Http4xx
            | Self::Http5xx
            | Self::Timeout
            | Self::Unreachable
            | Self::BlockedAddress
            | Self::Gone
            | Self::Overflow
            | Self::Loop => true,
        }
    }
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
    fn code_describes_cause_and_remedy_in_sentences() {
        let description = DeadLetterCode::Undecodable.description();
        assert_eq!(
            description,
            "The entry's fields are not an event. The dead letter keeps the raw fields."
        );
        for code in DeadLetterCode::ALL {
            assert!(code.description().ends_with('.') && code.remedy().ends_with('.'), "{code}");
        }
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
