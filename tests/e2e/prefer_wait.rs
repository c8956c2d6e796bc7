//! Results on demand: `Prefer: wait`, `wait` of a definition, and the worker's route for an event.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::poll;
use tests::redis::RedisOptions;
use tests::sender::{
    ACME_SECRET, ADMIN_TOKEN, HttpAnswer, MUX_SECRET, Sender, content_event, mux_event, now,
    now_ms, unique,
};
use tests::sign::{self, SignedWebhook};
use tests::stack::{DatabaseKind, Stack};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::WAIT_LIMIT;

on_both!(waiting_sender_gets_the_result_of_its_event);
on_both!(worker_route_reports_the_state_of_an_event);

fn mux(body: &Value, prefer: &str) -> SignedWebhook {
    sign::mux(MUX_SECRET, now(), body.to_string().as_bytes()).header("prefer", prefer)
}

fn acme(content_id: &str, prefer: &str) -> SignedWebhook {
    let body = content_event("content_added", content_id, "t", now_ms()).to_string();
    sign::generic("acme", ACME_SECRET, body.as_bytes()).header("prefer", prefer)
}

/// Checks that the answer holds the result of an event of `acme`.
fn check_recorded(answer: &HttpAnswer) {
    assert_eq!((answer.status, &answer.json["success"]), (200, &json!(true)), "{}", answer.text);
    assert_eq!(answer.json["results"]["action"], "recorded", "{}", answer.text);
}

