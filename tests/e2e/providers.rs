//! Bundled providers. A request as the provider sends it, signed here from its documentation, is
//! accepted and recorded. A forgery leaves nothing. A handshake is answered exactly.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tests::poll;
use tests::sender::{HttpAnswer, Sender, now, now_ms, rfc3339, unique};
use tests::sign::{SignedWebhook, hmac_sha256_hex};
use tests::stack::{Stack, StackBuilder};

use super::WAIT_LIMIT;

/// Secret of every provider here. Standard Webhooks uses its base64 form.
pub(super) const SECRET: &str = "a-provider-secret-of-32-characters";
/// Previous secret of the platforms that have two.
pub(super) const OLD_SECRET: &str = "the-secret-before-the-rotation-001";

pub(super) const PROVIDERS: [&str; 9] = [
    "twitch",
    "standard-webhooks",
    "cloudflare-stream",
    "cloudflare-live",
    "livepeer",
    "zoom",
    "stripe",
    "github",
    "slack",
];

const FEED: &str = "https://example.com/feed?channel=1";

pub(super) fn stack() -> StackBuilder {
    let mut toml = String::new();
    for name in PROVIDERS {
        let variable =
            if name == "standard-webhooks" { "STANDARD_SECRET" } else { "PROVIDER_SECRET" };
        toml.push_str(&format!("[platforms.{name}]\nsecrets = [\"env:{variable}\"]\n"));
    }
    toml.push_str(&format!(
        "[platforms.zoom-rotating]\npreset = \"zoom\"\nsecrets = [\"env:PROVIDER_SECRET\", \
         \"env:OLD_SECRET\"]\n[platforms.feeds]\nsecrets = [\"env:PROVIDER_SECRET\"]\n\
         handshake = {{ kind = \"websub\", topics = [\"{FEED}\"] }}\n"
    ));
    Stack::builder()
        .platforms(&toml)
        .ingress_env("PROVIDER_SECRET", SECRET)
        .ingress_env("OLD_SECRET", OLD_SECRET)
        .ingress_env("STANDARD_SECRET", &format!("whsec_{}", STANDARD.encode(SECRET)))
}

fn request(platform: &str, body: &str, headers: &[(&str, &str)]) -> SignedWebhook {
    let mut signed = SignedWebhook {
        path: format!("/api/v1/webhooks/{platform}"),
        headers: vec![("content-type".to_owned(), "application/json".to_owned())],
        body: body.as_bytes().to_vec(),
    };
    for (name, value) in headers {
        signed = signed.header(name, value);
    }
    signed
}

fn mac(secret: &str, message: &str) -> String {
    hmac_sha256_hex(secret, message.as_bytes())
}

/// Request with `body` as `provider` sent and signed it with `secret`, `age` seconds ago.
pub(super) fn signed_by(provider: &str, secret: &str, age: i64, body: &str) -> SignedWebhook {
    let (s, ms) = (now() - age, now_ms() - age * 1000);
    match provider {
        "twitch" => {
            let (id, at) = (unique("message"), rfc3339(ms).replace('Z', "456789Z"));
            let signature = format!("sha256={}", mac(secret, &format!("{id}{at}{body}")));
            let headers = [
                ("Twitch-Eventsub-Message-Id", id.as_str()),
                ("Twitch-Eventsub-Message-Timestamp", &at),
                ("Twitch-Eventsub-Message-Signature", &signature),
                ("Twitch-Eventsub-Message-Retry", "0"),
            ];
            request(provider, body, &headers)
        }
        "standard-webhooks" => {
            let id = unique("msg");
            let bytes = hex::decode(mac(secret, &format!("{id}.{s}.{body}"))).unwrap();
            let signature = format!("v1,{}", STANDARD.encode(bytes));
            let headers = [
                ("webhook-id", id.as_str()),
                ("webhook-timestamp", &s.to_string()),
                ("webhook-signature", &signature),
            ];
            request(provider, body, &headers)
        }
        "cloudflare-stream" => {
            let value = format!("time={s},sig1={}", mac(secret, &format!("{s}.{body}")));
            request(provider, body, &[("Webhook-Signature", &value)])
        }
        "cloudflare-live" => request(provider, body, &[("cf-webhook-auth", secret)]),
        "livepeer" => request(
            provider,
            body,
            &[("Livepeer-Signature", &format!("t={ms},v1={}", mac(secret, body)))],
        ),
        "stripe" => {
            let value = format!("t={s},v1={},v0=00", mac(secret, &format!("{s}.{body}")));
            request(provider, body, &[("Stripe-Signature", &value)])
        }
        "github" => {
            let value = format!("sha256={}", mac(secret, body));
            let delivery = unique("delivery");
            let headers = [
                ("X-Hub-Signature-256", value.as_str()),
                ("X-GitHub-Event", "push"),
                ("X-GitHub-Delivery", &delivery),
            ];
            request(provider, body, &headers)
        }
        "slack" | "zoom" | "zoom-rotating" => {
            let (signature, at) = match provider {
                "slack" => ("X-Slack-Signature", "X-Slack-Request-Timestamp"),
                _ => ("x-zm-signature", "x-zm-request-timestamp"),
            };
            let value = format!("v0={}", mac(secret, &format!("v0:{s}:{body}")));
            request(provider, body, &[(signature, &value), (at, &s.to_string())])
        }
        other => panic!("unknown provider {other}"),
    }
}

