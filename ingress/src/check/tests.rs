//! Checks the verdicts on captures of all bundled platforms, and that no secret is printed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use serde_json::{Value, json};
use shared::signature::{Keys, Secret, sign};

use super::*;

mod outcomes;

const SECRET: &str = "a-secret-nobody-may-see";
const AT: Millis = 1_767_225_600_000;

fn env() -> Env {
    Env::from_pairs([
        ("STREAMING_WEBHOOK_SIGNING_SECRET", SECRET),
        ("NETFLIX_WEBHOOK_SECRET", SECRET),
    ])
}

fn signed(platform: &str, body: &[u8], at: Millis) -> Vec<(String, String)> {
    let (platform, _) = crate::tool_platform::load(platform, None, &env()).unwrap();
    sign(&platform.scheme, &Keys::Secrets(vec![Secret::new(SECRET)]), body, "id", at).unwrap()
}

fn run(
    folder: &Path,
    platform: &str,
    headers: &[(String, String)],
    body: &[u8],
    format: ReportFormat,
) -> CheckOutcome {
    let (head, content) = (folder.join("headers.txt"), folder.join("body"));
    let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
    std::fs::write(&head, lines).unwrap();
    std::fs::write(&content, body).unwrap();
    let check = CheckPlatform {
        platform: platform.to_owned(),
        platforms_file: None,
        headers: head,
        body: content,
        at: Some(AT),
        output: format,
    };
    check.run(&env()).unwrap_or_else(|problems| panic!("{problems:?}"))
}

/// Returns the verdict as JSON. Checks that neither format prints the secret or a signature.
fn verdict(platform: &str, headers: &[(String, String)], body: &[u8]) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let table = run(folder.path(), platform, headers, body, ReportFormat::Table);
    let outcome = run(folder.path(), platform, headers, body, ReportFormat::Json);
    for text in [&table.text, &outcome.text] {
        assert!(!text.contains(SECRET), "{text}");
        for (_, value) in headers.iter().filter(|(name, _)| name.contains("signature")) {
            let signature = value.rsplit('=').next().unwrap();
            assert!(!text.contains(signature), "{text}");
        }
    }
    let report: Value = serde_json::from_str(&outcome.text).unwrap();
    assert_eq!(outcome.good, report["takes_effect"], "{report}");
    report
}

fn mux() -> String {
    json!({
        "type": "video.live_stream.active", "id": "evt-1", "created_at": "2025-12-31T23:59:58Z",
        "object": {"type": "live_stream", "id": "ls-1"}, "data": {"id": "ls-1",
        "passthrough": "room-1"},
    })
    .to_string()
}

#[test]
fn check_reports_a_verified_request_in_full() {
    let body = mux();
    let report = verdict("streaming", &signed("mux", body.as_bytes(), AT), body.as_bytes());
    assert_eq!(
        (&report["platform"], &report["verified"]),
        (&json!("mux"), &json!(true)),
        "{report}"
    );
    assert_eq!(
        report["event"],
        json!({
            "event_id": "evt-1", "id_from": "provider", "event_type": "video.live_stream.active",
            "occurred_at": "2025-12-31T23:59:58.000Z", "session": "room-1",
            "live_stream_id": "ls-1",
            "delivery_id": null, "subscribed": true,
        })
    );
    assert_eq!(report["effect"]["effect"], "session.status");
    assert_eq!(
        report["effect"]["columns"][0],
        json!({"column": "status", "value": "live", "from": null})
    );
    assert_eq!(
        (&report["signature"]["over"], &report["signature"]["key"]),
        (&json!("wire"), &json!(1))
    );
}

#[test]
fn check_reports_an_unreadable_time() {
    let body = mux().replace("2025-12-31T23:59:58Z", "soon");
    let headers = signed("mux", body.as_bytes(), AT);
    let event = verdict("mux", &headers, body.as_bytes())["event"].clone();
    assert_eq!(
        (&event["occurred_at"], &event["time_unreadable"]),
        (&Value::Null, &json!(true)),
        "{event}"
    );
    let table = run(
        tempfile::tempdir().unwrap().path(),
        "mux",
        &headers,
        body.as_bytes(),
        ReportFormat::Table,
    );
    assert!(table.text.contains("unreadable: older than every known time"), "{}", table.text);
}

