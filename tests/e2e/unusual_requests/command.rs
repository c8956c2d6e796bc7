//! Cases of the command line and of pasted secrets.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tests::process::{self, Program};
use tests::sender::{mux_event, now, now_ms, unique};
use tests::sign;
use tests::stack::Stack;

use super::case::{ConfigCheck, ExpectedOutcome, SecretCheck};

const TIMEOUT: Duration = Duration::from_secs(20);
/// Base64 key behind the Standard Webhooks secret of the cases.
const STANDARD_KEY: &str = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// Runs `ingress check-platform` on the capture of `check`.
pub(super) async fn check(check: &ConfigCheck, expected: &ExpectedOutcome) {
    let folder = process::folder();
    let path = |name: &str| folder.path().join(name);
    let definitions = check.platforms_toml.replace("{dir}", &folder.path().display().to_string());
    std::fs::write(path("platforms.toml"), definitions).expect("a file");
    if let Some(file) = &check.file_base64 {
        std::fs::write(path("s"), STANDARD.decode(file).expect("base64")).expect("a file");
    }
    let (headers, body) = match &check.signing {
        Some(signing) => (signing.headers(check.body.as_bytes()), check.body.clone()),
        None => standard_webhook(),
    };
    let lines: String =
        headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    std::fs::write(path("headers.txt"), lines).expect("a file");
    std::fs::write(path("body.json"), &body).expect("a file");
    let mut program = Program::new("ingress").env("REDIS_URL", "redis://127.0.0.1:1");
    if let Some(signing) = &check.signing {
        program = program.env("OWN_SECRET", &signing.secret);
    }
    for (name, value) in &check.env {
        program = program.env(name, value);
    }
    let program = program
        .args(["check-platform", "--platform", &check.platform, "--platforms-file"])
        .arg(path("platforms.toml"))
        .arg("--headers")
        .arg(path("headers.txt"))
        .arg("--body")
        .arg(path("body.json"));
    let finished = program.run(TIMEOUT).await;
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert!(finished.stdout.contains("verified"), "{finished:?}");
    // This case dates from when an object as title caused a dead letter. Now the event takes effect
    // without a title.
    if expected.exit == Some(1) {
        assert!(finished.stdout.contains("title"), "the column is not named: {finished:?}");
    }
}

/// Builds a Standard Webhooks request signed with the key behind the secret.
fn standard_webhook() -> (Vec<(String, String)>, String) {
    let (id, at, body) = (unique("msg"), now().to_string(), r#"{"type":"x","data":{}}"#.to_owned());
    let key = STANDARD.decode(STANDARD_KEY).expect("base64");
    let signature = sign::hmac_sha256_base64(&key, format!("{id}.{at}.{body}").as_bytes());
    let headers = [
        ("webhook-id", id),
        ("webhook-timestamp", at),
        ("webhook-signature", format!("v1,{signature}")),
    ];
    (headers.map(|(name, value)| (name.to_owned(), value)).into(), body)
}

/// Sends a request signed with the plain secret. Ingress has the secret in its pasted form.
pub(super) async fn secret(stack: &Stack, check: &SecretCheck) {
    let plain = check.value.trim().trim_matches('"');
    let body = mux_event(&unique("ev"), "created", None, "ls", now_ms()).to_string();
    stack.sender().send(&sign::mux(plain, now(), body.as_bytes())).await.expect(202, "accepted");
}
