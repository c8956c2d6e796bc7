//! The command line. Everything is configured by environment variables; `--help` lists them.

use clap::{Parser, Subcommand};

use crate::check::CheckPlatform;
use crate::send_test::SendTest;

const ENVIRONMENT: &str = "\
Without a command it receives webhooks until it is stopped.

Environment (a secret NAME may instead come from the file that NAME_FILE names):
  INGRESS_BIND          where webhooks are received [default: 0.0.0.0:8000]
  INGRESS_WORKERS       HTTP threads [default: one per core]
  OPS_BIND              /metrics, /live and /ready [default: 0.0.0.0:9100]
  REDIS_URL             redis://[user:password@]host[:port][/db] [default: redis://127.0.0.1:6379];
                        of a cluster, some of its nodes, with commas between
  REDIS_CLUSTER         true for Redis Cluster [default: false]
  REDIS_WAIT_REPLICAS   replicas that must have an event before it is accepted [default: 0]
  REDIS_WAIT_TIMEOUT_MS how long they have time for it, up to 1500; then 503 [default: 1000]
  DURABILITY            warn: report a Redis that may forget what it confirmed;
                        strict: refuse anything but appendfsync always + noeviction [default: warn]
  PLATFORMS_FILE        TOML: further platforms, changes to bundled ones [default: none]
  SECRETS_KEY           base64 of 32 bytes: seals the secrets of platforms that are registered while running,
                        in Redis; NEW,OLD while it is changed [default: none, and none can be registered]
  ALLOW_PLAINTEXT_SECRETS  true: without a key, such secrets are kept in Redis as they are [default: false]
  ADMIN_TOKEN           bearer token of the admin routes; without it they answer 403 [default: none]
  MAX_WAITERS           requests that wait for a result at once, then 202 [default: 10000]
  STATS_PUBLIC          true: the statistics routes need no token [default: false]
  MAX_BODY_BYTES        largest body of a request, as sent and decoded [default: 1048576]
  BODY_TIMEOUT_MS       how long a body may take to arrive [default: 10000]
  MAX_IN_FLIGHT_BYTES   bodies of all unanswered requests together [default: 67108864]
  KEEP_ALIVE_MS         how long a connection stays open without a request [default: 75000]
  MAX_CONNECTIONS       open at the same time; beyond it the longest idle ones are closed [default: 10000]
  DEDUP_TTL_HOURS       how long duplicates are remembered in Redis [default: 24]
  MAX_BACKLOG           entries per platform stream, then 503 [default: 1000000]
  DLQ_MAX_LEN           dead letters per platform, then unusable requests that would be kept get 503
                        [default: 1000000]
  SHUTDOWN_GRACE_MS     for requests in progress, on SIGTERM and SIGINT [default: 25000]
  LOG_FORMAT, RUST_LOG  text or json; filter directives [default: text, info]
  OTEL_EXPORTER_OTLP_ENDPOINT  http://HOST:4318 of an OTLP collector, which gets traces [default: none, nothing is traced];
                        OTEL_EXPORTER_OTLP_HEADERS, OTEL_EXPORTER_OTLP_TIMEOUT,
                        OTEL_EXPORTER_OTLP_PROTOCOL (http/protobuf only), OTEL_SERVICE_NAME,
                        OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG as usual
  WEBHOOK_URLS          destinations of processed events [default: none]; ingress needs what
                        workers have (worker --help): DISCORD_WEBHOOK_URL, WEBHOOK_EVENTS,
                        WEBHOOK_SECRET_KEY, WEBHOOK_SECRET_KEY_PREVIOUS, WEBHOOK_SOURCE,
                        WEBHOOK_HEADERS, WEBHOOK_TIMEOUT, WEBHOOK_MAX_RETRIES,
                        WEBHOOK_RETRY_DELAY, WEBHOOK_MAX_RETRY_DELAY, WEBHOOK_RATE_LIMIT_MAX,
                        WEBHOOK_RATE_LIMIT_WINDOW, WEBHOOK_ALLOW_PRIVATE
  SSL_CERT_FILE, SSL_CERT_DIR  CA certificates instead of the system's [default: none]

