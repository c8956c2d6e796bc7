//! Signatures and secrets in the formats of senders: lists, repeated headers, both base64
//! alphabets, and pasted line breaks and quotation marks.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use tests::process::{self, Program};
use tests::sender::{MUX_SECRET, mux_event, now, now_ms, unique};
use tests::sign::{self, SignedWebhook};
use tests::stack::Stack;

use crate::WAIT_LIMIT;

const OWN_SECRET: &str = "secret-of-own-3b9d1c";
const OTHER: &str = "secret-of-nobody-55e0a7";
const TIMEOUT: Duration = Duration::from_secs(20);

const PLATFORMS: &str = own_platform!(
    r#"
[platforms.ome]
secrets = ["env:OWN_SECRET"]
rate_limit = 6000
[platforms.ome.signature]
header = ["X-OME-Signature"]
prefix = ""
encoding = "base64"
[platforms.ome.event]
id = "/id"
type = "/type"
"#
);

fn body(id: &str) -> String {
    format!(r#"{{"id":"{id}","type":"x"}}"#)
}

fn mux(secret_header: impl Fn(i64, &[u8]) -> Vec<String>) -> SignedWebhook {
    let body = mux_event(&unique("event"), "active", None, "ls", now_ms()).to_string();
    let signed = sign::mux(MUX_SECRET, now(), body.as_bytes()).without("mux-signature");
    secret_header(now(), body.as_bytes())
        .iter()
        .fold(signed, |signed, line| signed.header("mux-signature", line))
}

/// A request of `own`. `lines` makes the lines of its signature header from a wrong and a correct
/// signature.
fn own(lines: impl Fn(&str, &str) -> Vec<String>) -> SignedWebhook {
    let body = body(&unique("own"));
    let [wrong, right] =
        [OTHER, OWN_SECRET].map(|secret| sign::hmac_sha256_hex(secret, body.as_bytes()));
    let bare = sign::generic("own", OWN_SECRET, body.as_bytes()).without("x-webhook-signature");
    lines(&wrong, &right).iter().fold(bare, |signed, line| signed.header("X-Own-Signature", line))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signatures_in_every_format_are_accepted() {
    let stack =
        Stack::builder().platforms(PLATFORMS).ingress_env("OWN_SECRET", OWN_SECRET).start().await;
    let sender = stack.sender();
    let one = |text: String| vec![text];
    let good = [
        mux(|at, body| one(sign::pairs(MUX_SECRET, at, body).replace(',', ", "))),
        mux(|at, body| vec![sign::pairs(OTHER, at, body), sign::pairs(MUX_SECRET, at, body)]),
        mux(|at, body| one(sign::pairs(MUX_SECRET, at, body).replace(',', ";"))),
        own(|wrong, right| one(format!("sha256={wrong},sha256={right}"))),
        own(|wrong, right| one(format!("sha256={right} , sha256={wrong}"))),
        own(|wrong, right| one(format!("sha256={wrong} sha256={right}"))),
        own(|wrong, right| vec![format!("sha256={wrong}"), format!("sha256={right}")]),
        own(|_, right| one(format!("SHA256={}", right.to_uppercase()))),
    ];
    for signed in good {
        let answer = sender.send(&signed).await;
        assert_eq!(answer.status, 202, "{signed:?}: {}", answer.text);
    }
    for encode in [|tag: &[u8]| URL_SAFE_NO_PAD.encode(tag), |tag: &[u8]| URL_SAFE.encode(tag)] {
        let body = body(&unique("ome"));
        let tag = hex::decode(sign::hmac_sha256_hex(OWN_SECRET, body.as_bytes())).unwrap();
        let bare = sign::generic("ome", OWN_SECRET, body.as_bytes()).without("x-webhook-signature");
        let answer = sender.send(&bare.header("X-OME-Signature", &encode(&tag))).await;
        assert_eq!(answer.status, 202, "{}", answer.text);
    }
    let bad = [
        mux(|at, body| vec![sign::pairs(OTHER, at, body), sign::pairs(OTHER, at, body)]),
        mux(|at, body| {
            vec![sign::pairs(MUX_SECRET, at - 1, body), sign::pairs(MUX_SECRET, at, body)]
        }),
        own(|wrong, _| one(format!("sha256={wrong},sha256={wrong}"))),
        own(|_, right| one(format!("sha256={}", &right[..62]))),
        own(|_, right| one(format!("sha256=,{right}"))),
        own(|wrong, right| one(format!("{}sha256={right}", format!("sha256={wrong},").repeat(16)))),
        own(|_, _| one(String::new())),
    ];
    for signed in bad {
        let answer = sender.send(&signed).await;
        assert_eq!(answer.status, 401, "{signed:?}: {}", answer.text);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pasted_secret_works_and_is_named_at_startup() {
    for (secret_text, remark) in [
        (format!("{MUX_SECRET}\n"), "has a line break at its beginning or end"),
        (format!("\"{MUX_SECRET}\""), "is in quotation marks"),
    ] {
        let stack = Stack::builder()
            .workers(0)
            .ingress_env("STREAMING_WEBHOOK_SIGNING_SECRET", &secret_text)
            .start()
            .await;
        let process = &stack.ingresses[0].process;
        process.wait_until_logged("STREAMING_WEBHOOK_SIGNING_SECRET", WAIT_LIMIT).await;
        assert!(process.log().contains(remark), "{}", process.log());
        assert!(!process.log().contains(MUX_SECRET), "{}", process.log());
        for secret in [MUX_SECRET, &secret_text] {
            let answer =
                stack.sender().send(&mux(|at, body| vec![sign::pairs(secret, at, body)])).await;
            assert_eq!(answer.status, 202, "{secret:?}: {}", answer.text);
        }
        let forged = stack.sender().send(&mux(|at, body| vec![sign::pairs(OTHER, at, body)])).await;
        assert_eq!(forged.status, 401, "{}", forged.text);
    }
}

/// Runs `ingress check-platform` for a platform with `secrets` on `request`.
async fn checked(
    preset: &str,
    secrets: &str,
    env: &[(&str, &str)],
    request: &SignedWebhook,
) -> process::ProgramOutput {
    let folder = process::folder();
    let file = |name: &str| folder.path().join(name);
    std::fs::write(file("secret"), b"\xef\xbb\xbfsecret-of-own-3b9d1c\r\n").unwrap();
    std::fs::write(
        file("p.toml"),
        format!("[platforms.acme]\n{preset}\nsecrets = [\"{secrets}\"]\n"),
    )
    .unwrap();
    let lines: String =
        request.headers.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
    std::fs::write(file("headers"), lines).unwrap();
    std::fs::write(file("body"), &request.body).unwrap();
    let program = Program::new("ingress").args(["check-platform", "--platform", "acme"]);
    let program =
        program.arg("--platforms-file").arg(file("p.toml")).arg("--headers").arg(file("headers"));
    let program = env.iter().fold(program, |program, (name, value)| program.env(name, value));
    program.arg("--body").arg(file("body")).run(TIMEOUT).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_platform_explains_an_ambiguous_secret() {
    let body = br#"{"event_type":"t","payload":{}}"#;
    let request = sign::generic("acme", OWN_SECRET, body);
    let from_file = checked("", "file:secret", &[], &request).await;
    assert_eq!(from_file.code, Some(0), "{from_file:?}");
    assert!(from_file.stdout.contains("begins with a byte order mark"), "{from_file:?}");

    let encoded = URL_SAFE.encode(OWN_SECRET);
    let meant = checked("", "env:ACME", &[("ACME", &encoded)], &request).await;
    assert_eq!(meant.code, Some(1), "{meant:?}");
    let note =
        "the signature verifies with the secret decoded from base64 (secret_encoding = \"base64\")";
    assert!(meant.stdout.contains(note), "{meant:?}");

    // Test vector of the specification's own libraries.
    let vector = SignedWebhook { body: br#"{"test": 2432232314}"#.to_vec(), ..request }
        .header("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek")
        .header("webhook-timestamp", "1614265330")
        .header("webhook-signature", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    let secret = [("ACME", "v1,whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")];
    let standard = checked("preset = \"standard-webhooks\"", "env:ACME", &secret, &vector).await;
    assert!(standard.stdout.contains("apart from that it verifies"), "{standard:?}");
}
