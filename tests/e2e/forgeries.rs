//! Forged and stale requests are refused, get no helpful detail and leave nothing in Redis.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use tests::sender::{
    ACME_SECRET, HttpAnswer, LIVEKIT_KEY, LIVEKIT_SECRET, MUX_SECRET, Sender, content_event,
    livekit_event, mux_event, now, now_ms, unique,
};
use tests::sign::{self, SignedWebhook};
use tests::stack::Stack;

const INVALID: &str = "E_WEBHOOK_INVALID_SIGNATURE";
const EXPIRED: &str = "E_WEBHOOK_SIGNATURE_ERROR";

/// Checks that the request is refused with `code` and leaves no entry, dedup marker or quota in
/// Redis.
async fn check_refused(
    stack: &Stack,
    sender: &Sender,
    what: &str,
    signed: &SignedWebhook,
    code: &str,
) -> HttpAnswer {
    let answer = sender.send(signed).await;
    assert_eq!((answer.status, answer.errcode()), (401, code), "{what}: {}", answer.text);
    answer.expect_error(401, code);
    if code == INVALID && !answer.text.contains("hash mismatch") {
        assert_eq!(answer.json["errmesg"], "Invalid webhook signature", "{what}");
    }
    for key in ["incoming", "dlq", "limit"] {
        for platform in ["mux", "livekit", "acme"] {
            let exists: bool =
                stack.redis.command(&["EXISTS", &format!("webhooks:{key}:{platform}")]).await;
            let length: usize = if exists && key != "limit" {
                stack.redis.command(&["XLEN", &format!("webhooks:{key}:{platform}")]).await
            } else {
                usize::from(exists)
            };
            assert_eq!(length, 0, "{what}: webhooks:{key}:{platform} is not empty");
        }
    }
    let markers: Vec<String> = stack.redis.command(&["KEYS", "webhook:hash:*"]).await;
    assert!(markers.is_empty(), "{what}: {markers:?}");
    answer
}

fn tampered(mut signed: SignedWebhook) -> SignedWebhook {
    let text = String::from_utf8(signed.body).unwrap();
    signed.body = text.replacen("room_1", "room_2", 1).into_bytes();
    signed
}

