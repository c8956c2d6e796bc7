//! What every long-running process is configured with.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::{AdminToken, Env, SecretText, Surroundings, percent_encoding_hint};
use crate::queue::check_redis_url;
use crate::registration::{Sealer, SealingKey};
use crate::telemetry::{LogFormat, check_filter};
use crate::trace::TraceConfig;

/// What ingress and worker have in common.
#[derive(Clone, Debug)]
pub struct CommonConfig {
    /// `REDIS_URL`, of a cluster one or several nodes. May hold a password.
    pub redis_url: SecretString,
    /// `REDIS_CLUSTER`.
    pub redis_cluster: bool,
    /// `PLATFORMS_FILE`.
    pub platforms_file: Option<PathBuf>,
    /// `SECRETS_KEY` and `ALLOW_PLAINTEXT_SECRETS`: what seals and opens registered secrets.
    pub sealer: Sealer,
    /// `LOG_FORMAT`.
    pub log_format: LogFormat,
    /// `RUST_LOG`, checked.
    pub log_filter: String,
    /// `OTEL_EXPORTER_OTLP_ENDPOINT` and what belongs to it; `None`: nothing is traced.
    pub trace: Option<TraceConfig>,
    /// `DURABILITY`.
    pub durability: DurabilityMode,
    /// `OPS_BIND`.
    pub ops_bind: SocketAddr,
    /// `SHUTDOWN_GRACE_MS`.
    pub shutdown_grace: Duration,
    /// `ADMIN_TOKEN`.
    pub admin_token: Option<AdminToken>,
}

impl CommonConfig {
    /// Reads it; problems are remembered in `env`. `ops_bind` is the binary's default.
    #[must_use]
    pub fn read(env: &Env, ops_bind: SocketAddr) -> Self {
        let redis_cluster = env.flag("REDIS_CLUSTER", false);
        Self {
            redis_url: redis_url(env, redis_cluster),
            redis_cluster,
            platforms_file: platforms_file(env),
            sealer: sealer(env),
            log_format: env.parse("LOG_FORMAT", LogFormat::default()),
            log_filter: log_filter(env),
            trace: TraceConfig::read(env),
            durability: env.parse("DURABILITY", DurabilityMode::default()),
            ops_bind: env.address("OPS_BIND", ops_bind),
            shutdown_grace: env.millis("SHUTDOWN_GRACE_MS", 25_000, 0..=3_600_000),
            admin_token: admin_token(env),
        }
    }
}

/// `REDIS_URL`, or the default. That of a `cluster` may name several nodes.
#[must_use]
pub fn redis_url(env: &Env, cluster: bool) -> SecretString {
    let url = env.text("REDIS_URL");
    let url = SecretString::from(url.as_ref().map_or("redis://127.0.0.1:6379", SecretText::clean));
    let hint = url.expose_secret().split(',').find_map(percent_encoding_hint);
    match (check_redis_url(&url, cluster), hint) {
        (_, Some(hint)) => env.problem("REDIS_URL", hint),
        (Err(reason), None) => env.problem("REDIS_URL", reason),
        (Ok(()), None) => {}
    }
    url
}

fn platforms_file(env: &Env) -> Option<PathBuf> {
    // The variable itself names a file, so there is no PLATFORMS_FILE_FILE to look for.
    let path = PathBuf::from(env.remember(env.plain("PLATFORMS_FILE"))??);
    if let Err(error) = std::fs::File::open(&path) {
        env.problem("PLATFORMS_FILE", format_args!("cannot be opened: {error}"));
    }
    Some(path)
}

/// `SECRETS_KEY` may be several keys, separated by commas: the first seals, any opens.
fn sealer(env: &Env) -> Sealer {
    let text = env.text("SECRETS_KEY");
    let keys = text.iter().flat_map(|text| text.clean().split(','));
    let mut sound = Vec::new();
    for key in keys {
        match key.parse::<SealingKey>() {
            Ok(key) => sound.push(key),
            Err(reason) => env.problem("SECRETS_KEY", reason),
        }
    }
    Sealer::new(sound, env.flag("ALLOW_PLAINTEXT_SECRETS", false))
}

fn log_filter(env: &Env) -> String {
    let filter = env.string("RUST_LOG", "info");
    if check_filter(&filter).is_err() {
        env.problem("RUST_LOG", "must be a list of directives such as info,ingress=debug");
    }
    filter
}

fn admin_token(env: &Env) -> Option<AdminToken> {
    let token = env.text("ADMIN_TOKEN")?;
    if !token.trimmed().bytes().all(|b| b.is_ascii_graphic()) {
        env.problem(
            "ADMIN_TOKEN",
            "must be printable ASCII without spaces, or no header could carry it",
        );
    }
    if token.remark() == Some(Surroundings::Quotes) {
        env.warn("ADMIN_TOKEN", "is in quotation marks; it is accepted with and without them");
    }
    Some(AdminToken::of(&token))
}

/// What to do about a Redis that may forget what it confirmed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DurabilityMode {
    /// Report it and go on.
    #[default]
    Warn,
    /// Refuse to work with it.
    Strict,
}

/// A text other than `warn` and `strict`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("must be warn or strict")]
pub struct DurabilityModeError;

impl FromStr for DurabilityMode {
    type Err = DurabilityModeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "warn" => Ok(Self::Warn),
            "strict" => Ok(Self::Strict),
            _ => Err(DurabilityModeError),
        }
    }
}
