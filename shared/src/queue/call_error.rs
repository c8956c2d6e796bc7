//! Failed calls to Redis, classified by whether the call may have been executed.
//!
//! # Guarantees
//!
//! - [`CallError::NotRun`] means that the call certainly changed nothing
//!   (`batch_above_the_maximum_is_not_sent`).
//! - Every other failure is [`CallError::Unknown`]; callers must treat such a call as possibly
//!   executed (`lost_reply_is_an_unknown_result`).

use redis::{ErrorKind, RedisError, ServerErrorKind};

/// Failed call to Redis.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallError {
    /// Redis certainly did not execute the call: unreachable, refused before execution, full,
    /// read-only or loading.
    #[error("Redis did not run the call")]
    NotRun(#[source] RedisError),
    /// The reply was lost or has an unexpected shape, so the call may have been executed.
    #[error("the outcome of the Redis call is unknown")]
    Unknown(#[source] RedisError),
}

/// Error codes that Redis returns before it executes anything.
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
    /// Classifies the error of a command.
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

    /// Returns the error for a reply of an unexpected shape.
    pub(crate) fn unexpected_reply(problem: &'static str) -> Self {
        Self::Unknown((ErrorKind::UnexpectedReturnType, problem).into())
    }

    /// Returns the error that Redis itself gives for a write to a replica.
    pub(crate) fn read_only() -> Self {
        let detail = "You can't write against a read only replica.".to_owned();
        Self::NotRun((ErrorKind::Server(ServerErrorKind::ReadOnly), "refused", detail).into())
    }

    /// Underlying error of the client.
    #[must_use]
    pub fn error(&self) -> &RedisError {
        match self {
            Self::NotRun(error) | Self::Unknown(error) => error,
        }
    }

    /// Consumes this error and returns the underlying one.
    #[must_use]
    pub fn into_error(self) -> RedisError {
        match self {
            Self::NotRun(error) | Self::Unknown(error) => error,
        }
    }

    /// Returns true if Redis certainly did not execute the call.
    #[must_use]
    pub fn certainly_not_run(&self) -> bool {
        matches!(self, Self::NotRun(_))
    }

    /// Error code of Redis (`OOM`, `NOGROUP`, …), if Redis replied with one.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        self.error().code()
    }

    /// Returns true if a stream or its consumer group is missing.
    #[must_use]
    pub fn is_no_group(&self) -> bool {
        self.code() == Some("NOGROUP")
    }

    /// Returns true if a key holds a value of another type.
    #[must_use]
    pub fn is_wrong_type(&self) -> bool {
        self.code() == Some("WRONGTYPE")
    }

    /// Returns true if Redis is at `maxmemory`.
    #[must_use]
    pub fn is_out_of_memory(&self) -> bool {
        self.code() == Some("OOM")
    }
}
