//! Outages of Redis: their reason for people, and one log line for each instead of one per attempt.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use redis::ErrorKind;

use super::{CallError, Queue};

/// Longest text of Redis that is shown.
const MAX_TEXT_CHARS: usize = 300;
/// A fault that was logged so long ago is logged again, unless Redis has been unusable since.
const RELOG_AFTER: Duration = Duration::from_secs(10);

/// Reason why Redis cannot be used as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisTrouble {
    /// Code that Redis answered with, such as `MISCONF`; `None`: it did not answer.
    code: Option<String>,
    text: String,
}

impl RedisTrouble {
    /// Trouble that `fault` shows.
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

    /// Returns true if Redis answered, with a refusal.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        self.code.is_some()
    }

    /// Returns true if `other` is the same trouble, perhaps in other words.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.code == other.code
    }
}

impl fmt::Display for RedisTrouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what =
            if self.code.is_some() { "Redis refuses commands" } else { "Redis does not answer" };
        write!(f, "{what}: {}", self.text)
    }
}

/// Kinds of faults that were logged in the present outage.
#[derive(Debug, Default)]
pub struct OutageLog(Mutex<HashMap<Option<String>, Instant>>);

impl OutageLog {
    /// Logs that `task` could not be done because of `fault`: at WARN once for each kind of fault
    /// and outage, at DEBUG otherwise. The task tries again.
    pub fn failed(&self, task: &'static str, fault: &CallError) {
        let error = fault.error();
        if self.is_new(fault.code()) {
            tracing::warn!(task, %error, "Redis did not do its part; trying again");
        } else {
            tracing::debug!(task, %error, "Redis did not do its part; trying again");
        }
    }

    fn is_new(&self, code: Option<&str>) -> bool {
        self.logged().insert(code.map(str::to_owned), Instant::now()).is_none()
    }

    /// Redis can be used: what is logged from now on belongs to another outage.
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

    /// Checks that the server of `key` takes writes, without writing. Returns the refusal of a full
    /// one (`OOM`), which still takes what moves events and does not add any.
    ///
    /// # Errors
    /// When it takes no writes, in Redis's words.
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
