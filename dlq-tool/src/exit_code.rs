//! How a run ends: the closed table of exit codes, and what leads to which.

use std::io;

use redis::{ErrorKind, RedisError, ServerErrorKind};
use shared::queue::CallError;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunOutcome {
    /// Everything that was asked for.
    Done,
    /// Some entries could not be done, or the run was stopped before the last one; stderr accounts for them.
    Incomplete,
    /// Nothing matched the selection.
    NothingMatched,
}

/// Why a run could not go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ToolError {
    /// The command line or the configuration is wrong.
    #[error("{0}")]
    Usage(String),
    /// Redis cannot be reached, or does not answer.
    #[error("cannot reach Redis{}", at(.address.as_deref()))]
    Unreachable {
        /// Host and port; never the password.
        address: Option<String>,
        /// What the client saw.
        source: RedisError,
    },
    /// Redis wants other credentials.
    #[error("Redis does not accept these credentials")]
    Credentials(#[source] RedisError),
    /// Redis answered with an error.
    #[error("Redis refused")]
    Refused(#[source] RedisError),
    /// The input could not be read.
    #[error("cannot read the input")]
    Input(#[source] io::Error),
    /// The output could not be written.
    #[error("cannot write the output")]
    Output(#[from] io::Error),
}

/// Sorted by what the operator can do about it.
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
    /// Says which Redis.
    pub(crate) fn with_address(self, redis: &str) -> Self {
        match self {
            Self::Unreachable { source, .. } => {
                Self::Unreachable { address: Some(redis.to_owned()), source }
            }
            other => other,
        }
    }

    /// The error and what it came from, each once.
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

/// The number a run ends with. A reader that closed the pipe has what it wanted: that is no error.
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
