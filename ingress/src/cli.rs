//! Command line of ingress. Environment variables configure everything; `--help` lists them.

use clap::{Parser, Subcommand};
use shared::config::environment_help;
use shared::config::variables::Binary;

use crate::check::CheckPlatform;
use crate::send_test::SendTest;

const BUNDLED_PLATFORMS: &str = "\
Bundled platforms are switched on by their secrets:
  mux (also: streaming)  STREAMING_WEBHOOK_SIGNING_SECRET
  livekit                LIVEKIT_API_KEY and LIVEKIT_API_SECRET
  realcast               REALCAST_WEBHOOK_SECRET or WEBHOOK_SECRET (both: either verifies)
  netflix                NETFLIX_WEBHOOK_SECRET
  streamgank             STREAMGANK_WEBHOOK_SECRET";

const ROUTES: &str = "\
Routes:
  POST  /api/v1/webhooks/{platform}             receives webhooks; also /webhooks/{platform},
                                                /webhook/{platform} and
                                                /api/v1/live/webhooks/{platform};
                                                Content-Encoding: gzip, zstd or br
  PUT   /api/v1/sessions/{room_id}              announces a session *
  POST  /api/v1/webhooks/register               registers a platform or rotates its secret *
  GET   /api/v1/webhooks/platforms              lists the definitions and their sources *
  PATCH, DELETE  /api/v1/webhooks/platforms/{platform}
                                                pauses, resumes; removes a registered one *
  GET   /api/v1/webhooks/metrics                counts results of the whole system *; also
                                                /webhooks/stats
  GET   /api/v1/webhooks/stats                  counts events by place *
  POST  /api/webhooks/test                      sends a test event to a URL *
  POST  /api/webhooks/trigger                   sends an event to destinations *
  GET   /api/webhooks/status                    shows the state of every destination *
  PATCH /api/webhooks/destinations/{name}       pauses or resumes a destination *
  GET   /api/openapi.json                       describes all of them
* needs ADMIN_TOKEN";

const EXAMPLE: &str = "\
Try it:
  NETFLIX_WEBHOOK_SECRET=s3cret ingress &
  body='{\"event_type\":\"content_added\",\"payload\":{\"content_id\":\"1\"}}'
  signature=$(printf %s \"$body\" | openssl dgst -sha256 -hmac s3cret | sed 's/.* //')
  curl -i localhost:8000/api/v1/webhooks/netflix -d \"$body\" \\
    -H \"X-Webhook-Signature: sha256=$signature\"
  NETFLIX_WEBHOOK_SECRET=s3cret ingress send-test netflix

Exit status: 0 stopped in order, 1 failed, 2 usage or configuration (all problems are listed)";

fn after_help() -> String {
    let environment = environment_help(Binary::Ingress);
    format!("{environment}\n\n{BUNDLED_PLATFORMS}\n\n{ROUTES}\n\n{EXAMPLE}")
}

/// Receives webhooks: verifies, rate-limits and deduplicates them, queues each one once in Redis
///
/// Without a command it receives webhooks until it is stopped.
#[derive(Debug, Parser)]
#[command(
    name = "ingress",
    version,
    about,
    after_help = after_help(),
    disable_help_subcommand = true
)]
pub struct Args {
    /// Command to run instead of receiving.
    #[command(subcommand)]
    pub tool: Option<IngressTool>,
}

/// Commands of the binary.
#[derive(Debug, Subcommand)]
pub enum IngressTool {
    /// Verifies a captured request and explains the result
    CheckPlatform(CheckPlatform),
    /// Sends one signed test event of a configured platform to a running ingress
    SendTest(SendTest),
    /// Queries the health of the ingress on this host, for containers; exit status 0: healthy
    Health {
        /// Queries /ready (can it work now) instead of /live (does it run)
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
            env.names_read().into_iter().filter(|name| !names(&after_help(), name)).collect();
        assert_eq!(unnamed, Vec::<String>::new());
    }

    /// Returns true if `help` has `name` as a word of its own.
    fn names(help: &str, name: &str) -> bool {
        help.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(|word| word == name)
    }
}
