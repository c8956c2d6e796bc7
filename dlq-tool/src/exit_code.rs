//! Exit codes, and the outcomes and errors that lead to them.

use std::io;

use redis::{ErrorKind, RedisError, ServerErrorKind};
use shared::queue::CallError;

/// Outcome of a run without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunOutcome {
    /// Everything requested was done.
    Done,
    /// Some entries failed, or the run was stopped; stderr names them.
    Incomplete,
    /// Nothing matched the selection.
    NothingMatched,
}

/// Error that ends a run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ToolError {
    /// Wrong command line or configuration.
    #[error("{0}")]
    Usage(String),
    /// Redis is unavailable.
    #[error("cannot reach Redis{}", at(.address.as_deref()))]
    Unreachable {
        /// Host and port, without the password.
        address: Option<String>,
        /// Error of the client.
        source: RedisError,
    },
    /// Redis rejects the credentials.
    #[error("Redis does not accept these credentials")]
    Credentials(#[source] RedisError),
    /// Redis returned an error.
    #[error("Redis returned an error")]
    Refused(#[source] RedisError),
    /// The input cannot be read.
    #[error("cannot read the input")]
    Input(#[source] io::Error),
    /// The output cannot be written.
    #[error("cannot write the output")]
    Output(#[from] io::Error),
}

/// Maps errors by what the operator can do about them.
impl From<CallError> for ToolError {
    fn from(fault: CallError) -> Self {
        let error = fault.into_error();
        match (error.kind(), error.code()) {
            (ErrorKind::AuthenticationFailed, _) | (_, Some("NOAUTH" | "WRONGPASS" | "NOPERM")) => {
                Self::Credentials(error)
            }
            (
                ErrorKind::Server(
                    ServerErrorKind::BusyLoading
                    | ServerErrorKind::MasterDown
                    | ServerErrorKind::ClusterDown,
                ),
                _,
            ) => Self::Unreachable { address: None, source: error },
            (ErrorKind::Server(_) | ErrorKind::Extension, _)
            | (ErrorKind::UnexpectedReturnType | ErrorKind::Parse, _) => Self::Refused(error),
            _ => Self::Unreachable { address: None, source: error },
        }
    }
}

impl ToolError {
    /// Adds the address of Redis to the error.
    pub(crate) fn with_address(self, redis: &str) -> Self {
        match self {
            Self::Unreachable { source, .. } => {
                Self::Unreachable { address: Some(redis.to_owned()), source }
            }
            other => other,
        }
    }

    /// Returns the error and its causes, each once.
    pub(crate) fn error_chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let more = error.to_string();
            if !text.ends_with(&more) {
                text.push_str(": ");
                text.push_str(&more);
            }
            cause = error.source();
        }
        text
    }
}

fn at(address: Option<&str>) -> String {
    address.map(|address| format!(" at {address}")).unwrap_or_default()
}

/// Returns the exit code of a run. A closed pipe is not an error.
pub(crate) fn code(result: &Result<RunOutcome, ToolError>) -> u8 {
    match result {
        Ok(RunOutcome::Done) => 0,
        Err(ToolError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => 0,
        Ok(RunOutcome::Incomplete)
        | Err(ToolError::Refused(_) | ToolError::Input(_) | ToolError::Output(_)) => 1,
        Err(ToolError::Usage(_) | ToolError::Credentials(_)) => 2,
        Ok(RunOutcome::NothingMatched) => 3,
        Err(ToolError::Unreachable { .. }) => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closed_pipe_exits_with_0() {
        assert_eq!(code(&Err(ToolError::Output(io::ErrorKind::BrokenPipe.into()))), 0);
        assert_eq!(code(&Err(ToolError::Output(io::ErrorKind::StorageFull.into()))), 1);
    }

    #[test]
    fn redis_errors_map_to_exit_codes() {
        let of = |kind: ErrorKind| code(&Err(CallError::Unknown((kind, "").into()).into()));
        assert_eq!(of(ErrorKind::Io), 4);
        assert_eq!(of(ErrorKind::AuthenticationFailed), 2);
        assert_eq!(of(ErrorKind::Server(ServerErrorKind::BusyLoading)), 4);
        assert_eq!(of(ErrorKind::Server(ServerErrorKind::ResponseError)), 1);
        assert_eq!(of(ErrorKind::Server(ServerErrorKind::NoPerm)), 2);
    }
}
