#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use serde::Deserialize;

use super::*;
use crate::config::SecretText;
use crate::platform::registry::Registry;

/// Fixtures, made by `generate.py` in the same folder.
const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures");

#[derive(Deserialize)]
struct RequestFixture {
    platform: String,
    definition: Option<String>,
    requests: Vec<Request>,
}

#[derive(Deserialize)]
struct Request {
    name: String,
    headers: Vec<(String, String)>,
    body: Option<String>,
    body_base64: Option<String>,
    secrets: Option<Vec<String>>,
    credentials: Option<Vec<(String, String)>>,
    now: Millis,
    verdict: ExpectedVerdict,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
enum ExpectedVerdict {
    Genuine,
    Missing,
    Malformed,
    Mismatch,
    BodyHashMismatch,
    Outside { received: i64, current: i64, diff: i64, signature_valid: bool },
}

impl Request {
    fn body(&self) -> Vec<u8> {
        match (&self.body, &self.body_base64) {
            (Some(text), None) => text.clone().into_bytes(),
            (None, Some(text)) => STANDARD.decode(text).unwrap(),
            _ => panic!("{}: one body", self.name),
        }
    }

    fn keys(&self, scheme: &Scheme) -> Keys {
        let secret = |text: &String| scheme.secret(text).unwrap();
        match (&self.secrets, &self.credentials) {
            (Some(secrets), None) => Keys::Secrets(secrets.iter().map(secret).collect()),
            (None, Some(pairs)) => Keys::Credentials(
                pairs.iter().map(|(key, text)| Credential::new(key, &secret(text))).collect(),
            ),
            _ => panic!("{}: one kind of keys", self.name),
        }
    }

    fn verdict(&self, scheme: &Scheme) -> ExpectedVerdict {
        match verify(scheme, &self.keys(scheme), &self.headers, &self.body(), self.now) {
            Ok(verified) => {
                assert_eq!(verified.body(), self.body());
                ExpectedVerdict::Genuine
            }
            Err(VerifyError::Missing) => ExpectedVerdict::Missing,
            Err(VerifyError::Malformed(_)) => ExpectedVerdict::Malformed,
            Err(VerifyError::Mismatch) => ExpectedVerdict::Mismatch,
            Err(VerifyError::BodyHashMismatch) => ExpectedVerdict::BodyHashMismatch,
            Err(VerifyError::OutsideTolerance { received, current, diff, signature_valid }) => {
                ExpectedVerdict::Outside { received, current, diff, signature_valid }
            }
        }
    }
}

fn folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(FIXTURES).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.retain(|path| path.join("requests.json").is_file());
    folders.sort();
    folders
}

fn read(folder: &Path) -> (RequestFixture, Scheme) {
    let text = std::fs::read_to_string(folder.join("requests.json")).unwrap();
    let fixture: RequestFixture = serde_json::from_str(&text).unwrap();
    let definition = fixture.definition.as_deref().unwrap_or_default();
    let registry = Registry::from_text("fixture", definition)
        .unwrap_or_else(|problems| panic!("{problems:?}"));
    let scheme = registry.get(&fixture.platform).unwrap().scheme.clone();
    (fixture, scheme)
}

fn scheme_of(platform: &str) -> Scheme {
    read(&Path::new(FIXTURES).join(platform)).1
}

