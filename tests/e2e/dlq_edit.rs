//! `dlq-tool replay --set`: the edited event keeps its identity and has the content of the edited
//! body.

use serde_json::{Value, json};
use tests::ledger::entries;
use tests::poll;
use tests::sender::{mux_event, now_ms};
use tests::stack::{DatabaseKind, Stack};

use crate::WAIT_LIMIT;
use crate::dlq_tool::{add_dead_letter, length, run, server};

on_both!(edited_event_takes_effect_once);

/// Creates a dead letter of mux whose room does not exist.
async fn stack_with_dead_letter(kind: DatabaseKind) -> (Stack, String) {
    let stack =
        Stack::builder().database(kind).worker_env("MISSING_SESSION_WAIT_MS", "200").start().await;
    let body = mux_event("evt", "active", Some("wrong-room"), "wrong-stream", now_ms());
    stack.sender().mux(&body).await.expect(202, "accepted");
    wait_for_dead_letter(&stack, "session_not_found").await;
    let exported = stack.dlq_tool(&["export"]).await;
    assert_eq!(exported.code, Some(0), "{exported:?}");
    (stack, exported.stdout)
}

/// Waits until the only dead letter has the error code `code`. Returns its fields.
async fn wait_for_dead_letter(
    stack: &Stack,
    code: &str,
) -> std::collections::HashMap<String, Vec<u8>> {
    poll::until("the event is a dead letter", WAIT_LIMIT, async || {
        match entries(stack, "webhooks:dlq:mux").await.pop() {
            Some((_, fields)) if fields["error_code"] == code.as_bytes() => Ok(fields),
            other => Err(format!("{other:?}")),
        }
    })
    .await
}

async fn edited_event_takes_effect_once(kind: DatabaseKind) {
    let (stack, exported) = stack_with_dead_letter(kind).await;
    let original: Value = serde_json::from_str(&exported).unwrap();
    stack.sender().announce("right-room", &json!({})).await.expect(202, "accepted");
    stack.status("right-room", "ready", WAIT_LIMIT).await;

    let words = [
        "replay",
        "--set",
        "/data/passthrough=right-room",
        "--set",
        "/type=video.live_stream.idle",
    ];
    let replayed = stack.dlq_tool(&words).await;
    assert_eq!(replayed.code, Some(0), "{replayed:?}");
    stack.status("right-room", "idle", WAIT_LIMIT).await;
    let row = stack.database.event("mux", "evt").await.expect("in the ledger");
    assert_eq!(
        (&row["event_type"], &row["origin"]),
        (&json!("video.live_stream.idle"), &original["origin"])
    );
    stack.wait_until_drained(WAIT_LIMIT).await;

    // Import restores the dead letter, and another edit follows. The event has already taken
    // effect.
    let file = stack.program("dlq-tool").env("NO_COLOR", "1").args(["import"]);
    let imported = file.run_with_input(exported.as_bytes(), WAIT_LIMIT).await;
    assert_eq!(imported.code, Some(0), "{imported:?}");
    let replayed = stack
        .dlq_tool(&[
            "replay",
            "--set",
            "/type=video.live_stream.active",
            "--set",
            "/data/passthrough=right-room",
        ])
        .await;
    assert_eq!(replayed.code, Some(0), "{replayed:?}");
    let fields = wait_for_dead_letter(&stack, "already_processed").await;
    assert_eq!(
        (&fields["edited"][..], &fields["replays"][..], &fields["event_id"][..]),
        (&b"1"[..], &b"1"[..], &b"evt"[..])
    );
    assert_eq!(fields["event_type"], b"video.live_stream.active");
    assert_eq!(stack.database.status("right-room").await, "idle");

    // Without an edit, it is a normal duplicate.
    assert_eq!(stack.dlq_tool(&["purge"]).await.code, Some(0));
    let imported = stack
        .program("dlq-tool")
        .arg("import")
        .run_with_input(exported.as_bytes(), WAIT_LIMIT)
        .await;
    assert_eq!(imported.code, Some(0), "{imported:?}");
    assert_eq!(stack.dlq_tool(&["replay"]).await.code, Some(0));
    stack.wait_until_drained(WAIT_LIMIT).await;
    assert_eq!(stack.dead("mux").await, 0);
}

#[tokio::test]
async fn invalid_edit_is_reported_and_changes_nothing() {
    let server = server(&["mux", "own"]).await;
    let body = concat!(
        r#"{"type":"video.live_stream.active","data":{"n":1.50},"#,
        r#""created_at":"2025-12-31T23:00:00Z"}"#,
    );
    add_dead_letter(&server, "mux", "1-0", &[("body", body)]).await;
    add_dead_letter(&server, "mux", "2-0", &[("body", "not json")]).await;
    add_dead_letter(&server, "mux", "3-0", &[("body", r#"{"type":"t"}"#)]).await;
    add_dead_letter(&server, "own", "4-0", &[("body", body)]).await;

    let words = ["replay", "--yes", "--set", "/data/n=2"];
    let planned = run(&server, &[&words[..], &["--dry-run"]].concat()).await;
    assert_eq!(planned.code, Some(1), "{planned:?}");
    assert_eq!(length(&server, "webhooks:dlq:mux").await, 3);
    let replayed = run(&server, &words).await;
    assert_eq!(replayed.code, Some(1), "{replayed:?}");
    insta::assert_snapshot!("edit", replayed.stdout);
    insta::assert_snapshot!("edit_refusals", replayed.stderr);
    assert_eq!(length(&server, "webhooks:dlq:mux").await, 2);

    let fields: Vec<(String, Vec<String>)> =
        server.command(&["XRANGE", "webhooks:incoming:mux", "-", "+"]).await;
    let field = |name: &str| {
        let pairs = fields[0].1.chunks(2);
        pairs
            .into_iter()
            .find(|pair| pair[0] == name)
            .unwrap_or_else(|| panic!("{name}: {fields:?}"))[1]
            .clone()
    };
    assert_eq!(field("body"), body.replace("1.50", "2"), "the other fields are unchanged");
    assert_eq!(field("event_type"), "video.live_stream.active");
    assert_eq!(field("occurred_at"), "1767222000000");
    assert_eq!((field("event_id"), field("origin")), ("evt-1".into(), "1767225600250-1000".into()));
    assert_eq!(
        (field("edited"), field("replays"), field("attempt")),
        ("1".into(), "1".into(), "1".into())
    );
}
