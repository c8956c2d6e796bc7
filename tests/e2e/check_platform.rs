//! Output and exit status of `ingress check-platform` and `ingress send-test`.

use std::time::Duration;

use serde_json::{Value, json};
use tests::process::{self, Program, ProgramOutput};
use tests::sender::{
    LIVEKIT_KEY, LIVEKIT_SECRET, MUX_SECRET, NETFLIX_SECRET, mux_event, now, now_ms, unique,
};
use tests::sign::{self, SignedWebhook};
use tests::stack::Stack;
use tests::{ports, sender};

use crate::WAIT_LIMIT;

const REALCAST_SECRET: &str = "realcast-secret-5c1e";

const TIMEOUT: Duration = Duration::from_secs(20);

/// An ingress command without Redis: nothing listens at its `REDIS_URL`.
fn ingress() -> Program {
    Program::new("ingress")
        .env("REDIS_URL", "redis://127.0.0.1:1")
        .env("STREAMING_WEBHOOK_SIGNING_SECRET", MUX_SECRET)
        .env("LIVEKIT_API_KEY", LIVEKIT_KEY)
        .env("LIVEKIT_API_SECRET", LIVEKIT_SECRET)
        .env("NETFLIX_WEBHOOK_SECRET", NETFLIX_SECRET)
        .env("REALCAST_WEBHOOK_SECRET", REALCAST_SECRET)
}

