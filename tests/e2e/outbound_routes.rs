//! Outbound admin routes: test a URL, trigger an event, show the state of destinations, pause one.
//! Also destinations of registered platforms.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tests::admin::SECRETS_KEY;
use tests::downstream::{Downstream, ReceiverBehavior};
use tests::poll;
use tests::ports;
use tests::redis::RedisOptions;
use tests::sender::{HttpAnswer, content_event, now_ms, unique};
use tests::sign;
use tests::stack::{ServerProcess, Stack, StackBuilder};

use crate::WAIT_LIMIT;
use crate::registration::{PROPAGATION_LIMIT, accepted, builder_with_key, event};

const SECRET: &str = "outbound-secret-77aa";
const REGISTERED: &str = "registered-outbound-secret-1";

fn delivery_settings(builder: StackBuilder) -> StackBuilder {
    builder
        .env("WEBHOOK_SECRET_KEY", SECRET)
        .env("WEBHOOK_SOURCE", "StreamGank")
        .env("WEBHOOK_ALLOW_PRIVATE", "127.0.0.0/8")
        .env("WEBHOOK_RATE_LIMIT_MAX", "1000000")
        .env("WEBHOOK_RETRY_DELAY", "100")
}

fn sending_to(urls: &[&Downstream]) -> StackBuilder {
    let urls: Vec<String> = urls.iter().map(|one| one.url()).collect();
    delivery_settings(Stack::builder()).env("WEBHOOK_URLS", &urls.join(","))
}

fn film(number: usize) -> Value {
    content_event("content_added", &format!("film-{number}"), "A film", now_ms())
}

async fn wait_for_deliveries(destination: &Downstream, deliveries: usize) {
    poll::until(&format!("{deliveries} deliveries"), WAIT_LIMIT, async || {
        let seen = destination.deliveries();
        if seen == deliveries { Ok(()) } else { Err(format!("{seen} deliveries")) }
    })
    .await;
}

async fn test_url(stack: &Stack, url: &str) -> HttpAnswer {
    let answer =
        stack.sender().admin(Method::POST, "/api/webhooks/test", &json!({"url": url})).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.json["success"], true, "the test was made: {}", answer.text);
    answer
}

async fn status(stack: &Stack, name: &str) -> Value {
    let answer = stack.sender().admin(Method::GET, "/api/webhooks/status", &Value::Null).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let all = answer.json["destinations"].as_array().expect("destinations").clone();
    all.into_iter()
        .find(|one| one["name"] == name)
        .unwrap_or_else(|| panic!("no {name}: {}", answer.text))
}

async fn set_paused(stack: &Stack, name: &str, paused: bool) -> HttpAnswer {
    let path = format!("/api/webhooks/destinations/{name}");
    stack.sender().admin(Method::PATCH, &path, &json!({"paused": paused})).await
}

/// Waits until the worker logs `text`. Workers poll for changes twice a second.
async fn wait_for_log(stack: &Stack, worker: usize, text: &str) {
    stack.workers[worker].process.wait_until_logged(text, WAIT_LIMIT).await;
}

