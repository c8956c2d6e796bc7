//! No log line at any level, no answer, no metric and no tool output contains a secret, a signature
//! or a body.
//!
//! One scenario covers every platform and every outcome of an event with all logging on. Then the
//! test searches all collected output for every secret text.

use std::io::Write as _;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tests::admin::SECRETS_KEY;
use tests::downstream::{Downstream, ReceiverBehavior};
use tests::generator::{REALCAST_SECRET, STREAMGANK_SECRET};
use tests::poll;
use tests::process::Program;
use tests::sender::{
    ACME_SECRET, ADMIN_TOKEN, HttpAnswer, LIVEKIT_KEY, LIVEKIT_SECRET, MUX_SECRET, NETFLIX_SECRET,
    Sender, announcement, content_event, livekit_event, mux_event, now, now_ms, unique,
};
use tests::sign::{self, SignedWebhook};
use tests::stack::Stack;

use crate::WAIT_LIMIT;
use crate::providers;

/// Part of every body, in a place that is never shown.
const MARKER: &str = "body-marker-that-nobody-may-see";
/// Secrets sent in requests.
const REGISTERED: &str = "registered-secret-0f51e2";
const ROTATED: &str = "rotated-secret-77ab01";
const REFUSED: &str = "refused-secret-93cc4d";
const WRONG_TOKEN: &str = "wrong-admin-token-51d7";
const FORGER: &str = "secret-of-a-forger-2c90";
const URL_TOKEN: &str = "token-in-a-url-8d22";
/// Secrets of destinations: signing secret, header value, and parts of URLs.
const SIGNING: &str = "secret-that-signs-deliveries-4b1e";
const HEADER: &str = "value-of-a-delivery-header-6f03";
const HOOK_QUERY: &str = "token-in-a-hook-query-a7c1";
const HOOK_PATH: &str = "token-in-a-hook-path-e92d";
const DISCORD_PATH: &str = "token-of-a-discord-hook-15ab";
const REGISTERED_PATH: &str = "token-in-a-registered-url-d340";

/// Collected output, and the texts that it must not contain.
#[derive(Default)]
struct LeakScan {
    output: Vec<(String, String)>,
    hidden: Vec<(String, String)>,
}

impl LeakScan {
    fn add_secret(&mut self, what: &str, text: &str) {
        assert!(text.len() >= 12, "{what} is too short to search for: {text}");
        self.hidden.push((what.to_owned(), text.to_owned()));
    }

    fn add_output(&mut self, from: impl Into<String>, text: impl Into<String>) {
        self.output.push((from.into(), text.into()));
    }

    /// Sends `signed`. Collects the answer as output, and the signature as a secret.
    async fn send(&mut self, sender: &Sender, what: &str, signed: &SignedWebhook) -> HttpAnswer {
        for (name, value) in &signed.headers {
            let lower = name.to_lowercase();
            if ["signature", "authorization", "cf-webhook-auth"]
                .iter()
                .any(|part| lower.contains(part))
            {
                // The whole value, and the signature in it alone.
                for proof in value.split([',', '=', '.', ' ']).filter(|proof| proof.len() >= 24) {
                    self.add_secret(&format!("{name} of {what}"), proof);
                }
            }
        }
        let answer = sender.send(signed).await;
        self.add_output(
            format!("the answer to {what}"),
            format!("{:?} {}", answer.headers, answer.text),
        );
        answer
    }

    /// Returns every secret that the output contains, with its place.
    fn leaks(&self) -> Vec<String> {
        let mut leaks = Vec::new();
        for (from, text) in &self.output {
            for (what, hidden) in &self.hidden {
                if let Some(line) = text.lines().find(|line| line.contains(hidden.as_str())) {
                    leaks.push(format!(
                        "{what} in {from}: {}",
                        line.chars().take(600).collect::<String>()
                    ));
                }
            }
        }
        leaks
    }
}

