//! Fills a queue, or the set of dedup markers, without HTTP.
//!
//! Events use the enqueue script, 128 at a time, so that entries are the same as those of ingress.

use std::collections::BTreeMap;

use ::tests::poll;
use ::tests::redis::RedisServer;
use ::tests::sender::{now_ms, unique};
use bytes::Bytes;
use futures_util::future::try_join_all;
use redis::Script;
use secrecy::SecretString;
use shared::event::{EventTime, NewEvent, marker_digest};
use shared::platform::PlatformName;
use shared::queue::{EnqueuePolicy, Enqueued, KeyLayout, MAX_BATCH_EVENTS, Queue, connect};
use std::time::Duration;

use crate::LoadError;
use crate::requests::{KINDS, body, event_id};

/// Number of concurrent enqueue calls.
const CONCURRENT_CALLS: usize = 4;
/// Ids per call of [`MARKERS`].
const IDS: usize = 10_000;
const DEDUP_TTL_S: u64 = 24 * 3600;
const POLICY: EnqueuePolicy = EnqueuePolicy {
    period_us: 0,
    burst: 1,
    dedup_ttl_s: DEDUP_TTL_S,
    max_backlog: 1_000_000_000,
    max_dead_letters: 1_000_000_000,
    types: BTreeMap::new(),
};

/// Writes dedup markers in the format of the enqueue script, for ids that are never sent.
const MARKERS: &str = "for i = 1, tonumber(ARGV[1]) do \
    redis.call('SET', string.format('webhook:hash:%024x%08x', ARGV[2], i), '1', 'EX', ARGV[3]) end";

/// Queues `count` events of `mux`, with dedup markers if `marked`. Returns the length of a body.
pub(crate) async fn events(
    redis: &RedisServer,
    count: usize,
    marked: bool,
) -> Result<usize, LoadError> {
    let queue = Queue::new(KeyLayout::Single, connect(&SecretString::from(redis.url()), false)?);
    let platform = PlatformName::new("mux")?;
    let keys = queue.keys(&platform);
    let (run, first_ms) = (unique("fill"), now_ms() - 60_000);
    let event = |i: usize| {
        let event_id = event_id(&run, i);
        let at = first_ms + (i * 60_000 / count) as i64;
        NewEvent {
            event_type: KINDS[i % KINDS.len()].to_owned(),
            occurred_at: EventTime::Known(at),
            body: Bytes::from(body(&run, i, at)),
            marker: marked.then(|| marker_digest(platform.as_str(), &event_id)),
            event_id,
            delivery_id: None,
            traceparent: None,
            hops: 0,
            unusable: None,
            reply_to: None,
        }
    };
    unsynced(redis, async || {
        for begin in (0..count).step_by(MAX_BATCH_EVENTS * CONCURRENT_CALLS) {
            let end = (begin + MAX_BATCH_EVENTS * CONCURRENT_CALLS).min(count);
            let events: Vec<NewEvent> = (begin..end).map(event).collect();
            let calls = events.chunks(MAX_BATCH_EVENTS).map(async |events| {
                let outcomes =
                    queue.enqueue(&keys, &POLICY, &events.iter().collect::<Vec<_>>()).await?;
                let accepted = outcomes.iter().all(|outcome| *outcome == Enqueued::Accepted);
                if accepted {
                    Ok(())
                } else {
                    Err::<(), LoadError>("an event was not queued".into())
                }
            });
            try_join_all(calls).await?;
        }
        Ok(())
    })
    .await?;
    Ok(event(0).body.len())
}

/// Writes dedup markers of `count` ids.
pub(crate) async fn ids(redis: &RedisServer, count: usize) -> Result<(), LoadError> {
    let script = Script::new(MARKERS);
    unsynced(redis, async || {
        let mut connection = redis.connection().await;
        for begin in (0..count).step_by(IDS) {
            let mut call = script.arg(IDS.min(count - begin));
            call.arg(begin).arg(DEDUP_TTL_S);
            call.invoke_async::<()>(&mut connection).await?;
        }
        Ok(())
    })
    .await
}

/// Runs `work` with a single fsync at its end instead of one per call.
async fn unsynced(
    redis: &RedisServer,
    work: impl AsyncFnOnce() -> Result<(), LoadError>,
) -> Result<(), LoadError> {
    let set =
        async |value: &str| redis.command::<String>(&["CONFIG", "SET", "appendfsync", value]).await;
    let before: Vec<String> = redis.command(&["CONFIG", "GET", "appendfsync"]).await;
    set("no").await;
    work().await?;
    set("always").await;
    redis.command::<String>(&["SET", "load:synced", "1"]).await;
    redis.command::<u8>(&["DEL", "load:synced"]).await;
    set(before.get(1).map_or("always", String::as_str)).await;
    Ok(())
}

/// Returns `used_memory` of Redis in bytes, once it is stable.
pub(crate) async fn memory(redis: &RedisServer) -> Result<u64, LoadError> {
    const STABLE_TIMEOUT: Duration = Duration::from_secs(30);
    let mut last = 0;
    let read = async || {
        let info: String = redis.command(&["INFO", "memory"]).await;
        let used = field(&info, "used_memory").ok_or("INFO has no used_memory")?;
        let before = std::mem::replace(&mut last, used);
        // A growing hash table moves its buckets between two reads.
        if used.abs_diff(before) < 64 * 1024 {
            Ok(used)
        } else {
            Err(format!("{before} → {used} bytes"))
        }
    };
    Ok(poll::try_until("Redis's memory is stable", STABLE_TIMEOUT, read).await?)
}

fn field(info: &str, name: &str) -> Option<u64> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn info_field_is_not_a_prefix_match() {
        let info = "# Memory\r\nused_memory_rss:9\r\nused_memory:4711\r\n";
        assert_eq!(field(info, "used_memory"), Some(4711));
        assert_eq!(field(info, "used"), None);
    }
}