#[test]
fn check_reports_a_future_time_and_what_counts() {
    for (at, ordered_by) in
        [("2026-01-01T00:05:00Z", None), ("2026-01-01T00:05:01Z", Some("2026-01-01T00:00:00.000Z"))]
    {
        let body = mux().replace("2025-12-31T23:59:58Z", at);
        let headers = signed("mux", body.as_bytes(), AT);
        let event = verdict("mux", &headers, body.as_bytes())["event"].clone();
        assert_eq!(event["occurred_at"], at.replace('Z', ".000Z"), "{event}");
        assert_eq!(event["ordered_by"].as_str(), ordered_by, "{event}");
        let folder = tempfile::tempdir().unwrap();
        let table = run(folder.path(), "mux", &headers, body.as_bytes(), ReportFormat::Table).text;
        let expected = "2026-01-01T00:00:00.000Z (more than five minutes ahead of its arrival: \
                    the time of arrival counts)";
        assert_eq!(table.contains(expected), ordered_by.is_some(), "{table}");
    }
}

#[test]
fn check_reports_columns_with_their_pointers() {
    let body = r#"{"event_type":"content_added","payload":{"content_id":"c-1","title":"A film"}}"#;
    let report = verdict("netflix", &signed("netflix", body.as_bytes(), AT), body.as_bytes());
    assert_eq!(report["event"]["id_from"], "content hash", "{report}");
    let columns = report["effect"]["columns"].as_array().unwrap();
    let column = |name: &str| columns.iter().find(|column| column["column"] == name).unwrap();
    assert_eq!(column("content_id")["value"], "\"c-1\"");
    assert_eq!(
        column("title"),
        &json!({"column": "title", "value": "\"A film\"", "from": "/payload/title"})
    );
    assert_eq!(column("content_type")["value"], Value::Null);
}

#[test]
fn check_reports_columns_that_cannot_be_set() {
    let body = concat!(
        r#"{"event_type":"content_added","#,
        r#""payload":{"content_id":"c","title":"a\u0000b","n":1e5000}}"#
    );
    let report = verdict("netflix", &signed("netflix", body.as_bytes(), AT), body.as_bytes());
    assert_eq!(
        (&report["takes_effect"], &report["effect"]["refusal"]),
        (&json!(true), &Value::Null),
        "{report}"
    );
    let warnings = json!([
        {"column": "data", "reason": "out_of_range"},
        {"column": "title", "reason": "replaced_characters"}
    ]);
    let mut seen = report["effect"]["warnings"].as_array().unwrap().clone();
    seen.sort_by_key(|warning| warning["column"].to_string());
    assert_eq!(Value::from(seen), warnings);
    let columns = report["effect"]["columns"].as_array().unwrap();
    let value =
        |name: &str| &columns.iter().find(|column| column["column"] == name).unwrap()["value"];
    assert_eq!((value("title"), value("data")), (&json!("\"a\u{fffd}b\""), &Value::Null));
}

#[test]
fn check_reports_an_event_that_a_worker_refuses() {
    let room = "r".repeat(600);
    let body =
        json!({"type": "video.live_stream.active", "id": "e", "data": {"passthrough": room}})
            .to_string();
    let report = verdict("mux", &signed("mux", body.as_bytes(), AT), body.as_bytes());
    assert_eq!((&report["identified"], &report["takes_effect"]), (&json!(true), &json!(false)));
    assert_eq!(report["effect"]["refusal"], "the room id is longer than 512 bytes");
    assert!(report["reason"].as_str().unwrap().contains("invalid_event"), "{report}");
    // The live stream id is enough to identify the session.
    let body = mux().replace("room-1", &room);
    let report = verdict("mux", &signed("mux", body.as_bytes(), AT), body.as_bytes());
    assert_eq!(
        (&report["takes_effect"], &report["effect"]["needs_session"]),
        (&json!(true), &json!(true))
    );
    assert_eq!(report["effect"]["warnings"], json!([{"column": "room_id", "reason": "too_long"}]));
    assert_eq!(
        (&report["event"]["session"], &report["event"]["live_stream_id"]),
        (&Value::Null, &json!("ls-1"))
    );
}