fn marked(body: &Value) -> Vec<u8> {
    let mut body = body.clone();
    body["note"] = MARKER.into();
    body.to_string().into_bytes()
}

/// A valid request of a platform with its own signature scheme, signed with `secret` or the
/// platform's own.
fn valid_request(body_of: &str, secret: Option<&str>) -> SignedWebhook {
    let content = marked(&content_event("content_added", &unique("c"), MARKER, now_ms()));
    match body_of {
        "mux" => {
            let mut event =
                mux_event(&unique("event"), "active", Some("room-of-secrets"), "ls", now_ms());
            event["data"]["stream_key"] = MARKER.into();
            sign::mux(secret.unwrap_or(MUX_SECRET), now(), &marked(&event))
        }
        "livekit" => {
            let body =
                marked(&livekit_event(&unique("EV"), "room_started", "room-of-secrets", now()));
            sign::livekit(LIVEKIT_KEY, secret.unwrap_or(LIVEKIT_SECRET), now(), &body)
        }
        "netflix" => sign::generic("netflix", secret.unwrap_or(NETFLIX_SECRET), &content),
        "acme" => sign::generic("acme", secret.unwrap_or(ACME_SECRET), &content),
        "realcast" => {
            let body = json!({"event": "stream.live", "timestamp": now(),
                "data": {"stream_id": unique("rc"), "key": MARKER}});
            sign::over_body(
                "realcast",
                "x-realcast-signature",
                secret.unwrap_or(REALCAST_SECRET),
                &marked(&body),
            )
        }
        _ => {
            let body = json!({"event": "job.completed", "timestamp": now(),
                "job_id": unique("job"), "data": {"job_id": unique("job"), "prompt": MARKER}});
            sign::over_body(
                "streamgank",
                "x-streamgank-signature",
                secret.unwrap_or(STREAMGANK_SECRET),
                &marked(&body),
            )
        }
    }
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

const OWN: [&str; 6] = ["mux", "livekit", "netflix", "acme", "realcast", "streamgank"];

/// Sends valid, forged, repeated, malformed, late and compressed requests of every platform.
async fn every_platform(scan: &mut LeakScan, sender: &Sender) {
    for name in OWN {
        let valid = valid_request(name, None);
        let answer = scan.send(sender, &format!("{name}, valid"), &valid).await;
        assert_eq!(answer.status, 202, "{name}: {}", answer.text);
        scan.send(sender, &format!("{name}, again"), &valid).await;
        scan.send(sender, &format!("{name}, forged"), &valid_request(name, Some(FORGER))).await;
        let other = SignedWebhook { body: [valid.body.as_slice(), b" "].concat(), ..valid.clone() };
        scan.send(sender, &format!("{name}, changed"), &other).await;
        let packed = SignedWebhook { body: gzip(&valid_request(name, None).body), ..valid }
            .header("content-encoding", "gzip");
        scan.send(sender, &format!("{name}, packed and forged"), &packed).await;
    }
    for name in providers::PROVIDERS {
        let (_, body) = providers::sample(name);
        let mut body: Value = serde_json::from_str(&body).unwrap();
        body["note"] = MARKER.into();
        let body = body.to_string();
        let valid = providers::signed_by(name, providers::SECRET, 0, &body);
        let answer = scan.send(sender, &format!("{name}, valid"), &valid).await;
        assert!((200..300).contains(&answer.status), "{name}: {}", answer.text);
        scan.send(sender, &format!("{name}, again"), &valid).await;
        scan.send(
            sender,
            &format!("{name}, forged"),
            &providers::signed_by(name, FORGER, 0, &body),
        )
        .await;
        scan.send(
            sender,
            &format!("{name}, late"),
            &providers::signed_by(name, providers::SECRET, 4000, &body),
        )
        .await;
        let broken = providers::signed_by(name, providers::SECRET, 0, &format!("{{\"{MARKER}\":"));
        scan.send(sender, &format!("{name}, broken"), &broken).await;
    }
    for body in [
        format!("\"{MARKER}\""),
        format!("{{\"event_type\":\"t\",\"payload\":\"{MARKER}\"}}"),
        format!("[{MARKER}"),
    ] {
        for (platform, secret) in [("acme", ACME_SECRET), ("netflix", NETFLIX_SECRET)] {
            scan.send(
                sender,
                "a body of no schema",
                &sign::generic(platform, secret, body.as_bytes()),
            )
            .await;
        }
    }
    let unknown_platform = sign::generic("nobody-at-all", FORGER, MARKER.as_bytes());
    scan.send(sender, "an unknown platform", &unknown_platform).await;
}

/// Registers, rotates and pauses platforms with valid and invalid input.
async fn admin(scan: &mut LeakScan, sender: &Sender) {
    let mut heard = |what: &str, answer: &HttpAnswer| {
        scan.add_output(format!("the answer to {what}"), answer.text.clone())
    };
    for (what, body) in [
        ("a registration", json!({"platform": "third", "secret": REGISTERED, "rate_limit": 6000})),
        (
            "a rotation",
            json!({"platform": "third", "secret": ROTATED,
                "url": unreachable_url(REGISTERED_PATH)}),
        ),
        (
            "a destination that cannot be",
            json!({"platform": "sixth", "secret": REFUSED,
                "url": format!("ftp://127.0.0.1/{REGISTERED_PATH}")}),
        ),
        (
            "a registration without sense",
            json!({"platform": "fourth", "secret": REFUSED, "signature": {"scheme": REFUSED}}),
        ),
        ("a registration without a name", json!({"platform": "NO NAME", "secret": REFUSED})),
        ("a registration of a configured platform", json!({"platform": "acme", "secret": REFUSED})),
        ("a secret of another kind", json!({"platform": "fifth", "secret": {"it": REFUSED}})),
        ("a secret that is too much", json!({"platform": "fifth", "secret": REFUSED.repeat(400)})),
    ] {
        heard(what, &sender.register(&body).await);
    }
    heard("a pause", &sender.pause("third", true).await);
    heard("a resumption", &sender.pause("third", false).await);
    heard("a list", &sender.platforms().await);
    let session = json!({"config": {"token": MARKER}, "live_stream_id": "ls"});
    heard("an announcement", &sender.announce("room-of-secrets", &session).await);
    heard(
        "an announcement of nothing",
        &sender.announce("room", &json!({"status": MARKER, "x": MARKER})).await,
    );
    let stranger =
        announcement("room", &session).header("authorization", &format!("Bearer {WRONG_TOKEN}"));
    heard("a stranger", &sender.request(Method::PUT, &stranger).await.unwrap());
    let body = marked(&content_event("content_added", &unique("c"), "t", now_ms()));
    for secret in [ROTATED, REGISTERED] {
        let answer = scan
            .send(sender, "a registered platform's", &sign::generic("third", secret, &body))
            .await;
        assert!(answer.status < 300, "{}", answer.text);
    }
}

/// URL of a destination where nothing listens.
fn unreachable_url(path: &str) -> String {
    format!("http://127.0.0.1:1/services/{path}")
}

/// Runs deliveries that succeed and fail, and the outbound admin routes.
async fn deliveries(scan: &mut LeakScan, stack: &Stack, receiver: &Downstream) {
    let sender = stack.sender();
    poll::until("one delivery succeeds, one is a dead letter", WAIT_LIMIT, async || {
        match (receiver.deliveries(), stack.dead("out:webhook_2").await) {
            (1.., 1..) => Ok(()),
            seen => Err(format!("{seen:?}")),
        }
    })
    .await;
    for one in receiver.received().values().flatten() {
        assert_eq!(one.headers.get("x-api-key").map(String::as_str), Some(HEADER));
        for name in ["x-tributary-signature", "webhook-signature"] {
            let proof = one.headers[name].split_once(['=', ',']).expect("a signature").1;
            scan.add_secret(&format!("{name} of a delivery"), proof);
        }
    }
    for (what, url) in [
        ("a test of a URL", format!("{}?token={HOOK_QUERY}", receiver.url())),
        ("a test of a closed port", unreachable_url(HOOK_PATH)),
        ("a test of nonsense", format!("ftp://127.0.0.1/{HOOK_PATH}")),
    ] {
        let answer = sender.admin(Method::POST, "/api/webhooks/test", &json!({"url": url})).await;
        // The answer repeats the tested URL in one field, and no part of it elsewhere.
        scan.add_output(format!("the answer to {what}"), answer.text.replacen(&url, "", 1));
    }
    let event = json!({"event": "job.completed", "data": {"note": MARKER}});
    let answer = sender.admin(Method::POST, "/api/webhooks/trigger", &event).await;
    scan.add_output("the answer to an event by hand", answer.text);
    let answer = sender.admin(Method::GET, "/api/webhooks/status", &Value::Null).await;
    assert!(answer.text.contains("webhook_2"), "{}", answer.text);
    scan.add_output("the status of destinations", answer.text);
    for name in ["webhook_2", "discord", "platform_third"] {
        let done = stack.dlq_tool(&["list", "--platform", &format!("out:{name}")]).await;
        scan.add_output(
            format!("the dead letters of {name}"),
            format!("{}\n{}", done.stdout, done.stderr),
        );
    }
}

/// Creates dead letters of several kinds and collects the output of `dlq-tool`.
async fn dead_letters(scan: &mut LeakScan, stack: &Stack) {
    let sender = stack.sender();
    let mut lost =
        mux_event(&unique("event"), "active", Some("no-such-room"), "no-such-stream", now_ms());
    lost["data"]["stream_key"] = MARKER.into();
    scan.send(&sender, "an event without a session", &sign::mux(MUX_SECRET, now(), &marked(&lost)))
        .await;
    let add = ["XADD", "webhooks:incoming:acme", "*", "v", "1", "body", MARKER, "event_type", "t"];
    let _: String = stack.redis.command(&add).await;
    poll::until("both events are dead letters", WAIT_LIMIT, async || {
        match stack.dead("mux").await + stack.dead("acme").await {
            2.. => Ok(()),
            dead => Err(dead),
        }
    })
    .await;
    let tool = |args: &[&str]| {
        let program =
            Program::new("dlq-tool").env("REDIS_URL", stack.redis.url()).env("NO_COLOR", "1");
        program.env("RUST_LOG", "trace").args(args)
    };
    for args in [
        &["stats"][..],
        &["--output", "json", "stats"],
        &["list"],
        &["replay", "--dry-run"],
        &["replay", "--platform", "mux", "--limit", "1", "--yes"],
        &["list", "--contains", "nothing-like-it"],
        &["purge", "--platform", "acme", "--yes"],
        &["show", "0-1"],
        &["import"],
    ] {
        let line = format!(
            "{{\"id\":\"1-1\",\"platform\":\"acme\",\"body\":\"{MARKER}\",\"zzz\":\"{MARKER}\"}}\n"
        );
        let done = tool(args).run_with_input(line.as_bytes(), Duration::from_secs(20)).await;
        scan.add_output(
            format!("dlq-tool {}", args.join(" ")),
            format!("{}\n{}", done.stdout, done.stderr),
        );
    }
    let away = Program::new("dlq-tool")
        .env("REDIS_URL", format!("redis://:{URL_TOKEN}@127.0.0.1:1"))
        .args(["stats"]);
    let away = away.env("RUST_LOG", "trace").run(Duration::from_secs(30)).await;
    scan.add_output("dlq-tool without Redis", format!("{}\n{}", away.stdout, away.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outputs_hold_no_secret_signature_or_body() {
    let mut scan = LeakScan::default();
    for (what, secret) in [
        ("mux's secret", MUX_SECRET),
        ("livekit's secret", LIVEKIT_SECRET),
        ("netflix's secret", NETFLIX_SECRET),
        ("acme's secret", ACME_SECRET),
        ("realcast's secret", REALCAST_SECRET),
        ("streamgank's secret", STREAMGANK_SECRET),
        ("the providers' secret", providers::SECRET),
        ("the providers' old secret", providers::OLD_SECRET),
        ("the admin token", ADMIN_TOKEN),
        ("the key of secrets", SECRETS_KEY),
        ("a registered secret", REGISTERED),
        ("a rotated secret", ROTATED),
        ("a refused secret", REFUSED),
        ("a wrong token", WRONG_TOKEN),
        ("a forger's secret", FORGER),
        ("a token in a URL", URL_TOKEN),
        ("signing secret", SIGNING),
        ("a header of deliveries", HEADER),
        ("a token in a hook's query", HOOK_QUERY),
        ("a token in a hook's path", HOOK_PATH),
        ("a token of Discord", DISCORD_PATH),
        ("a token in a registered URL", REGISTERED_PATH),
        ("a body", MARKER),
    ] {
        scan.add_secret(what, secret);
    }
    let receiver = Downstream::start(ReceiverBehavior::Accept);
    let mut stack = providers::stack()
        .ingress_env("REALCAST_WEBHOOK_SECRET", REALCAST_SECRET)
        .ingress_env("STREAMGANK_WEBHOOK_SECRET", STREAMGANK_SECRET)
        .env("SECRETS_KEY", SECRETS_KEY)
        .env(
            "WEBHOOK_URLS",
            &format!("{}?token={HOOK_QUERY},{}", receiver.url(), unreachable_url(HOOK_PATH)),
        )
        .env("DISCORD_WEBHOOK_URL", &unreachable_url(DISCORD_PATH))
        .env("WEBHOOK_SECRET_KEY", SIGNING)
        .env("WEBHOOK_HEADERS", &format!("X-Api-Key:{HEADER}"))
        .env("WEBHOOK_ALLOW_PRIVATE", "127.0.0.0/8")
        .env("WEBHOOK_MAX_RETRIES", "0")
        .env("RUST_LOG", "trace")
        .worker_env("LOG_FORMAT", "json")
        .worker_env("MISSING_SESSION_WAIT_MS", "300")
        .worker_env("MAX_ATTEMPTS", "2")
        .start()
        .await;
    let sender = stack.sender();
    admin(&mut scan, &sender).await;
    every_platform(&mut scan, &sender).await;
    dead_letters(&mut scan, &stack).await;
    deliveries(&mut scan, &stack, &receiver).await;

    // Redis fails during a call and then stops. Error messages must not contain arguments.
    stack.redis.process().freeze();
    scan.send(&sender, "an event while Redis is frozen", &valid_request("acme", None)).await;
    stack.redis.process().thaw();
    for role in stack.ingresses.iter().chain(&stack.workers) {
        for path in ["/metrics", "/ready", "/live"] {
            scan.add_output(
                format!("{path} of {}", role.ops),
                Sender::new(&role.ops).get(path).await.text,
            );
        }
    }
    stack.redis.kill();
    scan.send(&sender, "an event without Redis", &valid_request("acme", None)).await;
    for role in stack.ingresses.iter().chain(&stack.workers) {
        role.process.terminate();
        role.process.wait_until_ended(WAIT_LIMIT).await;
        assert!(role.process.log().lines().count() > 20, "the log is too short to search");
        scan.add_output("a log", role.process.log());
    }
    assert!(
        stack.ingresses[0].process.log().contains("DEBUG")
            || stack.workers[0].process.log().contains("DEBUG")
    );
    // Permitted text is in the output, so the search covers the right places.
    assert!(
        scan.output.iter().any(|(from, text)| from == "a log" && text.contains("room-of-secrets"))
    );
    let leaks = scan.leaks();
    assert!(leaks.is_empty(), "{} leaks:\n{}", leaks.len(), leaks.join("\n"));
}
