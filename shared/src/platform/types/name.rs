//! What platforms and their queues may be called.
//!
//! Guarantee: a [`PlatformName`] fits into a key of Redis, a path and a label as it is.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;

/// A platform's canonical name: `^[a-z0-9][a-z0-9_-]{0,63}$`. Aliases are resolved before one of these exists.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct PlatformName(Arc<str>);

/// A text outside the closed set that it should name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{what} must be {expected}")]
pub struct NameError {
    /// What was named.
    pub what: &'static str,
    /// What it may be.
    pub expected: &'static str,
}

impl PlatformName {
    /// The reserved platform on which applications announce sessions (`PUT /api/v1/sessions/{room_id}`).
    pub const SESSIONS: &'static str = "sessions";
    /// What stands before a destination's name in that of its queue.
    const DESTINATION_PREFIX: &'static str = "out:";

    /// Checks the grammar. Reserved words are the registry's business, since the system itself uses one.
    ///
    /// # Errors
    /// When `name` does not match `^[a-z0-9][a-z0-9_-]{0,63}$`.
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

    /// The name of a queue: a platform's, or `out:` and a destination's. No platform can be called so: names hold no
    /// colon. Only those who look at queues ask for this.
    ///
    /// # Errors
    /// When it is neither.
    pub fn queue(name: &str) -> Result<Self, NameError> {
        match name.strip_prefix(Self::DESTINATION_PREFIX) {
            Some(destination) => Self::new(destination).map(|_| Self(name.into())),
            None => Self::new(name),
        }
    }

    /// The destination whose queue this is the name of; `None`: it is a platform's.
    #[must_use]
    pub fn destination(&self) -> Option<&str> {
        self.0.strip_prefix(Self::DESTINATION_PREFIX)
    }

    /// The name's text.
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
