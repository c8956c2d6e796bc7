//! Fuzz targets: each function takes any bytes and panics if a property does not hold.

use std::sync::LazyLock;

use shared::event::StreamId;
use shared::json::Document;
use shared::outbound::payload::{PayloadParts, payload as print};
use shared::platform::{PlatformName, registry::Registry};
use shared::queue::{DeadLetter, Fields, StreamEntry, decode, record};
use shared::signature::{Credential, Keys, Scheme, Secret, verify};

/// Function that checks its properties for the given bytes.
pub(crate) type FuzzTarget = fn(&[u8]);

/// All targets by name.
#[allow(dead_code, reason = "the fuzzing binaries name a single target")]
pub(crate) const ALL: [(&str, FuzzTarget); 6] = [
    ("signature", signature),
    ("codec", codec),
    ("definition", definition),
    ("import", import),
    ("json", json),
    ("payload", payload),
];

/// Secret that no fuzzed input is signed with.
const SECRET: &str = "c2VjcmV0LXRoYXQtbm9ib2R5LWd1ZXNzZXMtMDEyMzQ1Njc4OQ==";

/// The schemes of all bundled platforms, each with a key.
static SCHEMES: LazyLock<Vec<(Scheme, Keys)>> = LazyLock::new(|| {
    let registry = Registry::from_text("none", "").expect("the bundled definitions");
    let keyed = registry.iter().map(|platform| {
        let scheme = platform.scheme.clone();
        let secret = scheme.secret(SECRET).unwrap_or_else(|_| Secret::new(SECRET));
        let keys = if scheme.uses_credentials() {
            Keys::Credentials(vec![Credential::new("key", &secret)])
        } else {
            Keys::Secrets(vec![secret])
        };
        (scheme, keys)
    });
    keyed.collect()
});

/// Splits `data` at bytes of 255.
fn pieces(data: &[u8]) -> Vec<&[u8]> {
    data.split(|byte| *byte == 0xff).collect()
}

/// Takes the values of the signature headers, then the body. Every scheme must refuse a request
/// that was signed without the secret.
pub(crate) fn signature(data: &[u8]) {
    let mut pieces = pieces(data);
    let body = pieces.pop().unwrap_or_default();
    for (scheme, keys) in SCHEMES.iter() {
        let names = scheme.headers();
        let headers: Vec<(&str, &[u8])> =
            names.iter().copied().zip(pieces.iter().copied()).collect();
        for now in [1_700_000_000_000, i64::MAX, i64::MIN] {
            assert!(
                verify(scheme, keys, &headers, body, now).is_err(),
                "{} verified it",
                scheme.name()
            );
        }
        // Use one value for all headers too, once and repeated.
        if let Some(value) = pieces.first() {
            let same: Vec<(&str, &[u8])> = names.iter().map(|name| (*name, *value)).collect();
            assert!(verify(scheme, keys, &same, body, 1_700_000_000_000).is_err());
            let twice: Vec<(&str, &[u8])> = same.iter().chain(&same).copied().collect();
            assert!(verify(scheme, keys, &twice, body, 1_700_000_000_000).is_err());
        }
    }
}

fn fields(data: &[u8]) -> Fields {
    pieces(data)
        .chunks(2)
        .map(|pair| (pair[0].to_vec(), pair.get(1).copied().unwrap_or_default().to_vec()))
        .collect()
}

fn entry(fields: Fields) -> StreamEntry {
    StreamEntry { id: StreamId { ms: 7, seq: 3 }, fields: Some(fields.into()) }
}

/// Takes the fields of a stream entry. They decode or are refused. Exported as a dead letter, the
/// line must give back the same fields.
pub(crate) fn codec(data: &[u8]) {
    let fields = fields(data);
    if let Ok(event) = decode(entry(fields.clone())) {
        assert!(!event.event_id.is_empty() && event.attempt > 0);
    }
    let platform = PlatformName::new("acme").expect("a name");
    let letter = DeadLetter::decode(&platform, entry(fields.clone()));
    drop(format!("{letter:?}"));
    let mut line = Vec::new();
    record::write(&platform, entry(fields.clone()), &mut line).expect("a line");
    let lines = line.iter().filter(|byte| **byte == b'\n').count();
    assert_eq!(lines, 1, "one line");
    if fields.len() <= 2000 {
        assert_eq!(record::read(&line).expect("what was written").fields, fields);
    }
}

