#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::json;

use super::*;

const SECRET: &str = "a-5ecret-nobody-knows";

fn read(body: &Value) -> Result<Registration, Vec<Problem>> {
    Registration::read(body.to_string().as_bytes(), &Registry::load(None).unwrap())
}

fn problems(body: &Value) -> Vec<String> {
    let problems: Vec<_> =
        read(body).err().unwrap_or_default().iter().map(ToString::to_string).collect();
    assert!(!problems.concat().contains("5ecret"), "{problems:?}");
    problems
}

#[test]
fn request_keys_not_its_own_are_the_definition() {
    let body = json!({
        "platform": "shop", "secret": SECRET, "event_types": ["a"], "rate_limit": 5, "url": null,
        "old_secret_expires_in": "15m", "preset": "generic", "limits": {"a": 2}
    });
    let registration = read(&body).unwrap();
    assert_eq!(registration.platform.name.as_str(), "shop");
    assert_eq!(
        (registration.platform.rate_limit.per_minute, registration.platform.limits["a"]),
        (Some(5), 2)
    );
    assert_eq!(registration.old_secret_lifetime, Duration::from_secs(900));
    let kept: Vec<_> = registration.definition.keys().cloned().collect();
    assert_eq!(kept, ["event_types", "limits", "preset", "rate_limit"]);
    assert!(!format!("{registration:?}").contains("5ecret"));
}

#[test]
fn old_secrets_stay_valid_for_a_day_by_default() {
    let keep = |text: Value| {
        read(&json!({"platform": "shop", "secret": SECRET, "old_secret_expires_in": text}))
            .map(|one| one.old_secret_lifetime)
    };
    assert_eq!(
        read(&json!({"platform": "shop", "secret": SECRET})).unwrap().old_secret_lifetime,
        Duration::from_secs(86_400)
    );
    for (text, seconds) in [("0s", 0), ("0m", 0), ("24h", 86_400), ("90s", 90), ("7d", 604_800)] {
        assert_eq!(keep(text.into()).unwrap(), Duration::from_secs(seconds), "{text}");
    }
    for wrong in
        [json!("0"), json!(""), json!("-5m"), json!("soon"), json!(15), json!("400d"), json!("00s")]
    {
        assert!(keep(wrong.clone()).is_err(), "{wrong}");
    }
}

#[test]
fn request_reports_all_problems_at_once() {
    let found = problems(
        &json!({"platform": "Shop", "secret": 7, "old_secret_expires_in": "x", "url": "ftp://a",
        "rate_limit": 0, "session_scope": "shared", "credentials": [], "colour": {"a": null}}),
    );
    for key in ["platform", "secret", "old_secret_expires_in", "url"] {
        assert!(
            found.iter().any(|problem| problem.starts_with(&format!("{key}: "))),
            "{key} in {found:?}"
        );
    }
    assert!(found.contains(&"colour.a: must not be null; leave it out".to_owned()), "{found:?}");
    let found = problems(&json!({"rate_limit": 0, "session_scope": "shared", "credentials": []}));
    for key in ["platform", "secret", "rate_limit", "session_scope", "credentials"] {
        assert!(
            found.iter().any(|problem| problem.starts_with(&format!("{key}: "))),
            "{key} in {found:?}"
        );
    }
}

#[test]
fn reserved_and_invalid_names_are_refused() {
    for name in ["register", "sessions", "platforms", "out", "", "a b", "Ä", "-a"] {
        assert!(
            problems(&json!({"platform": name, "secret": SECRET}))[0].starts_with("platform: "),
            "{name}"
        );
    }
}

#[test]
fn secret_must_fit_its_scheme_and_length() {
    let with = |secret: &str| json!({"platform": "shop", "secret": secret});
    assert!(read(&with(&"x".repeat(MAX_SECRET_BYTES))).is_ok());
    for wrong in [String::new(), "x".repeat(MAX_SECRET_BYTES + 1)] {
        assert_eq!(problems(&with(&wrong)), ["secret: must be 1 to 4096 bytes"]);
    }
    let standard =
        |secret: &str| json!({"platform": "shop", "secret": secret, "preset": "standard-webhooks"});
    assert!(read(&standard("whsec_AAAAAAAAAAAAAAAAAAAAAAAA")).is_ok());
    assert_eq!(
        problems(&standard("5ecret!")),
        ["secret: the secret is not base64; a secret of Standard Webhooks is whsec_ and the key \
             in base64, or that base64 alone"]
    );
}

#[test]
fn api_secret_requires_its_key() {
    let livekit = |key: Value| {
        let preset = "livekit";
        json!({"platform": "rooms", "secret": SECRET, "preset": preset, "key": key})
    };
    assert!(read(&livekit("API5".into())).unwrap().platform.scheme.uses_credentials());
    assert_eq!(
        problems(&livekit(Value::Null)),
        ["key: this signature scheme needs a key beside the secret"]
    );
    for wrong in [json!(""), json!("a\nb"), json!(5), json!("x".repeat(257))] {
        assert!(problems(&livekit(wrong.clone()))[0].starts_with("key: must be"), "{wrong}");
    }
    assert_eq!(
        problems(&json!({"platform": "shop", "secret": SECRET, "key": "API5"})),
        ["key: this signature scheme has no key beside the secret"]
    );
}

#[test]
fn secret_repeated_in_the_definition_is_refused() {
    for place in [json!({"label": SECRET}), json!({"event_types": ["x", format!("-{SECRET}-")]})] {
        let mut body = json!({"platform": "shop", "secret": SECRET});
        body.as_object_mut().unwrap().extend(place.as_object().unwrap().clone());
        assert!(
            problems(&body)
                .iter()
                .any(|problem| problem.starts_with("secret: also appears elsewhere")),
            "{body}"
        );
    }
    assert!(
        read(&json!({"platform": "shop", "secret": "generic", "preset": "generic"})).is_ok(),
        "a short secret may be an ordinary word"
    );
}

#[test]
fn body_must_be_one_object_without_duplicate_keys() {
    let wrong = |body: &str| {
        let problems =
            Registration::read(body.as_bytes(), &Registry::load(None).unwrap()).unwrap_err();
        problems[0].to_string()
    };
    for body in [
        "",
        "[]",
        "\"x\"",
        "null",
        "{",
        r#"{"secret":"a","secret":"b"}"#,
        r#"{"rate_limit":1e999}"#,
    ] {
        assert!(wrong(body).starts_with("body: "), "{body}");
    }
    let big = r#"{"platform":"shop","secret":"x","rate_limit":99999999999999999999}"#;
    assert!(!wrong(big).is_empty());
}

#[test]
fn definition_is_converted_from_json_to_toml() {
    let definition = json!({"a": 1, "b": 1.5, "c": [true, {"d": "x"}], "e": {}});
    let expected: Table = "a = 1\nb = 1.5\nc = [true, {d = 'x'}]\n[e]".parse().unwrap();
    assert_eq!(to_toml(definition.as_object().unwrap()), Ok(expected));
    let wrong = json!({"a": 18_446_744_073_709_551_615_u64, "b": {"c": [1, null]}});
    let problems = to_toml(wrong.as_object().unwrap()).unwrap_err();
    assert_eq!(problems.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["a", "b.c[1]"]);
}
