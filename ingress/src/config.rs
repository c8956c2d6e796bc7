//! Reads the configuration of ingress from environment variables.
//!
//! # Guarantees
//!
//! - A [`Config`] is complete and usable. Otherwise all problems are reported at once
//!   (`config_problems_are_reported_at_once`).

use std::collections::HashMap;
use std::fs::File;
use std::net::SocketAddr;
use std::time::Duration;

use shared::config::variables::{
    self, BODY_TIMEOUT_MS, DEDUP_TTL_HOURS, DLQ_MAX_LEN, INGRESS_BIND, INGRESS_OPS_BIND,
    INGRESS_WORKERS, KEEP_ALIVE_MS, MAX_BACKLOG, MAX_BODY_BYTES, MAX_CONNECTIONS,
    MAX_IN_FLIGHT_BYTES, MAX_WAITERS, REDIS_WAIT_REPLICAS, REDIS_WAIT_TIMEOUT_MS, STATS_PUBLIC,
};
use shared::config::{CommonConfig, DurabilityMode, Env, Problem};
use shared::outbound::{self, config::OutboundConfig};
use shared::platform::PlatformName;
use shared::platform::registry::Registry;
use shared::queue::ReplicaAck;
use shared::signature::{Keys, Secret};

/// Greatest value of `MAX_BODY_BYTES`.
pub(crate) const MAX_BODY_LIMIT: usize = variables::LARGEST_BODY as usize;
/// Default of `MAX_BODY_BYTES`.
pub(crate) const DEFAULT_MAX_BODY: usize = variables::DEFAULT_BODY as usize;

/// Configuration of ingress.
#[derive(Debug)]
pub struct Config {
    /// Settings shared with workers.
    pub common: CommonConfig,
    /// `REDIS_WAIT_REPLICAS` and `REDIS_WAIT_TIMEOUT_MS`. `None` waits for no replica.
    pub confirmation: Option<ReplicaAck>,
    /// `INGRESS_BIND`.
    pub bind: SocketAddr,
    /// `INGRESS_WORKERS`: HTTP threads.
    pub workers: usize,
    /// `MAX_BODY_BYTES`, of one request.
    pub max_body: usize,
    /// `BODY_TIMEOUT_MS`, from the end of a request's head to the end of its body.
    pub body_timeout: Duration,
    /// `MAX_IN_FLIGHT_BYTES`, of the bodies of all open requests.
    pub max_in_flight: usize,
    /// `MAX_CONNECTIONS`, open at the same time.
    pub max_connections: usize,
    /// `KEEP_ALIVE_MS`: time that a connection stays open without a request.
    pub keep_alive: Duration,
    /// `DEDUP_TTL_HOURS`.
    pub dedup_ttl: Duration,
    /// `MAX_BACKLOG`: entries of one platform's stream.
    pub max_backlog: u64,
    /// `DLQ_MAX_LEN`: dead letters of one platform. Beyond it, unusable requests are refused.
    pub max_dead_letters: u64,
    /// `MAX_WAITERS`: requests that may wait for a result at the same time. 0 turns waiting off.
    pub max_waiters: usize,
    /// `STATS_PUBLIC`: the statistics routes need no token.
    pub stats_public: bool,
    /// All configured platforms.
    pub registry: Registry,
    /// Keys that verify the requests of each platform.
    pub keys: HashMap<PlatformName, Keys>,
    /// Tokens of `meta` handshakes.
    pub verify_tokens: HashMap<PlatformName, Secret>,
    /// Destinations of processed events. Workers deliver to them.
    pub outbound: OutboundConfig,
}

impl Config {
    /// Reads and checks the environment.
    ///
    /// # Errors
    /// All problems, by the names of variables and of keys in `PLATFORMS_FILE`, never by value.
    pub fn read(env: &Env) -> Result<Self, Vec<Problem>> {
        let common = CommonConfig::read(env, &INGRESS_OPS_BIND);
        let confirmation = confirmation(env);
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
        let bind = env.socket_address(&INGRESS_BIND);
        let workers = env.number_or(&INGRESS_WORKERS, cores.clamp(1, 512));
        let max_body = env.size(&MAX_BODY_BYTES);
        let max_in_flight = env.size_of_at_least(&MAX_IN_FLIGHT_BYTES, max_body);
        let body_timeout = env.span(&BODY_TIMEOUT_MS);
        let max_connections = env.number(&MAX_CONNECTIONS);
        let keep_alive = env.span(&KEEP_ALIVE_MS);
        let dedup_ttl = env.span(&DEDUP_TTL_HOURS);
        let max_backlog = env.number(&MAX_BACKLOG);
        let max_dead_letters = env.number(&DLQ_MAX_LEN);
        let max_waiters = env.number(&MAX_WAITERS);
        let stats_public = env.switch(&STATS_PUBLIC);
        let (registry, keys) = platforms(env, &common);
        let outbound = outbound::config::load(env, common.platforms_file.as_deref(), false);
        env.finish()?;
        let (Some(registry), Some(keys)) = (registry, keys) else { return Err(Vec::new()) };
        let verify_tokens = registry.verify_tokens(env)?;
        Ok(Self {
            common,
            confirmation,
            bind,
            workers,
            max_body,
            body_timeout,
            max_in_flight,
            max_connections,
            keep_alive,
            dedup_ttl,
            max_backlog,
            max_dead_letters,
            max_waiters,
            stats_public,
            registry,
            keys,
            verify_tokens,
            outbound,
        })
    }