async fn waiting_sender_gets_the_result_of_its_event(kind: DatabaseKind) {
    let stack = Stack::builder().database(kind).start().await;
    let sender = stack.sender();
    sender.announce("room_123", &json!({})).await.expect(202, "accepted");
    stack.status("room_123", "ready", WAIT_LIMIT).await;
    let at = now_ms();
    let id = unique("event");
    let body = mux_event(&id, "active", Some("room_123"), "stream_xyz", at + 1);
    let answer = sender.send(&mux(&body, "respond-async, wait=20")).await;
    let six = json!({
        "processed": true,
        "action": "status_updated",
        "room_id": "room_123",
        "old_status": "ready",
        "new_status": "live",
        "live_stream_id": answer.json["results"]["live_stream_id"],
    });
    let mut results = six.clone();
    results["event_id"] = json!(id);
    results["event_type"] = json!("video.live_stream.active");
    results["processing_result"] = six;
    assert_eq!(answer.json, json!({"success": true, "results": results}));
    assert_eq!((answer.status, answer.header("preference-applied")), (200, Some("wait=20")));
    assert!(answer.header("content-type").is_some_and(|kind| kind.starts_with("application/json")));

    // Sent again, the request gets the stored result without waiting. Without `Prefer` it gets the
    // usual answer.
    let again = sender.send(&mux(&body, "wait=20")).await;
    assert_eq!((again.status, &again.json), (200, &answer.json));
    assert_eq!(sender.mux(&body).await.expect(200, "duplicate"), id);

    // Stale and merely logged events have a result too. Absent values are null.
    let late = mux_event(&unique("event"), "idle", Some("room_123"), "stream_xyz", at);
    let answer = sender.send(&mux(&late, "wait=20")).await;
    assert_eq!(answer.json["results"]["action"], "stale_ignored", "{}", answer.text);
    let logged = mux_event(&unique("event"), "created", None, "nobody", at);
    let answer = sender.send(&mux(&logged, "wait=20")).await;
    assert_eq!(answer.json["results"]["action"], "logged", "{}", answer.text);
    let six = &answer.json["results"]["processing_result"];
    assert_eq!(
        (&six["room_id"], &six["old_status"], &six["new_status"]),
        (&Value::Null, &Value::Null, &Value::Null)
    );
    assert_eq!(six.as_object().map(serde_json::Map::len), Some(6), "{}", answer.text);

    // After its dedup marker expired the event arrives again. The ledger has it with its result.
    let marker = format!("webhook:hash:{}", shared::event::marker_digest("mux", &id));
    assert_eq!(
        stack.redis.command::<u64>(&["DEL", &marker, &format!("webhooks:result:mux:{id}")]).await,
        2
    );
    let answer = sender.send(&mux(&body, "wait=20")).await;
    assert_eq!(answer.json["results"], results);
    stack.wait_until_drained(WAIT_LIMIT).await;
    let kept: Vec<String> = stack.redis.command(&["KEYS", "webhooks:result:*"]).await;
    assert_eq!(kept.len(), 3, "only for awaited events: {kept:?}");
    assert_eq!(stack.ingresses[0].metric("webhook_waiters", &[]).await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_sender_gets_a_dead_letter_as_failure() {
    let stack = Stack::builder().worker_env("MISSING_SESSION_WAIT_MS", "300").start().await;
    let id = unique("event");
    let answer = stack
        .sender()
        .send(&mux(&mux_event(&id, "active", Some("absent"), "ls", now_ms()), "wait=20"))
        .await;
    assert_eq!(
        (answer.status, answer.errcode(), answer.event_id()),
        (200, "E_WEBHOOK_PROCESSING_ERROR", id.as_str())
    );
    assert_eq!(answer.json["success"], false);
    assert_eq!(answer.json["errmesg"], "Webhook event could not be processed: session_not_found");
    assert_eq!(answer.header("preference-applied"), Some("wait=20"));
    let erresid = answer.json["erresid"].as_str().unwrap();
    assert!(
        stack.ingresses[0].process.log().contains(erresid),
        "{}",
        stack.ingresses[0].process.tail()
    );
    assert_eq!(stack.dead("mux").await, 1);
    // An event that can never be applied fails at once. Here its content has no id.
    let body = json!({"event_type": "content_added", "payload": {}}).to_string();
    let signed = sign::generic("acme", ACME_SECRET, body.as_bytes()).header("prefer", "wait=20");
    let answer = stack.sender().send(&signed).await;
    assert_eq!(
        (answer.status, answer.errcode()),
        (200, "E_WEBHOOK_PROCESSING_ERROR"),
        "{}",
        answer.text
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_result_gets_202_and_is_kept_for_the_next_request() {
    let mut stack = Stack::builder().workers(0).start().await;
    let sender = stack.sender();
    let started_at = Instant::now();
    let signed = acme("late", "wait=1");
    let answer = sender.send(&signed).await;
    let id = answer.expect(202, "accepted").to_owned();
    assert!(
        (Duration::from_secs(1)..Duration::from_secs(4)).contains(&started_at.elapsed()),
        "{:?}",
        started_at.elapsed()
    );
    assert_eq!(answer.header("preference-applied"), None);
    assert_eq!(
        sender.send(&signed).await.expect(200, "duplicate"),
        id,
        "a duplicate does not wait"
    );
    stack.add_worker().await;
    stack.wait_until_drained(WAIT_LIMIT).await;
    let answer = sender.send(&signed).await;
    check_recorded(&answer);
    assert_eq!(answer.json["results"]["event_id"], id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn definition_with_wait_waits_unless_paused() {
    let toml = "[platforms.patient]\nsecrets = [\"env:ACME_SECRET\"]\nwait = \"20s\"\n\
                [platforms.held]\nsecrets = [\"env:ACME_SECRET\"]\nwait = \"20s\"\npaused = true\n";
    let stack = Stack::builder().platforms(toml).start().await;
    let sender = stack.sender();
    let body = content_event("content_added", "c", "t", now_ms()).to_string();
    let answer = sender.send(&sign::generic("patient", ACME_SECRET, body.as_bytes())).await;
    check_recorded(&answer);
    assert_eq!(answer.header("preference-applied"), Some("wait=20"));
    let started_at = Instant::now();
    let held = sign::generic("held", ACME_SECRET, body.as_bytes());
    sender.send(&held).await.expect(202, "accepted");
    let body = content_event("content_added", "d", "t", now_ms()).to_string();
    let refused = sign::generic("patient", ACME_SECRET, body.as_bytes()).header("prefer", "wait=0");
    sender.send(&refused).await.expect(202, "accepted");
    assert!(started_at.elapsed() < Duration::from_secs(10), "{:?}", started_at.elapsed());
}

/// Each request gets the result of its own event, promptly, at the replica where it waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn waiters_at_two_replicas_get_their_own_results() {
    let stack = Stack::builder().ingresses(2).workers(2).start().await;
    // Warms up connections and caches, so that the figures are those of a running system.
    for replica in 0..2 {
        check_recorded(
            &stack.ingresses[replica].sender().send(&acme(&unique("warm"), "wait=20")).await,
        );
    }
    let senders = [Arc::new(stack.ingresses[0].sender()), Arc::new(stack.ingresses[1].sender())];
    let mut waiting = tokio::task::JoinSet::new();
    for n in 0..200 {
        let sender = Arc::clone(&senders[n % 2]);
        waiting.spawn(async move {
            let started_at = Instant::now();
            let answer = sender.send(&acme(&unique("c"), "wait=25")).await;
            (answer, started_at.elapsed())
        });
    }
    let mut ids = std::collections::HashSet::new();
    let mut slowest = Duration::ZERO;
    for (answer, took) in waiting.join_all().await {
        check_recorded(&answer);
        assert!(ids.insert(answer.json["results"]["event_id"].as_str().unwrap().to_owned()));
        slowest = slowest.max(took);
    }
    assert_eq!(ids.len(), 200);
    // One after the other, to measure the time that waiting adds to an answer.
    let (mut without_wait, mut with_wait) = (Vec::new(), Vec::new());
    for _ in 0..40 {
        for (prefer, took) in [("wait=0", &mut without_wait), ("wait=25", &mut with_wait)] {
            let signed = acme(&unique("c"), prefer);
            let started_at = Instant::now();
            assert!(senders[0].send(&signed).await.status < 300);
            took.push(started_at.elapsed());
        }
    }
    let median = |took: &mut Vec<Duration>| {
        took.sort();
        took[took.len() / 2]
    };
    let (without_wait, with_wait) = (median(&mut without_wait), median(&mut with_wait));
    eprintln!(
        "an answer: {without_wait:?}; with the result: {with_wait:?}; the slowest of 200 at once: \
        {slowest:?}"
    );
    assert!(with_wait < Duration::from_secs(1), "{with_wait:?}");
    for ingress in &stack.ingresses {
        assert_eq!(ingress.metric("webhook_waiters", &[]).await, 0.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_sender_gets_its_result_despite_a_redis_restart() {
    let mut stack = Stack::builder().redis(RedisOptions::durable()).start().await;
    let sender = stack.sender();
    check_recorded(&sender.send(&acme(&unique("c"), "wait=20")).await);
    stack.workers[0].process.freeze();
    let started_at = Instant::now();
    let waiting = tokio::spawn(async move { sender.send(&acme(&unique("c"), "wait=30")).await });
    // The waiter is registered before the enqueue call. The test restarts Redis only during the
    // wait.
    poll::until("the event is known to be queued", WAIT_LIMIT, async || {
        let answered = stack.ingresses[0]
            .metric("webhook_enqueue_duration_seconds_count", &["platform=\"acme\""])
            .await;
        if answered == 2.0 { Ok(()) } else { Err(answered) }
    })
    .await;
    stack.redis.kill();
    stack.redis.restart().await;
    stack.workers[0].process.thaw();
    check_recorded(&waiting.await.unwrap());
    // Earlier than the final read at the deadline.
    assert!(started_at.elapsed() < Duration::from_secs(28), "{:?}", started_at.elapsed());
    // New requests get their result through the new subscription.
    let started_at = Instant::now();
    check_recorded(&stack.sender().send(&acme(&unique("c"), "wait=30")).await);
    assert!(started_at.elapsed() < Duration::from_secs(20), "{:?}", started_at.elapsed());
}

/// Results can be neither published nor received for a while. A missed result is read when the
/// replica subscribes again. A request whose deadline comes first reads it then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn result_published_without_a_subscriber_is_read() {
    let stack = Stack::builder().start().await;
    let sender = stack.sender();
    check_recorded(&sender.send(&acme(&unique("c"), "wait=20")).await);
    stack.workers[0].process.freeze();
    let waiting = tokio::spawn(async move { sender.send(&acme(&unique("c"), "wait=30")).await });
    wait_for_waiters(&stack, 1.0).await;
    stack.redis.command::<()>(&["ACL", "SETUSER", "default", "resetchannels"]).await;
    stack.workers[0].process.thaw();
    stack.wait_until_drained(WAIT_LIMIT).await;
    let started_at = Instant::now();
    check_recorded(&stack.sender().send(&acme(&unique("c"), "wait=2")).await);
    assert!(
        started_at.elapsed() >= Duration::from_secs(2),
        "a notification arrived: {:?}",
        started_at.elapsed()
    );
    wait_for_waiters(&stack, 1.0).await;
    assert!(!waiting.is_finished());
    let started_at = Instant::now();
    stack.redis.command::<()>(&["ACL", "SETUSER", "default", "allchannels"]).await;
    check_recorded(&waiting.await.unwrap());
    assert!(
        started_at.elapsed() < Duration::from_secs(10),
        "only by the final read: {:?}",
        started_at.elapsed()
    );
}

/// Waits until `count` requests wait at the first ingress.
async fn wait_for_waiters(stack: &Stack, count: f64) {
    poll::until(&format!("{count} wait"), WAIT_LIMIT, async || {
        let seen = stack.ingresses[0].metric("webhook_waiters", &[]).await;
        if seen == count { Ok(()) } else { Err(seen) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiters_are_bounded_and_a_hangup_frees_a_slot() {
    let mut stack = Stack::builder().workers(0).ingress_env("MAX_WAITERS", "1").start().await;
    let signed = acme("hung-up", "wait=30");
    let mut stream =
        TcpStream::connect(stack.ingresses[0].url.trim_start_matches("http://")).await.unwrap();
    let mut head = format!(
        "POST {} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n",
        signed.path,
        signed.body.len()
    );
    for (name, value) in &signed.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(&[head.as_bytes(), b"\r\n", &signed.body].concat()).await.unwrap();
    wait_for_waiters(&stack, 1.0).await;
    let started_at = Instant::now();
    stack.sender().send(&acme(&unique("c"), "wait=30")).await.expect(202, "accepted");
    assert!(started_at.elapsed() < Duration::from_secs(10), "{:?}", started_at.elapsed());
    drop(stream);
    wait_for_waiters(&stack, 0.0).await;
    stack.add_worker().await;
    check_recorded(&stack.sender().send(&acme(&unique("c"), "wait=30")).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_answers_waiting_requests_at_once() {
    let stack = Stack::builder().workers(0).env("SHUTDOWN_GRACE_MS", "20000").start().await;
    let sender = stack.sender();
    let waiting = tokio::spawn(async move { sender.send(&acme(&unique("c"), "wait=30")).await });
    wait_for_waiters(&stack, 1.0).await;
    let started_at = Instant::now();
    stack.ingresses[0].process.terminate();
    waiting.await.unwrap().expect(202, "accepted");
    assert_eq!(
        stack.ingresses[0].process.wait_until_ended(Duration::from_secs(10)).await.code(),
        Some(0)
    );
    assert!(started_at.elapsed() < Duration::from_secs(10), "{:?}", started_at.elapsed());
}

/// A stopping worker finishes its pending entries and answers their waiters. Other events wait for
/// the next worker.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn worker_started_later_answers_waiting_requests() {
    let mut stack = Stack::builder().start().await;
    stack.workers[0].process.terminate();
    assert_eq!(
        stack.workers[0].process.wait_until_ended(Duration::from_secs(10)).await.code(),
        Some(0)
    );
    let sender = stack.sender();
    let waiting = tokio::spawn(async move { sender.send(&acme(&unique("c"), "wait=30")).await });
    wait_for_waiters(&stack, 1.0).await;
    stack.add_worker().await;
    check_recorded(&waiting.await.unwrap());
}

/// The first worker's answer about an event.
async fn worker_answer(stack: &Stack, platform: &str, event_id: &str) -> HttpAnswer {
    request_event(stack, platform, event_id, Some(ADMIN_TOKEN)).await
}

async fn request_event(
    stack: &Stack,
    platform: &str,
    event_id: &str,
    token: Option<&str>,
) -> HttpAnswer {
    let path = format!("/api/v1/webhooks/{platform}/events/{event_id}");
    let mut request = SignedWebhook { path, headers: Vec::new(), body: Vec::new() };
    if let Some(token) = token {
        request = request.header("authorization", &format!("Bearer {token}"));
    }
    Sender::new(&stack.workers[0].ops).request(reqwest::Method::GET, &request).await.unwrap()
}

/// Waits until the worker reports `state` for the event.
async fn wait_for_state(stack: &Stack, platform: &str, event_id: &str, state: &str) -> HttpAnswer {
    poll::until(&format!("{event_id} is {state}"), WAIT_LIMIT, async || {
        let answer = worker_answer(stack, platform, event_id).await;
        if answer.status == 200 && answer.json["state"] == state {
            Ok(answer)
        } else {
            Err(answer.text)
        }
    })
    .await
}

async fn worker_route_reports_the_state_of_an_event(kind: DatabaseKind) {
    let toml = "[platforms.held]\nsecrets = [\"env:ACME_SECRET\"]\npaused = true\n";
    let stack = Stack::builder()
        .database(kind)
        .platforms(toml)
        .worker_env("MISSING_SESSION_WAIT_MS", "4000")
        .start()
        .await;
    let sender = stack.sender();
    for (token, status) in [(None, 401), (Some("wrong"), 403)] {
        request_event(&stack, "mux", "e", token).await.expect_error(status, "E_ADMIN_FORBIDDEN");
    }
    worker_answer(&stack, "mux", "never-heard-of").await.expect_error(404, "E_NOT_FOUND");
    worker_answer(&stack, "nobody", "e").await.expect_error(404, "E_NOT_FOUND");
    worker_answer(&stack, "Not%20A%20Name", "e").await.expect_error(404, "E_NOT_FOUND");

    // An id may contain any characters except control characters.
    let id = format!("{}/a b?ü", unique("event"));
    sender.mux(&mux_event(&id, "created", None, "ls", now_ms())).await.expect(202, "accepted");
    let path_id =
        id.replace('/', "%2F").replace(' ', "%20").replace('?', "%3F").replace('ü', "%C3%BC");
    for name in ["mux", "streaming"] {
        let answer = wait_for_state(&stack, name, &path_id, "processed").await;
        assert_eq!(answer.json["results"]["action"], "logged", "{}", answer.text);
        assert_eq!(answer.json["results"]["event_id"], id);
        assert_eq!(answer.json["results"]["processing_result"]["processed"], true);
    }

    let body = content_event("content_added", "c", "t", now_ms()).to_string();
    let held = sender
        .send(&sign::generic("held", ACME_SECRET, body.as_bytes()))
        .await
        .event_id()
        .to_owned();
    assert_eq!(worker_answer(&stack, "held", &held).await.json, json!({"state": "pending"}));

    let id = unique("event");
    let body = mux_event(&id, "active", Some("late_room"), "ls", now_ms());
    sender.mux(&body).await.expect(202, "accepted");
    let retrying = wait_for_state(&stack, "mux", &id, "retrying").await;
    assert_eq!(retrying.json, json!({"state": "retrying"}));
    let dead = wait_for_state(&stack, "mux", &id, "dead").await;
    let dead_letter = dead.json["dead_letter_id"].as_str().unwrap().to_owned();
    assert_eq!(stack.dlq_tool(&["show", &dead_letter, "--platform", "mux"]).await.code, Some(0));

    // A replay without the session gives a dead letter with another id. A replay with the session
    // succeeds.
    assert_eq!(stack.dlq_tool(&["replay", "--id", &dead_letter, "--yes"]).await.code, Some(0));
    wait_for_state(&stack, "mux", &id, "retrying").await;
    let dead = wait_for_state(&stack, "mux", &id, "dead").await;
    assert_ne!(dead.json["dead_letter_id"], dead_letter.as_str());
    sender.announce("late_room", &json!({})).await.expect(202, "accepted");
    stack.status("late_room", "ready", WAIT_LIMIT).await;
    assert_eq!(stack.dlq_tool(&["replay", "--event-id", &id, "--yes"]).await.code, Some(0));
    let processed = wait_for_state(&stack, "mux", &id, "processed").await;
    assert_eq!(processed.json["results"]["room_id"], "late_room", "{}", processed.text);
    // The state is `processed` once the database has the event. Settling follows.
    poll::until("nothing is left behind", WAIT_LIMIT, async || {
        let left: u64 = stack.redis.command(&["EXISTS", "webhooks:exceptions:mux"]).await;
        if left == 0 { Ok(()) } else { Err(left) }
    })
    .await;

    // After a purge the event is unknown until the provider sends it again.
    let id = unique("event");
    let body = mux_event(&id, "active", Some("no_room"), "ls2", now_ms());
    sender.mux(&body).await.expect(202, "accepted");
    wait_for_state(&stack, "mux", &id, "dead").await;
    assert_eq!(stack.dlq_tool(&["purge", "--event-id", &id, "--yes"]).await.code, Some(0));
    worker_answer(&stack, "mux", &id).await.expect_error(404, "E_NOT_FOUND");
    sender.mux(&body).await.expect(202, "accepted");
    wait_for_state(&stack, "mux", &id, "retrying").await;
}