/// Event type and body as `provider` sends them.
pub(super) fn sample(provider: &str) -> (&'static str, String) {
    let (id, at) = (unique("event"), rfc3339(now_ms()));
    let (kind, body) = match provider {
        "twitch" => ("stream.online", twitch("stream.online", "1337", &at)),
        "standard-webhooks" => {
            ("user.created", json!({"type": "user.created", "timestamp": at, "data": {"id": id}}))
        }
        "cloudflare-stream" => {
            let playback =
                json!({"hls": "https://customer-x.cloudflarestream.com/v/manifest/video.m3u8"});
            let body = json!({"uid": id, "readyToStream": true, "status": {"state": "ready"},
                "modified": at,
                "size": 4_190_963, "duration": 9.5, "playback": playback, "liveInput": "input-1"});
            ("ready", body)
        }
        "cloudflare-live" => ("live_input.connected", cloudflare_live("connected", "input-1", &at)),
        "livepeer" => {
            let body = json!({"id": id, "webhookId": "w", "createdAt": now_ms(),
                "timestamp": now_ms(),
                "event": "stream.started", "stream": {"id": "lp-stream", "name": "Evening show",
                "isActive": true}});
            ("stream.started", body)
        }
        "zoom" => ("meeting.started", zoom("meeting.started", now_ms())),
        "stripe" => {
            let body = json!({"id": id, "object": "event", "created": now(), "type": "invoice.paid",
                "data": {"object": {"id": "in_1", "object": "invoice"}}, "pending_webhooks": 1});
            ("invoice.paid", body)
        }
        "github" => {
            let body = json!({"ref": "refs/heads/main", "before": "0", "after": "1",
                "repository": {"id": 1_296_269}});
            ("push", body)
        }
        "slack" => {
            let body = json!({"team_id": "T1", "type": "event_callback", "event_id": id,
                "event_time": now(),
                "event": {"type": "app_mention", "channel": "C1", "user": "U1", "text": "hi"}});
            ("app_mention", body)
        }
        other => panic!("unknown provider {other}"),
    };
    (kind, body.to_string())
}

fn twitch(kind: &str, user: &str, started_at: &str) -> Value {
    let mut event = json!({"broadcaster_user_id": user, "broadcaster_user_login": "cool_user"});
    if kind == "stream.online" {
        event["id"] = "9001".into();
        event["type"] = "live".into();
        event["started_at"] = started_at.into();
    }
    let subscription = json!({"id": "f1c2", "status": "enabled", "type": kind, "version": "1",
        "condition": {"broadcaster_user_id": user}, "transport": {"method": "webhook"}});
    json!({"subscription": subscription, "event": event})
}

fn zoom(kind: &str, at_ms: i64) -> Value {
    let object = json!({"uuid": "4444AAA/iAAAA==", "id": "123", "topic": "My Meeting", "type": 2});
    json!({"event": kind, "event_ts": at_ms, "payload": {"account_id": "A", "object": object}})
}

fn cloudflare_live(what: &str, input: &str, at: &str) -> Value {
    let data = json!({"notification_name": "Stream Live Input", "input_id": input,
        "event_type": format!("live_input.{what}"), "updated_at": at});
    json!({"name": "Live", "text": format!("Notification type: Stream Live Input\n\
        Input ID: {input}"),
        "data": data, "ts": now()})
}

