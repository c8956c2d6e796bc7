//! What went wrong with a call to Redis, sorted by the one question that matters: may it have happened?
//!
//! Guarantee: [`CallError::NotRun`] is only said when the call certainly changed nothing. Everything doubtful is
//! [`CallError::Unknown`], and whoever gets one must treat the call as possibly done.

use redis::{ErrorKind, RedisError, ServerErrorKind};

/// A failed call.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallError {
    /// Redis certainly did not execute it: not reachable, refused before execution, full, read-only, loading.
    #[error("Redis did not run the call")]
    NotRun(#[source] RedisError),
    /// The answer was lost or makes no sense: it may have been executed.
    #[error("the outcome of the Redis call is unknown")]
    Unknown(#[source] RedisError),
}

/// Error codes that Redis answers with before it executes anything.
const NOT_RUN_CODES: &[&str] = &[
    "ASK",
    "BUSY",
    "BUSYGROUP",
    "CLUSTERDOWN",
    "CROSSSLOT",
    "DENIED",
    "LOADING",
    "MASTERDOWN",
    "MISCONF",
    "MOVED",
    "NOAUTH",
    "NOGROUP",
    "NOPERM",
    "NOREPLICAS",
    "NOSCRIPT",
    "OOM",
    "READONLY",
    "TRYAGAIN",
    "WRONGPASS",
    "WRONGTYPE",
];

impl CallError {
    /// Sorts an error that a command came back with.
    #[must_use]
    pub fn classify(error: RedisError) -> Self {
        let refused = match error.kind() {
            ErrorKind::Server(_) | ErrorKind::Extension => {
                error.code().is_some_and(|code| NOT_RUN_CODES.contains(&code))
            }
            ErrorKind::InvalidClientConfig | ErrorKind::AuthenticationFailed => true,
            _ => error.is_connection_refusal(),
        };
        if refused { Self::NotRun(error) } else { Self::Unknown(error) }
    }

    /// An answer of the wrong shape.
    pub(crate) fn unexpected_reply(what: &'static str) -> Self {
        Self::Unknown((ErrorKind::UnexpectedReturnType, what).into())
    }

    /// The refusal of a replica, as Redis words it.
    pub(crate) fn read_only() -> Self {
        let words = "You can't write against a read only replica.".to_owned();
        Self::NotRun((ErrorKind::Server(ServerErrorKind::ReadOnly), "refused", words).into())
    }

    /// The error beneath.
    #[must_use]
    pub fn error(&self) -> &RedisError {
        match self {
            Self::NotRun(error) | Self::Unknown(error) => error,
        }
    }

    /// The error beneath, by value.
    #[must_use]
    pub fn into_error(self) -> RedisError {
        match self {
            Self::NotRun(error) | Self::Unknown(error) => error,
        }
    }

    /// Whether Redis certainly did not execute the call.
    #[must_use]
    pub fn certainly_not_run(&self) -> bool {
        matches!(self, Self::NotRun(_))
    }

    /// The code Redis answered with (`OOM`, `NOGROUP`, …), if it answered.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        self.error().code()
    }

    /// A stream or its consumer group is missing.
    #[must_use]
    pub fn is_no_group(&self) -> bool {
        self.code() == Some("NOGROUP")
    }

    /// A key holds something else than it should.
    #[must_use]
    pub fn is_wrong_type(&self) -> bool {
        self.code() == Some("WRONGTYPE")
    }

    /// Redis is at `maxmemory`.
    #[must_use]
    pub fn is_out_of_memory(&self) -> bool {
        self.code() == Some("OOM")
    }
}