#[test]
fn check_reports_the_precise_verification_error() {
    let body = mux();
    let body = body.as_bytes();
    let reason = |report: &Value| report["reason"].as_str().unwrap_or_default().to_owned();

    let missing = verdict("mux", &[], body);
    assert_eq!(
        reason(&missing),
        "no signature header; this platform reads: mux-signature, provider-signature"
    );
    assert_eq!(
        missing["signature"]["headers"][0],
        json!({"name": "mux-signature", "found": "absent"})
    );

    let old = verdict("mux", &signed("mux", body, AT - 1_000_000), body);
    assert!(
        reason(&old).contains(
            "is 1000 s behind 1767225600, and 300 s are allowed; apart from that it verifies"
        ),
        "{old}"
    );
    assert_eq!(
        (&old["signature"]["diff_s"], &old["signature"]["received"]),
        (&json!(1000), &json!(1_767_224_600))
    );
    assert!(old["notes"][0].as_str().unwrap().contains("--at"), "{old}");

    let ahead = verdict("mux", &signed("mux", body, AT + 1_000_000), body);
    assert!(reason(&ahead).contains("1000 s ahead of"), "{ahead}");

    let other = verdict("mux", &signed("mux", b"another body", AT), body);
    assert_eq!(
        reason(&other),
        "no key makes this signature over {timestamp}.{body} (HMAC-SHA-256, hex)"
    );
    assert_eq!(other["notes"], json!([]));

    let twice = [signed("mux", body, AT), signed("mux", body, AT - 1000)].concat();
    assert!(reason(&verdict("mux", &twice, body)).contains("two times"));

    let half = [("svix-signature", "v1,AAAA"), ("svix-id", "msg_1")]
        .map(|(n, v)| (n.to_owned(), v.to_owned()));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("platforms.toml");
    std::fs::write(&file, "[platforms.acme]\npreset = 'standard-webhooks'\nsecrets = ['env:ACME']")
        .unwrap();
    let env = Env::from_pairs([("ACME", "c2VjcmV0")]);
    let (platform, keys) = crate::tool_platform::load("acme", Some(file), &env).unwrap();
    let headers = half.into_iter().map(|(name, value)| (name, value.into_bytes())).collect();
    let capture = Capture { headers, body: Bytes::from_static(b"{}") };
    let (scheme, decoded) = (&platform.scheme, Ok(None));
    let question = SignatureCheck {
        scheme,
        keys: &keys,
        capture: &capture,
        decoded: &decoded,
        at: AT,
        max_body: 100,
        invalid: platform.invalid,
    };
    let reason_of_half = question.answer().verified.err().unwrap();
    assert_eq!(reason_of_half, "a header is malformed: timestamp header; absent: svix-timestamp");

    let netflix = br#"{"event_type":"content_added","payload":{"title":"x"}}"#;
    let invalid = verdict("netflix", &signed("netflix", netflix, AT), netflix);
    assert_eq!((&invalid["verified"], &invalid["identified"]), (&json!(true), &json!(false)));
    assert!(reason(&invalid).contains("/payload/content_id"), "{invalid}");
}

#[test]
fn check_recognises_common_capture_damage() {
    let sent = r#"{"event_type":"t","payload":{"a text":"with \" blanks "}}"#;
    for (captured, hint) in [
        (format!("{sent}\n"), "without the line break at its end"),
        (format!("{sent}\r\n"), "without the line break at its end"),
        (format!("\u{feff}{sent}"), "without the byte order mark at its beginning"),
        (
            format!("\u{feff}{sent}\r\n"),
            "without the byte order mark at its beginning and the line break",
        ),
        (
            sent.replace(':', " : ").replace(',', ",\n  "),
            "without the white space between its values",
        ),
    ] {
        let report =
            verdict("netflix", &signed("netflix", sent.as_bytes(), AT), captured.as_bytes());
        assert_eq!(report["verified"], false);
        assert!(report["notes"][0].as_str().unwrap_or_default().contains(hint), "{report}");
    }
}

