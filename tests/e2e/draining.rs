//! Platforms that are removed or paused at runtime. Accepted events are processed, or kept until
//! the platform resumes.

use std::time::Duration;

use serde_json::json;
use tests::poll;
use tests::sender::{HttpAnswer, content_event, mux_event, now_ms, unique};
use tests::sign;
use tests::stack::{ServerProcess, Stack, StackBuilder};

use crate::WAIT_LIMIT;
use crate::registration::{PROPAGATION_LIMIT, accepted, builder_with_key, event};

const SECRET: &str = "leaving-secret-03aa-81d4";

async fn registration_record(stack: &Stack, platform: &str) -> Option<String> {
    stack.redis.command(&["HGET", "webhooks:registrations", platform]).await
}

async fn wait_for_ledger(stack: &Stack, platform: &str, count: usize, within: Duration) {
    poll::until(&format!("{count} events of {platform} are processed"), within, async || {
        let sql = "SELECT event_id FROM webhook_events WHERE platform = $1";
        let found = stack.database.try_rows(sql, &[platform]).await.map_or(0, |rows| rows.len());
        if found == count { Ok(()) } else { Err(found) }
    })
    .await;
}

#[track_caller]
fn check_done(answer: &HttpAnswer) {
    assert!((200..300).contains(&answer.status), "answer: {}", answer.text);
}

async fn wait_for_metric(role: &ServerProcess, metric: &str, platform: &str, value: f64) {
    let label = format!("platform=\"{platform}\"");
    poll::until(&format!("{metric} of {platform} is {value}"), WAIT_LIMIT, async || {
        let seen = role.metric(metric, &[&label]).await;
        if (seen - value).abs() < 0.1 { Ok(()) } else { Err(seen) }
    })
    .await;
}

/// A removed platform answers 404 at once. Its accepted events are still processed, also by workers
/// that start later. Then only its dead letters remain.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removed_platform_drains_first() {
    let mut stack = builder_with_key().ingresses(2).workers(1).start().await;
    let senders = [stack.ingresses[0].sender(), stack.ingresses[1].sender()];
    senders[0].registered(&json!({"platform": "shop", "secret": SECRET})).await;
    let body = json!({"event_type": "content_added", "payload": {}}).to_string();
    accepted(&senders[0], &sign::generic("shop", SECRET, body.as_bytes()), PROPAGATION_LIMIT).await;
    poll::until(
        "the event without a content id is a dead letter",
        WAIT_LIMIT,
        async || match stack.dead("shop").await {
            1 => Ok(()),
            n => Err(n),
        },
    )
    .await;
    wait_for_metric(&stack.workers[0], "webhook_dead_letters", "shop", 1.0).await;
    // The platform is paused, so that it stays non-empty for as long as the test needs.
    check_done(&senders[0].pause("shop", true).await);
    tokio::time::sleep(PROPAGATION_LIMIT).await;
    for sender in senders.iter().cycle().take(6) {
        accepted(sender, &event("shop", SECRET), PROPAGATION_LIMIT).await;
    }
    check_done(&senders[1].unregister("shop").await);
    for sender in &senders {
        poll::until("the platform answers 404", PROPAGATION_LIMIT, async || {
            let answer = sender.send(&event("shop", SECRET)).await;
            if answer.errcode() == "E_WEBHOOK_UNSUPPORTED_PLATFORM" {
                Ok(())
            } else {
                Err(answer.text)
            }
        })
        .await;
    }
    let left = stack.unfinished("shop").await;
    assert!(left >= 6, "{left} queued");
    // Longer than the shortest drain. The record stays while events are left.
    poll::throughout("the record exists", Duration::from_secs(12), async || {
        registration_record(&stack, "shop").await.map(drop).ok_or("the record is missing")
    })
    .await;
    assert_eq!(stack.unfinished("shop").await, left, "a paused platform stays paused");
    // A worker that never saw the platform active.
    stack.workers.remove(0).process.kill();
    stack.add_worker().await;
    wait_for_metric(&stack.workers[0], "webhook_dead_letters", "shop", 1.0).await;
    check_done(&senders[1].pause("shop", false).await);
    wait_for_ledger(&stack, "shop", left, WAIT_LIMIT).await;
    poll::until("the record is removed", WAIT_LIMIT, async || {
        match registration_record(&stack, "shop").await {
            None => Ok(()),
            Some(_) => Err("still there"),
        }
    })
    .await;
    assert_eq!((stack.unfinished("shop").await, stack.dead("shop").await), (0, 1));
    wait_for_metric(&stack.workers[0], "webhook_dead_letters", "shop", 0.0).await;
    // A second removal finds nothing. The name can be registered again with another secret.
    assert_eq!(senders[0].unregister("shop").await.status, 404);
    senders[0].registered(&json!({"platform": "shop", "secret": "another"})).await;
    for sender in &senders {
        accepted(sender, &event("shop", "another"), PROPAGATION_LIMIT).await;
        assert_eq!(sender.send(&event("shop", SECRET)).await.status, 401);
    }
    wait_for_ledger(&stack, "shop", left + 2, WAIT_LIMIT).await;
    assert!(!stack.workers[0].process.log().contains("no definition for"));
}

