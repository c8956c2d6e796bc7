//! Output, effects and exit codes of `dlq-tool` on a running system.

use serde_json::{Value, json};
use tests::ledger::entries;
use tests::process::{Program, ProgramOutput};
use tests::sender::{content_event, mux_event, now_ms, unique};
use tests::stack::Stack;
use tests::{pending_entries, poll};

use crate::WAIT_LIMIT;

/// Starts a stack with `count` dead letters of mux (`session_not_found`).
async fn stack_with_dead_letters(count: usize) -> Stack {
    let stack = Stack::builder().worker_env("MISSING_SESSION_WAIT_MS", "300").start().await;
    for n in 0..count {
        let body =
            mux_event(&format!("dead_{n}"), "active", Some(&format!("room_{n}")), "ls", now_ms());
        stack.sender().mux(&body).await.expect(202, "accepted");
    }
    poll::until("every event is a dead letter", WAIT_LIMIT, async || {
        match stack.dead("mux").await {
            dead if dead == count => Ok(()),
            dead => Err(dead),
        }
    })
    .await;
    stack
}

fn lines(finished: &ProgramOutput) -> Vec<Value> {
    finished
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn list_show_and_stats_print_the_dead_letters() {
    let stack = stack_with_dead_letters(3).await;
    let listed = stack.dlq_tool(&["list", "--output", "json"]).await;
    assert_eq!((listed.code, lines(&listed).len()), (Some(0), 3), "{listed:?}");
    let dead_letters = entries(&stack, "webhooks:dlq:mux").await;
    let (stream_id, fields) =
        dead_letters.into_iter().find(|(_, fields)| fields["event_id"] == b"dead_0").unwrap();
    let listed = lines(&listed);
    let first = listed.iter().find(|line| line["event_id"] == "dead_0").unwrap();
    assert_eq!((&first["id"], &first["platform"]), (&json!(stream_id), &json!("mux")));
    for name in ["event_id", "event_type", "error_code", "error", "origin", "source_id", "worker"] {
        assert_eq!(first[name], String::from_utf8_lossy(&fields[name]).as_ref(), "{name}");
    }
    for name in
        ["occurred_at", "received_at", "attempts", "first_failed_at", "failed_at", "replays"]
    {
        assert!(!first[name].is_null(), "{name} is missing: {first}");
    }
    assert_eq!(first["body"], String::from_utf8_lossy(&fields["body"]).as_ref());

    let table = stack.dlq_tool(&["list"]).await;
    assert_eq!(table.code, Some(0));
    for text in ["dead_0", "dead_1", "dead_2", "session_not_found", "mux", &stream_id] {
        assert!(table.stdout.contains(text), "{text} is missing:\n{}", table.stdout);
    }
    assert!(!table.stdout.contains('\u{1b}'), "no colours into a pipe");

    let shown = stack.dlq_tool(&["show", &stream_id]).await;
    assert_eq!(shown.code, Some(0), "{shown:?}");
    for text in ["dead_0", "session_not_found", "room_0", "video.live_stream.active"] {
        assert!(shown.stdout.contains(text), "{text} is missing:\n{}", shown.stdout);
    }
    let stats = stack.dlq_tool(&["stats", "--output", "json"]).await;
    let mux = lines(&stats)
        .into_iter()
        .find(|line| line["platform"] == "mux")
        .unwrap_or_else(|| panic!("{stats:?}"));
    assert_eq!(mux["by_error_code"]["session_not_found"], 3, "{mux}");

    let selected = async |args: &[&str]| {
        let found = stack.dlq_tool(&[&["list", "--output", "json"], args].concat()).await;
        (found.code, lines(&found).len())
    };
    assert_eq!(selected(&["--event-id", "dead_1"]).await, (Some(0), 1));
    assert_eq!(selected(&["--id", &stream_id]).await, (Some(0), 1));
    assert_eq!(selected(&["--contains", "room_2"]).await, (Some(0), 1));
    assert_eq!(selected(&["--limit", "2"]).await, (Some(0), 2));
    assert_eq!(selected(&["--since", "1h"]).await, (Some(0), 3));
    assert_eq!(selected(&["--until", "1h"]).await, (Some(3), 0));
    assert_eq!(selected(&["--platform", "livekit"]).await, (Some(3), 0));
    assert_eq!(selected(&["--error-code", "crash_loop"]).await, (Some(3), 0));
    assert_eq!(selected(&["--min-attempts", "1000"]).await, (Some(3), 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replay_needs_consent_previews_and_moves() {
    let stack = stack_with_dead_letters(3).await;
    let before = entries(&stack, "webhooks:dlq:mux").await;
    let planned = stack.dlq_tool(&["replay", "--platform", "mux", "--dry-run"]).await;
    assert_eq!(planned.code, Some(0), "{planned:?}");
    let text = format!("{}{}", planned.stdout, planned.stderr);
    assert!(text.contains("dead_0") && text.contains("dead_2"), "the plan names them:\n{text}");
    let refused = stack.dlq_tool(&["replay", "--platform", "mux"]).await;
    assert_eq!(refused.code, Some(2), "without a terminal more than one needs --yes: {refused:?}");
    assert!(refused.stderr.contains("--yes"), "{}", refused.stderr);
    assert_eq!(entries(&stack, "webhooks:dlq:mux").await, before, "nothing has changed so far");

    for n in 0..3 {
        stack.sender().announce(&format!("room_{n}"), &json!({})).await.expect(202, "accepted");
        stack.status(&format!("room_{n}"), "ready", WAIT_LIMIT).await;
    }
    let replayed = stack.dlq_tool(&["replay", "--platform", "mux", "--yes"]).await;
    assert_eq!(replayed.code, Some(0), "{replayed:?}");
    for n in 0..3 {
        stack.status(&format!("room_{n}"), "live", WAIT_LIMIT).await;
        let id = format!("dead_{n}");
        let row = stack.database.event("mux", &id).await.unwrap();
        let (_, fields) =
            before.iter().find(|(_, fields)| fields["event_id"] == id.as_bytes()).unwrap();
        assert_eq!(
            row["origin"],
            String::from_utf8_lossy(&fields["origin"]).as_ref(),
            "origin is kept"
        );
    }
    stack.wait_until_drained(WAIT_LIMIT).await;
    assert_eq!(stack.dead("mux").await, 0);
}

/// A replayed event does not overwrite the effect of a newer one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replayed_event_keeps_its_place_in_the_order() {
    let stack = stack_with_dead_letters(1).await;
    stack.sender().announce("room_0", &json!({})).await.expect(202, "accepted");
    stack.status("room_0", "ready", WAIT_LIMIT).await;
    let body = mux_event(&unique("e"), "disconnected", Some("room_0"), "ls", now_ms());
    stack.sender().mux(&body).await.expect(202, "accepted");
    stack.status("room_0", "ended", WAIT_LIMIT).await;
    let replayed = stack.dlq_tool(&["replay", "--event-id", "dead_0"]).await;
    assert_eq!(replayed.code, Some(0), "{replayed:?}");
    poll::until("the event is processed", WAIT_LIMIT, async || {
        stack.database.event("mux", "dead_0").await.map(drop).ok_or("no row")
    })
    .await;
    assert_eq!(stack.database.status("room_0").await, "ended");
    assert_eq!(stack.database.event("mux", "dead_0").await.unwrap()["action"], "stale_ignored");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dlq_tool_failures_have_their_exit_codes() {
    let mut stack = Stack::builder().workers(0).ingresses(0).start().await;
    let code = async |stack: &Stack, args: &[&str]| {
        let finished = stack.dlq_tool(args).await;
        assert!(finished.stdout.is_empty(), "{args:?} printed data: {}", finished.stdout);
        finished.code
    };
    assert_eq!(code(&stack, &["list"]).await, Some(3));
    assert_eq!(code(&stack, &["replay", "--yes"]).await, Some(3));
    assert_eq!(code(&stack, &["show", "1-0"]).await, Some(3));
    for wrong in [
        &["unheard-of"][..],
        &["list", "--limit", "x"],
        &["list", "--since", "yesterday"],
        &["show"],
        &["show", "x"],
    ] {
        assert_eq!(code(&stack, wrong).await, Some(2), "{wrong:?}");
    }
    let nowhere = Program::new("dlq-tool")
        .env("REDIS_URL", "not a url ://hunter2")
        .arg("list")
        .run(WAIT_LIMIT)
        .await;
    assert_eq!(nowhere.code, Some(2), "{nowhere:?}");
    assert!(!nowhere.stderr.contains("hunter2"), "{}", nowhere.stderr);
    stack.redis.stop().await;
    for args in [&["list"][..], &["stats"], &["show", "1-0"], &["replay", "--yes"]] {
        let finished = stack.dlq_tool(args).await;
        assert_eq!(finished.code, Some(4), "{args:?}: {finished:?}");
        assert!(!finished.stderr.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn list_into_a_pipe_closed_early_succeeds() {
    let stack = stack_with_dead_letters(40).await;
    let tool = tests::process::binary("dlq-tool");
    let line =
        format!("{} list --output json | head -n 1; exit ${{PIPESTATUS[0]}}", tool.display());
    let program =
        Program::at("bash", "bash").env("REDIS_URL", stack.redis.url()).args(["-c", &line]);
    let finished = program.run(WAIT_LIMIT).await;
    // The pipe may close before or after the last row. Neither is an error.
    assert_eq!((finished.code, finished.stdout.lines().count()), (Some(0), 1), "{finished:?}");
    assert!(!finished.stderr.contains("dlq-tool:"), "{}", finished.stderr);
}

/// A full dead-letter stream refuses the event. It stays in the retry set and moves when there is
/// room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_dead_letter_stream_loses_nothing() {
    let builder = Stack::builder()
        .worker_env("MISSING_SESSION_WAIT_MS", "300")
        .worker_env("RETRY_MAX_MS", "8000");
    let stack = builder.worker_env("DLQ_MAX_LEN", "2").start().await;
    for n in 0..5 {
        let body = mux_event(&format!("dead_{n}"), "active", Some("absent"), "ls", now_ms());
        stack.sender().mux(&body).await.expect(202, "accepted");
    }
    let counts = async || {
        (stack.dead("mux").await, stack.retrying("mux").await, stack.unfinished("mux").await)
    };
    poll::until("two dead letters and three waiting events", WAIT_LIMIT, async || {
        match counts().await {
            (2, 3, 3) => Ok(()),
            seen => Err(format!("{seen:?}")),
        }
    })
    .await;
    poll::until("the waiting events have the longest delay", WAIT_LIMIT, async || {
        let words = ["ZRANGE", "webhooks:retry:mux", "0", "0", "WITHSCORES"];
        let first: Vec<(String, i64)> = stack.redis.command(&words).await;
        match &first[..] {
            [(_, due), ..] if *due > now_ms() + 4_000 => Ok(()),
            _ => Err(format!("{first:?}")),
        }
    })
    .await;
    poll::throughout("nothing changes", std::time::Duration::from_secs(2), async || match counts()
        .await
    {
        (2, _, 3) => Ok(()),
        seen => Err(format!("{seen:?}")),
    })
    .await;
    // Several refused attempts are logged in one line.
    let log = stack.workers[0].process.log();
    assert_eq!(log.matches("the dead letters are at DLQ_MAX_LEN").count(), 1, "{log}");
    // After the announcement, the waiting events are processed.
    stack.sender().announce("absent", &json!({})).await.expect(202, "accepted");
    stack.wait_until_drained(WAIT_LIMIT).await;
    assert_eq!(
        (
            stack.dead("mux").await,
            stack.database.count("webhook_events WHERE platform = 'mux'").await
        ),
        (2, 3)
    );
}

/// A retry would crash another worker.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crashing_event_is_not_rerun_when_dead_letters_are_full() {
    let builder =
        Stack::builder().worker_env("DLQ_MAX_LEN", "1").worker_env("CLAIM_IDLE_MS", "1000");
    let stack =
        builder.worker_env("RETRY_BASE_MS", "20").worker_env("RETRY_MAX_MS", "100").start().await;
    stack.redis.command::<String>(&["XADD", "webhooks:dlq:acme", "*", "event_id", "another"]).await;
    let (now, body) =
        (now_ms().to_string(), content_event("content_added", "c", "t", now_ms()).to_string());
    let fields = [
        "v",
        "1",
        "event_id",
        "poison",
        "event_type",
        "content_added",
        "occurred_at",
        &now,
        "received_at",
    ];
    let fields = [&fields[..], &[&now, "attempt", "1", "origin", "1-1", "body", &body]].concat();
    // The event has crashed three workers.
    pending_entries::add_condemned_entry(
        &stack.redis,
        "webhooks:incoming:acme",
        "webhooks:suspects:acme",
        &fields,
    )
    .await;
    stack.workers[0]
        .process
        .wait_until_logged("the dead letters are at DLQ_MAX_LEN", WAIT_LIMIT)
        .await;
    poll::throughout("the event is not run", std::time::Duration::from_secs(3), async || {
        match (stack.unfinished("acme").await, stack.retrying("acme").await) {
            (1, 0) => Ok(()),
            seen => Err(format!("{seen:?}")),
        }
    })
    .await;
    assert_eq!(stack.database.count("webhook_events").await, 0);
    let log = stack.workers[0].process.log();
    assert_eq!(log.matches("the dead letters are at DLQ_MAX_LEN").count(), 1, "{log}");
    stack.redis.command::<usize>(&["DEL", "webhooks:dlq:acme"]).await;
    stack.wait_until_drained(WAIT_LIMIT).await;
    assert_eq!((stack.dead("acme").await, stack.database.count("webhook_events").await), (1, 0));
}