/// Takes a definitions file. It loads, or is refused with at least one problem. No problem may
/// contain a secret.
pub(crate) fn definition(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Registry::from_text("platforms.toml", text) {
        Ok(registry) => assert!(registry.iter().all(|platform| !platform.name.as_str().is_empty())),
        Err(problems) => {
            assert!(!problems.is_empty(), "refused without a reason");
            for problem in problems {
                let text = problem.to_string();
                assert!(!text.contains("TOPSECRET"), "{text}");
                assert!(text.len() < 20_000, "a problem text of {} bytes", text.len());
            }
        }
    }
}

/// Takes a line for `import`. It is refused, or its dead letter exports to an equivalent line.
pub(crate) fn import(data: &[u8]) {
    let Ok(read) = record::read(data) else { return };
    let mut line = Vec::new();
    record::write(
        &read.platform,
        StreamEntry { id: read.id, fields: Some(read.fields.clone().into()) },
        &mut line,
    )
    .expect("a line");
    assert_eq!(record::read(&line).expect("what was written"), read);
}

fn canonical(text: &[u8]) -> Option<Vec<u8>> {
    let document = Document::parse(text).ok()?;
    let mut form = Vec::new();
    document.canonical_hash_into(&mut |piece| form.extend_from_slice(piece), &[]);
    Some(form)
}

/// Takes a body. A parsed body is JSON for serde_json too, and has one canonical form in every
/// spelling.
pub(crate) fn json(data: &[u8]) {
    let document = match Document::parse(data) {
        Ok(document) => document,
        Err(error) => return drop(error.to_string()),
    };
    let raw: &serde_json::value::RawValue =
        serde_json::from_slice(data).expect("JSON for serde_json, too");
    assert_eq!(document.root().raw(), raw.get());
    let _ = shared::json::time::parse(document.root());
    let form = canonical(data).expect("it was parsed");
    assert_eq!(canonical(document.root().raw().as_bytes()).expect("its own text"), form);
    let spaced = [b" \n".as_slice(), data, b"\t\r\n "].concat();
    assert_eq!(canonical(&spaced).expect("white space"), form);
    let wrapped = [b"[".as_slice(), data, b"]"].concat();
    assert_ne!(canonical(&wrapped).unwrap_or_default(), form);
}

/// Returns the payload that a destination receives for `body`.
pub(crate) fn printed(body: &[u8]) -> String {
    print(&PayloadParts {
        event: "e",
        body,
        at: 0,
        webhook_id: "w",
        source: "s",
        platform: "p",
        event_id: "i",
        result: None,
    })
}

/// Returns the member `value` as printed in the `data` of a payload.
pub(crate) fn printed_data(value: &str) -> String {
    let text = printed(format!("{{\"data\":{{\"x\":{value}}}}}").as_bytes());
    let document = Document::parse(text.as_bytes()).expect("JSON");
    let data = document.root().get("data").and_then(|data| data.get("x")).expect("the member");
    data.raw().to_owned()
}

/// Takes a body. Its payload is one line of JSON, and printing it again changes nothing.
pub(crate) fn payload(data: &[u8]) {
    let text = printed(data);
    let document = Document::parse(text.as_bytes()).expect("JSON");
    assert!(text.bytes().all(|byte| byte >= b' '), "one line without control characters");
    let once = document.root().get("data").expect("data").raw();
    if Document::parse_text(&shared::json::text(data)).is_err() {
        assert_eq!(once, "null");
        return;
    }
    let again = printed_data(once);
    assert_eq!(again, once, "stable");
}
