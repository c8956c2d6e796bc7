//! Shared transactions: events of many platforms are committed together and fail separately.

use serde_json::json;
use tests::ledger::entries;
use tests::poll;
use tests::sender::{ACME_SECRET, content_event, mux_event, now_ms, unique};
use tests::sign;
use tests::stack::{DatabaseKind, Stack};

use crate::WAIT_LIMIT;

on_both!(shared_transaction_isolates_a_refused_platform);

const PLATFORMS: usize = 12;
const EVENTS: usize = 5;

fn name(n: usize) -> String {
    format!("many{n:02}")
}

async fn send_content(stack: &Stack, platform: &str, content: &str) {
    let body = content_event("content_added", content, "t", now_ms()).to_string();
    let signed = sign::generic(platform, ACME_SECRET, body.as_bytes());
    stack.sender().send(&signed).await.expect(202, "accepted");
}

/// Sends events of every platform, which the worker reads at once. `odd` is in the middle.
async fn send_round(stack: &Stack, round: &str, odd: &str) {
    stack.workers[0].process.freeze();
    for event in 0..EVENTS {
        for platform in 0..PLATFORMS {
            let here = event == EVENTS / 2 && platform == PLATFORMS / 2;
            let content = if here { odd.to_owned() } else { format!("{round}-{platform}-{event}") };
            send_content(stack, &name(platform), &content).await;
        }
    }
    stack.workers[0].process.thaw();
}

/// Largest number of platforms whose rows have the same time of processing.
async fn most_in_one_transaction(stack: &Stack) -> u64 {
    let sql = "SELECT count(DISTINCT platform) AS n FROM webhook_events GROUP BY processed_at \
        ORDER BY n DESC";
    let rows = stack.database.rows(sql, &[]).await;
    rows.first().and_then(|row| row["n"].as_u64()).unwrap_or(0)
}

async fn shared_transaction_isolates_a_refused_platform(kind: DatabaseKind) {
    let platform = |n| {
        format!(
            "[platforms.{}]\npreset = \"generic\"\nsecrets = [\"env:ACME_SECRET\"]\n\
            rate_limit = 600000\n",
            name(n)
        )
    };
    let platforms: String = (0..PLATFORMS).map(platform).collect();
    let stack =
        Stack::builder().platforms(&platforms).database(kind).worker_env("MAX_ATTEMPTS", "3");
    let stack = stack.start().await;

    // An event that waits for its session shares the transaction.
    let waiting = mux_event(&unique("e"), "active", Some("room"), "ls", now_ms());
    stack.sender().mux(&waiting).await.expect(202, "accepted");
    send_round(&stack, "good", "good").await;
    poll::until("every event but the waiting one is in the database", WAIT_LIMIT, async || {
        match stack.database.count("webhook_events").await {
            60 => Ok(()),
            seen => Err(seen),
        }
    })
    .await;
    let at_once = most_in_one_transaction(&stack).await;
    assert!(at_once >= PLATFORMS as u64 / 2, "{at_once} platforms in one transaction");
    stack.sender().announce("room", &json!({})).await.expect(202, "accepted");
    stack.status("room", "live", WAIT_LIMIT).await;

    stack.database.refuse_content("bad").await;
    send_round(&stack, "more", "bad").await;
    let odd = name(PLATFORMS / 2);
    poll::until("the refused event is a dead letter", WAIT_LIMIT, async || {
        match stack.dead(&odd).await {
            1 => Ok(()),
            seen => Err(seen),
        }
    })
    .await;
    stack.wait_until_drained(WAIT_LIMIT).await;
    let fields = entries(&stack, &format!("webhooks:dlq:{odd}")).await.remove(0).1;
    assert_eq!(
        (&fields["error_code"][..], &fields["attempts"][..]),
        (&b"store_rejected"[..], &b"3"[..])
    );
    assert!(String::from_utf8_lossy(&fields["body"]).contains("bad"));
    assert_eq!(stack.database.count("contents").await, 2 * 60 - 1);
    let spent = "SELECT event_id FROM webhook_events WHERE platform <> 'mux' AND attempts <> 1";
    assert_eq!(
        stack.database.rows(spent, &[]).await,
        Vec::<serde_json::Value>::new(),
        "other events spent attempts"
    );
    stack.workers[0].ready(WAIT_LIMIT).await;
}
