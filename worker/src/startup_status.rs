//! Collects the reasons why a start is not complete, for `/ready` and the log.

use std::sync::{Mutex, OnceLock, PoisonError};

use shared::queue::RedisHealth;
use tokio::sync::watch;

/// Reasons why a started process does not work yet.
#[derive(Debug, Default)]
pub(crate) struct StartupStatus {
    redis: OnceLock<watch::Receiver<RedisHealth>>,
    database: Mutex<Option<String>>,
}

impl StartupStatus {
    /// Watches Redis from now on.
    pub(crate) fn watch(&self, redis: watch::Receiver<RedisHealth>) {
        let _ = self.redis.set(redis);
    }

    /// Records why the database cannot be used, and logs a new reason.
    pub(crate) fn note_database(&self, reason: String) {
        let mut noted = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.as_ref() != Some(&reason) {
            tracing::error!(reason, "cannot use the session database; retrying");
            *noted = Some(reason);
        }
    }

    /// Records that the database can be used.
    pub(crate) fn note_database_ready(&self) {
        *self.database.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Returns all reasons in one line.
    pub(crate) fn reason(&self) -> String {
        let redis = self
            .redis
            .get()
            .and_then(|redis| redis.borrow().trouble.as_ref().map(ToString::to_string));
        let database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let database = database
            .as_ref()
            .map(|reason| format!("the session database cannot be used: {reason}"));
        let reasons: Vec<String> = redis.into_iter().chain(database).collect();
        if reasons.is_empty() {
            "waiting for Redis and the session database".to_owned()
        } else {
            reasons.join("; ")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn startup_status_names_each_unavailable_dependency() {
        let waiting = StartupStatus::default();
        assert_eq!(waiting.reason(), "waiting for Redis and the session database");
        waiting.note_database("no route".to_owned());
        assert_eq!(waiting.reason(), "the session database cannot be used: no route");
        waiting.note_database_ready();
        assert_eq!(waiting.reason(), "waiting for Redis and the session database");
    }
}