async fn check(platform: &str, request: &SignedWebhook, args: &[&str]) -> ProgramOutput {
    let folder = process::folder();
    let (headers, body) = (folder.path().join("headers.txt"), folder.path().join("body.json"));
    let lines: Vec<String> =
        request.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    std::fs::write(&headers, format!("POST {} HTTP/1.1\r\n{}", request.path, lines.concat()))
        .unwrap();
    std::fs::write(&body, &request.body).unwrap();
    let program =
        ingress().args(["check-platform", "--platform", platform]).arg("--headers").arg(&headers);
    let finished = program.arg("--body").arg(&body).args(args).run(TIMEOUT).await;
    let text = format!("{}{}", finished.stdout, finished.stderr);
    for secret in [MUX_SECRET, LIVEKIT_SECRET, NETFLIX_SECRET, REALCAST_SECRET] {
        assert!(!text.contains(secret), "{text}");
    }
    finished
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_platform_verifies_a_capture_without_redis() {
    let body = mux_event("evt-1", "active", Some("room-7"), "ls-7", now_ms()).to_string();
    let request = sign::mux(MUX_SECRET, now(), body.as_bytes());
    let finished = check("mux", &request, &[]).await;
    assert_eq!(finished.code, Some(0), "{finished:?}");
    for expected in [
        "verified and identified",
        "evt-1",
        "video.live_stream.active",
        "room-7",
        "ls-7",
        "session.status",
        "live",
    ] {
        assert!(finished.stdout.contains(expected), "{expected}:\n{}", finished.stdout);
    }
    let finished = check("streaming", &request, &["--output", "json"]).await;
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let report: Value = serde_json::from_str(&finished.stdout).expect("one JSON object");
    assert_eq!(
        (&report["event"]["event_id"], &report["event"]["session"]),
        (&"evt-1".into(), &"room-7".into())
    );

    let old = sign::mux(MUX_SECRET, now() - 86_400, body.as_bytes());
    let finished = check("mux", &old, &[]).await;
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(
        finished.stdout.contains("8640") && finished.stdout.contains("--at"),
        "{}",
        finished.stdout
    );
    let at = sender::rfc3339((now() - 86_400) * 1000);
    for at in [at, (now() - 86_400).to_string()] {
        assert_eq!(check("mux", &old, &["--at", &at]).await.code, Some(0), "{at}");
    }
    let bare = request.clone().without("mux-signature");
    let finished = check("mux", &bare, &[]).await;
    assert_eq!(finished.code, Some(1));
    assert!(finished.stdout.contains("mux-signature: absent"), "{}", finished.stdout);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_platform_predicts_the_effects_of_the_worker() {
    let realcast = |body: Value| {
        sign::over_body(
            "realcast",
            "X-RealCast-Signature",
            REALCAST_SECRET,
            body.to_string().as_bytes(),
        )
    };
    let odd = realcast(json!({
        "event": "stream.live", "timestamp": "2026-12-01T03:00:00Z",
        "data": {"stream_id": "s", "title": {"en": "x"}, "started_at": "soon", "app_id": 7},
    }));
    let finished = check("realcast", &odd, &[]).await;
    assert_eq!(finished.code, Some(0), "{finished:?}");
    for expected in [
        "takes effect",
        "title: wrong_type",
        "started_at: unreadable_time",
        "left alone: wrong_type",
        "\"7\"",
    ] {
        assert!(finished.stdout.contains(expected), "{expected}:\n{}", finished.stdout);
    }
    for refused in [
        json!({"event": "stream.live", "timestamp": "2026-12-01T03:00:00Z",
            "data": {"stream_id": ["s"]}}),
        json!({"event": "viewer.count.update", "timestamp": "2026-12-01T03:00:00Z",
            "data": {"stream_id": "s", "viewer_count": "many"}}),
    ] {
        let finished = check("realcast", &realcast(refused.clone()), &[]).await;
        assert_eq!(finished.code, Some(1), "{finished:?}");
        assert!(finished.stdout.contains("invalid_event"), "{refused}:\n{}", finished.stdout);
        let finished = check("realcast", &realcast(refused), &["--output", "json"]).await;
        let report: Value = serde_json::from_str(&finished.stdout).expect("one JSON object");
        assert_eq!((&report["identified"], &report["takes_effect"]), (&json!(true), &json!(false)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn usage_and_configuration_errors_exit_with_2() {
    let request = sign::mux(MUX_SECRET, now(), b"{}");
    for (platform, args) in [
        ("nobody", &[][..]),
        ("generic", &[]),
        ("mux", &["--at", "yesterday"]),
        ("mux", &["--output", "xml"]),
        ("mux", &["--platforms-file", "/nowhere/platforms.toml"]),
    ] {
        let finished = check(platform, &request, args).await;
        assert_eq!(finished.code, Some(2), "{platform} {args:?}: {finished:?}");
        assert!(finished.stdout.is_empty() && !finished.stderr.is_empty(), "{finished:?}");
    }
    for args in [
        &["send-test"][..],
        &["send-test", "nobody"],
        &["send-test", "mux", "--url", "https://localhost"],
    ] {
        let finished = ingress().args(args).run(TIMEOUT).await;
        assert_eq!(finished.code, Some(2), "{args:?}: {finished:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn send_test_event_is_processed() {
    let stack = Stack::builder().start().await;
    let url = stack.ingresses[0].url.clone();
    let send = async |args: &[&str]| {
        let (program, ..) = stack.ingress_program();
        program.args(["send-test", "--url", &url]).args(args).run(TIMEOUT).await
    };
    for platform in ["mux", "livekit", "netflix", "acme"] {
        let finished = send(&[platform]).await;
        assert_eq!(finished.code, Some(0), "{platform}: {finished:?}");
        assert!(finished.stdout.starts_with("202 {"), "{platform}: {}", finished.stdout);
    }
    let finished = send(&["netflix", "--type", "content_added"]).await;
    assert_eq!(finished.code, Some(0), "{finished:?}");
    stack.wait_until_drained(WAIT_LIMIT).await;
    for platform in ["mux", "livekit", "netflix", "acme"] {
        assert_eq!(stack.dead(platform).await, 0, "{platform}");
    }
    // A given body is sent unchanged.
    let folder = process::folder();
    let body = folder.path().join("event.json");
    std::fs::write(&body, mux_event(&unique("own"), "created", None, "ls", now_ms()).to_string())
        .unwrap();
    let args = ["mux", "--body", body.to_str().unwrap()];
    assert!(send(&args).await.stdout.contains("\"accepted\""));
    assert!(send(&args).await.stdout.contains("\"duplicate\""));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn send_test_refused_or_unanswered_exits_with_1() {
    let stack = Stack::builder().workers(0).start().await;
    let url = stack.ingresses[0].url.clone();
    let other = ingress().env("NETFLIX_WEBHOOK_SECRET", "another").args([
        "send-test",
        "netflix",
        "--url",
        &url,
    ]);
    let finished = other.run(TIMEOUT).await;
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(
        finished.stdout.starts_with("401 ")
            && finished.stdout.contains("E_WEBHOOK_INVALID_SIGNATURE"),
        "{finished:?}"
    );
    let nobody = format!("http://127.0.0.1:{}", ports::free());
    let finished = ingress().args(["send-test", "netflix", "--url", &nobody]).run(TIMEOUT).await;
    assert_eq!((finished.code, finished.stdout.as_str()), (Some(1), ""), "{finished:?}");
    assert!(!finished.stderr.contains(NETFLIX_SECRET));
}