/// Returns the verdict on a request of `definition`'s platform that was signed with the key
/// `signing`, while `configured` is the secret.
fn verdict_with(definition: &str, configured: &str, signing: &[u8]) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("platforms.toml");
    std::fs::write(&file, format!("[platforms.acme]\nsecrets = ['env:ACME']\n{definition}"))
        .unwrap();
    let env = Env::from_pairs([("ACME", configured)]);
    let (platform, _) = crate::tool_platform::load("acme", Some(file.clone()), &env).unwrap();
    let body = br#"{"event_type":"t","payload":{}}"#;
    let signed =
        sign(&platform.scheme, &Keys::Secrets(vec![Secret::new(signing)]), body, "id", AT).unwrap();
    let (headers, content) = (folder.path().join("headers.txt"), folder.path().join("body"));
    std::fs::write(
        &headers,
        signed.iter().map(|(name, value)| format!("{name}: {value}\n")).collect::<String>(),
    )
    .unwrap();
    std::fs::write(&content, body).unwrap();
    let (platform, platforms_file, output) = ("acme".to_owned(), Some(file), ReportFormat::Json);
    let check =
        CheckPlatform { platform, platforms_file, headers, body: content, at: Some(AT), output };
    serde_json::from_str(&check.run(&env).unwrap().text).unwrap()
}

#[test]
fn check_notes_a_secret_in_another_encoding() {
    let standard = "preset = 'standard-webhooks'";
    for (definition, configured, signing, note) in [
        (
            "",
            "a2V5",
            b"key".as_slice(),
            "the secret decoded from base64 (secret_encoding = \"base64\")",
        ),
        ("", "6b6579", b"key", "the secret decoded from hex (secret_encoding = \"hex\")"),
        ("signature = { secret_encoding = 'base64' }", "a2V5", b"a2V5", "the secret as its text"),
        ("signature = { secret_encoding = 'hex' }", "6b6579", b"6b6579", "the secret as its text"),
        (standard, "whsec_a2V5", b"whsec_a2V5", "the secret as its text, with whsec_ in front"),
    ] {
        let report = verdict_with(definition, configured, signing);
        assert_eq!(report["verified"], false, "{report}");
        let printed = report["notes"][0].as_str().unwrap_or_default();
        assert!(
            printed.starts_with(&format!("the signature verifies with {note}")),
            "{note}: {report}"
        );
    }
    assert_eq!(verdict_with("", "a2V5", b"another")["notes"], json!([]));
}

#[test]
fn check_notes_a_secret_with_pasted_whitespace() {
    for (configured, remark) in [
        ("key\n", "has a line break at its beginning or end"),
        (" key", "has white space at its beginning or end"),
        ("'key'", "is in quotation marks"),
        ("\u{feff}key\r\n", "begins with a byte order mark"),
    ] {
        for signing in ["key", configured] {
            let report = verdict_with("", configured, signing.as_bytes());
            assert_eq!(report["verified"], true, "{configured:?} {signing:?}: {report}");
            let note = format!("ACME: {remark}; requests are verified with and without it");
            assert_eq!(report["notes"], json!([note]), "{report}");
        }
    }
}

#[test]
fn check_verifies_a_compressed_body_as_sent_and_decoded() {
    let body = mux();
    let wire = zstd::bulk::compress(body.as_bytes(), 3).unwrap();
    let encoded = |mut headers: Vec<(String, String)>, coding: &str| {
        headers.push(("content-encoding".to_owned(), coding.to_owned()));
        headers
    };
    for (signed_over, over) in [(&wire[..], "wire"), (body.as_bytes(), "decoded")] {
        let report = verdict("mux", &encoded(signed("mux", signed_over, AT), "zstd"), &wire);
        assert_eq!(
            (&report["signature"]["over"], &report["identified"]),
            (&json!(over), &json!(true)),
            "{report}"
        );
    }
    // The capturing tool decoded the body and kept the header.
    let report = verdict("mux", &encoded(signed("mux", &wire, AT), "zstd"), body.as_bytes());
    assert!(report["notes"][0].as_str().unwrap().contains("leave that header out"), "{report}");
    let report =
        verdict("mux", &encoded(signed("mux", body.as_bytes(), AT), "gzip"), body.as_bytes());
    assert_eq!(
        (&report["signature"]["over"], &report["identified"]),
        (&json!("wire"), &json!(true)),
        "{report}"
    );
    assert!(
        report["notes"][0].as_str().unwrap().contains("Content-Encoding is ignored"),
        "{report}"
    );
    let report = verdict("mux", &encoded(signed("mux", &wire, AT), "compress"), &wire);
    assert!(report["reason"].as_str().unwrap().contains("415"), "{report}");
}