    /// Returns true if `DURABILITY` is `strict`.
    pub(crate) fn is_strict(&self) -> bool {
        self.common.durability == DurabilityMode::Strict
    }
}

/// Reads `REDIS_WAIT_REPLICAS` and `REDIS_WAIT_TIMEOUT_MS`.
fn confirmation(env: &Env) -> Option<ReplicaAck> {
    let timeout = env.span(&REDIS_WAIT_TIMEOUT_MS);
    let replicas: u32 = env.number(&REDIS_WAIT_REPLICAS);
    (replicas > 0).then_some(ReplicaAck { replicas, timeout })
}

/// The platforms and what they are verified with; `None` where `env` was told of a problem.
fn platforms(
    env: &Env,
    common: &CommonConfig,
) -> (Option<Registry>, Option<HashMap<PlatformName, Keys>>) {
    let tell = |problems: Vec<Problem>| {
        problems.iter().for_each(|one| env.problem(&one.name, &one.reason))
    };
    // A file that cannot be opened is a problem that has been told already.
    let file = common.platforms_file.as_deref().filter(|path| File::open(path).is_ok());
    Registry::load_resolved(file, env).map_err(tell).ok().unzip()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Config, Vec<Problem>> {
        Config::read(&Env::from_pairs(pairs.iter().copied()))
    }

    #[test]
    fn config_defaults_are_the_documented_ones() {
        let config = read(&[]).unwrap();
        assert_eq!(config.bind.to_string(), "0.0.0.0:8000");
        assert_eq!(config.common.ops_bind.to_string(), "0.0.0.0:9100");
        assert_eq!((config.max_body, config.max_in_flight), (1_048_576, 67_108_864));
        assert_eq!((config.body_timeout.as_secs(), config.dedup_ttl.as_secs()), (10, 86_400));
        assert_eq!(config.keep_alive.as_secs(), 75);
        assert_eq!(
            (config.max_backlog, config.max_waiters, config.max_connections),
            (1_000_000, 10_000, 10_000)
        );
        assert!(!config.is_strict());
        assert!(config.keys.is_empty());
    }

    #[test]
    fn config_problems_are_reported_at_once() {
        let problems = read(&[
            ("INGRESS_BIND", "nowhere"),
            ("MAX_BODY_BYTES", "0"),
            ("BODY_TIMEOUT_MS", "soon"),
            ("REDIS_CLUSTER", "maybe"),
            ("REDIS_WAIT_TIMEOUT_MS", "1501"),
        ]);
        let names: Vec<_> = problems.unwrap_err().into_iter().map(|problem| problem.name).collect();
        assert_eq!(
            names,
            [
                "BODY_TIMEOUT_MS",
                "INGRESS_BIND",
                "MAX_BODY_BYTES",
                "REDIS_CLUSTER",
                "REDIS_WAIT_TIMEOUT_MS"
            ]
        );
    }

    #[test]
    fn in_flight_bound_below_one_body_is_a_problem() {
        let problems =
            read(&[("MAX_BODY_BYTES", "1000"), ("MAX_IN_FLIGHT_BYTES", "999")]).unwrap_err();
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].name, "MAX_IN_FLIGHT_BYTES");
    }

    #[test]
    fn bundled_platform_is_enabled_by_its_secret_alone() {
        let config = read(&[("NETFLIX_WEBHOOK_SECRET", "s3cret")]).unwrap();
        let names: Vec<_> = config.keys.keys().map(PlatformName::as_str).collect();
        assert_eq!(names, ["netflix"]);
        assert!(!format!("{config:?}").contains("s3cret"));
    }
}
