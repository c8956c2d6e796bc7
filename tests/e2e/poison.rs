//! Poison events: an event that cannot be processed affects no other event, and is kept for
//! inspection and replay.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::{Value, json};
use tests::ledger::entries;
use tests::poll;
use tests::sender::{content_event, mux_event, now_ms, unique};
use tests::stack::{DatabaseKind, Stack};

use crate::WAIT_LIMIT;

on_both!(event_refused_by_the_database_is_dead_lettered_alone);
on_both!(write_swallowed_by_a_trigger_is_dead_lettered);

async fn dead(stack: &Stack, platform: &str, count: usize) {
    poll::until(&format!("{count} dead letters of {platform}"), WAIT_LIMIT, async || {
        let seen = stack.dead(platform).await;
        if seen == count { Ok(()) } else { Err(seen) }
    })
    .await;
}

async fn dead_letter(stack: &Stack, args: &[&str]) -> Value {
    let listed = stack.dlq_tool(&[&["list", "--output", "json"], args].concat()).await;
    serde_json::from_str(&listed.stdout).unwrap_or_else(|error| panic!("{error}: {listed:?}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn undecodable_entry_is_kept_unchanged_and_replayable() {
    let stack = Stack::builder().start().await;
    let sender = stack.sender();
    let stream = "webhooks:incoming:acme";
    sender
        .acme(&content_event("content_added", "before", "t", now_ms()))
        .await
        .expect(202, "accepted");
    let _: String = stack
        .redis
        .command(&["XADD", stream, "*", "rubbish", "\u{1}\u{2}kept", "event_id", "odd", "v", "1"])
        .await;
    let _: String = stack
        .redis
        .command(&["XADD", stream, "*", "v", "not-a-number", "event_id", "odd2", "body", "{}"])
        .await;
    sender
        .acme(&content_event("content_added", "after", "t", now_ms()))
        .await
        .expect(202, "accepted");
    dead(&stack, "acme", 2).await;
    stack.wait_until_drained(WAIT_LIMIT).await;
    assert_eq!(stack.database.count("contents").await, 2, "its neighbours are processed");
    let (id, fields) = entries(&stack, "webhooks:dlq:acme").await.remove(0);
    assert_eq!(fields["rubbish"], b"\x01\x02kept");
    assert_eq!(fields["error_code"], b"undecodable");

    let listed = dead_letter(&stack, &["--id", &id]).await;
    assert_eq!(listed["error_code"], "undecodable");
    let shown = stack.dlq_tool(&["show", &id]).await;
    assert_eq!(shown.code, Some(0), "{shown:?}");
    let replayed = stack.dlq_tool(&["replay", "--id", &id]).await;
    assert_eq!(replayed.code, Some(0), "{replayed:?}");
    poll::until("the replayed event is a dead letter with its lineage", WAIT_LIMIT, async || {
        let dead_letters = entries(&stack, "webhooks:dlq:acme").await;
        let again = dead_letters.iter().find(|(_, fields)| fields.contains_key("rubbish"));
        match again {
            Some((_, fields)) if fields.get("replays").is_some_and(|n| n == b"1") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert_eq!(stack.unfinished("acme").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_event_is_dead_lettered_without_its_neighbours() {
    let stack = Stack::builder().start().await;
    let sender = stack.sender();
    sender.announce("room", &json!({})).await.expect(202, "accepted");
    stack.status("room", "ready", WAIT_LIMIT).await;
    stack.workers[0].process.freeze();
    // Databases refuse NUL. A room id of 100 kB does not fit an index.
    for room in ["a\u{0}b".to_owned(), "r".repeat(100_000)] {
        let body = mux_event(&unique("e"), "active", Some(&room), &room, now_ms());
        sender.mux(&body).await.expect(202, "accepted");
    }
    sender
        .mux(&mux_event("good", "active", Some("room"), "ls", now_ms()))
        .await
        .expect(202, "accepted");
    stack.workers[0].process.thaw();
    stack.status("room", "live", WAIT_LIMIT).await;
    dead(&stack, "mux", 2).await;
    stack.wait_until_drained(WAIT_LIMIT).await;
    for (_, fields) in entries(&stack, "webhooks:dlq:mux").await {
        assert_eq!(fields["error_code"], b"invalid_event");
        assert!(fields["error"].len() < 1_000);
    }
    stack.workers[0].ready(WAIT_LIMIT).await;
}

/// An isolated run without an orderly end counts as a crash. A high delivery count, as an outage
/// causes, does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn high_delivery_count_alone_is_not_poison() {
    let mut stack = Stack::builder().workers(0).start().await;
    let sender = stack.sender();
    let stream = "webhooks:incoming:acme";
    for n in 0..5 {
        sender
            .acme(&content_event("content_added", &format!("c{n}"), "t", now_ms()))
            .await
            .expect(202, "accepted");
    }
    let (): () =
        stack.redis.command(&["XGROUP", "CREATE", stream, "webhook-processors", "0"]).await;
    let _: redis::Value = stack
        .redis
        .command(&["XREADGROUP", "GROUP", "webhook-processors", "gone", "STREAMS", stream, ">"])
        .await;
    for (id, _) in entries(&stack, stream).await {
        let claim = [
            "XCLAIM",
            stream,
            "webhook-processors",
            "gone",
            "0",
            &id,
            "IDLE",
            "600000",
            "RETRYCOUNT",
            "500",
            "JUSTID",
        ];
        let _: redis::Value = stack.redis.command(&claim).await;
    }
    stack.add_worker().await;
    stack.wait_until_drained(WAIT_LIMIT).await;
    assert_eq!((stack.database.count("contents").await, stack.dead("acme").await), (5, 0));
    let suspects: usize = stack.redis.command(&["HLEN", "webhooks:suspects:acme"]).await;
    assert_eq!(suspects, 0, "cleared by the orderly outcome");
}

/// The test kills the worker whenever the database processes one certain event.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_that_kills_workers_is_dead_lettered_as_crash_loop() {
    const ROUNDS: usize = 12;
    let stack =
        Stack::builder().database(DatabaseKind::Postgres).worker_env("CLAIM_IDLE_MS", "1000");
    let mut stack = stack.start().await;
    let slow = "CREATE FUNCTION slow() RETURNS trigger AS $$ BEGIN PERFORM pg_sleep(4); \
        RETURN NEW; END $$ LANGUAGE plpgsql;
                CREATE TRIGGER slow BEFORE INSERT ON contents FOR EACH ROW WHEN (NEW.content_id = \
                'poison')
                EXECUTE FUNCTION slow()";
    stack.database.execute(slow).await;
    stack.workers[0].process.freeze();
    for id in ["before", "poison", "after"] {
        stack
            .sender()
            .acme(&content_event("content_added", id, "t", now_ms()))
            .await
            .expect(202, "accepted");
    }
    stack.workers[0].process.thaw();
    let mut seen: HashSet<i64> = HashSet::new();
    let mut killed = 0;
    while stack.dead("acme").await == 0 {
        assert!(killed < ROUNDS, "{killed} workers killed, and the event is still not given up");
        poll::until("a worker runs the event, or it is a dead letter", WAIT_LIMIT, async || {
            let sql = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep' \
                AND datname = current_database()";
            let sleeping = stack.database.rows(sql, &[]).await;
            let new = sleeping
                .iter()
                .filter_map(|row| row["pid"].as_i64())
                .filter(|pid| seen.insert(*pid))
                .count();
            if new > 0 || stack.dead("acme").await > 0 {
                Ok(())
            } else {
                Err(format!("{sleeping:?}"))
            }
        })
        .await;
        if stack.dead("acme").await == 0 {
            stack.workers[killed].process.kill();
            killed += 1;
            stack.add_worker().await;
        }
    }
    assert!(killed >= 3, "given up after {killed} kills: a few restarts are no crash loop");
    stack.wait_until_drained(WAIT_LIMIT).await;
    let dead_letters = entries(&stack, "webhooks:dlq:acme").await;
    assert_eq!(dead_letters.len(), 1);
    assert_eq!(dead_letters[0].1["error_code"], b"crash_loop");
    assert!(String::from_utf8_lossy(&dead_letters[0].1["body"]).contains("poison"));
    assert_eq!(stack.database.count("contents").await, 2, "its neighbours are processed");
    let suspects: usize = stack.redis.command(&["HLEN", "webhooks:suspects:acme"]).await;
    assert_eq!(suspects, 0);
}

/// A trigger refuses every row, also the rows of a probe without an event. No event is blamed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusal_of_every_row_is_blamed_on_no_event() {
    let stack = Stack::builder()
        .worker_env("MAX_ATTEMPTS", "2")
        .worker_env("RETRY_BASE_MS", "20")
        .worker_env("RETRY_MAX_MS", "100")
        .start()
        .await;
    for (name, on) in [
        ("one", "INSERT ON contents"),
        ("two", "UPDATE ON tributary_meta"),
        ("three", "INSERT ON tributary_meta"),
    ] {
        stack
            .database
            .execute(&format!(
                "CREATE TRIGGER {name} BEFORE {on} BEGIN SELECT RAISE(ABORT, 'no'); END"
            ))
            .await;
    }
    stack
        .sender()
        .acme(&content_event("content_added", "c", "t", now_ms()))
        .await
        .expect(202, "accepted");
    stack.workers[0].health("/ready", 503, WAIT_LIMIT).await;
    poll::throughout("the entry waits", Duration::from_secs(2), async || {
        match stack.dead("acme").await {
            0 => Ok(()),
            dead => Err(dead),
        }
    })
    .await;
    for name in ["one", "two", "three"] {
        stack.database.execute(&format!("DROP TRIGGER {name}")).await;
    }
    stack.wait_until_drained(WAIT_LIMIT).await;
    assert_eq!(stack.database.count("webhook_events WHERE attempts = 1").await, 1);
    assert_eq!(stack.dead("acme").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_wire_version_waits_for_a_newer_worker() {
    let stack = Stack::builder().start().await;
    let stream = "webhooks:incoming:acme";
    let now = now_ms().to_string();
    let fields = [
        "v",
        "99",
        "event_id",
        "newer",
        "event_type",
        "t",
        "received_at",
        &now,
        "body",
        "{}",
        "novelty",
        "kept",
    ];
    let _: String = stack.redis.command(&[&["XADD", stream, "*"], &fields[..]].concat()).await;
    poll::until("the event is rescheduled", WAIT_LIMIT, async || {
        match stack.retrying("acme").await {
            1 => Ok(()),
            n => Err(n),
        }
    })
    .await;
    poll::throughout("the entry stays", Duration::from_secs(3), async || {
        let seen = (stack.unfinished("acme").await, stack.dead("acme").await);
        if seen == (1, 0) { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
    let kept = entries(&stack, stream).await;
    assert_eq!(kept[0].1["novelty"], b"kept");
    stack
        .sender()
        .acme(&content_event("content_added", "c", "t", now_ms()))
        .await
        .expect(202, "accepted");
    poll::until("other events are processed", WAIT_LIMIT, async || {
        match stack.database.count("contents").await {
            1 => Ok(()),
            n => Err(n),
        }
    })
    .await;
}

/// An entry of an undefined platform is neither processed nor lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_of_an_unknown_platform_are_left_alone() {
    let mut stack = Stack::builder().workers(0).start().await;
    let _: String = stack
        .redis
        .command(&["XADD", "webhooks:incoming:stranger", "*", "v", "1", "event_id", "x"])
        .await;
    let (): () = stack.redis.command(&["SADD", "webhooks:platforms", "stranger"]).await;
    stack.add_worker().await;
    stack
        .sender()
        .acme(&content_event("content_added", "c", "t", now_ms()))
        .await
        .expect(202, "accepted");
    poll::until("other events are processed", WAIT_LIMIT, async || {
        match stack.database.count("contents").await {
            1 => Ok(()),
            n => Err(n),
        }
    })
    .await;
    poll::until("the platform is reported", WAIT_LIMIT, async || {
        match stack.workers[0].metric("webhook_unhandled_platforms", &[]).await {
            1.0 => Ok(()),
            seen => Err(seen),
        }
    })
    .await;
    assert_eq!((stack.unfinished("stranger").await, stack.dead("stranger").await), (1, 0));
}

/// A trigger of the application refuses one event. That event spends its attempts and becomes a
/// dead letter, and its neighbours are processed.
async fn event_refused_by_the_database_is_dead_lettered_alone(kind: DatabaseKind) {
    let stack = Stack::builder().database(kind).worker_env("MAX_ATTEMPTS", "3").start().await;
    stack.database.refuse_content("bad").await;
    stack.workers[0].process.freeze();
    for n in 0..40 {
        let id = if n == 17 { "bad".to_owned() } else { format!("good_{n}") };
        let answer = stack.sender().acme(&content_event("content_added", &id, "t", now_ms())).await;
        answer.expect(202, "accepted");
    }
    stack.workers[0].process.thaw();
    dead(&stack, "acme", 1).await;
    stack.wait_until_drained(WAIT_LIMIT).await;
    let fields = entries(&stack, "webhooks:dlq:acme").await.remove(0).1;
    assert_eq!(
        (&fields["error_code"][..], &fields["attempts"][..]),
        (&b"store_rejected"[..], &b"3"[..])
    );
    assert_eq!(stack.database.count("contents").await, 39);
    assert_eq!(
        stack
            .database
            .rows("SELECT 1 AS n FROM webhook_events WHERE attempts <> 1", &[])
            .await
            .len(),
        0
    );
    stack.workers[0].ready(WAIT_LIMIT).await;
}

/// The other events of the batch take effect, and a replay succeeds after the trigger is removed.
async fn write_swallowed_by_a_trigger_is_dead_lettered(kind: DatabaseKind) {
    let stack = Stack::builder().database(kind).worker_env("MAX_ATTEMPTS", "2").start().await;
    stack.database.swallow_content("bad").await;
    stack.workers[0].process.freeze();
    for id in ["before", "bad", "after"] {
        let answer = stack.sender().acme(&content_event("content_added", id, "t", now_ms())).await;
        answer.expect(202, "accepted");
    }
    stack.workers[0].process.thaw();
    dead(&stack, "acme", 1).await;
    stack.wait_until_drained(WAIT_LIMIT).await;
    let letter = dead_letter(&stack, &["--platform", "acme"]).await;
    let error = letter["error"].as_str().unwrap();
    assert_eq!(letter["error_code"], "store_rejected", "{letter}");
    assert!(error.contains("insert into contents changed no row; a trigger"), "{error}");
    assert_eq!(stack.database.count("contents").await, 2);
    let on = if kind == DatabaseKind::Sqlite { "" } else { " ON contents" };
    stack.database.execute(&format!("DROP TRIGGER swallow{on}")).await;
    let replayed = stack.dlq_tool(&["replay", "--platform", "acme"]).await;
    assert_eq!(replayed.code, Some(0), "{replayed:?}");
    stack.wait_until_drained(WAIT_LIMIT).await;
    assert_eq!((stack.database.count("contents").await, stack.dead("acme").await), (3, 0));
}
