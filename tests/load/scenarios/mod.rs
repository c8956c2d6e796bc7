//! Measured scenarios, one file each.

pub(crate) mod drain;
pub(crate) mod fill;
pub(crate) mod idle;
pub(crate) mod latency;
pub(crate) mod offer;
pub(crate) mod preloaded;
pub(crate) mod servers;
pub(crate) mod speed;
pub(crate) mod start;
pub(crate) mod worker;

use std::fmt::Write as _;

use tests::redis::RedisOptions;
use tests::stack::{Stack, StackBuilder};

use serde_json::json;

use crate::requests::{ROOMS, platform, room};

/// Rate limit of the platforms, high enough that no scenario reaches it.
const LIMIT: u32 = 60_000_000;

/// Returns options of a Redis with the given `appendfsync` and without log rewrites.
pub(crate) fn redis(appendfsync: &str) -> RedisOptions {
    RedisOptions::durable().set("appendfsync", appendfsync).set("auto-aof-rewrite-percentage", "0")
}

/// Returns a system without workers, with `platforms` platforms that copy `mux`.
pub(crate) fn stack(appendfsync: &str, platforms: usize) -> StackBuilder {
    let mut toml = format!("[platforms.mux]\nrate_limit = {LIMIT}\n");
    for i in 0..platforms {
        let _ = write!(
            toml,
            "[platforms.p{i:03}]\npreset = \"mux\"\nrate_limit = {LIMIT}\n\
             secrets = [\"env:STREAMING_WEBHOOK_SIGNING_SECRET\"]\n"
        );
    }
    Stack::builder()
        .redis(redis(appendfsync))
        .workers(0)
        .platforms(&toml)
        .env("RUST_LOG", "warn")
        .ingress_env("MAX_BACKLOG", "100000000")
        .worker_env("CLAIM_IDLE_MS", "30000")
}

/// Returns the names of `platforms` platforms; for 0, `mux`.
pub(crate) fn names(platforms: usize) -> Vec<String> {
    match platforms {
        0 => vec![platform(0, 0)],
        n => (0..n).map(|i| format!("p{i:03}")).collect(),
    }
}

/// Announces the sessions of all events.
pub(crate) async fn announce(stack: &Stack) {
    for i in 0..ROOMS {
        stack
            .sender()
            .announce(&room(i), &json!({"live_stream_id": format!("ls-{}", room(i))}))
            .await;
    }
}

/// Returns the number of ledger rows of the given platforms.
pub(crate) async fn finished(stack: &Stack, platforms: usize) -> u64 {
    let which = if platforms == 0 { "platform = 'mux'" } else { "platform LIKE 'p%'" };
    let rows = stack
        .database
        .rows(&format!("SELECT COUNT(*) AS n FROM webhook_events WHERE {which}"), &[])
        .await;
    rows.first().and_then(|row| row["n"].as_u64()).unwrap_or(0)
}