/// The record of a removed platform stays for ten seconds even without queued events, because a
/// replica that does not know of the removal may still accept one. Registering it again cancels the
/// removal.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn draining_platform_can_be_registered_again() {
    let stack = builder_with_key().start().await;
    let sender = stack.sender();
    sender.registered(&json!({"platform": "shop", "secret": SECRET})).await;
    accepted(&sender, &event("shop", SECRET), PROPAGATION_LIMIT).await;
    wait_for_ledger(&stack, "shop", 1, WAIT_LIMIT).await;
    let there =
        async || registration_record(&stack, "shop").await.map(drop).ok_or("the record is missing");
    check_done(&sender.unregister("shop").await);
    poll::throughout("the record of the draining platform exists", Duration::from_secs(7), there)
        .await;
    sender.registered(&json!({"platform": "shop", "secret": SECRET})).await;
    poll::throughout("the record of the restored platform exists", Duration::from_secs(7), there)
        .await;
    sender.send(&event("shop", SECRET)).await.expect(202, "accepted");
    wait_for_ledger(&stack, "shop", 2, WAIT_LIMIT).await;
    check_done(&sender.unregister("shop").await);
    poll::until("the record is removed", WAIT_LIMIT, async || {
        if there().await.is_err() { Ok(()) } else { Err("there") }
    })
    .await;
}

/// Events of a paused platform are accepted but not applied: neither new events, nor due retries,
/// nor entries of a dead worker. Other platforms continue, and everything is applied after the
/// resume.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paused_platform_holds_and_resumes() {
    // The retry is due only after the pause is known everywhere, and before the resume.
    let delays = |builder: StackBuilder| {
        builder.worker_env("RETRY_BASE_MS", "4000").worker_env("RETRY_MAX_MS", "4000")
    };
    let mut stack = delays(builder_with_key()).ingresses(2).workers(1).start().await;
    let (one, two) = (stack.ingresses[0].sender(), stack.ingresses[1].sender());
    // An event in the retry set that waits for its session.
    one.mux(&mux_event(&unique("e"), "active", Some("late"), "ls", now_ms()))
        .await
        .expect(202, "accepted");
    poll::until("the event waits for a retry", WAIT_LIMIT, async || {
        match stack.retrying("mux").await {
            1 => Ok(()),
            n => Err(n),
        }
    })
    .await;
    check_done(&one.pause("mux", true).await);
    tokio::time::sleep(PROPAGATION_LIMIT).await;
    let event = |kind: &str| mux_event(&unique("e"), kind, Some("late"), "ls", now_ms());
    two.mux(&event("idle")).await.expect(202, "accepted");
    two.announce("late", &json!({"live_stream_id": "ls"})).await.expect(202, "accepted");
    two.acme(&content_event("content_added", "c", "t", now_ms())).await.expect(202, "accepted");
    stack.status("late", "ready", WAIT_LIMIT).await;
    wait_for_ledger(&stack, "acme", 1, WAIT_LIMIT).await;
    // A new worker must read the pause before it reads the queue.
    stack.add_worker().await;
    poll::throughout("mux is left alone", Duration::from_secs(6), async || {
        let state =
            (stack.unfinished("mux").await, stack.retrying("mux").await, stack.dead("mux").await);
        let status = stack.database.status("late").await;
        if (state, status.as_str()) == ((2, 1, 0), "ready") {
            Ok(())
        } else {
            Err(format!("{state:?}, {status}"))
        }
    })
    .await;
    for role in &stack.workers {
        wait_for_metric(role, "webhook_oldest_age_seconds", "mux", 0.0).await;
    }
    assert!(one.platforms().await.text.contains("\"paused\":true"));

    check_done(&two.pause("mux", false).await);
    stack.status("late", "idle", PROPAGATION_LIMIT).await;
    wait_for_ledger(&stack, "mux", 2, PROPAGATION_LIMIT).await;
    stack.wait_until_drained(WAIT_LIMIT).await;
}