fn resigned(signed: &SignedWebhook, header: &str, value: &str) -> SignedWebhook {
    signed.clone().without(header).header(header, value)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mux_forgeries_leave_nothing() {
    let stack = Stack::builder().start().await;
    let sender = stack.sender();
    let body = mux_event(&unique("event"), "active", Some("room_1"), "ls", now_ms()).to_string();
    let t = now();
    let good = sign::mux(MUX_SECRET, t, body.as_bytes());
    let (_, v1) = good.value("mux-signature").split_once("v1=").unwrap();
    let flipped = format!("{}{}", if v1.starts_with('0') { '1' } else { '0' }, &v1[1..]);
    let header = |value: &str| resigned(&good, "mux-signature", value);
    let forgeries = [
        ("no header", good.clone().without("mux-signature")),
        ("another body", tampered(good.clone())),
        ("another secret", sign::mux("wrong", t, body.as_bytes())),
        ("an empty secret", sign::mux("", t, body.as_bytes())),
        ("another timestamp", header(&format!("t={},v1={v1}", t - 1))),
        ("a flipped digit", header(&format!("t={t},v1={flipped}"))),
        ("cut short", header(&format!("t={t},v1={}", &v1[..62]))),
        ("longer", header(&format!("t={t},v1={v1}00"))),
        ("empty signature", header(&format!("t={t},v1="))),
        ("no signature", header(&format!("t={t}"))),
        ("no timestamp", header(&format!("v1={v1}"))),
        ("another version", header(&format!("t={t},v0={v1}"))),
        ("not pairs", header(v1)),
        ("an empty header", header("")),
        ("not a number", header(&format!("t=now,v1={v1}"))),
        ("a huge number", header(&format!("t=99999999999999999999999,v1={v1}"))),
        (
            "two wrong headers",
            header(&format!("t={t},v1={flipped}")).header("mux-signature", "v1=00"),
        ),
        ("two times", good.clone().header("mux-signature", &format!("t={},v1={v1}", t - 1))),
        (
            "no fallback from a wrong first header",
            header("t=1,v1=00").header("provider-signature", good.value("mux-signature")),
        ),
    ];
    for (what, signed) in &forgeries {
        // An old readable timestamp is reported before a wrong signature.
        let code = if what.contains("fallback") { EXPIRED } else { INVALID };
        check_refused(&stack, &sender, what, signed, code).await;
    }
    let log = stack.ingresses[0].process.log();
    assert!(log.contains("Invalid streaming webhook signature"), "{log}");
    assert!(
        !log.contains(v1) && !log.contains("room_1") && !log.contains(MUX_SECRET),
        "log holds a signature or a body:\n{log}"
    );
    sender.send(&good).await.expect(202, "accepted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mux_timestamp_too_old_or_too_new_is_refused() {
    let stack = Stack::builder().start().await;
    let sender = stack.sender();
    let body = mux_event(&unique("event"), "created", None, "ls", now_ms()).to_string();
    for offset in [-600, -302, 302, 86_400] {
        let t = now() + offset;
        let answer = check_refused(
            &stack,
            &sender,
            &format!("{offset} s"),
            &sign::mux(MUX_SECRET, t, body.as_bytes()),
            EXPIRED,
        )
        .await;
        let message = answer.json["errmesg"].as_str().unwrap();
        let start = format!("Timestamp outside tolerance window: received={t}, current=");
        assert!(message.starts_with(&start), "{message}");
        let diff: i64 =
            message.rsplit("diff=").next().unwrap().trim_end_matches('s').parse().unwrap();
        assert!((diff.abs() - offset.abs()).abs() <= 3, "{message}");
        // Old and forged: ingress checks the tolerance first.
        check_refused(
            &stack,
            &sender,
            "old and wrong",
            &sign::mux("wrong", t, body.as_bytes()),
            EXPIRED,
        )
        .await;
    }
    sender.send(&sign::mux(MUX_SECRET, now() - 290, body.as_bytes())).await.expect(202, "accepted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn livekit_forgeries_leave_nothing() {
    let stack = Stack::builder().start().await;
    let sender = stack.sender();
    let body = livekit_event(&unique("EV"), "room_started", "room_1", now()).to_string();
    let body = body.as_bytes();
    let good = sign::livekit(LIVEKIT_KEY, LIVEKIT_SECRET, now(), body);
    let claims = sign::livekit_claims(LIVEKIT_KEY, now(), body);
    let changed = |name: &str, value: Value| {
        let mut claims = claims.clone();
        claims[name] = value;
        resigned(&good, "authorization", &sign::livekit_token(LIVEKIT_SECRET, &claims))
    };
    let without = |name: &str| {
        let mut claims = claims.clone();
        claims.as_object_mut().unwrap().remove(name);
        resigned(&good, "authorization", &sign::livekit_token(LIVEKIT_SECRET, &claims))
    };
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let token = good.value("authorization");
    let pieces: Vec<&str> = token.split('.').collect();
    let unsigned = format!("{}.{}.", part(&json!({"alg": "none", "typ": "JWT"})), pieces[1]);
    let other_algorithm =
        format!("{}.{}.{}", part(&json!({"alg": "HS512", "typ": "JWT"})), pieces[1], pieces[2]);
    let forgeries = [
        ("no header", good.clone().without("authorization")),
        ("another secret", sign::livekit(LIVEKIT_KEY, "wrong", now(), body)),
        ("another issuer", sign::livekit("APIother", LIVEKIT_SECRET, now(), body)),
        ("algorithm none", resigned(&good, "authorization", &unsigned)),
        ("another algorithm", resigned(&good, "authorization", &other_algorithm)),
        ("no body hash", without("sha256")),
        ("no expiry", without("exp")),
        ("not a token", resigned(&good, "authorization", "Bearer nonsense")),
        (
            "two wrong tokens",
            resigned(&good, "authorization", &unsigned).header("authorization", "a.b.c"),
        ),
    ];
    for (what, signed) in &forgeries {
        check_refused(&stack, &sender, what, signed, INVALID).await;
    }
    for (what, signed) in [
        ("another body", tampered(good.clone())),
        ("another hash", changed("sha256", STANDARD.encode([0_u8; 32]).into())),
    ] {
        let answer = check_refused(&stack, &sender, what, &signed, INVALID).await;
        assert_eq!(answer.json["errmesg"], "Webhook verification failed: hash mismatch");
    }
    check_refused(&stack, &sender, "expired", &changed("exp", (now() - 600).into()), EXPIRED).await;
    check_refused(&stack, &sender, "not yet valid", &changed("nbf", (now() + 600).into()), EXPIRED)
        .await;
    sender.send(&good).await.expect(202, "accepted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn generic_forgeries_leave_nothing() {
    let stack = Stack::builder().start().await;
    let sender = stack.sender();
    let body = content_event("content_added", "room_1", "t", now_ms()).to_string();
    let good = sign::generic("acme", ACME_SECRET, body.as_bytes());
    let hex = good.value("x-webhook-signature").trim_start_matches("sha256=").to_owned();
    let header = |value: &str| resigned(&good, "x-webhook-signature", value);
    let forgeries = [
        ("no header", good.clone().without("x-webhook-signature")),
        ("another body", tampered(good.clone())),
        ("another secret", sign::generic("acme", "wrong", body.as_bytes())),
        ("another platform's secret", sign::generic("acme", MUX_SECRET, body.as_bytes())),
        ("no prefix", header(&hex)),
        ("another prefix", header(&format!("sha1={hex}"))),
        ("not hex", header(&format!("sha256={}", "z".repeat(64)))),
        ("cut short", header(&format!("sha256={}", &hex[..32]))),
        ("only the prefix", header("sha256=")),
        (
            "an appended byte",
            SignedWebhook { body: format!("{body} ").into_bytes(), ..good.clone() },
        ),
        ("an empty body", SignedWebhook { body: Vec::new(), ..good.clone() }),
        (
            "two wrong headers",
            header(&format!("sha1={hex}")).header("x-webhook-signature", "sha256=00"),
        ),
    ];
    for (what, signed) in &forgeries {
        check_refused(&stack, &sender, what, signed, INVALID).await;
    }
    let log = stack.ingresses[0].process.log();
    assert!(
        !log.contains(&hex) && !log.contains(ACME_SECRET),
        "log holds a signature or secret:\n{log}"
    );
    sender.send(&good).await.expect(202, "accepted");
}