Bundled platforms are switched on by their secrets:
  mux (also: streaming)  STREAMING_WEBHOOK_SIGNING_SECRET
  livekit                LIVEKIT_API_KEY and LIVEKIT_API_SECRET
  realcast               REALCAST_WEBHOOK_SECRET or WEBHOOK_SECRET (both: either verifies)
  netflix                NETFLIX_WEBHOOK_SECRET
  streamgank             STREAMGANK_WEBHOOK_SECRET

Routes:
  POST /api/v1/webhooks/{platform}   also /webhooks/{platform}, /webhook/{platform}
                                     and /api/v1/live/webhooks/{platform};
                                     Content-Encoding: gzip, zstd or br
  PUT  /api/v1/sessions/{room_id}    announces a session (admin token)
  POST /api/v1/webhooks/register     registers a platform, or gives it a new secret (admin token)
  GET  /api/v1/webhooks/platforms    what is defined, from where (admin token)
  PATCH, DELETE  /api/v1/webhooks/platforms/{platform}   pauses, resumes; removes a registered one (admin token)
  GET  /api/v1/webhooks/metrics      what became of webhooks, whole system (admin token); also /webhooks/stats
  GET  /api/v1/webhooks/stats        where events are now (admin token)
  POST /api/webhooks/test            sends a test event to a URL (admin token)
  POST /api/webhooks/trigger         sends an event to destinations by hand (admin token)
  GET  /api/webhooks/status          how every destination fares (admin token)
  PATCH  /api/webhooks/destinations/{name}   holds one back, or lets it go on (admin token)

Try it:
  NETFLIX_WEBHOOK_SECRET=s3cret ingress &
  body='{\"event_type\":\"content_added\",\"timestamp\":\"2026-01-01T00:00:00Z\",\"payload\":{\"content_id\":\"1\"}}'
  signature=$(printf %s \"$body\" | openssl dgst -sha256 -hmac s3cret | sed 's/.* //')
  curl -i localhost:8000/api/v1/webhooks/netflix -d \"$body\" -H \"X-Webhook-Signature: sha256=$signature\"
  NETFLIX_WEBHOOK_SECRET=s3cret ingress send-test netflix

Exit status: 0 stopped as asked, 1 failed, 2 usage or configuration (all problems are listed).";

/// Receives webhooks: verifies, rate-limits and deduplicates them, and queues each one once in Redis.
#[derive(Debug, Parser)]
#[command(name = "ingress", version, about, after_help = ENVIRONMENT, disable_help_subcommand = true)]
pub struct Args {
    /// Instead of receiving.
    #[command(subcommand)]
    pub tool: Option<IngressTool>,
}

/// What ingress does instead of receiving.
#[derive(Debug, Subcommand)]
pub enum IngressTool {
    /// Says what ingress would make of a captured request, and precisely why not
    CheckPlatform(CheckPlatform),
    /// Sends one genuinely signed test event of a configured platform to a running ingress
    SendTest(SendTest),
    /// Asks the ingress on this host (at OPS_BIND) how it is, for containers; exit status 0: well
    Health {
        /// Whether it can do its work now (/ready), not only whether it runs (/live)
        #[arg(long)]
        ready: bool,
    },
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use shared::config::Env;

    use super::*;

    #[test]
    fn help_names_every_variable() {
        let env = Env::from_pairs([
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://h:4318"),
            ("WEBHOOK_URLS", "https://h/"),
        ]);
        crate::config::Config::read(&env).unwrap();
        let unnamed: Vec<String> =
            env.names_read().into_iter().filter(|name| !names(ENVIRONMENT, name)).collect();
        assert_eq!(unnamed, Vec::<String>::new());
    }

    /// Returns true if `help` has `name` as a word of its own.
    fn names(help: &str, name: &str) -> bool {
        help.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(|word| word == name)
    }
}
