//! `PUT /api/v1/sessions/{room_id}`: an application announces a session through the queue.

use reqwest::Method;
use serde_json::json;
use tests::sender::{ADMIN_TOKEN, announcement, livekit_event, mux_event, now, now_ms, unique};
use tests::stack::{DatabaseKind, Stack};

use crate::WAIT_LIMIT;

on_both!(announcement_sets_the_fields_it_names);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn announcement_needs_the_admin_token() {
    let stack = Stack::builder().workers(0).start().await;
    let sender = stack.sender();
    let put = async |header: Option<&str>| {
        let request = announcement("room", &json!({}));
        let request =
            header.map_or(request.clone(), |value| request.header("authorization", value));
        sender.request(Method::PUT, &request).await.unwrap()
    };
    put(None).await.expect_error(401, "E_ADMIN_FORBIDDEN");
    for wrong in [
        "Bearer wrong",
        &format!("Bearer {ADMIN_TOKEN}x"),
        &format!("Bearer {}", &ADMIN_TOKEN[1..]),
    ] {
        put(Some(wrong)).await.expect_error(403, "E_ADMIN_FORBIDDEN");
    }
    assert_eq!(stack.unfinished("sessions").await, 0);
    let answer = put(Some(&format!("Bearer {ADMIN_TOKEN}"))).await;
    assert!(!answer.expect(202, "accepted").is_empty());
    assert_eq!(stack.unfinished("sessions").await, 1);

    let closed = Stack::builder().workers(0).without_ingress_env("ADMIN_TOKEN").start().await;
    let request =
        announcement("room", &json!({})).header("authorization", &format!("Bearer {ADMIN_TOKEN}"));
    closed
        .sender()
        .request(Method::PUT, &request)
        .await
        .unwrap()
        .expect_error(403, "E_ADMIN_FORBIDDEN");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_announcement_is_refused() {
    let stack = Stack::builder().workers(0).start().await;
    let sender = stack.sender();
    let bodies = [
        json!([]),
        json!("x"),
        json!({"status": "flying"}),
        json!({"status": 5}),
        json!({"live_stream_id": 5}),
    ];
    for body in bodies.iter().chain(&[json!({"config": "x"}), json!({"unknown": 1})]) {
        let answer = sender.announce("room", body).await;
        assert_eq!(
            (answer.status, answer.errcode()),
            (400, "E_INVALID_REQUEST"),
            "{body}: {}",
            answer.text
        );
    }
    let long = "r".repeat(3_000);
    assert_eq!(sender.announce(&long, &json!({})).await.status, 400);
    assert_eq!(stack.unfinished("sessions").await, 0);
}

async fn announcement_sets_the_fields_it_names(kind: DatabaseKind) {
    let stack = Stack::builder().database(kind).start().await;
    let sender = stack.sender();
    let first = json!({"live_stream_id": "ls_1", "config": {"a": 1, "b": {"c": 2}}});
    sender.announce("r%C3%B6om%201", &first).await.expect(202, "accepted");
    stack.status("röom 1", "ready", WAIT_LIMIT).await;
    let session = stack.database.session("röom 1").await.unwrap();
    assert_eq!(
        (&session["live_stream_id"], &session["config"]),
        (&json!("ls_1"), &first["config"])
    );

    // `config` is replaced as a whole. Fields that are not named keep their values.
    sender.announce("r%C3%B6om%201", &json!({"config": {"d": 4}})).await.expect(202, "accepted");
    stack.wait_until_drained(WAIT_LIMIT).await;
    let session = stack.database.session("röom 1").await.unwrap();
    assert_eq!(
        (&session["live_stream_id"], &session["config"]),
        (&json!("ls_1"), &json!({"d": 4}))
    );

    // A live session stays live if the announcement has no status or `ready`.
    sender.announce("room2", &json!({})).await.expect(202, "accepted");
    stack.status("room2", "ready", WAIT_LIMIT).await;
    sender
        .mux(&mux_event(&unique("e"), "active", Some("room2"), "ls_2", now_ms()))
        .await
        .expect(202, "accepted");
    stack.status("room2", "live", WAIT_LIMIT).await;
    for body in [json!({}), json!({"status": "ready"}), json!({"config": {}})] {
        sender.announce("room2", &body).await.expect(202, "accepted");
        stack.wait_until_drained(WAIT_LIMIT).await;
        assert_eq!(stack.database.status("room2").await, "live", "{body}");
    }
    sender.announce("room2", &json!({"status": "ended"})).await.expect(202, "accepted");
    stack.status("room2", "ended", WAIT_LIMIT).await;
    assert_eq!(stack.dead("sessions").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idempotency_key_identifies_the_announcement() {
    let stack = Stack::builder().workers(0).start().await;
    let sender = stack.sender();
    let put = async |key: Option<&str>| {
        let request = announcement("room", &json!({}))
            .header("authorization", &format!("Bearer {ADMIN_TOKEN}"));
        let request = key.map_or(request.clone(), |key| request.header("idempotency-key", key));
        sender.request(Method::PUT, &request).await.unwrap()
    };
    let first = put(Some("k1")).await.expect(202, "accepted").to_owned();
    assert_eq!(put(Some("k1")).await.expect(200, "duplicate"), first);
    put(Some("k2")).await.expect(202, "accepted");
    let anonymous = put(None).await.expect(202, "accepted").to_owned();
    assert_ne!(
        put(None).await.expect(202, "accepted"),
        anonymous,
        "without a key every announcement is its own"
    );
    assert_eq!(stack.unfinished("sessions").await, 4);
}

/// Announcement and event are in different streams. The event must not be dropped if it is read
/// first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn announcement_and_event_sent_at_once_are_both_applied() {
    const ROOMS: usize = 60;
    let stack = Stack::builder().workers(2).start().await;
    let sender = stack.sender();
    for n in 0..ROOMS {
        let room = format!("fresh_{n}");
        sender.announce(&room, &json!({})).await.expect(202, "accepted");
        if n % 2 == 0 {
            sender
                .mux(&mux_event(&unique("e"), "active", Some(&room), "x", now_ms()))
                .await
                .expect(202, "accepted");
        } else {
            sender
                .livekit(&livekit_event(&unique("EV"), "room_started", &room, now()))
                .await
                .expect(202, "accepted");
        }
    }
    stack.wait_until_drained(WAIT_LIMIT).await;
    assert_eq!(stack.database.count("sessions WHERE status = 'live'").await, 60);
    assert_eq!(stack.dead("mux").await + stack.dead("livekit").await, 0);
}

/// A live stream id is used again by another session. The newest announcement wins.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reused_live_stream_id_means_its_newest_session() {
    let stack = Stack::builder().start().await;
    let sender = stack.sender();
    for room in ["older", "newer"] {
        sender
            .announce(room, &json!({"live_stream_id": "ls_shared"}))
            .await
            .expect(202, "accepted");
        stack.status(room, "ready", WAIT_LIMIT).await;
    }
    sender
        .mux(&mux_event(&unique("e"), "active", None, "ls_shared", now_ms()))
        .await
        .expect(202, "accepted");
    stack.status("newer", "live", WAIT_LIMIT).await;
    assert_eq!(stack.database.status("older").await, "ready");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn worker_route_shows_a_session_to_the_admin() {
    let stack = Stack::builder().start().await;
    stack
        .sender()
        .announce("shown", &json!({"live_stream_id": "ls"}))
        .await
        .expect(202, "accepted");
    stack.status("shown", "ready", WAIT_LIMIT).await;
    let ops = tests::sender::Sender::new(&stack.workers[0].ops);
    let get = async |room: &str, token: Option<&str>| {
        let request = tests::sign::SignedWebhook {
            path: format!("/api/v1/sessions/{room}"),
            headers: Vec::new(),
            body: Vec::new(),
        };
        let request = token.map_or(request.clone(), |token| {
            request.header("authorization", &format!("Bearer {token}"))
        });
        ops.request(Method::GET, &request).await.unwrap()
    };
    get("shown", None).await.expect_error(401, "E_ADMIN_FORBIDDEN");
    get("shown", Some("wrong")).await.expect_error(403, "E_ADMIN_FORBIDDEN");
    get("absent", Some(ADMIN_TOKEN)).await.expect_error(404, "E_NOT_FOUND");
    let shown = get("shown", Some(ADMIN_TOKEN)).await;
    assert_eq!(shown.status, 200);
    assert_eq!(
        (&shown.json["status"], &shown.json["live_stream_id"]),
        (&json!("ready"), &json!("ls")),
        "{}",
        shown.text
    );
}
