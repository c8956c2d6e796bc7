//! Why an event became a dead letter: one closed table for dead letters, metrics, logs and the tool's filters.
//!
//! Guarantee: a code, once written to Redis, keeps its spelling. Codes of a later release are data to this one, not an
//! error: readers keep the text they do not know.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// A text that names no [`DeadLetterCode`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a dead-letter code")]
pub struct DeadLetterCodeError;

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident $text:literal),+ $(,)?) => {
        /// Why an event became a dead letter.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum DeadLetterCode { $($(#[$doc])* $variant),+ }

        impl DeadLetterCode {
            /// All of them, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Its spelling in Redis, metrics and answers.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }
    };
}

codes! {
    /// The session that the event is about did not appear in time.
    SessionNotFound "session_not_found",
    /// The session belongs to another platform.
    SessionConflict "session_conflict",
    /// Genuine and readable, but what it says cannot be applied (wrong type, too long, missing field).
    InvalidEvent "invalid_event",
    /// The entry's fields are not an event; its raw fields are kept.
    Undecodable "undecodable",
    /// Written by a release that this one does not understand.
    UnsupportedVersion "unsupported_version",
    /// The database refused this event, and only this one.
    StoreRejected "store_rejected",
    /// An edited replay of an event that has taken effect already.
    AlreadyProcessed "already_processed",
    /// Processing it alone ended the process, repeatedly.
    CrashLoop "crash_loop",
    /// Outbound: the destination refused it for good.
    Http4xx "http_4xx",
    /// Outbound: the destination kept failing.
    Http5xx "http_5xx",
    /// Outbound: no answer in time.
    Timeout "timeout",
    /// Outbound: no connection.
    Unreachable "unreachable",
    /// Outbound: the address is not allowed.
    BlockedAddress "blocked_address",
    /// Outbound: the destination said 410.
    Gone "gone",
    /// Outbound: the destination's queue was full.
    Overflow "overflow",
    /// Outbound: the event came from ourselves too often.
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
            "session_not_found session_conflict invalid_event undecodable unsupported_version store_rejected \
             already_processed crash_loop http_4xx http_5xx timeout unreachable blocked_address gone overflow loop"
        );
    }
}
