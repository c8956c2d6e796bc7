//! Outages of Redis: a readable reason, and one log line per outage instead of one per attempt.
//!
//! # Guarantees
//!
//! - An operator sees Redis's own words for a refusal (`trouble_shows_the_words_of_redis`).
//! - A kind of failure is logged at WARN once per outage
//!   (`call_error_is_logged_once_until_redis_recovers`).

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use redis::ErrorKind;

use super::{CallError, Queue};

/// Longest text of Redis that is shown, in characters.
const MAX_TEXT_CHARS: usize = 300;
/// Time after which a failure is logged again, unless Redis has been unusable since.
const RELOG_AFTER: Duration = Duration::from_secs(10);

/// Reason why Redis cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisTrouble {
    /// Error code of Redis, such as `MISCONF`; `None`: Redis did not answer.
    code: Option<String>,
    text: String,
}

impl RedisTrouble {
    /// Derives the reason from a failed call.
    #[must_use]
    pub fn of(fault: &CallError) -> Self {
        let error = fault.error();
        if error.kind() == ErrorKind::AuthenticationFailed {
            // The client drops Redis's own words here.
            let text =
                "WRONGPASS (AUTH was refused; check the user name and password of REDIS_URL)";
            return Self { code: Some("WRONGPASS".to_owned()), text: text.to_owned() };
        }
        let code = fault.code().map(str::to_owned);
        let text = match (&code, error.detail()) {
            (Some(code), Some(detail)) => format!("{code} {detail}"),
            _ => error.to_string(),
        };
        let printable = text.chars().map(|c| if c.is_control() { ' ' } else { c });
        Self { code, text: printable.take(MAX_TEXT_CHARS).collect() }
    }

    /// Returns true if Redis answered with a refusal.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        self.code.is_some()
    }

    /// Returns true if `other` has the same cause; its text may differ.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.code == other.code
    }
}

impl fmt::Display for RedisTrouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let summary =
            if self.code.is_some() { "Redis refuses commands" } else { "Redis does not answer" };
        write!(f, "{summary}: {}", self.text)
    }
}

/// Kinds of failures that were logged in the present outage, with the time of their log line.
#[derive(Debug, Default)]
pub struct OutageLog(Mutex<HashMap<Option<String>, Instant>>);

impl OutageLog {
    /// Logs that `task` failed because of `fault`: at WARN once per kind of failure and outage,
    /// else at DEBUG. The caller retries the task.
    pub fn failed(&self, task: &'static str, fault: &CallError) {
        let error = fault.error();
        if self.is_new(fault.code()) {
            tracing::warn!(task, %error, "Redis call failed; retrying");
        } else {
            tracing::debug!(task, %error, "Redis call failed; retrying");
        }
    }

    fn is_new(&self, code: Option<&str>) -> bool {
        self.logged().insert(code.map(str::to_owned), Instant::now()).is_none()
    }

    /// Ends the outage: failures from now on belong to another one.
    pub(super) fn recovered(&self) {
        self.logged().retain(|_, at| at.elapsed() < RELOG_AFTER);
    }

    fn logged(&self) -> std::sync::MutexGuard<'_, HashMap<Option<String>, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// Log of failed calls.
    #[must_use]
    pub fn outage_log(&self) -> &OutageLog {
        &self.outage
    }

    /// Checks without writing that the server of `key` accepts writes. Returns the refusal of a
    /// full one (`OOM`), which still lets events be moved.
    ///
    /// # Errors
    /// If the server accepts no writes, with Redis's own words.
    pub(super) async fn check_writes(&self, key: &str) -> Result<Option<CallError>, CallError> {
        let call = self.scripts.check_enqueue.call(&[key], 0);
        match self.scripts.check_enqueue.run(&self.connection, &call).await {
            Ok(_) => Ok(None),
            Err(full) if full.is_out_of_memory() => {
                let call = self.scripts.check_settle.call(&[key], 0);
                self.scripts.check_settle.run(&self.connection, &call).await.map(|_| Some(full))
            }
            Err(fault) => Err(fault),
        }
    }
}

#[cfg(test)]
mod tests {
    use redis::RedisError;

    use super::*;

    fn refusal() -> CallError {
        let error = redis::parse_redis_value(b"-MISCONF Errors writing\tto the AOF\r\n");
        let error = error.and_then(redis::Value::extract_error);
        CallError::classify(error.err().unwrap_or_else(|| (ErrorKind::Client, "no error").into()))
    }

    #[test]
    fn trouble_shows_the_words_of_redis() {
        let shown = RedisTrouble::of(&refusal()).to_string();
        assert_eq!(shown, "Redis refuses commands: MISCONF Errors writing to the AOF");
        let lost = RedisError::from(std::io::Error::from(std::io::ErrorKind::ConnectionRefused));
        let shown = RedisTrouble::of(&CallError::classify(lost)).to_string();
        assert!(shown.starts_with("Redis does not answer: "), "{shown}");
    }

    #[test]
    fn call_error_is_logged_once_until_redis_recovers() {
        let log = OutageLog::default();
        assert!(log.is_new(Some("MISCONF")));
        assert!(!log.is_new(Some("MISCONF")));
        assert!(log.is_new(None));
        log.recovered();
        assert!(!log.is_new(Some("MISCONF")), "the same outage, or one that follows at once");
        log.logged().values_mut().for_each(|at| *at -= RELOG_AFTER);
        log.recovered();
        assert!(log.is_new(Some("MISCONF")));
    }
}
