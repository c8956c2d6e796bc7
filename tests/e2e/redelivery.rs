//! Entries that Redis delivers again, that were lost on their way, or that stay pending for a
//! worker that no longer exists.

use std::time::Duration;

use tests::ledger::entries;
use tests::sender::{content_event, now_ms, unique};
use tests::stack::Stack;
use tests::tcp_proxy::ProxyMode;
use tests::{pending_entries, poll};

use crate::WAIT_LIMIT;

/// Longer than a blocking read of the worker.
const READ_WAIT: Duration = Duration::from_secs(1);
const INCOMING: &str = "webhooks:incoming:acme";

impl QueuedEntry {
    /// Accepts an event and removes its entry from the queue. [`Self::put`] adds it again.
    async fn accepted(stack: &Stack) -> Self {
        let body = content_event("content_updated", "c1", &unique("title"), now_ms());
        stack.sender().acme(&body).await.expect(202, "accepted");
        let entries: Vec<(String, Vec<String>)> =
            stack.redis.command(&["XRANGE", INCOMING, "-", "+"]).await;
        let (id, fields) = entries.into_iter().next_back().expect("the entry");
        let _: i64 = stack.redis.command(&["XDEL", INCOMING, &id]).await;
        Self { fields }
    }

    /// Adds the entry to the queue, with another origin if one is given.
    async fn put(&self, stack: &Stack, origin: Option<&str>) {
        let mut words: Vec<&str> = vec!["XADD", INCOMING, "*"];
        for field in self.fields.chunks(2) {
            let other = origin.filter(|_| field[0] == "origin");
            words.extend([field[0].as_str(), other.unwrap_or(&field[1])]);
        }
        let _: String = stack.redis.command(&words).await;
    }
}

struct QueuedEntry {
    fields: Vec<String>,
}

async fn pending(stack: &Stack) -> i64 {
    let (pending, ..): (i64, redis::Value, redis::Value, redis::Value) =
        stack.redis.command(&["XPENDING", INCOMING, "webhook-processors"]).await;
    pending
}

async fn processed(stack: &Stack) -> i64 {
    let count: Option<i64> =
        stack.redis.command(&["HGET", "webhooks:counters:acme", "processed"]).await;
    count.unwrap_or(0)
}

/// Redis counts an entry as delivered once it has replied, even if the reply is lost. Such an entry
/// must not wait until another worker may claim it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_in_a_lost_reply_are_processed_at_once() {
    let mut stack =
        Stack::builder().proxied().workers(0).worker_env("CLAIM_IDLE_MS", "600000").start().await;
    let entry = QueuedEntry::accepted(&stack).await;
    stack.add_worker().await;
    let proxy = stack.proxy.as_ref().expect("a proxy");
    for attempt in 1.. {
        proxy.set(ProxyMode::SwallowAnswers);
        entry.put(&stack, None).await;
        // A read that began earlier may still succeed, and a read that ends empty is the last one.
        // In both cases the attempt is repeated.
        let lost_reply =
            poll::try_until("the reply with a delivered entry is lost", READ_WAIT, async || {
                match pending(&stack).await {
                    1 => Ok(()),
                    other => Err(other),
                }
            });
        match lost_reply.await {
            Ok(()) => break,
            Err(late) => assert!(attempt < 20, "{late}"),
        }
        proxy.set(ProxyMode::Cut);
        tokio::time::sleep(Duration::from_millis(100)).await;
        proxy.set(ProxyMode::Pass);
        stack.wait_until_drained(WAIT_LIMIT).await;
    }
    proxy.set(ProxyMode::Cut);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(pending(&stack).await, 1, "the lost reply left it pending");
    proxy.set(ProxyMode::Pass);
    stack.wait_until_drained(WAIT_LIMIT).await;
    assert_eq!(stack.database.count("webhook_events").await, 1);
}

/// After its dedup marker expired, an event may have two entries. The entry that took effect but
/// was not settled must settle in full, once, independently of the other entry.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn applied_entry_beside_a_duplicate_entry_settles_in_full() {
    let mut stack = Stack::builder().workers(0).start().await;
    let entry = QueuedEntry::accepted(&stack).await;
    entry.put(&stack, None).await;
    stack.add_worker().await;
    stack.wait_until_drained(WAIT_LIMIT).await;
    assert_eq!(processed(&stack).await, 1);
    stack.workers.pop();

    // As if the worker had been killed between commit and settle, with a duplicate entry ahead of
    // it.
    entry.put(&stack, Some("1-1")).await;
    entry.put(&stack, None).await;
    stack.add_worker().await;
    stack.wait_until_drained(WAIT_LIMIT).await;
    assert_eq!(processed(&stack).await, 2, "only the committed entry is counted");
    assert_eq!(stack.database.count("webhook_events").await, 1);
}

/// An acknowledged entry that was never deleted is invisible to reads and claims.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orphaned_entry_is_requeued() {
    const STREAM: &str = "webhooks:incoming:acme";
    const GROUP: &str = "webhook-processors";
    let mut stack = Stack::builder().workers(0).start().await;
    let (received, body) =
        (now_ms() - 11 * 60_000, content_event("content_added", "c", "t", now_ms()).to_string());
    let (id, received) = (format!("{received}-0"), received.to_string());
    let fields = [
        "v",
        "1",
        "event_id",
        "lost",
        "event_type",
        "content_added",
        "occurred_at",
        &received,
        "received_at",
    ];
    let more = [&received, "attempt", "1", "origin", &id, "body", &body];
    let _: String =
        stack.redis.command(&[&["XADD", STREAM, &id], &fields[..], &more[..]].concat()).await;
    let (): () = stack.redis.command(&["XGROUP", "CREATE", STREAM, GROUP, "0"]).await;
    let _: redis::Value =
        stack.redis.command(&["XREADGROUP", "GROUP", GROUP, "gone", "STREAMS", STREAM, ">"]).await;
    let _: usize = stack.redis.command(&["XACK", STREAM, GROUP, &id]).await;
    stack.add_worker().await;
    poll::until("the event takes effect", WAIT_LIMIT, async || {
        stack.database.event("acme", "lost").await.map(drop).ok_or("no row")
    })
    .await;
    stack.wait_until_drained(WAIT_LIMIT).await;
    poll::until("the orphan is counted", WAIT_LIMIT, async || {
        match stack.workers[0].metric("webhook_orphans_total", &["acme"]).await {
            1.0 => Ok(()),
            seen => Err(seen),
        }
    })
    .await;
}

/// Redis's clock was set back after a worker that is gone read the entry. A claim sees no idle
/// time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entry_delivered_in_the_future_is_claimed() {
    const STREAM: &str = "webhooks:incoming:acme";
    const GROUP: &str = "webhook-processors";
    let mut stack = Stack::builder().workers(0).worker_env("CLAIM_IDLE_MS", "1000").start().await;
    let answer =
        stack.sender().acme(&content_event("content_added", &unique("c"), "t", now_ms())).await;
    answer.expect(202, "accepted");
    let (): () = stack.redis.command(&["XGROUP", "CREATE", STREAM, GROUP, "0"]).await;
    let _: redis::Value =
        stack.redis.command(&["XREADGROUP", "GROUP", GROUP, "gone", "STREAMS", STREAM, ">"]).await;
    let id = entries(&stack, STREAM).await[0].0.parse().unwrap();
    pending_entries::move_delivery_into_future(&stack.redis, STREAM, "gone", &[id]).await;
    stack.add_worker().await;
    stack.wait_until_drained(WAIT_LIMIT).await;
    assert!(stack.database.event("acme", answer.event_id()).await.is_some());
}
