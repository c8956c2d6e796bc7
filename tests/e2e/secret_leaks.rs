//! No log line at any level, no answer, no metric and no output of a tool holds a secret, a signature or a body.
//!
//! One scenario touches every platform and every way that an event can end, with everything logged that can be; then all
//! that any process ever said is searched for all that must not be said.

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

/// Stands in every body, where nothing that may be told is taken from.
const MARKER: &str = "body-marker-that-nobody-may-see";
/// Secrets that are given over the wire.
const REGISTERED: &str = "registered-secret-0f51e2";
const ROTATED: &str = "rotated-secret-77ab01";
const REFUSED: &str = "refused-secret-93cc4d";
const WRONG_TOKEN: &str = "wrong-admin-token-51d7";
const FORGER: &str = "secret-of-a-forger-2c90";
const URL_TOKEN: &str = "token-in-a-url-8d22";
/// Secrets of destinations: what signs, what stands in a header, and what stands in URLs.
const SIGNING: &str = "secret-that-signs-deliveries-4b1e";
const HEADER: &str = "value-of-a-delivery-header-6f03";
const HOOK_QUERY: &str = "token-in-a-hook-query-a7c1";
const HOOK_PATH: &str = "token-in-a-hook-path-e92d";
const DISCORD_PATH: &str = "token-of-a-discord-hook-15ab";
const REGISTERED_PATH: &str = "token-in-a-registered-url-d340";

/// All that was said, and all that must not be.
#[derive(Default)]
struct LeakScan {
    said: Vec<(String, String)>,
    hidden: Vec<(String, String)>,
}

impl LeakScan {
    fn hide(&mut self, what: &str, text: &str) {
        assert!(text.len() >= 12, "{what} is too short to be looked for: {text}");
        self.hidden.push((what.to_owned(), text.to_owned()));
    }

    fn heard(&mut self, from: impl Into<String>, text: impl Into<String>) {
        self.said.push((from.into(), text.into()));
    }

    /// Sends `signed` and remembers what was answered, and what proves it.
    async fn send(&mut self, sender: &Sender, what: &str, signed: &SignedWebhook) -> HttpAnswer {
        for (name, value) in &signed.headers {
            let lower = name.to_lowercase();
            if ["signature", "authorization", "cf-webhook-auth"]
                .iter()
                .any(|part| lower.contains(part))
            {
                // The value, and the proof in it without what is around.
                for proof in value.split([',', '=', '.', ' ']).filter(|proof| proof.len() >= 24) {
                    self.hide(&format!("{name} of {what}"), proof);
                }
            }
        }
        let answer = sender.send(signed).await;
        self.heard(
            format!("the answer to {what}"),
            format!("{:?} {}", answer.headers, answer.text),
        );
        answer
    }

