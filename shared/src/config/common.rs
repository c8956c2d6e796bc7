//! Reads the configuration that ingress and worker share.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::variables::{
    ADMIN_TOKEN, ALLOW_PLAINTEXT_SECRETS, DURABILITY, LOG_FORMAT, PLATFORMS_FILE, REDIS_CLUSTER,
    REDIS_URL, RUST_LOG, SECRETS_KEY, SHUTDOWN_GRACE_MS, Variable,
};
use super::{AdminToken, Env, SecretText, Surroundings, percent_encoding_hint};
use crate::queue::check_redis_url;
use crate::registration::{Sealer, SealingKey};
use crate::telemetry::{LogFormat, check_filter};
use crate::trace::TraceConfig;

/// Configuration that ingress and worker share.
#[derive(Clone, Debug)]
pub struct CommonConfig {
    /// `REDIS_URL`: one node, or several nodes of a cluster. May hold a password.
    pub redis_url: SecretString,
    /// `REDIS_CLUSTER`.
    pub redis_cluster: bool,
    /// `PLATFORMS_FILE`.
    pub platforms_file: Option<PathBuf>,
    /// `SECRETS_KEY` and `ALLOW_PLAINTEXT_SECRETS`: encrypts and decrypts registered secrets.
    pub sealer: Sealer,
    /// `LOG_FORMAT`.
    pub log_format: LogFormat,
    /// `RUST_LOG`, already validated.
    pub log_filter: String,
    /// `OTEL_EXPORTER_OTLP_ENDPOINT` and the variables beside it. `None` turns tracing off.
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
    /// Reads the variables and records problems in `env`. `ops_bind` is the binary's default.
    #[must_use]
    pub fn read(env: &Env, ops_bind: &Variable) -> Self {
        let redis_cluster = env.switch(&REDIS_CLUSTER);
        Self {
            redis_url: redis_url(env, redis_cluster),
            redis_cluster,
            platforms_file: platforms_file(env),
            sealer: sealer(env),
            log_format: env.choice(&LOG_FORMAT),
            log_filter: log_filter(env),
            trace: TraceConfig::read(env),
            durability: env.choice(&DURABILITY),
            ops_bind: env.socket_address(ops_bind),
            shutdown_grace: env.span(&SHUTDOWN_GRACE_MS),
            admin_token: admin_token(env),
        }
    }
}

/// `REDIS_URL`, or the default. For a `cluster`, it may name several nodes.
#[must_use]
pub fn redis_url(env: &Env, cluster: bool) -> SecretString {
    let url = env.text(REDIS_URL.name);
    let default = REDIS_URL.default_text().unwrap_or_default();
    let url = SecretString::from(url.as_ref().map_or(default.as_str(), SecretText::clean));
    let hint = url.expose_secret().split(',').find_map(percent_encoding_hint);
    match (check_redis_url(&url, cluster), hint) {
        (_, Some(hint)) => env.problem(REDIS_URL.name, hint),
        (Err(reason), None) => env.problem(REDIS_URL.name, reason),
        (Ok(()), None) => {}
    }
    url
}

fn platforms_file(env: &Env) -> Option<PathBuf> {
    // The variable already names a file, so `PLATFORMS_FILE_FILE` does not exist.
    let path = PathBuf::from(env.remember(env.plain(PLATFORMS_FILE.name))??);
    if let Err(error) = std::fs::File::open(&path) {
        env.problem(PLATFORMS_FILE.name, format_args!("cannot be opened: {error}"));
    }
    Some(path)
}

/// Parses `SECRETS_KEY`: keys separated by commas. The first encrypts, and each of them decrypts.
fn sealer(env: &Env) -> Sealer {
    let text = env.text(SECRETS_KEY.name);
    let keys = text.iter().flat_map(|text| text.clean().split(','));
    let mut sound = Vec::new();
    for key in keys {
        match key.parse::<SealingKey>() {
            Ok(key) => sound.push(key),
            Err(reason) => env.problem(SECRETS_KEY.name, reason),
        }
    }
    Sealer::new(sound, env.switch(&ALLOW_PLAINTEXT_SECRETS))
}

fn log_filter(env: &Env) -> String {
    let filter = env.text_or_default(&RUST_LOG);
    if check_filter(&filter).is_err() {
        env.problem(RUST_LOG.name, "must be a list of directives such as info,ingress=debug");
    }
    filter
}

fn admin_token(env: &Env) -> Option<AdminToken> {
    let token = env.text(ADMIN_TOKEN.name)?;
    if !token.trimmed().bytes().all(|b| b.is_ascii_graphic()) {
        env.problem(
            ADMIN_TOKEN.name,
            "must be printable ASCII without spaces, or no header could carry it",
        );
    }
    if token.remark() == Some(Surroundings::Quotes) {
        env.warn(ADMIN_TOKEN.name, "is in quotation marks; it is accepted with and without them");
    }
    Some(AdminToken::of(&token))
}

/// Reaction to a Redis that may lose confirmed writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DurabilityMode {
    /// Log it and continue.
    #[default]
    Warn,
    /// Refuse to work with it.
    Strict,
}

/// Error for a text other than `warn` and `strict`.
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