#[test]
fn fixture_requests_get_their_verdict() {
    let folders = folders();
    assert!(folders.len() >= 12, "fixtures are missing: {folders:?}");
    let mut wrong = Vec::new();
    for folder in folders {
        let (fixture, scheme) = read(&folder);
        assert_eq!(scheme.validate(), [], "{}", fixture.platform);
        for request in &fixture.requests {
            let verdict = request.verdict(&scheme);
            if verdict != request.verdict {
                wrong.push(format!(
                    "{}: {}: {verdict:?}, not {:?}",
                    fixture.platform, request.name, request.verdict
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn scheme_fixtures_have_valid_and_refused_requests() {
    for folder in folders() {
        let (fixture, _) = read(&folder);
        let genuine = fixture
            .requests
            .iter()
            .filter(|request| request.verdict == ExpectedVerdict::Genuine)
            .count();
        assert!(genuine > 0 && genuine < fixture.requests.len(), "{}", fixture.platform);
    }
}

#[test]
fn request_with_a_changed_byte_is_refused() {
    for folder in folders() {
        let (fixture, scheme) = read(&folder);
        let unsigned_body = matches!(scheme, Scheme::SharedSecret(_));
        let request = fixture
            .requests
            .iter()
            .find(|request| request.verdict == ExpectedVerdict::Genuine)
            .unwrap();
        let (keys, body) = (request.keys(&scheme), request.body());
        assert!(verify(&scheme, &keys, &request.headers, &body, request.now).is_ok());
        for at in 0..body.len() {
            for bit in [1, 0x20, 0x80] {
                let mut forged = body.clone();
                forged[at] ^= bit;
                let verdict = verify(&scheme, &keys, &request.headers, &forged, request.now);
                assert_eq!(verdict.is_ok(), unsigned_body, "{}: byte {at}", fixture.platform);
            }
        }
        for (line, (name, value)) in request.headers.iter().enumerate() {
            for at in 0..value.len() {
                let mut forged = request.headers.clone();
                // Hex is accepted in either case, so a changed case is not a change.
                let other = if value.as_bytes()[at] == b'0' { '1' } else { '0' };
                forged[line].1.replace_range(at..=at, &other.to_string());
                let pairs_beside =
                    matches!(&scheme, Scheme::Pairs(spec) if at_ignored_pair(spec, value, at));
                let verdict = verify(&scheme, &keys, &forged, &body, request.now);
                let free = pairs_beside || unsigned_time(&scheme, value, at);
                assert_eq!(verdict.is_ok(), free, "{}: {name}: byte {at}", fixture.platform);
            }
        }
    }
}

/// Returns true if byte `at` is in an ignored pair and the pair stays ignored without it.
fn at_ignored_pair(spec: &PairsSpec, header: &str, at: usize) -> bool {
    let (begin, end) =
        (header[..at].rfind(',').map_or(0, |comma| comma + 1), header[at..].find(','));
    let pair = &header[begin..end.map_or(header.len(), |comma| at + comma)];
    let read = [&spec.timestamp_key, &spec.signature_key]
        .iter()
        .any(|key| pair.starts_with(&format!("{key}=")));
    !read
}

/// Returns true if byte `at` is one of the last digits of an unsigned time in milliseconds, worth
/// less than the tolerance.
fn unsigned_time(scheme: &Scheme, header: &str, at: usize) -> bool {
    let unsigned = matches!(scheme, Scheme::Pairs(spec)
        if !spec.signed.has(&TemplatePart::Timestamp) && spec.unit == TimestampUnit::Millis);
    unsigned && (10..=14).contains(&at) && header.starts_with("t=")
}

#[test]
fn covered_headers_are_told_from_unsigned_ones() {
    let headers = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let (fixture, scheme) = read(&Path::new(FIXTURES).join("twitch"));
    let request = &fixture.requests[0];
    let body = request.body();
    let sent =
        [request.headers.clone(), headers(&[("twitch-eventsub-subscription-type", "forged")])]
            .concat();
    let keys = request.keys(&scheme);
    let verified = verify(&scheme, &keys, &sent, &body, request.now).unwrap();
    assert!(verified.signed_header("twitch-eventsub-message-id").is_some());
    assert!(verified.signed_header("twitch-eventsub-message-timestamp").is_some());
    assert_eq!(verified.signed_header("twitch-eventsub-subscription-type"), None);
    assert_eq!(verified.unsigned_header("twitch-eventsub-subscription-type"), Some("forged"));
    assert_eq!(verified.unsigned_header("absent"), None);
    assert!(
        scheme.covers("twitch-eventsub-message-id")
            && !scheme.covers("twitch-eventsub-subscription-type")
    );

    // The headers of the set that was not signed are not covered. Their names return the signed
    // ones.
    let (fixture, scheme) = read(&Path::new(FIXTURES).join("standard-webhooks"));
    let request =
        fixture.requests.iter().find(|request| request.name == "under Svix's names").unwrap();
    let sent = [request.headers.clone(), headers(&[("webhook-id", "forged")])].concat();
    let (body, keys) = (request.body(), request.keys(&scheme));
    let verified = verify(&scheme, &keys, &sent, &body, request.now).unwrap();
    for name in ["webhook-id", "svix-id"] {
        assert_eq!(verified.signed_header(name), Some("msg_p5jXN8AQM9LWM0D4loKWxJek"), "{name}");
    }
    assert_eq!(
        verified.signed_header("webhook-timestamp"),
        verified.signed_header("svix-timestamp")
    );
    assert!(verified.signed_header("svix-timestamp").is_some());
    assert!(
        scheme.covers("webhook-id")
            && scheme.covers("svix-timestamp")
            && !scheme.covers("svix-signature")
    );
    for platform in ["mux", "livekit", "generic", "cloudflare-live"] {
        assert!(
            !scheme_of(platform).headers().into_iter().any(|name| scheme_of(platform).covers(name)),
            "{platform}"
        );
    }
}

#[test]
fn keys_of_the_wrong_kind_verify_nothing() {
    for folder in folders() {
        let (fixture, scheme) = read(&folder);
        let request = fixture
            .requests
            .iter()
            .find(|request| request.verdict == ExpectedVerdict::Genuine)
            .unwrap();
        let body = request.body();
        let secret = Secret::new("x");
        for keys in [
            Keys::Secrets(Vec::new()),
            Keys::Credentials(Vec::new()),
            if scheme.uses_credentials() {
                Keys::Secrets(vec![secret.clone()])
            } else {
                Keys::Credentials(vec![Credential::new("x", &secret)])
            },
        ] {
            let verdict = verify(&scheme, &keys, &request.headers, &body, request.now);
            assert_eq!(verdict.err(), Some(VerifyError::Mismatch), "{}", fixture.platform);
        }
    }
}

#[test]
fn verify_error_message_matches_the_contract() {
    let outside = VerifyError::OutsideTolerance {
        received: 1565220904,
        current: 1565221504,
        diff: 600,
        signature_valid: true,
    };
    assert_eq!(
        outside.message(),
        "Timestamp outside tolerance window: received=1565220904, current=1565221504, diff=600s"
    );
    assert!(outside.is_expiry() && outside.is_valid_except_time());
    assert_eq!(
        VerifyError::BodyHashMismatch.message(),
        "Webhook verification failed: hash mismatch"
    );
    for refusal in [VerifyError::Missing, VerifyError::Malformed("pair"), VerifyError::Mismatch] {
        assert_eq!(refusal.message(), "Invalid webhook signature");
        assert!(!refusal.is_expiry() && !refusal.is_valid_except_time());
    }
    let forged = VerifyError::OutsideTolerance {
        received: 0,
        current: 600,
        diff: 600,
        signature_valid: false,
    };
    assert!(forged.is_expiry() && !forged.is_valid_except_time());
}

#[test]
fn secrets_are_decoded_by_scheme_and_never_shown() {
    let scheme = scheme_of("daily");
    assert_eq!(scheme.secret("not base64!").err(), Some(SecretError::Base64));
    for spelling in ["AAECAw", "AAECAw=="] {
        assert_eq!(scheme.secret(spelling).unwrap().expose(), [0, 1, 2, 3], "{spelling}");
    }
    assert_eq!(scheme.secret("--__").unwrap().expose(), [0xfb, 0xef, 0xff], "URL-safe");
    for private in ["whsk_AAECAw==", "whpk_AAECAw=="] {
        let refused = scheme_of("standard-webhooks").secret(private).err();
        assert_eq!(refused, Some(SecretError::Asymmetric), "{private}");
    }
    assert_eq!(scheme.secret("AAECAw==").unwrap().expose(), [0, 1, 2, 3]);
    assert_eq!(
        scheme_of("standard-webhooks").secret("whsec_AAECAw==").unwrap().expose(),
        [0, 1, 2, 3]
    );
    assert_eq!(scheme_of("standard-webhooks").secret("whsec_").err(), Some(SecretError::Empty));
    for text in ["v1, whsec_AAECAw==", "whsec_AAEC\nAw==", "AAEC\r\nAw=="] {
        assert_eq!(
            scheme_of("standard-webhooks").secret(text).unwrap().expose(),
            [0, 1, 2, 3],
            "{text:?}"
        );
    }
    let invalid = scheme_of("standard-webhooks").secret("not base64!").unwrap_err();
    assert!(invalid.to_string().contains("whsec_ and the key in base64"), "{invalid}");
    assert_eq!(scheme_of("mux").secret("whsec_AAECAw==").unwrap().expose(), b"whsec_AAECAw==");
    assert_eq!(scheme_of("mux").secret("").err(), Some(SecretError::Empty));

    let secret = Secret::new("top secret");
    let credential = Credential::new("the key", &secret);
    let keys = [Keys::Secrets(vec![secret.clone()]), Keys::Credentials(vec![credential])];
    let shown = format!("{secret:?} {keys:?} {keys:#?}");
    for hidden in ["top", "the key", "116", "0x74", "74"] {
        assert!(!shown.contains(hidden), "{shown}");
    }
}

#[test]
fn pasted_secret_verifies_with_and_without_surroundings() {
    let keys = |platform: &str, text: &str| -> Vec<Vec<u8>> {
        let secrets = scheme_of(platform).secrets(&SecretText::new(text)).unwrap();
        secrets.iter().map(|secret| secret.expose().to_vec()).collect()
    };
    assert_eq!(keys("mux", "word"), [b"word"]);
    assert_eq!(keys("mux", "word\n"), [b"word".as_slice(), b"word\n"]);
    assert_eq!(keys("mux", "'word' "), [b"word".as_slice(), b"'word' "]);
    assert_eq!(keys("daily", " AAECAw==\n"), [[0, 1, 2, 3]], "base64 has one form only");
    assert_eq!(keys("standard-webhooks", "\"v1,whsec_AAECAw\""), [[0, 1, 2, 3]]);
    for nothing in ["", " ", "\n", "\"\"", "' '", "\u{feff}"] {
        let refused = scheme_of("mux").secrets(&SecretText::new(nothing)).err();
        assert_eq!(refused, Some(SecretError::Empty), "{nothing:?}");
    }
}

#[test]
fn template_is_parsed_and_displayed() {
    let literal = |text: &str| TemplatePart::Literal(text.to_owned());
    let template: Template = "v0:{timestamp}:{body}".parse().unwrap();
    assert_eq!(
        template.parts(),
        [literal("v0:"), TemplatePart::Timestamp, literal(":"), TemplatePart::Body]
    );
    assert_eq!(
        "{id}{timestamp}{body}".parse::<Template>().unwrap().parts(),
        [TemplatePart::Id, TemplatePart::Timestamp, TemplatePart::Body]
    );
    assert_eq!("{body}!".parse::<Template>().unwrap().parts(), [TemplatePart::Body, literal("!")]);
    assert_eq!("{body}".parse::<Template>().unwrap(), Template::body());
    for text in ["v0:{timestamp}:{body}", "{id}.{timestamp}.{body}", "{body}"] {
        assert_eq!(text.parse::<Template>().unwrap().to_string(), text);
    }
    for (text, problem) in [
        ("", TemplateError::NoBody),
        ("{timestamp}", TemplateError::NoBody),
        ("body", TemplateError::NoBody),
        ("{body}{body}", TemplateError::Repeated),
        ("{bodY}", TemplateError::Placeholder),
        ("{}", TemplateError::Placeholder),
        ("{body", TemplateError::Placeholder),
        ("{body}{", TemplateError::Placeholder),
        ("{body}}", TemplateError::Placeholder),
        ("{{body}}", TemplateError::Placeholder),
        ("}{body}", TemplateError::Placeholder),
    ] {
        assert_eq!(text.parse::<Template>().err(), Some(problem), "{text}");
    }
}

fn hmac_spec() -> HmacSpec {
    HmacSpec {
        headers: vec!["x-sig".to_owned()],
        prefix: String::new(),
        hash: Hash::Sha256,
        encoding: Encoding::Hex,
        secret_encoding: SecretEncoding::Utf8,
        signed: "{id}.{timestamp}.{body}".parse().unwrap(),
        timestamp: Some(TimestampHeader {
            header: "x-at".to_owned(),
            unit: TimestampUnit::Seconds,
        }),
        id: Some("x-id".to_owned()),
        tolerance: Some(Duration::from_secs(300)),
    }
}

#[test]
fn ambiguous_schemes_are_refused() {
    let keys =
        |scheme: Scheme| scheme.validate().iter().map(|problem| problem.key).collect::<Vec<_>>();
    let hmac = |change: fn(&mut HmacSpec)| {
        let mut spec = hmac_spec();
        change(&mut spec);
        keys(Scheme::Hmac(spec))
    };
    assert_eq!(hmac(|_| ()), [""; 0]);
    assert_eq!(hmac(|spec| spec.headers.clear()), ["header"]);
    assert_eq!(hmac(|spec| spec.headers.push("X-Upper".to_owned())), ["header"]);
    assert_eq!(hmac(|spec| spec.id = Some("a b".to_owned())), ["header"]);
    assert_eq!(hmac(|spec| spec.timestamp = None), ["timestamp", "tolerance"]);
    assert_eq!(hmac(|spec| spec.id = None), ["id"]);
    assert_eq!(hmac(|spec| spec.signed = Template::body()), ["timestamp", "id"]);
    assert_eq!(hmac(|spec| spec.signed = "{id}{timestamp}.{body}".parse().unwrap()), ["signed"]);
    assert_eq!(hmac(|spec| spec.signed = "{id}.{timestamp}{body}".parse().unwrap()), ["signed"]);
    assert_eq!(hmac(|spec| spec.tolerance = None), [""; 0]);

    let Scheme::Pairs(mux) = scheme_of("mux") else { panic!("mux has pairs") };
    let pairs = |change: fn(&mut PairsSpec)| {
        let mut spec = mux.clone();
        change(&mut spec);
        keys(Scheme::Pairs(spec))
    };
    assert_eq!(pairs(|spec| spec.signature_key = "t".to_owned()), ["signature_key"]);
    assert_eq!(pairs(|spec| spec.timestamp_key = "a=b".to_owned()), ["timestamp_key"]);
    assert_eq!(pairs(|spec| spec.signature_key.clear()), ["signature_key"]);
    assert_eq!(pairs(|spec| spec.signed = "{id}.{body}".parse().unwrap()), ["signed"]);
    assert!(StandardWebhooksSpec::new(&["signature".to_owned()], Duration::ZERO).is_err());
}

/// Header values and bodies that resemble valid ones.
fn near() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..80),
        "[tv1=,. 0-9a-f]{0,40}".prop_map(String::into_bytes),
        "(t=[0-9]{0,12})?,?(v1=[0-9a-f]{0,66})?,?".prop_map(String::into_bytes),
        "(sha256=)?[0-9a-fA-F]{60,68}".prop_map(String::into_bytes),
        "(v1,[A-Za-z0-9+/=]{40,46} ?){0,3}".prop_map(String::into_bytes),
        "[A-Za-z0-9_-]{0,40}\\.[A-Za-z0-9_-]{0,40}\\.[A-Za-z0-9_-]{0,45}"
            .prop_map(String::into_bytes),
        "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z".prop_map(String::into_bytes),
    ]
}

#[test]
fn arbitrary_requests_never_verify_or_panic() {
    let known: Vec<_> = folders().iter().map(|folder| read(folder)).collect();
    let keys: Vec<_> =
        known.iter().map(|(fixture, scheme)| fixture.requests[0].keys(scheme)).collect();
    let values = prop::collection::vec(near(), 8);
    proptest!(|(values in values, body in near(), now in any::<Millis>(), skip in any::<u8>())| {
        for ((fixture, scheme), keys) in known.iter().zip(&keys) {
            let headers: Vec<(&str, &[u8])> = scheme
                .headers()
                .into_iter()
                .zip(values.iter().map(Vec::as_slice))
                .enumerate()
                .filter(|(at, _)| (skip >> at) & 1 == 0)
                .map(|(_, header)| header)
                .collect();
            let verified = verify(scheme, keys, &headers, &body, now);
            prop_assert!(verified.is_err(), "{}", fixture.platform);
        }
    });
}

#[test]
fn request_verifies_exactly_within_the_tolerance() {
    let at = 1_733_738_400;
    let (scheme, keys) = (scheme_of("mux"), Keys::Secrets(vec![Secret::new("s")]));
    let headers = vec![("mux-signature", format!("t={at},v1={}", "0".repeat(64)))];
    let offsets = prop_oneof![-400_i64..400, -302..-298_i64, 298..302_i64];
    proptest!(|(offset in offsets, ms in 0..1000_i64)| {
        let verdict = verify(&scheme, &keys, &headers, b"", (at + offset) * 1000 + ms).err();
        let expected = if offset.abs() <= 300 {
            VerifyError::Mismatch
        } else {
            VerifyError::OutsideTolerance {
                received: at,
                current: at + offset,
                diff: offset.abs(),
                signature_valid: false,
            }
        };
        prop_assert_eq!(verdict, Some(expected));
    });
}