    /// What was said although it must not be.
    fn leaks(&self) -> Vec<String> {
        let mut leaks = Vec::new();
        for (from, text) in &self.said {
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

/// A genuine request of each platform with a signature of its own, by `secret`, or by its own one.
fn own(body_of: &str, secret: Option<&str>) -> SignedWebhook {
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
            let body = json!({"event": "stream.live", "timestamp": now(), "data": {"stream_id": unique("rc"), "key": MARKER}});
            sign::over_body(
                "realcast",
                "x-realcast-signature",
                secret.unwrap_or(REALCAST_SECRET),
                &marked(&body),
            )
        }
        _ => {
            let body = json!({"event": "job.completed", "timestamp": now(), "job_id": unique("job"), "data": {"job_id": unique("job"), "prompt": MARKER}});
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

/// Genuine, forged, repeated, broken, late and compressed: of every platform.
async fn every_platform(all: &mut LeakScan, sender: &Sender) {
    for name in OWN {
        let genuine = own(name, None);
        let answer = all.send(sender, &format!("{name}, genuine"), &genuine).await;
        assert_eq!(answer.status, 202, "{name}: {}", answer.text);
        all.send(sender, &format!("{name}, again"), &genuine).await;
        all.send(sender, &format!("{name}, forged"), &own(name, Some(FORGER))).await;
        let other =
            SignedWebhook { body: [genuine.body.as_slice(), b" "].concat(), ..genuine.clone() };
        all.send(sender, &format!("{name}, changed"), &other).await;
        let packed = SignedWebhook { body: gzip(&own(name, None).body), ..genuine }
            .header("content-encoding", "gzip");
        all.send(sender, &format!("{name}, packed and forged"), &packed).await;
    }
    for name in providers::PROVIDERS {
        let (_, body) = providers::sample(name);
        let mut body: Value = serde_json::from_str(&body).unwrap();
        body["note"] = MARKER.into();
        let body = body.to_string();
        let genuine = providers::signed_by(name, providers::SECRET, 0, &body);
        let answer = all.send(sender, &format!("{name}, genuine"), &genuine).await;
        assert!((200..300).contains(&answer.status), "{name}: {}", answer.text);
        all.send(sender, &format!("{name}, again"), &genuine).await;
        all.send(sender, &format!("{name}, forged"), &providers::signed_by(name, FORGER, 0, &body))
            .await;
        all.send(
            sender,
            &format!("{name}, late"),
            &providers::signed_by(name, providers::SECRET, 4000, &body),
        )
        .await;
        let broken = providers::signed_by(name, providers::SECRET, 0, &format!("{{\"{MARKER}\":"));
        all.send(sender, &format!("{name}, broken"), &broken).await;
    }
    for body in [
        format!("\"{MARKER}\""),
        format!("{{\"event_type\":\"t\",\"payload\":\"{MARKER}\"}}"),
        format!("[{MARKER}"),
    ] {
        for (platform, secret) in [("acme", ACME_SECRET), ("netflix", NETFLIX_SECRET)] {
            all.send(
                sender,
                "a body of no schema",
                &sign::generic(platform, secret, body.as_bytes()),
            )
            .await;
        }
    }
    let nobody = sign::generic("nobody-at-all", FORGER, MARKER.as_bytes());
    all.send(sender, "nobody's", &nobody).await;
}

/// Registering, rotating, pausing, with what is right and with what is wrong.
async fn admin(all: &mut LeakScan, sender: &Sender) {
    let mut heard = |what: &str, answer: &HttpAnswer| {
        all.heard(format!("the answer to {what}"), answer.text.clone())
    };
    for (what, body) in [
        ("a registration", json!({"platform": "third", "secret": REGISTERED, "rate_limit": 6000})),
        (
            "a rotation",
            json!({"platform": "third", "secret": ROTATED, "url": away(REGISTERED_PATH)}),
        ),
        (
            "a destination that cannot be",
            json!({"platform": "sixth", "secret": REFUSED, "url": format!("ftp://127.0.0.1/{REGISTERED_PATH}")}),
        ),
        (
            "a registration without sense",
            json!({"platform": "fourth", "secret": REFUSED, "signature": {"scheme": REFUSED}}),
        ),
        ("a registration of nobody", json!({"platform": "NO NAME", "secret": REFUSED})),
        ("a registration of what is there", json!({"platform": "acme", "secret": REFUSED})),
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
        let answer = all
            .send(sender, "a registered platform's", &sign::generic("third", secret, &body))
            .await;
        assert!(answer.status < 300, "{}", answer.text);
    }
}

/// A destination where nobody listens.
fn away(path: &str) -> String {
    format!("http://127.0.0.1:1/services/{path}")
}

/// Deliveries that arrive and that fail, and what operators ask of them.
async fn deliveries(all: &mut LeakScan, stack: &Stack, receiver: &Downstream) {
    let sender = stack.sender();
    poll::until("one is delivered, one is dead", WAIT_LIMIT, async || {
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
            all.hide(&format!("{name} of a delivery"), proof);
        }
    }
    for (what, url) in [
        ("a test of a URL", format!("{}?token={HOOK_QUERY}", receiver.url())),
        ("a test of nobody", away(HOOK_PATH)),
        ("a test of nonsense", format!("ftp://127.0.0.1/{HOOK_PATH}")),
    ] {
        let answer = sender.admin(Method::POST, "/api/webhooks/test", &json!({"url": url})).await;
        // The answer names the URL that it was asked about, in its place for that, and nothing of it elsewhere.
        all.heard(format!("the answer to {what}"), answer.text.replacen(&url, "", 1));
    }
    let event = json!({"event": "job.completed", "data": {"note": MARKER}});
    let answer = sender.admin(Method::POST, "/api/webhooks/trigger", &event).await;
    all.heard("the answer to an event by hand", answer.text);
    let answer = sender.admin(Method::GET, "/api/webhooks/status", &Value::Null).await;
    assert!(answer.text.contains("webhook_2"), "{}", answer.text);
    all.heard("the status of destinations", answer.text);
    for name in ["webhook_2", "discord", "platform_third"] {
        let done = stack.dlq_tool(&["list", "--platform", &format!("out:{name}")]).await;
        all.heard(
            format!("the dead letters of {name}"),
            format!("{}\n{}", done.stdout, done.stderr),
        );
    }
}

/// Dead letters of several kinds, and what the tool says of them.
async fn dead_letters(all: &mut LeakScan, stack: &Stack) {
    let sender = stack.sender();
    let mut lost =
        mux_event(&unique("event"), "active", Some("no-such-room"), "no-such-stream", now_ms());
    lost["data"]["stream_key"] = MARKER.into();
    all.send(&sender, "one without a session", &sign::mux(MUX_SECRET, now(), &marked(&lost))).await;
    let add = ["XADD", "webhooks:incoming:acme", "*", "v", "1", "body", MARKER, "event_type", "t"];
    let _: String = stack.redis.command(&add).await;
    poll::until("both are dead", WAIT_LIMIT, async || {
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
        all.heard(
            format!("dlq-tool {}", args.join(" ")),
            format!("{}\n{}", done.stdout, done.stderr),
        );
    }
    let away = Program::new("dlq-tool")
        .env("REDIS_URL", format!("redis://:{URL_TOKEN}@127.0.0.1:1"))
        .args(["stats"]);
    let away = away.env("RUST_LOG", "trace").run(Duration::from_secs(30)).await;
    all.heard("dlq-tool without Redis", format!("{}\n{}", away.stdout, away.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outputs_hold_no_secret_signature_or_body() {
    let mut all = LeakScan::default();
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
        ("what signs deliveries", SIGNING),
        ("a header of deliveries", HEADER),
        ("a token in a hook's query", HOOK_QUERY),
        ("a token in a hook's path", HOOK_PATH),
        ("a token of Discord", DISCORD_PATH),
        ("a token in a registered URL", REGISTERED_PATH),
        ("a body", MARKER),
    ] {
        all.hide(what, secret);
    }
    let receiver = Downstream::start(ReceiverBehavior::Accept);
    let mut stack = providers::stack()
        .ingress_env("REALCAST_WEBHOOK_SECRET", REALCAST_SECRET)
        .ingress_env("STREAMGANK_WEBHOOK_SECRET", STREAMGANK_SECRET)
        .env("SECRETS_KEY", SECRETS_KEY)
        .env("WEBHOOK_URLS", &format!("{}?token={HOOK_QUERY},{}", receiver.url(), away(HOOK_PATH)))
        .env("DISCORD_WEBHOOK_URL", &away(DISCORD_PATH))
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
    admin(&mut all, &sender).await;
    every_platform(&mut all, &sender).await;
    dead_letters(&mut all, &stack).await;
    deliveries(&mut all, &stack, &receiver).await;

    // Redis in the middle of a call, and then gone: what is said of it names no argument.
    stack.redis.process().freeze();
    all.send(&sender, "one during a silence", &own("acme", None)).await;
    stack.redis.process().thaw();
    for role in stack.ingresses.iter().chain(&stack.workers) {
        for path in ["/metrics", "/ready", "/live"] {
            all.heard(
                format!("{path} of {}", role.ops),
                Sender::new(&role.ops).get(path).await.text,
            );
        }
    }
    stack.redis.kill();
    all.send(&sender, "one without Redis", &own("acme", None)).await;
    for role in stack.ingresses.iter().chain(&stack.workers) {
        role.process.terminate();
        role.process.wait_until_ended(WAIT_LIMIT).await;
        assert!(role.process.log().lines().count() > 20, "it was silent");
        all.heard("a log", role.process.log());
    }
    assert!(
        stack.ingresses[0].process.log().contains("DEBUG")
            || stack.workers[0].process.log().contains("DEBUG")
    );
    // What may be told was told, so that it was the right place to look.
    assert!(
        all.said.iter().any(|(from, text)| from == "a log" && text.contains("room-of-secrets"))
    );
    let leaks = all.leaks();
    assert!(leaks.is_empty(), "{} leaks:\n{}", leaks.len(), leaks.join("\n"));
}
