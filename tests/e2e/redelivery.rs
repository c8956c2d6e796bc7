//! Entries that Redis delivers once more, or believes to have delivered.

use std::time::Duration;

use tests::poll;
use tests::sender::{content_event, now_ms, unique};
use tests::stack::Stack;
use tests::tcp_proxy::ProxyMode;

use crate::WAIT_LIMIT;

/// Longer than a read waits for something new.
const READ_WAIT: Duration = Duration::from_secs(1);
const INCOMING: &str = "webhooks:incoming:acme";

impl QueuedEntry {
    /// Accepts an event and takes it out of the queue again, to be put back by [`Self::put`].
    async fn accepted(stack: &Stack) -> Self {
        let body = content_event("content_updated", "c1", &unique("title"), now_ms());
        stack.sender().acme(&body).await.expect(202, "accepted");
        let entries: Vec<(String, Vec<String>)> =
            stack.redis.command(&["XRANGE", INCOMING, "-", "+"]).await;
        let (id, fields) = entries.into_iter().next_back().expect("the entry");
        let _: i64 = stack.redis.command(&["XDEL", INCOMING, &id]).await;
        Self { fields }
    }

    /// Puts it into the queue, with another origin if one is given.
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

/// Redis counts an entry as delivered when it has answered, whether or not the answer arrives. It must not have to wait
/// until the worker itself counts as dead.
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
        // A read that began before answers were swallowed may still get through, and one that ends with nothing is the
        // last: then all of it again.
        let void = poll::try_until("an entry is delivered into the void", READ_WAIT, async || {
            match pending(&stack).await {
                1 => Ok(()),
                other => Err(other),
            }
        });
        match void.await {
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
    assert_eq!(pending(&stack).await, 1, "nobody has it");
    proxy.set(ProxyMode::Pass);
    stack.wait_until_drained(WAIT_LIMIT).await;
    assert_eq!(stack.database.count("webhook_events").await, 1);
}

/// Where a marker has expired, one event may have two entries. The one that took effect and was not settled any more must
/// be finished in full, once, whatever the other one is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn applied_entry_beside_a_duplicate_entry_settles_in_full() {
    let mut stack = Stack::builder().workers(0).start().await;
    let entry = QueuedEntry::accepted(&stack).await;
    entry.put(&stack, None).await;
    stack.add_worker().await;
    stack.wait_until_drained(WAIT_LIMIT).await;
    assert_eq!(processed(&stack).await, 1);
    stack.workers.pop();

    // As if the worker had been killed between commit and settle, and the event had come again before.
    entry.put(&stack, Some("1-1")).await;
    entry.put(&stack, None).await;
    stack.add_worker().await;
    stack.wait_until_drained(WAIT_LIMIT).await;
    assert_eq!(processed(&stack).await, 2, "the committed one, and not the other");
    assert_eq!(stack.database.count("webhook_events").await, 1);
}
