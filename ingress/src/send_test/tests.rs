#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::Value;
use shared::platform::bundled;
use shared::platform::registry::Registry;

use super::*;

const NOW: Millis = 1_767_225_600_000;

fn toml() -> String {
    let mut toml = String::from(
        "[platforms.of-livekit]\npreset = 'livekit'\n\
         credentials = [{key = 'env:K', secret = 'env:S'}]\n",
    );
    for name in bundled::names().filter(|name| *name != "livekit") {
        toml.push_str(&format!("[platforms.of-{name}]\npreset = '{name}'\nsecrets = ['env:S']\n"));
    }
    toml.push_str(
        "[platforms.only]\nsecrets = ['env:S']\nevent_types = ['content_added', 'other']\n",
    );
    toml.push_str(
        "[platforms.strict]\nsecrets = ['env:S']\nevent = {schema = {required = ['a']}}\n",
    );
    toml
}

/// Secret for every scheme: valid base64 for those that need it.
fn env() -> Env {
    Env::from_pairs([("K", "the key"), ("S", "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0")])
}

fn prepare(platform: &str, kind: Option<&str>) -> Result<SignedRequest, Vec<Problem>> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("platforms.toml");
    std::fs::write(&file, toml()).unwrap();
    let send = SendTest {
        platform: platform.to_owned(),
        url: "http://127.0.0.1:8000".to_owned(),
        event_type: kind.map(str::to_owned),
        body: None,
        platforms_file: Some(file),
    };
    send.prepare_at(&env(), NOW)
}

#[test]
fn sample_event_exists_for_every_bundled_type() {
    let registry = Registry::from_text("platforms.toml", &toml()).unwrap();
    for platform in registry.iter().filter(|platform| platform.name.as_str().starts_with("of-")) {
        let kinds: Vec<&str> = platform.effects.keys().map(String::as_str).collect();
        for kind in kinds.into_iter().map(Some).chain([None]) {
            // `prepare` verifies and identifies the event.
            let request = prepare(platform.name.as_str(), kind)
                .unwrap_or_else(|problems| panic!("{kind:?}: {problems:?}"));
            assert_eq!(request.url.path(), format!("/api/v1/webhooks/{}", platform.name));
            let kind = kind.unwrap_or("tributary.test");
            assert!(request.about.ends_with(&format!("({kind})")), "{}", request.about);
        }
    }
}

#[test]
fn sample_type_is_subscribed_and_only_logged() {
    assert!(prepare("only", None).unwrap().about.ends_with("(other)"));
    let body: Value =
        serde_json::from_slice(&prepare("only", Some("content_added")).unwrap().body).unwrap();
    assert_eq!(body["payload"]["content_id"], "tributary-test", "{body}");
    assert_eq!(body["timestamp"], "2026-01-01T00:00:00.000Z");
}

#[test]
fn send_test_errors_name_what_is_wrong() {
    let reason = |result: Result<SignedRequest, Vec<Problem>>| result.err().unwrap()[0].to_string();
    assert!(
        reason(prepare("strict", None)).contains("--body"),
        "{}",
        reason(prepare("strict", None))
    );
    assert!(reason(prepare("mux", None)).contains("not configured"));
    for (url, expected) in [
        ("https://host", "https is not supported"),
        ("host:80", "http://host"),
        ("", "http://host"),
    ] {
        assert!(base(url).unwrap_err().contains(expected), "{url}");
    }
    assert_eq!(base("http://host/prefix").unwrap().as_str(), "http://host/prefix/");
}