#[test]
fn check_reports_usage_problems() {
    let folder = tempfile::tempdir().unwrap();
    let (head, body) = (folder.path().join("headers.txt"), folder.path().join("body"));
    std::fs::write(&head, "x: y").unwrap();
    let check = |platform: &str| CheckPlatform {
        platform: platform.to_owned(),
        platforms_file: None,
        headers: head.clone(),
        body: body.clone(),
        at: None,
        output: ReportFormat::Table,
    };
    let problem = |platform: &str| check(platform).run(&env()).err().unwrap()[0].to_string();
    assert!(problem("mux").contains("body"), "{}", problem("mux"));
    std::fs::write(&body, "{}").unwrap();
    assert!(
        problem("nobody").contains("livekit") && problem("nobody").contains("netflix"),
        "{}",
        problem("nobody")
    );
    assert!(problem("livekit").contains("not configured"), "{}", problem("livekit"));
    assert!(
        problem("sessions").contains("unknown platform"),
        "the reserved platform cannot be checked"
    );
}

#[test]
fn check_reports_every_event_of_a_batch() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("platforms.toml");
    let toml = "[platforms.acme]\nsecrets = ['env:ACME']\nevent_types = ['up']\n\
        event = { batch = '/all', id = ['/all/id', '/id'], type = '/all/kind', time = '/at', \
        session = '/all/room' }\n\
        effects = { up = { effect = 'session.status', status = 'live', set = { \
        title = '/all/title' } } }";
    std::fs::write(&file, toml).unwrap();
    let env = Env::from_pairs([("ACME", SECRET)]);
    let (platform, keys) = crate::tool_platform::load("acme", Some(file.clone()), &env).unwrap();
    let up = r#"{"kind":"up","id":"1","room":"r","title":"T"}"#;
    let body = format!(r#"{{"id":"m","all":[{up},{{"kind":"down","n":1.0}}]}}"#);
    let body = body.as_bytes();
    let headers = sign(&platform.scheme, &keys, body, "id", AT).unwrap();
    let (head, content) = (folder.path().join("headers.txt"), folder.path().join("body"));
    std::fs::write(
        &head,
        headers.iter().map(|(name, value)| format!("{name}: {value}\n")).collect::<String>(),
    )
    .unwrap();
    std::fs::write(&content, body).unwrap();
    let check = |output| {
        let (platform, platforms_file) = ("acme".to_owned(), Some(file.clone()));
        let (headers, body) = (head.clone(), content.clone());
        CheckPlatform { platform, platforms_file, headers, body, at: Some(AT), output }
            .run(&env)
            .unwrap()
    };
    let outcome = check(ReportFormat::Json);
    let report: Value = serde_json::from_str(&outcome.text).unwrap();
    assert!(outcome.good, "{report}");
    assert_eq!((&report["event"], report["batch"].as_array().unwrap().len()), (&Value::Null, 2));
    let (up, down) = (&report["batch"][0], &report["batch"][1]);
    assert_eq!(
        (&up["event"]["event_id"], &up["event"]["id_from"]),
        (&json!("1"), &json!("provider"))
    );
    assert_eq!(
        (&up["event"]["session"], &up["effect"]["effect"]),
        (&json!("r"), &json!("session.status"))
    );
    assert_eq!(up["effect"]["columns"][1]["value"], "\"T\"");
    assert_eq!(
        (&down["event"]["event_id"], &down["event"]["subscribed"]),
        (&json!("m#1"), &json!(false))
    );
    assert_eq!(down["event"]["id_from"], "message id and position");
    assert_eq!(down["body"], r#"{"id":"m","all":{"kind":"down","n":1.0}}"#);
    let table = check(ReportFormat::Table).text;
    for expected in
        ["2 events", "1 (provider)", "m#1 (message id and position)", "not subscribed", "\"T\""]
    {
        assert!(table.contains(expected), "{expected}:\n{table}");
    }
}

#[test]
fn check_reports_the_expected_signature_form() {
    let header = |value: &str| vec![("x-webhook-signature".to_owned(), value.to_owned())];
    let reason = |value: &str| {
        verdict("netflix", &header(value), b"{}")["reason"].as_str().unwrap().to_owned()
    };
    for wrong in [format!("sha1={}", "0f".repeat(20)), format!("sha256={}", "0f".repeat(20))] {
        assert!(
            reason(&wrong).contains("the definition expects `sha256=` and 64 characters of hex"),
            "{wrong}"
        );
    }
    let pairs = vec![("mux-signature".to_owned(), "v1".to_owned())];
    assert!(verdict("mux", &pairs, b"{}")["reason"].is_string());
}