async fn dead(stack: &Stack, name: &str, dead_letters: usize) -> Vec<Value> {
    let platform = format!("out:{name}");
    poll::until(&format!("{dead_letters} dead letters"), WAIT_LIMIT, async || {
        match stack.dead(&platform).await {
            seen if seen == dead_letters => Ok(()),
            seen => Err(seen),
        }
    })
    .await;
    let shown = stack.dlq_tool(&["list", "--platform", &platform, "--output", "json"]).await;
    shown.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn destination_test_reports_the_documented_outcomes() {
    let (kind, refusing, slow) = (
        Downstream::start(ReceiverBehavior::Accept),
        Downstream::start(ReceiverBehavior::Always(404)),
        Downstream::start(ReceiverBehavior::Slow(Duration::from_secs(30))),
    );
    let stack = delivery_settings(Stack::builder())
        .workers(0)
        .env("WEBHOOK_ALLOW_PRIVATE", "127.0.0.1")
        .env("WEBHOOK_TIMEOUT", "1000")
        .start()
        .await;

    let reached = test_url(&stack, &kind.url()).await;
    let duration = &reached.json["test_result"]["duration"];
    assert!(duration.as_u64().is_some(), "{}", reached.text);
    let expected = json!({
        "success": true, "status": 200, "duration": duration, "url": kind.url(),
        "message": "Webhook endpoint is reachable",
    });
    assert_eq!(reached.json, json!({"success": true, "test_result": expected}));
    let received = kind.received();
    let sent = &received.first_key_value().unwrap().1[0];
    assert_eq!(sent.headers["x-streamgank-event"], "webhook.test");
    let signature = format!("sha256={}", sign::hmac_sha256_hex(SECRET, &sent.body));
    assert_eq!(sent.headers["x-streamgank-signature"], signature);

    let answered = test_url(&stack, &refusing.url()).await;
    let result = &answered.json["test_result"];
    assert_eq!((&result["success"], &result["status"]), (&json!(false), &json!(404)));
    assert_eq!(result["message"], "Webhook endpoint answered with status 404");
    assert_eq!(result.get("error"), None, "there was an answer");

    let nobody = format!("http://127.0.0.1:{}/hook", ports::free());
    // The label is too long for DNS, so that no query leaves this host.
    let unknown = format!("http://{}.invalid/webhook", "a".repeat(64));
    let no_tls = kind.url().replace("http://", "https://");
    for (url, error, message) in [
        (nobody.as_str(), "ECONNREFUSED", "ECONNREFUSED"),
        (&unknown, "ENOTFOUND", "getaddrinfo ENOTFOUND aaaa"),
        (&slow.url(), "ETIMEDOUT", "timeout of 1000ms exceeded"),
        (&no_tls, "ECERT", "ECERT"),
        ("http://127.0.0.2/hook", "EBLOCKED", "its address is not public"),
        ("http://[::ffff:127.0.0.3]/", "EBLOCKED", "its address is not public"),
        ("http://[::1]/", "EBLOCKED", "its address is not public"),
    ] {
        let answer = test_url(&stack, url).await;
        let message_shown = answer.json["test_result"]["message"].clone();
        assert!(
            message_shown.as_str().is_some_and(|message_shown| message_shown.starts_with(message)),
            "{url}: {}",
            answer.text
        );
        let expected = json!({
            "success": false, "status": 0, "duration": 0, "url": url, "message": message_shown,
            "error": error,
        });
        assert_eq!(answer.json["test_result"], expected, "{}", answer.text);
    }
    for wrong in [
        json!({"url": "ftp://a"}),
        json!({"url": "http://u:p@a/"}),
        json!({}),
        json!({"url": "x", "y": 1}),
    ] {
        let answer = stack.sender().admin(Method::POST, "/api/webhooks/test", &wrong).await;
        answer.expect_error(400, "E_INVALID_REQUEST");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn triggered_event_reaches_subscribers_under_the_returned_ids() {
    let (all, jobs, films) = (
        Downstream::start(ReceiverBehavior::Accept),
        Downstream::start(ReceiverBehavior::Accept),
        Downstream::start(ReceiverBehavior::Accept),
    );
    let file = format!(
        "[destinations.jobs]\nurl = \"{}\"\nevents = [\"job.*\"]\n[destinations.films]\n\
        url = \"{}\"\nevents = [\"content_*\"]\n",
        jobs.url(),
        films.url()
    );
    let stack = sending_to(&[&all]).platforms(&file).start().await;
    let triggered = json!({"event": "job.completed", "data": {"job_id": "test_job_123", "10": 0.5,
        "9": 1, "name": "é"}});
    let answer = stack.sender().admin(Method::POST, "/api/webhooks/trigger", &triggered).await;
    assert_eq!(answer.status, 202, "{}", answer.text);
    let deliveries = answer.json["deliveries"].as_array().unwrap();
    let names: Vec<&str> =
        deliveries.iter().map(|one| one["destination"].as_str().unwrap()).collect();
    assert_eq!(names, ["jobs", "webhook_1"], "{}", answer.text);
    for (one, receiver) in deliveries.iter().zip([&jobs, &all]) {
        assert_eq!(one["status"], "queued");
        wait_for_deliveries(receiver, 1).await;
        let received = receiver.received();
        let (id, seen) = received.first_key_value().unwrap();
        assert_eq!(json!(id), one["delivery_id"]);
        let body = seen[0].json();
        assert_eq!((&body["event"], &body["data"]), (&json!("job.completed"), &triggered["data"]));
        assert_eq!((&body["webhook_id"], &body["result"]), (&one["destination"], &Value::Null));
    }
    assert_eq!(films.deliveries(), 0);
    let nobody = json!({"event": "nobody.asked", "data": []});
    let stack_answer = stack.sender().admin(Method::POST, "/api/webhooks/trigger", &nobody).await;
    assert_eq!(
        stack_answer.json["deliveries"].as_array().map(Vec::len),
        Some(1),
        "webhook_1 gets every event"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn destination_status_shows_each_destination() {
    let (kind, failing) = (
        Downstream::start(ReceiverBehavior::Accept),
        Downstream::start(ReceiverBehavior::Always(500)),
    );
    let mut absent = Downstream::not_listening(ReceiverBehavior::Accept);
    let stack =
        sending_to(&[&kind, &failing, &absent]).env("WEBHOOK_MAX_RETRIES", "1").start().await;
    stack.sender().netflix(&film(1)).await.expect(202, "accepted");
    dead(&stack, "webhook_2", 1).await;
    dead(&stack, "webhook_3", 1).await;
    let kind_now = status(&stack, "webhook_1").await;
    assert_eq!(
        (&kind_now["delivered"], &kind_now["failed"], &kind_now["depth"]),
        (&json!(1), &json!(0), &json!(0))
    );
    assert_eq!((&kind_now["circuit"], &kind_now["last_error"]), (&json!("closed"), &Value::Null));
    assert_eq!(kind_now["host"], "127.0.0.1", "the message holds no path, which may be a secret");
    let failing_now = status(&stack, "webhook_2").await;
    assert_eq!((&failing_now["failed"], &failing_now["dead_letters"]), (&json!(1), &json!(1)));
    assert_eq!(failing_now["last_error"], "status 500: not yet");
    assert!(
        failing_now["last_error_at"].as_str().is_some_and(|at| at.ends_with('Z')),
        "{failing_now}"
    );

    for number in 2..12 {
        stack.sender().netflix(&film(number)).await.expect(202, "accepted");
    }
    poll::until("its circuit is open", WAIT_LIMIT, async || {
        let seen = status(&stack, "webhook_3").await;
        let open = seen["circuit"] == "open" || seen["circuit"] == "half-open";
        if open && seen["depth"].as_u64() > Some(0) { Ok(()) } else { Err(seen) }
    })
    .await;
    assert_eq!(status(&stack, "webhook_3").await["last_error"], "ECONNREFUSED");
    absent.listen();
    poll::until("its circuit is closed", WAIT_LIMIT, async || {
        let seen = status(&stack, "webhook_3").await;
        if seen["circuit"] == "closed" && seen["depth"] == 0 { Ok(()) } else { Err(seen) }
    })
    .await;
    wait_for_deliveries(&kind, 11).await;
}

/// State of a worker that no longer exists is not shown forever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn circuit_opened_by_a_killed_worker_does_not_stay_open() {
    let mut absent = Downstream::not_listening(ReceiverBehavior::Accept);
    let mut stack = sending_to(&[&absent]).start().await;
    for number in 0..10 {
        stack.sender().netflix(&film(number)).await.expect(202, "accepted");
    }
    poll::until("its circuit is open", WAIT_LIMIT, async || {
        let seen = status(&stack, "webhook_1").await;
        if seen["circuit"] == "open" { Ok(()) } else { Err(seen) }
    })
    .await;
    stack.workers.remove(0).process.kill();
    absent.listen();
    stack.add_worker().await;
    wait_for_deliveries(&absent, 10).await;
    poll::until("its circuit is closed", WAIT_LIMIT, async || {
        let seen = status(&stack, "webhook_1").await;
        if seen["circuit"] == "closed" && seen["depth"] == 0 { Ok(()) } else { Err(seen) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paused_destination_neither_sends_nor_loses_deliveries() {
    let (held, other) =
        (Downstream::start(ReceiverBehavior::Accept), Downstream::start(ReceiverBehavior::Accept));
    let mut stack = sending_to(&[&held, &other]).start().await;
    stack.sender().netflix(&film(0)).await.expect(202, "accepted");
    wait_for_deliveries(&held, 1).await;
    let answer = set_paused(&stack, "webhook_1", true).await;
    assert_eq!((answer.status, &answer.json["paused"]), (200, &json!(true)), "{}", answer.text);
    set_paused(&stack, "webhook_9", true).await.expect_error(404, "E_NOT_FOUND");
    wait_for_log(&stack, 0, "destination paused; its deliveries are kept").await;
    for number in 1..=20 {
        stack.sender().netflix(&film(number)).await.expect(202, "accepted");
    }
    wait_for_deliveries(&other, 21).await;
    assert_eq!(held.deliveries(), 1);
    // A worker that starts now keeps the pause too.
    stack.workers.remove(0).process.kill();
    stack.add_worker().await;
    stack.sender().netflix(&film(21)).await.expect(202, "accepted");
    wait_for_deliveries(&other, 22).await;
    poll::throughout("nothing is sent", Duration::from_secs(2), async || match held.deliveries() {
        1 => Ok(()),
        seen => Err(seen),
    })
    .await;
    assert_eq!(status(&stack, "webhook_1").await["depth"], 21);
    assert_eq!(set_paused(&stack, "webhook_1", false).await.json["paused"], false);
    wait_for_deliveries(&held, 22).await;
    assert!(held.confirmed().values().all(|times| *times == 1), "{:?}", held.confirmed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registered_url_gets_its_platforms_events_signed() {
    let (receiver, other) =
        (Downstream::start(ReceiverBehavior::Accept), Downstream::start(ReceiverBehavior::Accept));
    let mut stack =
        delivery_settings(builder_with_key()).redis(RedisOptions::durable()).start().await;
    let registration = json!({"platform": "shop", "secret": REGISTERED, "url": receiver.url(),
        "old_secret_expires_in": "1h"});
    let answer = stack.sender().registered(&registration).await;
    assert!(!answer.text.contains(REGISTERED), "{}", answer.text);
    stack
        .sender()
        .registered(&json!({"platform": "mall", "secret": SECRET, "url": other.url()}))
        .await;
    let signed_with = |delivery: usize, secret: &str| {
        let mut seen: Vec<_> =
            receiver.received().into_values().map(|seen| seen[0].clone()).collect();
        seen.sort_by_key(|one| one.at);
        let one = &seen[delivery];
        assert_eq!(one.json()["platform"], "shop");
        one.headers["x-streamgank-signature"]
            == format!("sha256={}", sign::hmac_sha256_hex(secret, &one.body))
    };
    // An event sent before a worker knows the destination would be processed and not forwarded.
    stack.workers[0].process.wait_until_logged("serving a registered platform", WAIT_LIMIT).await;
    poll::until("a delivery", WAIT_LIMIT, async || {
        accepted(&stack.sender(), &event("shop", REGISTERED), PROPAGATION_LIMIT).await;
        if receiver.deliveries() > 0 { Ok(()) } else { Err("none") }
    })
    .await;
    assert!(signed_with(0, REGISTERED));
    stack.sender().netflix(&film(1)).await.expect(202, "accepted");
    stack.wait_until_drained(WAIT_LIMIT).await;
    assert_eq!(status(&stack, "platform_shop").await["circuit"], "closed");
    assert_eq!(other.deliveries(), 0, "another platform's destination");

    for role in stack.ingresses.drain(..).chain(stack.workers.drain(..)) {
        role.process.kill();
    }
    stack.redis.restart().await;
    stack.add_ingress().await;
    stack.add_worker().await;
    let before = receiver.deliveries();
    poll::until("a delivery after the restart", WAIT_LIMIT, async || {
        accepted(&stack.sender(), &event("shop", REGISTERED), WAIT_LIMIT).await;
        if receiver.deliveries() > before { Ok(()) } else { Err("none") }
    })
    .await;

    let new = "registered-outbound-secret-2";
    let rotated = json!({"platform": "shop", "secret": new, "url": receiver.url(),
        "old_secret_expires_in": "1h"});
    stack.sender().registered(&rotated).await;
    poll::until("a delivery signed with the new secret", WAIT_LIMIT, async || {
        accepted(&stack.sender(), &event("shop", REGISTERED), PROPAGATION_LIMIT).await;
        let last = receiver.deliveries() - 1;
        if signed_with(last, new) { Ok(()) } else { Err("the old definition is used") }
    })
    .await;
    assert!(receiver.confirmed().values().all(|times| *times == 1), "{:?}", receiver.confirmed());
    for role in stack.ingresses.iter().chain(&stack.workers) {
        let log = role.process.log();
        assert!(!log.contains(REGISTERED) && !log.contains(new) && !log.contains("/hook"));
    }
}

/// The new definition of a destination must not repeat deliveries that the old one is still
/// sending.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotation_of_a_registration_sends_nothing_twice() {
    let receiver = Downstream::start(ReceiverBehavior::Slow(Duration::from_millis(1_500)));
    let stack = delivery_settings(builder_with_key()).start().await;
    let registered =
        |secret: &str| json!({"platform": "shop", "secret": secret, "url": receiver.url()});
    stack.sender().registered(&registered(REGISTERED)).await;
    poll::until("a delivery", WAIT_LIMIT, async || {
        accepted(&stack.sender(), &event("shop", REGISTERED), PROPAGATION_LIMIT).await;
        if receiver.deliveries() > 0 { Ok(()) } else { Err("none") }
    })
    .await;
    for _ in 0..40 {
        accepted(&stack.sender(), &event("shop", REGISTERED), PROPAGATION_LIMIT).await;
    }
    stack.sender().registered(&registered("registered-outbound-secret-2")).await;
    poll::until("everything is confirmed", WAIT_LIMIT, async || {
        let left: usize = stack.redis.command(&["XLEN", "webhooks:outgoing:platform_shop"]).await;
        if left == 0 && stack.unfinished("shop").await == 0 { Ok(()) } else { Err(left) }
    })
    .await;
    let received = receiver.received();
    assert!(received.len() > 40 && received.values().all(|seen| seen.len() == 1), "{received:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn worker_without_key_keeps_deliveries_and_reports_it() {
    let receiver = Downstream::start(ReceiverBehavior::Accept);
    let mut stack =
        delivery_settings(Stack::builder()).ingress_env("SECRETS_KEY", SECRETS_KEY).start().await;
    stack
        .sender()
        .registered(&json!({"platform": "shop", "secret": REGISTERED, "url": receiver.url()}))
        .await;
    wait_for_log(
        &stack,
        0,
        "its secret cannot be opened with this process's SECRETS_KEY; its deliveries are kept",
    )
    .await;
    let id = accepted(&stack.sender(), &event("shop", REGISTERED), PROPAGATION_LIMIT).await;
    poll::until("the delivery is queued", WAIT_LIMIT, async || {
        let depth = status(&stack, "platform_shop").await["depth"].clone();
        if depth == 1 { Ok(()) } else { Err(depth) }
    })
    .await;
    assert_eq!(receiver.deliveries(), 0);
    let (program, ops) = stack.worker_program();
    let process = program.env("SECRETS_KEY", SECRETS_KEY).env("WORKER_NAME", "keyed").spawn();
    stack.workers.push(ServerProcess { process, url: ops.clone(), ops });
    stack.workers[1].ready(WAIT_LIMIT).await;
    wait_for_deliveries(&receiver, 1).await;
    assert_eq!(receiver.received().into_values().next().unwrap()[0].json()["event_id"], json!(id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forwarding_loop_between_two_systems_ends() {
    let mut stack = delivery_settings(Stack::builder())
        .ingress_env("STREAMGANK_WEBHOOK_SECRET", SECRET)
        .worker_env("WEBHOOK_EVENTS", "job.*")
        .workers(0)
        .start()
        .await;
    let (program, ops) = stack.worker_program();
    let hook = format!("{}/webhooks/streamgank", stack.ingresses[0].url);
    let process = program.env("WEBHOOK_URLS", hook).spawn();
    stack.workers.push(ServerProcess { process, url: ops.clone(), ops });
    stack.workers[0].ready(WAIT_LIMIT).await;
    let job = json!({"event": "job.completed", "data": {"job_id": unique("job")},
        "timestamp": "2024-01-01T12:05:30.123Z"});
    let signed =
        sign::over_body("streamgank", "X-StreamGank-Signature", SECRET, job.to_string().as_bytes());
    stack.sender().send(&signed).await.expect(202, "accepted");
    let dead_letters = dead(&stack, "webhook_1", 1).await;
    assert_eq!(dead_letters[0]["error_code"], "loop", "{}", dead_letters[0]);
    // The original event, and one for each forwarding.
    assert_eq!(stack.database.count("webhook_events").await, 9);
    stack.wait_until_drained(WAIT_LIMIT).await;
    let delivered: i64 =
        stack.redis.command(&["HGET", "webhooks:counters:out:webhook_1", "processed"]).await;
    assert_eq!(delivered, 8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chat_destinations_get_messages_in_their_format() {
    let (slack, discord) = (
        Downstream::start(ReceiverBehavior::Accept),
        Downstream::start(ReceiverBehavior::Always(204)),
    );
    let file = format!(
        "[destinations.team]\nurl = \"{}\"\nformat = \"slack\"\n[destinations.fans]\nurl = \"{}\"\n\
         format = \"discord\"\n\
         mention = \"everyone\"\nwatch_url = \"https://watch.example.com/{{stream_id}}\"\n",
        slack.url(),
        discord.url()
    );
    let stack = delivery_settings(Stack::builder())
        .ingress_env("STREAMGANK_WEBHOOK_SECRET", SECRET)
        .ingress_env("REALCAST_WEBHOOK_SECRET", SECRET)
        .platforms(&file)
        .start()
        .await;
    let job = json!({"event": "job.completed", "timestamp": "2024-01-01T12:05:30.123Z", "data": {
        "job_id": "job-1", "video_url": "https://cdn.creatomate.com/video.mp4",
        "processing_duration_ms": 330_000}});
    let signed =
        sign::over_body("streamgank", "X-StreamGank-Signature", SECRET, job.to_string().as_bytes());
    stack.sender().send(&signed).await.expect(202, "accepted");
    wait_for_deliveries(&slack, 1).await;
    wait_for_deliveries(&discord, 1).await;
    let of = |receiver: &Downstream| -> Vec<Value> {
        receiver.received().values().map(|seen| seen[0].json()).collect()
    };
    let message = of(&slack).remove(0);
    assert_eq!(message["blocks"][0]["text"]["text"], "\u{2705} StreamGank Job Completed");
    let text = message["blocks"][1]["text"]["text"].as_str().unwrap();
    assert_eq!(
        text,
        "Job ID: job-1\nVideo: <https://cdn.creatomate.com/video.mp4>\nDuration: 5m 30s"
    );
    let embed = of(&discord)[0]["embeds"][0].clone();
    assert_eq!(embed["title"], "StreamGank Job Completed");
    assert_eq!(
        (&embed["fields"][0]["name"], &embed["fields"][2]["value"]),
        (&json!("Job ID"), &json!("5m 30s"))
    );

    let live = json!({"event": "stream.live", "timestamp": "2024-12-09T10:00:00Z", "data": {
        "stream_id": "stream_abc123", "title": "Epic @everyone Session", "app_id": "a",
        "streamer_id": "u"}});
    let signed =
        sign::over_body("realcast", "X-RealCast-Signature", SECRET, live.to_string().as_bytes());
    stack.sender().send(&signed).await.expect(202, "accepted");
    wait_for_deliveries(&discord, 2).await;
    wait_for_deliveries(&slack, 2).await;
    let message_shown = of(&discord)
        .into_iter()
        .find(|message| message["content"].is_string())
        .expect("an announcement");
    let content = message_shown["content"].as_str().unwrap();
    assert!(
        content.starts_with("@everyone Epic @\u{200b}everyone Session is now live! Watch at: "),
        "{content}"
    );
    assert!(content.ends_with("https://watch.example.com/stream_abc123"), "{content}");
    assert_eq!(message_shown["allowed_mentions"], json!({"parse": ["everyone"]}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_destination_queue_overflows_into_dead_letters() {
    let receiver = Downstream::start(ReceiverBehavior::Accept);
    let file = format!(
        "[destinations.small]\nurl = \"{}\"\nmax_backlog = 5\npaused = true\n",
        receiver.url()
    );
    let stack = delivery_settings(Stack::builder()).platforms(&file).start().await;
    for number in 0..12 {
        stack.sender().netflix(&film(number)).await.expect(202, "accepted");
    }
    let dead_letters = dead(&stack, "small", 7).await;
    assert!(
        dead_letters.iter().all(|dead_letter| dead_letter["error_code"] == "overflow"),
        "{dead_letters:?}"
    );
    let seen = status(&stack, "small").await;
    assert_eq!(
        (&seen["depth"], &seen["dead_letters"], &seen["overflow"]),
        (&json!(5), &json!(7), &Value::Null)
    );
    // The definition pauses the destination until an operator resumes it. No overflowed delivery is
    // lost.
    assert_eq!(set_paused(&stack, "small", false).await.status, 200);
    wait_for_deliveries(&receiver, 5).await;
    let replayed = stack.dlq_tool(&["replay", "--platform", "out:small", "--yes"]).await;
    assert_eq!(replayed.code, Some(0), "{replayed:?}");
    wait_for_deliveries(&receiver, 12).await;
}

/// If the dead letters are full too, the dropped deliveries are counted with their event ids.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overflow_of_queue_and_dead_letters_is_counted() {
    let receiver = Downstream::start(ReceiverBehavior::Accept);
    let file = format!(
        "[destinations.small]\nurl = \"{}\"\nmax_backlog = 2\npaused = true\n",
        receiver.url()
    );
    let stack = delivery_settings(Stack::builder())
        .worker_env("DLQ_MAX_LEN", "3")
        .platforms(&file)
        .start()
        .await;
    for number in 0..9 {
        stack.sender().netflix(&film(number)).await.expect(202, "accepted");
    }
    poll::until("four are lost, and shown", WAIT_LIMIT, async || {
        match stack.workers[0].metric("webhook_deliveries_total", &["small", "lost"]).await {
            4.0 => Ok(()),
            seen => Err(seen),
        }
    })
    .await;
    let seen = status(&stack, "small").await;
    assert_eq!(
        (&seen["depth"], &seen["dead_letters"], &seen["overflow"]["count"]),
        (&json!(2), &json!(3), &json!(4))
    );
}

/// A worker is killed between commit and settle. The worker that claims the entry settles it in
/// full, and so forwards it once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn committed_but_unsettled_event_is_forwarded_once() {
    let receiver = Downstream::start(ReceiverBehavior::Accept);
    let mut stack = sending_to(&[&receiver]).workers(0).start().await;
    stack.sender().acme(&film(1)).await.expect(202, "accepted");
    let entries: Vec<(String, Vec<String>)> =
        stack.redis.command(&["XRANGE", "webhooks:incoming:acme", "-", "+"]).await;
    let fields = entries[0].1.clone();
    // Committed by a worker without destinations.
    let (program, ops) = stack.worker_program();
    let process = program.env("WEBHOOK_URLS", "").spawn();
    stack.workers.push(ServerProcess { process, url: ops.clone(), ops });
    stack.wait_until_drained(WAIT_LIMIT).await;
    stack.workers.remove(0).process.kill();
    assert_eq!(stack.database.count("webhook_events").await, 1);
    let put = async || {
        let words: Vec<&str> = ["XADD", "webhooks:incoming:acme", "*"]
            .into_iter()
            .chain(fields.iter().map(String::as_str))
            .collect();
        stack.redis.command::<String>(&words).await
    };
    // The original entry twice: the second time as if the settle had been lost as well.
    put().await;
    let (program, ops) = stack.worker_program();
    let worker = ServerProcess { process: program.spawn(), url: ops.clone(), ops };
    wait_for_deliveries(&receiver, 1).await;
    put().await;
    stack.wait_until_drained(WAIT_LIMIT).await;
    poll::until("the outbox is empty", WAIT_LIMIT, async || {
        let left: usize = stack.redis.command(&["XLEN", "webhooks:outbox:acme"]).await;
        if left == 0 { Ok(()) } else { Err(left) }
    })
    .await;
    assert_eq!(status(&stack, "webhook_1").await["depth"], 0);
    let received = receiver.received();
    assert_eq!(received.values().map(Vec::len).collect::<Vec<_>>(), [1], "{received:?}");
    assert_eq!(received.values().next().unwrap()[0].json()["result"]["action"], "recorded");
    assert_eq!(stack.database.count("webhook_events").await, 1);
    drop(worker);
}

/// A delivery outlasts the worker's shutdown grace. The worker hands it back instead of leaving it
/// until another worker may claim it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_worker_hands_its_delivery_back_within_its_grace() {
    const IDLE: Duration = Duration::from_secs(40);
    let receiver = Downstream::start(ReceiverBehavior::Slow(Duration::from_secs(90)));
    let mut stack = sending_to(&[&receiver])
        .env("WEBHOOK_TIMEOUT", "120000")
        .worker_env("CLAIM_IDLE_MS", &IDLE.as_millis().to_string())
        .start()
        .await;
    stack.sender().netflix(&film(1)).await.expect(202, "accepted");
    wait_for_deliveries(&receiver, 1).await;
    stack.workers[0].process.terminate();
    let status = stack.workers[0].process.wait_until_ended(Duration::from_secs(8)).await;
    let stopped = std::time::Instant::now();
    assert!(status.success(), "{status:?}");
    receiver.set_behavior(ReceiverBehavior::Accept);
    let (program, ops) = stack.worker_program();
    let process = program.env("WORKER_NAME", "another").spawn();
    stack.workers.push(ServerProcess { process, url: ops.clone(), ops });
    poll::until("a second attempt", IDLE, async || {
        let attempts: usize = receiver.received().values().map(Vec::len).sum();
        if attempts == 2 { Ok(()) } else { Err(attempts) }
    })
    .await;
    assert!(
        stopped.elapsed() < IDLE * 3 / 4,
        "taken over, not handed back: {:?}",
        stopped.elapsed()
    );
    assert_eq!(receiver.deliveries(), 1, "under the same id");
}