/// A pause makes the worker hand back its unprocessed entries. After the resume they are read at
/// once, without waiting for `CLAIM_IDLE_MS`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pending_entries_of_a_paused_platform_resume_at_once() {
    let stack = builder_with_key().worker_env("CLAIM_IDLE_MS", "600000").start().await;
    let sender = stack.sender();
    let lock = tests::database::ExclusiveLock::take(&stack.database).await;
    // The first event is in the blocked transaction. The later ones are pending.
    for n in 0..20 {
        sender
            .acme(&content_event("content_added", &format!("c{n}"), "t", now_ms()))
            .await
            .expect(202, "accepted");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    check_done(&sender.pause("acme", true).await);
    tokio::time::sleep(PROPAGATION_LIMIT).await;
    lock.release().await;
    stack.workers[0].process.wait_until_logged("paused; handed back", WAIT_LIMIT).await;
    let finished = stack.database.count("contents").await;
    assert!(finished < 20, "{finished}");
    check_done(&sender.pause("acme", false).await);
    wait_for_ledger(&stack, "acme", 20, Duration::from_secs(5)).await;
    stack.wait_until_drained(WAIT_LIMIT).await;
}

/// A new worker processes nothing before it has read pauses and registrations. Until then it
/// reports no platform as unknown.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn worker_start_reads_registrations_and_pauses_first() {
    let mut stack = builder_with_key().workers(0).start().await;
    let sender = stack.sender();
    sender.registered(&json!({"platform": "shop", "secret": SECRET})).await;
    accepted(&sender, &event("shop", SECRET), PROPAGATION_LIMIT).await;
    check_done(&sender.pause("acme", true).await);
    sender.acme(&content_event("content_added", "c", "t", now_ms())).await.expect(202, "accepted");
    // A key of the wrong type makes the registrations unreadable.
    let (): () = stack.redis.command(&["RENAME", "webhooks:registrations", "aside"]).await;
    let (): () = stack.redis.command(&["SET", "webhooks:registrations", "strange"]).await;
    stack.add_worker().await;
    poll::throughout("nothing is touched", Duration::from_secs(3), async || {
        let state = (stack.unfinished("acme").await, stack.database.count("webhook_events").await);
        if state == (1, 0) { Ok(()) } else { Err(format!("{state:?}")) }
    })
    .await;
    let (): () = stack.redis.command(&["RENAME", "aside", "webhooks:registrations"]).await;
    wait_for_ledger(&stack, "shop", 1, WAIT_LIMIT).await;
    assert_eq!(stack.unfinished("acme").await, 1, "acme is paused");
    check_done(&sender.pause("acme", false).await);
    wait_for_ledger(&stack, "acme", 1, WAIT_LIMIT).await;
    let log = stack.workers[0].process.log();
    assert!(!log.contains("no definition for"), "{log}");
}
