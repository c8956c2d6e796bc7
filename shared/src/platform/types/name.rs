//! Defines the names of platforms and their queues.
//!
//! # Guarantees
//!
//! - A [`PlatformName`] needs no escaping in a Redis key, a path or a label
//!   (`invalid_platform_names_are_refused`).

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;

/// Canonical name of a platform: `^[a-z0-9][a-z0-9_-]{0,63}$`. Aliases are resolved first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct PlatformName(Arc<str>);

/// Error of a text outside its set of allowed values.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{what} must be {expected}")]
pub struct NameError {
    /// Kind of the name.
    pub what: &'static str,
    /// Allowed values.
    pub expected: &'static str,
}

impl PlatformName {
    /// Reserved platform on which applications announce sessions
    /// (`PUT /api/v1/sessions/{room_id}`).
    pub const SESSIONS: &'static str = "sessions";
    /// Prefix of the queue name of a destination.
    const DESTINATION_PREFIX: &'static str = "out:";

    /// Checks the grammar. The registry refuses reserved words, since the system uses one of them
    /// itself.
    ///
    /// # Errors
    /// Returns an error if `name` does not match `^[a-z0-9][a-z0-9_-]{0,63}$`.
    pub fn new(name: &str) -> Result<Self, NameError> {
        let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = name.as_bytes();
        let fits = (1..=64).contains(&bytes.len())
            && bytes.first().is_some_and(|b| good(*b))
            && bytes.iter().all(|b| good(*b) || matches!(b, b'_' | b'-'));
        if fits {
            Ok(Self(name.into()))
        } else {
            Err(NameError {
                what: "a platform name",
                expected: "1 to 64 of a-z, 0-9, '_' and '-', beginning with a letter or digit",
            })
        }
    }

    /// Parses the name of a queue: a platform's name, or `out:` with a destination's name. Platform
    /// names have no colon, so the two never collide. Only tools that read queues use this.
    ///
    /// # Errors
    /// Returns an error if it is neither.
    pub fn queue(name: &str) -> Result<Self, NameError> {
        match name.strip_prefix(Self::DESTINATION_PREFIX) {
            Some(destination) => Self::new(destination).map(|_| Self(name.into())),
            None => Self::new(name),
        }
    }

    /// Returns the destination of this queue name, or `None` for a platform.
    #[must_use]
    pub fn destination(&self) -> Option<&str> {
        self.0.strip_prefix(Self::DESTINATION_PREFIX)
    }

    /// Text of the name.
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
