//! Sets up logging.
//!
//! # Guarantees
//!
//! - One subscriber writes all log lines to standard output, panics included. Each line is text or
//!   one JSON object.
//! - No log line holds a secret, a signature or a body
//!   (`outputs_hold_no_secret_signature_or_body`). A panic is logged by its location, since
//!   its message may quote data.

use std::io::{self, IsTerminal};
use std::str::FromStr;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

/// Format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Text, for people.
    #[default]
    Text,
    /// One object per line: `timestamp`, `level`, `target`, `message` and the fields of the event.
    Json,
}

/// Error for a text other than `text` and `json`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("must be text or json")]
pub struct LogFormatError;

impl FromStr for LogFormat {
    type Err = LogFormatError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(LogFormatError),
        }
    }
}

/// Default directives, which a filter can override by target.
///
/// actix logs details of start and stop, and logs an error for each request that is not HTTP.
/// Notices of PostgreSQL are those of an application's triggers.
const DEFAULT_DIRECTIVES: &str =
    "actix_server=warn,actix_http::h1::dispatcher=off,sqlx::postgres::notice=error";

/// Error: logging cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is invalid.
    #[error("invalid log filter")]
    Filter(#[from] ParseError),
    /// A subscriber is installed already.
    #[error("logging is set up already")]
    Installed(#[from] TryInitError),
}

/// Checks a filter in the syntax of `RUST_LOG`.
///
/// # Errors
/// The filter is invalid.
pub fn check_filter(filter: &str) -> Result<(), ParseError> {
    EnvFilter::builder().parse(filter).map(drop)
}

/// Installs the subscriber and the panic hook of the process. Call it once.
///
/// # Errors
/// `filter` is invalid, or a subscriber is installed already.
pub fn init(format: LogFormat, filter: &str) -> Result<(), TelemetryError> {
    let filter = EnvFilter::builder().parse(format!("{DEFAULT_DIRECTIVES},{filter}"))?;
    let lines = tracing_subscriber::fmt::layer().with_ansi(io::stdout().is_terminal());
    let registry = tracing_subscriber::registry().with(filter);
    match format {
        LogFormat::Text => registry.with(lines).try_init()?,
        LogFormat::Json => {
            registry.with(lines.json().flatten_event(true).with_current_span(false)).try_init()?
        }
    }
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location();
        let thread = std::thread::current();
        tracing::error!(
            file = place.map_or("unknown", |at| at.file()),
            line = place.map_or(0, |at| at.line()),
            thread = thread.name().unwrap_or("unnamed"),
            "panicked"
        );
    }));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_named_exactly() {
        assert_eq!("text".parse(), Ok(LogFormat::Text));
        assert_eq!("json".parse(), Ok(LogFormat::Json));
        assert_eq!("JSON".parse::<LogFormat>(), Err(LogFormatError));
    }

    #[test]
    fn filters_are_checked_before_use() {
        assert!(check_filter("info,ingress=debug").is_ok());
        assert!(check_filter("ingress=loud").is_err());
    }
}
