//! Reads the configuration of a worker from environment variables.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use shared::backoff::Backoff;
use shared::config::variables::{
    CLAIM_IDLE_MS, DATABASE_URL, DLQ_MAX_LEN, MAX_ATTEMPTS, MISSING_SESSION_WAIT_MS, RETRY_BASE_MS,
    RETRY_MAX_MS, WORKER_NAME, WORKER_OPS_BIND,
};
use shared::config::{CommonConfig, Env, Problem, SecretText, percent_encoding_hint};
use shared::outbound::{self, config::OutboundConfig};
use sqlx::postgres::PgConnectOptions;
use std::str::FromStr;

use crate::consumer::outcome::RetryPolicy;
use crate::retention::Retention;

/// Longest `WORKER_NAME`, in bytes.
const MAX_NAME_BYTES: usize = 100;

/// Configuration of a worker.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// Settings shared with ingress.
    pub common: CommonConfig,
    /// `DATABASE_URL`.
    pub database_url: SecretString,
    /// `WORKER_NAME`, or the host name. A slot number is added.
    pub name: String,
    /// `MAX_ATTEMPTS`, `RETRY_BASE_MS`, `RETRY_MAX_MS`, `MISSING_SESSION_WAIT_MS`.
    pub policy: RetryPolicy,
    /// `CLAIM_IDLE_MS`: idle time after which another worker claims an entry.
    pub claim_idle: Duration,
    /// `DLQ_MAX_LEN`: dead letters kept per platform.
    pub dlq_max_len: u64,
    /// Destinations of the `WEBHOOK_…` variables and of `PLATFORMS_FILE`.
    pub outbound: OutboundConfig,
    /// `EVENTS_RETENTION_DAYS`, `DLQ_RETENTION_DAYS`, `DLQ_ARCHIVE_DIR`.
    pub retention: Retention,
    /// `--adopt-database`: bind this database to this Redis in place of the former one.
    pub adopt_database: bool,
}

impl WorkerConfig {
    /// Reads and checks the environment.
    ///
    /// # Errors
    /// Every problem, by variable name.
    pub fn read(env: &Env, adopt_database: bool) -> Result<Self, Vec<Problem>> {
        let base = env.span(&RETRY_BASE_MS);
        let max = env.span(&RETRY_MAX_MS);
        if base > max {
            env.problem(RETRY_BASE_MS.name, "must not exceed RETRY_MAX_MS");
        }
        let common = CommonConfig::read(env, &WORKER_OPS_BIND);
        let outbound = outbound::config::load(env, common.platforms_file.as_deref(), true);
        let config = Self {
            common,
            database_url: database_url(env),
            name: name(env),
            policy: RetryPolicy {
                max_attempts: env.number(&MAX_ATTEMPTS),
                backoff: Backoff::new(base, max),
                missing_session_wait: env.span(&MISSING_SESSION_WAIT_MS),
            },
            // Workers extend their claims three times in this span. A shorter span would claim
            // entries of workers that are still processing them.
            claim_idle: env.span(&CLAIM_IDLE_MS),
            dlq_max_len: env.number(&DLQ_MAX_LEN),
            outbound,
            retention: Retention::read(env),
            adopt_database,
        };
        env.finish().map(|()| config)
    }
}

fn database_url(env: &Env) -> SecretString {
    let url = env.text(DATABASE_URL.name);
    let default = DATABASE_URL.default_text().unwrap_or_default();
    let url = SecretString::from(url.as_ref().map_or(default.as_str(), SecretText::clean));
    let known = ["sqlite:", "postgres://", "postgresql://"];
    let text = url.expose_secret();
    let is_server = known[1..].iter().any(|scheme| text.starts_with(scheme));
    if !known.iter().any(|scheme| text.starts_with(scheme)) {
        env.problem(DATABASE_URL.name, "must begin with sqlite:// or postgres://");
    } else if let Some(hint) = percent_encoding_hint(text).filter(|_| is_server) {
        env.problem(DATABASE_URL.name, hint);
    } else if is_server && PgConnectOptions::from_str(text).is_err() {
        env.problem(
            DATABASE_URL.name,
            "must be of the form postgres://[user[:password]@]host[:port]/database[?parameters]",
        );
    }
    url
}

fn name(env: &Env) -> String {
    let name = env.opt(WORKER_NAME.name).or_else(host_name).unwrap_or_else(|| "worker".to_owned());
    if name.len() > MAX_NAME_BYTES || !name.bytes().all(|b| b.is_ascii_graphic()) {
        env.problem(
            WORKER_NAME.name,
            "must be at most 100 printable ASCII characters without spaces",
        );
    }
    name
}

fn host_name() -> Option<String> {
    let raw = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .or_else(|| std::env::var("HOSTNAME").ok())?;
    let name = raw.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn defaults_match_the_documentation() {
        let config = WorkerConfig::read(&Env::from_pairs([("WORKER_NAME", "w")]), false).unwrap();
        assert_eq!(config.database_url.expose_secret(), "sqlite://tributary.db");
        assert_eq!(config.policy.max_attempts, 5);
        assert_eq!(config.policy.missing_session_wait, Duration::from_secs(60));
        assert_eq!(config.claim_idle, Duration::from_secs(30));
        assert_eq!(config.dlq_max_len, 1_000_000);
        assert_eq!(config.retention, Retention::default());
        assert_eq!(config.common.ops_bind.port(), 9101);
    }

    #[test]
    fn database_url_that_cannot_be_parsed_is_a_problem() {
        let read = |url: &str| {
            let env = Env::from_pairs([("DATABASE_URL", url), ("WORKER_NAME", "w")]);
            WorkerConfig::read(&env, false).err().map(|problems| shared::config::report(&problems))
        };
        assert_eq!(read("postgres://user:p%2Fw@host/db"), None);
        assert_eq!(read("sqlite:///data/a@b.db"), None);
        for url in ["postgres://user:hunt/er2@host/db", "postgres://user:12/34@host/db"] {
            let text = read(url).unwrap();
            assert!(text.contains("DATABASE_URL") && text.contains("%2F"), "{text}");
            assert!(!text.contains("er2") && !text.contains("34"), "{text}");
        }
        let text = read("postgres://host:hunter2/db").unwrap();
        assert!(text.contains("postgres://[user") && !text.contains("hunter2"), "{text}");
    }

    #[test]
    fn problems_are_reported_together_without_values() {
        let env = Env::from_pairs([
            ("DATABASE_URL", "mysql://user:hunter2@db"),
            ("MAX_ATTEMPTS", "0"),
            ("RETRY_BASE_MS", "60000"),
            ("CLAIM_IDLE_MS", "soon"),
            ("DLQ_RETENTION_DAYS", "0"),
            ("WEBHOOK_URLS", "ftp://example.com/hook"),
        ]);
        let problems = WorkerConfig::read(&env, false).unwrap_err();
        let text = shared::config::report(&problems);
        for name in [
            "DATABASE_URL",
            "MAX_ATTEMPTS",
            "RETRY_BASE_MS",
            "CLAIM_IDLE_MS",
            "DLQ_RETENTION_DAYS",
            "WEBHOOK_URLS",
        ] {
            assert!(text.contains(name), "{name} is missing in {text}");
        }
        assert!(!text.contains("hunter2") && !text.contains("soon"));
    }
}
