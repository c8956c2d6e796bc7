//! The happy path of every bundled platform, from a signed request to the expected row.

use serde_json::json;
use tests::poll;
use tests::sender::{
    ACME_SECRET, MUX_SECRET, content_event, livekit_event, mux_asset, mux_event, now, now_ms,
    rfc3339, unique,
};
use tests::sign;
use tests::stack::{DatabaseKind, Stack};

use crate::WAIT_LIMIT;

on_both!(mux_events_update_an_announced_session);
on_both!(livekit_events_open_and_close_a_room);
on_both!(contents_follow_netflix_and_generic_events);
on_both!(mux_assets_become_recordings);

async fn mux_events_update_an_announced_session(kind: DatabaseKind) {
    let stack = Stack::builder().database(kind).start().await;
    let sender = stack.sender();
    sender.announce("room_123", &json!({})).await.expect(202, "accepted");
    stack.status("room_123", "ready", WAIT_LIMIT).await;

    // Later than the announcement, which is an event of the session as well.
    let at = now_ms();
    let steps = [("idle", "idle"), ("active", "live"), ("disconnected", "ended")];
    for (n, (event, status)) in (0..).zip(steps) {
        let id = unique("event");
        let body = mux_event(&id, event, Some("room_123"), "stream_xyz", at + n * 1_000);
        assert_eq!(sender.mux(&body).await.expect(202, "accepted"), id, "the provider's id");
        stack.status("room_123", status, WAIT_LIMIT).await;

        let session = stack.database.session("room_123").await.unwrap();
        assert_eq!(session["last_event_id"], id.as_str());
        assert_eq!(session["last_event_at"], rfc3339(at + n * 1_000));
        stack.wait_until_drained(WAIT_LIMIT).await;
        let row = stack.database.event("mux", &id).await.unwrap();
        assert_eq!(row["action"], "status_updated");
        assert_eq!(row["event_type"], format!("video.live_stream.{event}"));
        assert_eq!(row["room_id"], "room_123");
        assert_eq!(row["occurred_at"], rfc3339(at + n * 1_000));
        assert_eq!(row["attempts"], 1);
        assert_eq!(row["result"]["new_status"], status);
        assert_eq!(row["result"]["processed"], true);
    }
    let log = stack.workers[0].process.log();
    assert!(log.contains("Processing streaming webhook event: video.live_stream.active"), "{log}");
    assert!(log.contains("Updated session room_123 status: idle -> live"), "{log}");

    // A second event of the same status is recorded and changes nothing.
    let id = unique("event");
    sender
        .mux(&mux_event(&id, "disconnected", Some("room_123"), "stream_xyz", at + 9_000))
        .await
        .expect(202, "accepted");
    stack.wait_until_drained(WAIT_LIMIT).await;
    assert_eq!(stack.database.event("mux", &id).await.unwrap()["action"], "status_unchanged");

    // Types without an effect need no session and leave a ledger row.
    let id = unique("event");
    sender.mux(&mux_event(&id, "created", None, "unheard_of", at)).await.expect(202, "accepted");
    stack.wait_until_drained(WAIT_LIMIT).await;
    assert_eq!(stack.database.event("mux", &id).await.unwrap()["action"], "logged");
    assert_eq!(stack.dead("mux").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mux_finds_the_session_by_live_stream_id() {
    let stack = Stack::builder().start().await;
    let sender = stack.sender();
    sender
        .announce("by_column", &json!({"live_stream_id": "ls_column"}))
        .await
        .expect(202, "accepted");
    let config =
        json!({"config": {"egress": {"live_stream_id": "ls_config"}, "kept": [1, 2.50, "x"]}});
    sender.announce("by_config", &config).await.expect(202, "accepted");
    stack.status("by_column", "ready", WAIT_LIMIT).await;
    stack.status("by_config", "ready", WAIT_LIMIT).await;

    for (room, stream) in [("by_column", "ls_column"), ("by_config", "ls_config")] {
        sender
            .mux(&mux_event(&unique("event"), "active", None, stream, now_ms()))
            .await
            .expect(202, "accepted");
        stack.status(room, "live", WAIT_LIMIT).await;
    }
    assert_eq!(
        stack.database.session("by_config").await.unwrap()["config"]["kept"],
        json!([1, 2.5, "x"])
    );

    // The room id takes precedence, even if the stream belongs to another session. A passthrough
    // that names no room falls back to the stream id.
    let body =
        mux_event(&unique("event"), "disconnected", Some("by_column"), "ls_config", now_ms());
    sender.mux(&body).await.expect(202, "accepted");
    stack.status("by_column", "ended", WAIT_LIMIT).await;
    assert_eq!(stack.database.status("by_config").await, "live");
    let body = mux_event(&unique("event"), "idle", Some("not_a_room"), "ls_config", now_ms());
    sender.mux(&body).await.expect(202, "accepted");
    stack.status("by_config", "idle", WAIT_LIMIT).await;
}

async fn mux_assets_become_recordings(kind: DatabaseKind) {
    let stack = Stack::builder().database(kind).start().await;
    let sender = stack.sender();
    sender.announce("recorded", &json!({"live_stream_id": "ls_rec"})).await.expect(202, "accepted");
    stack.status("recorded", "ready", WAIT_LIMIT).await;
    let at = now_ms();
    for (n, state) in (0..).zip(["created", "ready"]) {
        let body = mux_asset(&unique("event"), state, "asset_1", "ls_rec", at + n);
        sender.mux(&body).await.expect(202, "accepted");
        stack.wait_until_drained(WAIT_LIMIT).await;
        let rows = stack
            .database
            .rows("SELECT * FROM recordings WHERE recording_id = $1", &["asset_1"])
            .await;
        assert_eq!(rows.len(), 1);
        assert_eq!((&rows[0]["state"], &rows[0]["room_id"]), (&json!(state), &json!("recorded")));
        assert_eq!(rows[0]["platform"], "mux");
    }
    // A late older event does not restore the older state.
    sender
        .mux(&mux_asset(&unique("event"), "created", "asset_1", "ls_rec", at - 1))
        .await
        .expect(202, "accepted");
    stack.wait_until_drained(WAIT_LIMIT).await;
    let rows = stack.database.rows("SELECT state FROM recordings", &[]).await;
    assert_eq!(rows, [json!({"state": "ready"})]);
    assert_eq!(
        stack.database.status("recorded").await,
        "ready",
        "an asset does not change the session's status"
    );
}

async fn livekit_events_open_and_close_a_room(kind: DatabaseKind) {
    let stack = Stack::builder().database(kind).start().await;
    let sender = stack.sender();
    sender.announce("lk-room", &json!({})).await.expect(202, "accepted");
    stack.status("lk-room", "ready", WAIT_LIMIT).await;
    // LiveKit's times have whole seconds, so the order of arrival decides between the two.
    let at = now();
    sender
        .livekit(&livekit_event(&unique("EV"), "room_started", "lk-room", at))
        .await
        .expect(202, "accepted");
    stack.status("lk-room", "live", WAIT_LIMIT).await;
    sender
        .livekit(&livekit_event(&unique("EV"), "room_finished", "lk-room", at))
        .await
        .expect(202, "accepted");
    stack.status("lk-room", "stopped", WAIT_LIMIT).await;

    let id = unique("EV");
    sender
        .livekit(&livekit_event(&id, "participant_joined", "lk-room", at))
        .await
        .expect(202, "accepted");
    stack.wait_until_drained(WAIT_LIMIT).await;
    assert_eq!(stack.database.event("livekit", &id).await.unwrap()["action"], "logged");
}

async fn contents_follow_netflix_and_generic_events(kind: DatabaseKind) {
    let stack = Stack::builder().database(kind).start().await;
    let sender = stack.sender();
    let at = now_ms();
    let content = async |platform: &str| {
        stack.wait_until_drained(WAIT_LIMIT).await;
        let sql = "SELECT title, content_type, state FROM contents WHERE platform = $1 \
            AND content_id = 'c1'";
        stack.database.rows(sql, &[platform]).await.pop().unwrap()
    };
    for platform in ["netflix", "acme"] {
        let send = async |body: serde_json::Value| match platform {
            "netflix" => sender.netflix(&body).await,
            _ => sender.acme(&body).await,
        };
        send(content_event("content_added", "c1", "First", at)).await.expect(202, "accepted");
        assert_eq!(
            content(platform).await,
            json!({"title": "First", "content_type": "series", "state": "active"})
        );
        send(content_event("content_updated", "c1", "Second", at + 10))
            .await
            .expect(202, "accepted");
        assert_eq!(content(platform).await["title"], "Second");
        send(content_event("content_removed", "c1", "Second", at + 20))
            .await
            .expect(202, "accepted");
        assert_eq!(content(platform).await["state"], "removed");
        send(content_event("content_added", "c1", "Late", at + 5)).await.expect(202, "accepted");
        assert_eq!(
            content(platform).await["state"],
            "removed",
            "an older event does not restore the state"
        );

        let body = json!({"event_type": "something_else", "timestamp": rfc3339(at),
            "payload": {"content_id": "c2"}});
        let id = send(body).await.expect(202, "accepted").to_owned();
        stack.wait_until_drained(WAIT_LIMIT).await;
        assert_eq!(stack.database.event(platform, &id).await.unwrap()["action"], "logged");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bundled_platforms_serve_every_route_alias_and_header() {
    let stack = Stack::builder().start().await;
    let sender = stack.sender();
    let routes = ["/api/v1/webhooks/", "/webhooks/", "/webhook/", "/api/v1/live/webhooks/"];
    for route in routes {
        for name in ["mux", "streaming"] {
            let body = mux_event(&unique("event"), "created", None, "ls", now_ms()).to_string();
            let signature = sign::pairs(MUX_SECRET, now(), body.as_bytes());
            let signed = sign::mux(MUX_SECRET, now(), body.as_bytes()).without("mux-signature");
            let signed =
                signed.header("provider-signature", &signature).to(&format!("{route}{name}"));
            sender.send(&signed).await.expect(202, "accepted");
        }
    }
    stack.wait_until_drained(WAIT_LIMIT).await;
    assert_eq!(
        stack.database.count("webhook_events WHERE platform = 'mux'").await,
        8,
        "one name in the ledger"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn content_type_does_not_affect_acceptance() {
    let stack = Stack::builder().workers(0).start().await;
    let sender = stack.sender();
    let body = "{ \"event_type\" : \"ping\",\r\n\t\"payload\":{\"n\":1.50, \"s\":\"\\u00e9é\"} , \
        \"timestamp\":1700000000}";
    for kind in ["text/plain", "application/x-www-form-urlencoded", "not a type"] {
        let signed = sign::generic("acme", ACME_SECRET, body.as_bytes())
            .without("content-type")
            .header("content-type", kind);
        let answer = sender.send(&signed).await;
        assert!([200, 202].contains(&answer.status), "{kind}: {}", answer.text);
    }
    let entries = tests::ledger::entries(&stack, "webhooks:incoming:acme").await;
    assert_eq!(entries.len(), 1);
    let fields = &entries[0].1;
    assert_eq!(String::from_utf8_lossy(&fields["body"]), body, "queued byte for byte");
    assert_eq!(fields["event_type"], b"ping");
    assert_eq!(fields["occurred_at"], b"1700000000000");
    assert_eq!(fields["attempt"], b"1");
    assert_eq!(fields["origin"], entries[0].0.as_bytes());
    assert_eq!(fields["v"], b"1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn definition_sets_status_secrets_and_event_types() {
    let toml = r#"
[platforms.rotating]
secrets = ["env:ROTATING_NEW", "env:ROTATING_OLD"]
aliases = ["rotating-live"]
ack_status = 204
event_types = ["stream.up"]
missing_session = "create"
[platforms.rotating.event]
session = "/payload/room"
[platforms.rotating.effects]
"stream.up" = { effect = "session.status", status = "live", set = { title = "/payload/title" } }
"#;
    let stack = Stack::builder()
        .platforms(toml)
        .ingress_env("ROTATING_NEW", "new-key")
        .ingress_env("ROTATING_OLD", "old-key");
    let stack = stack.start().await;
    let sender = stack.sender();
    let body = |n: u32, kind: &str| {
        let payload = json!({"room": "r1", "title": "Hello", "n": n});
        json!({"event_type": kind, "payload": payload, "timestamp": now_ms()}).to_string()
    };
    for (n, key, path) in [(1, "new-key", "rotating"), (2, "old-key", "rotating-live")] {
        let answer = sender.send(&sign::generic(path, key, body(n, "stream.up").as_bytes())).await;
        assert_eq!(answer.status, 204, "{}", answer.text);
    }
    sender
        .send(&sign::generic("rotating", "old-key", body(3, "stream.down").as_bytes()))
        .await
        .expect(200, "ignored");
    sender
        .send(&sign::generic("rotating", "no-key", body(4, "stream.down").as_bytes()))
        .await
        .expect_error(401, "E_WEBHOOK_INVALID_SIGNATURE");
    stack.wait_until_drained(WAIT_LIMIT).await;
    assert_eq!(stack.database.count("webhook_events").await, 2, "an ignored type is not queued");
    let session = stack.database.session("r1").await.unwrap();
    assert_eq!((&session["title"], &session["status"]), (&json!("Hello"), &json!("live")));
    assert_eq!(session["platform"], "rotating");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signature_header_with_one_valid_of_several_is_accepted() {
    let stack = Stack::builder().workers(0).start().await;
    let sender = stack.sender();
    let body = mux_event(&unique("event"), "created", None, "ls", now_ms()).to_string();
    let t = now();
    let good = sign::pairs(MUX_SECRET, t, body.as_bytes());
    let (_, other) = sign::pairs("rotated-away", t, body.as_bytes())
        .split_once(',')
        .map(|(t, v)| (t.to_owned(), v.to_owned()))
        .unwrap();
    let value = good.replacen(',', &format!(",{other},"), 1);
    let signed = sign::mux(MUX_SECRET, t, body.as_bytes())
        .without("mux-signature")
        .header("mux-signature", &value);
    sender.send(&signed).await.expect(202, "accepted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paused_platform_keeps_its_events() {
    let toml = "[platforms.held]\nsecrets = [\"env:ACME_SECRET\"]\npaused = true\n";
    let stack = Stack::builder().platforms(toml).start().await;
    let sender = stack.sender();
    let body = content_event("content_added", "c1", "t", now_ms()).to_string();
    sender.send(&sign::generic("held", ACME_SECRET, body.as_bytes())).await.expect(202, "accepted");
    sender.acme(&content_event("content_added", "c2", "t", now_ms())).await.expect(202, "accepted");
    poll::until("other platforms are processed", WAIT_LIMIT, async || {
        match stack.database.count("contents").await {
            1 => Ok(()),
            n => Err(n),
        }
    })
    .await;
    assert_eq!((stack.unfinished("held").await, stack.dead("held").await), (1, 0));
}
