//! Reports of verified requests that are not queued, or cannot be decoded.

use super::*;

#[test]
fn request_that_is_not_queued_takes_no_effect() {
    let body = br#"{"event_type":"t","payload":{}}"#;
    for (definition, reason, verdict) in [
        ("enabled = false", "nothing is queued: the platform is disabled (403)", "but not queued"),
        (
            "event_types = ['other']",
            "nothing is queued: its type is not one of the platform's event_types (answered \
             `ignored`)",
            "but not queued",
        ),
        (
            "event = { batch = '/payload', type = '/event_type' }",
            "nothing is queued: the batch is empty (200)",
            "",
        ),
    ] {
        let body = if verdict.is_empty() {
            br#"{"event_type":"t","payload":[]}"#.as_slice()
        } else {
            body
        };
        let (json, table) = outcomes(definition, body);
        let report: Value = serde_json::from_str(&json.text).unwrap();
        assert_eq!((json.good, &report["takes_effect"]), (false, &json!(false)), "{report}");
        assert_eq!(
            (&report["identified"], &report["reason"]),
            (&json!(true), &json!(reason)),
            "{report}"
        );
        assert!(
            table.text.contains(verdict) && !table.text.contains("takes effect   yes"),
            "{}",
            table.text
        );
    }
    let (json, _) = outcomes("paused = true", body);
    assert!(json.good && json.text.contains("the platform is paused"), "{}", json.text);
}

#[test]
fn check_reports_an_undecodable_body_that_is_kept() {
    let reason = |definition: &str, signing: &str, coding: &str| {
        let body = b"no stream";
        let (json, _) = outcomes_of(definition, body, signing.as_bytes(), Some(coding));
        let report: Value = serde_json::from_str(&json.text).unwrap();
        report["reason"].as_str().unwrap().to_owned()
    };
    for coding in ["deflate", "gzip"] {
        assert!(
            reason("invalid = 'keep'", SECRET, coding).ends_with("(kept as a dead letter)"),
            "{coding}"
        );
        let refused = reason("", SECRET, coding);
        assert!(refused.ends_with(if coding == "gzip" { "(400)" } else { "(415)" }), "{refused}");
    }
    assert!(reason("invalid = 'keep'", "another", "deflate").ends_with("(415)"));
}

fn outcomes(definition: &str, body: &[u8]) -> (CheckOutcome, CheckOutcome) {
    outcomes_of(definition, body, SECRET.as_bytes(), None)
}

/// Returns the outcomes as JSON and as a table, for `body` of a platform with `definition`.
fn outcomes_of(
    definition: &str,
    body: &[u8],
    signing: &[u8],
    coding: Option<&str>,
) -> (CheckOutcome, CheckOutcome) {
    let folder = tempfile::tempdir().unwrap();
    let (head, content) = (folder.path().join("headers.txt"), folder.path().join("body"));
    let file = folder.path().join("platforms.toml");
    std::fs::write(&file, format!("[platforms.acme]\nsecrets = ['env:ACME']\n{definition}"))
        .unwrap();
    let env = Env::from_pairs([("ACME", SECRET)]);
    let (platform, _) = crate::tool_platform::load("acme", Some(file.clone()), &env).unwrap();
    let signed =
        sign(&platform.scheme, &Keys::Secrets(vec![Secret::new(signing)]), body, "id", AT).unwrap();
    let mut lines: String =
        signed.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
    lines.extend(coding.map(|coding| format!("content-encoding: {coding}\n")));
    std::fs::write(&head, lines).unwrap();
    std::fs::write(&content, body).unwrap();
    let check = |output| {
        let (platform, platforms_file) = ("acme".to_owned(), Some(file.clone()));
        let (headers, body) = (head.clone(), content.clone());
        CheckPlatform { platform, platforms_file, headers, body, at: Some(AT), output }
            .run(&env)
            .unwrap()
    };
    (check(ReportFormat::Json), check(ReportFormat::Table))
}