/// Waits until nothing is unfinished and returns the ledger row of the answered event.
async fn ledger(stack: &Stack, platform: &str, answer: &HttpAnswer) -> Value {
    stack.wait_until_drained(WAIT_LIMIT).await;
    let row = stack.database.event(platform, answer.event_id()).await;
    row.unwrap_or_else(|| panic!("{platform}: not in the ledger: {}", answer.text))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn provider_samples_are_accepted_once_and_recorded() {
    let stack = stack().start().await;
    let sender = stack.sender();
    for provider in PROVIDERS {
        let (kind, body) = sample(provider);
        let signed = signed_by(provider, SECRET, 0, &body);
        let answer = sender.send(&signed).await;
        assert_eq!(
            answer.status,
            if provider == "zoom" { 200 } else { 202 },
            "{provider}: {}",
            answer.text
        );
        assert_eq!(answer.outcome(), "accepted", "{provider}");
        let row = ledger(&stack, provider, &answer).await;
        assert_eq!(row["event_type"], kind, "{provider}");

        let again = sender.send(&signed).await;
        if provider == "github" {
            // GitHub signs nothing that identifies a delivery, so the same request again is another
            // event.
            again.expect(202, "accepted");
            assert_ne!(again.event_id(), answer.event_id());
        } else {
            assert_eq!(again.expect(200, "duplicate"), answer.event_id(), "{provider}");
        }
        assert_eq!(stack.dead(provider).await, 0, "{provider}");
    }
    let status = async |room: &str| stack.database.status(room).await;
    for (room, platform) in [
        ("1337", "twitch"),
        ("input-1", "cloudflare-live"),
        ("lp-stream", "livepeer"),
        ("4444AAA/iAAAA==", "zoom"),
    ] {
        assert_eq!(status(room).await, "live", "{platform}");
        assert_eq!(stack.database.session(room).await.unwrap()["platform"], platform);
    }
    assert_eq!(stack.database.session("lp-stream").await.unwrap()["title"], "Evening show");
    let recordings = stack
        .database
        .rows("SELECT * FROM recordings WHERE platform = 'cloudflare-stream'", &[])
        .await;
    assert_eq!(recordings.len(), 1);
    assert_eq!(
        (&recordings[0]["state"], &recordings[0]["room_id"]),
        (&json!("ready"), &json!("input-1"))
    );
    assert_eq!(recordings[0]["size_bytes"], 4_190_963);
    assert_eq!(stack.database.count("webhook_events").await, 10, "each once, GitHub's twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twitch_stream_state_follows_the_message_order() {
    let stack = stack().start().await;
    let sender = stack.sender();
    let started = rfc3339(now_ms() - 60_000);
    let send = async |age: i64, kind: &str| {
        let signed = signed_by("twitch", SECRET, age, &twitch(kind, "42", &started).to_string());
        let id = signed.value("Twitch-Eventsub-Message-Id").to_owned();
        assert_eq!(
            sender.send(&signed).await.expect(202, "accepted"),
            id,
            "the signed id is the event's"
        );
        stack.wait_until_drained(WAIT_LIMIT).await;
        stack.database.event("twitch", &id).await.unwrap()
    };
    let row = send(30, "stream.online").await;
    assert_eq!((&row["room_id"], &row["action"]), (&json!("42"), &json!("status_updated")));
    let session = stack.database.session("42").await.unwrap();
    assert_eq!((&session["status"], &session["streamer_id"]), (&json!("live"), &json!("42")));
    assert_eq!(session["started_at"], started.as_str());
    send(20, "stream.offline").await;
    assert_eq!(stack.database.status("42").await, "ended");
    // After a short break, Twitch announces the broadcast again with its original start.
    send(10, "stream.online").await;
    assert_eq!(stack.database.status("42").await, "live");
    assert_eq!(
        send(15, "stream.offline").await["action"],
        "stale_ignored",
        "an older message changes nothing"
    );
    assert_eq!(stack.database.status("42").await, "live");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cloudflare_test_message_and_stream_ends_are_accepted() {
    let stack = stack().start().await;
    let sender = stack.sender();
    // Cloudflare saves the destination only after a 2xx to this message.
    let test =
        json!({"text": "Hello World! This is a test message sent from https://cloudflare.com."})
            .to_string();
    let answer = sender.send(&signed_by("cloudflare-live", SECRET, 0, &test)).await;
    answer.expect(202, "accepted");
    assert_eq!(ledger(&stack, "cloudflare-live", &answer).await["action"], "logged");
    let at = now_ms();
    for (what, at, status) in
        [("connected", at, "live"), ("disconnected", at + 1, "ended"), ("connected", at, "ended")]
    {
        let body = cloudflare_live(what, "in", &rfc3339(at));
        let answer = sender.send(&signed_by("cloudflare-live", SECRET, 0, &body.to_string())).await;
        assert!([200, 202].contains(&answer.status), "{}", answer.text);
        stack.wait_until_drained(WAIT_LIMIT).await;
        assert_eq!(stack.database.status("in").await, status);
    }
}

/// Forgeries of `provider`'s valid request, each with its expected error code.
fn forgeries(provider: &str) -> Vec<(String, SignedWebhook, &'static str)> {
    const INVALID: &str = "E_WEBHOOK_INVALID_SIGNATURE";
    const EXPIRED: &str = "E_WEBHOOK_SIGNATURE_ERROR";
    let (_, body) = sample(provider);
    let good = signed_by(provider, SECRET, 0, &body);
    let mut found =
        vec![("another secret".to_owned(), signed_by(provider, "wrong", 0, &body), INVALID)];
    let ours = |name: &str| {
        name != "content-type" && !name.contains("Retry") && !name.starts_with("X-GitHub")
    };
    for (name, value) in good.headers.iter().filter(|(name, _)| ours(name)) {
        found.push((format!("without {name}"), good.clone().without(name), INVALID));
        found.push((format!("{name} empty"), good.clone().without(name).header(name, ""), INVALID));
        // Several signatures are alternatives. Any other signed header must be unique.
        let lower = name.to_lowercase();
        if lower.contains("signature") || lower == "cf-webhook-auth" {
            let wrong: String = value.chars().rev().collect();
            let both = good.clone().without(name).header(name, &wrong).header(name, &wrong);
            found.push((format!("{name} wrong twice"), both, INVALID));
        } else {
            found.push((format!("{name} twice"), good.clone().header(name, value), INVALID));
        }
    }
    if provider != "cloudflare-live" {
        // A shared secret does not authenticate the body.
        let mut other = good.clone();
        other.body.push(b' ');
        found.push(("another body".to_owned(), other, INVALID));
    }
    if !["cloudflare-live", "github"].contains(&provider) {
        let late = if provider == "twitch" { 601 } else { 301 };
        found.push(("too old".to_owned(), signed_by(provider, SECRET, late + 5, &body), EXPIRED));
        found.push((
            "too far ahead".to_owned(),
            signed_by(provider, SECRET, -late - 5, &body),
            EXPIRED,
        ));
    }
    if provider == "twitch" {
        let id = good.value("Twitch-Eventsub-Message-Id").to_owned();
        let name = "Twitch-Eventsub-Message-Id";
        found.push((
            "another id".to_owned(),
            good.clone().without(name).header(name, &format!("{id}x")),
            INVALID,
        ));
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn provider_forgeries_leave_nothing() {
    let stack = stack().start().await;
    let sender = stack.sender();
    for provider in PROVIDERS {
        for (what, forged, code) in forgeries(provider) {
            let answer = sender.send(&forged).await;
            assert_eq!(
                (answer.status, answer.errcode()),
                (401, code),
                "{provider}: {what}: {}",
                answer.text
            );
        }
        assert_eq!(
            (stack.unfinished(provider).await, stack.dead(provider).await),
            (0, 0),
            "{provider}"
        );
    }
    let markers: Vec<String> = stack.redis.command(&["KEYS", "webhook:hash:*"]).await;
    assert!(markers.is_empty(), "{markers:?}");
    let limits: Vec<String> = stack.redis.command(&["KEYS", "webhooks:limit:*"]).await;
    assert!(limits.is_empty(), "{limits:?}");
    assert_eq!(stack.database.count("webhook_events").await, 0);
}

/// Checks that the challenge is echoed exactly, and that nothing is queued or counted as an event.
async fn check_echo(sender: &Sender, signed: &SignedWebhook, expected: &str) {
    let answer = sender.send(signed).await;
    assert_eq!((answer.status, answer.text.as_str()), (200, expected));
    assert_eq!(answer.header("content-type"), Some("text/plain"));
    assert_eq!(answer.header("content-length"), Some(expected.len().to_string().as_str()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_are_answered_exactly() {
    let stack = stack().start().await;
    let sender = stack.sender();

    let challenge = "pogchamp-kappa-360noscope-vohiyo";
    let subscription = |status: &str| {
        json!({"id": "f1c2", "status": status,
        "type": "channel.follow", "version": "1"})
    };
    let body = json!({"challenge": challenge,
        "subscription": subscription("webhook_callback_verification_pending")});
    let kind =
        |signed: SignedWebhook, kind: &str| signed.header("Twitch-Eventsub-Message-Type", kind);
    let asked = signed_by("twitch", SECRET, 0, &body.to_string());
    check_echo(&sender, &kind(asked.clone(), "webhook_callback_verification"), challenge).await;
    // The unsigned type header is ignored, since anyone could change it.
    check_echo(&sender, &kind(asked, "notification"), challenge).await;
    let forged =
        kind(signed_by("twitch", "wrong", 0, &body.to_string()), "webhook_callback_verification");
    sender.send(&forged).await.expect_error(401, "E_WEBHOOK_INVALID_SIGNATURE");
    let online = signed_by(
        "twitch",
        SECRET,
        0,
        &twitch("stream.online", "7", &rfc3339(now_ms())).to_string(),
    );
    sender.send(&kind(online, "revocation")).await.expect(202, "accepted");
    stack.status("7", "live", WAIT_LIMIT).await;

    let revoked = json!({"subscription": subscription("authorization_revoked")}).to_string();
    let answer = sender.send(&kind(signed_by("twitch", SECRET, 0, &revoked), "revocation")).await;
    assert_eq!((answer.status, answer.text.as_str()), (204, ""));
    poll::until("the revocation is in the log", WAIT_LIMIT, async || {
        let log = stack.ingresses[0].process.log();
        let is_logged =
            log.lines().any(|line| line.contains("WARN") && line.contains("authorization_revoked"));
        if is_logged { Ok(()) } else { Err(log) }
    })
    .await;

    let slack = json!({"token": "t",
        "challenge": "3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P",
        "type": "url_verification"});
    let expected = slack["challenge"].as_str().unwrap();
    check_echo(&sender, &signed_by("slack", SECRET, 0, &slack.to_string()), expected).await;

    let zoom = json!({"payload": {"plainToken": "qgg8vlvZRS6UYooatFL8Aw"}, "event_ts": now_ms(),
        "event": "endpoint.url_validation"})
    .to_string();
    for (platform, secret) in
        [("zoom", SECRET), ("zoom-rotating", SECRET), ("zoom-rotating", OLD_SECRET)]
    {
        let answer = sender.send(&signed_by(platform, secret, 0, &zoom)).await;
        let proof = mac(secret, "qgg8vlvZRS6UYooatFL8Aw");
        let expected =
            format!(r#"{{"plainToken":"qgg8vlvZRS6UYooatFL8Aw","encryptedToken":"{proof}"}}"#);
        assert_eq!((answer.status, answer.text.as_str()), (200, expected.as_str()), "{platform}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
    }

    stack.wait_until_drained(WAIT_LIMIT).await;
    assert_eq!(stack.database.count("webhook_events").await, 1, "only the stream that went online");
    for (platform, count) in
        [("twitch", 3.0), ("slack", 1.0), ("zoom", 1.0), ("zoom-rotating", 2.0)]
    {
        let labels = [&*format!("platform=\"{platform}\""), "outcome=\"handshake\""];
        let counted = stack.ingresses[0].metric("webhook_requests_total", &labels).await;
        assert!((counted - count).abs() < f64::EPSILON, "{platform}: {counted}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn websub_hub_gets_only_declared_topics_confirmed() {
    let stack = stack().workers(0).start().await;
    let sender = stack.sender();
    let topic = "https%3A%2F%2Fexample.com%2Ffeed%3Fchannel%3D1";
    let query = |mode: &str, topic: &str| {
        format!(
            "hub.mode={mode}&hub.topic={topic}&hub.challenge=9412%2B%3D&hub.lease_seconds=864000"
        )
    };
    for path in [
        "/api/v1/webhooks/feeds",
        "/webhooks/feeds",
        "/webhook/feeds",
        "/api/v1/live/webhooks/feeds",
    ] {
        let answer = sender.get(&format!("{path}?{}", query("subscribe", topic))).await;
        assert_eq!((answer.status, answer.text.as_str()), (200, "9412+="), "{path}");
        assert_eq!(answer.header("content-type"), Some("text/plain"));
    }
    let ask = async |query: &str| sender.get(&format!("/webhooks/feeds?{query}")).await;
    let other = "https%3A%2F%2Fexample.com%2Fother";
    ask(&query("subscribe", other)).await.expect_error(404, "E_NOT_FOUND");
    ask(&query("unsubscribe", topic)).await.expect_error(404, "E_NOT_FOUND");
    assert_eq!(ask(&query("unsubscribe", other)).await.text, "9412+=");
    ask("hub.mode=subscribe").await.expect_error(400, "E_INVALID_REQUEST");
    sender
        .get(&format!("/webhooks/twitch?{}", query("subscribe", topic)))
        .await
        .expect_error(405, "E_METHOD_NOT_ALLOWED");
}
