//! Reads the files of `tests/fixtures/cases`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Map, Value};
use tests::sender::{HttpAnswer, now_ms, unique};
use tests::sign::SignedWebhook;

use super::signer::Signing;

/// Content of one file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RequestCase {
    #[serde(rename = "name")]
    _name: String,
    pub(super) platforms_toml: Option<String>,
    pub(super) announce: Option<Value>,
    #[serde(default)]
    pub(super) requests: Vec<CaseRequest>,
    #[serde(default)]
    pub(super) same_connection: bool,
    #[serde(default)]
    pub(super) idle_check: bool,
    pub(super) config_check: Option<ConfigCheck>,
    pub(super) secret_check: Option<SecretCheck>,
    pub(super) expected: ExpectedOutcome,
}

/// Request to send.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CaseRequest {
    method: String,
    path: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    body: Option<String>,
    body_base64: Option<String>,
    signing: Option<Signing>,
}

/// Captured request for `ingress check-platform`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConfigCheck {
    pub(super) platforms_toml: String,
    pub(super) platform: String,
    #[serde(default)]
    pub(super) body: String,
    pub(super) signing: Option<Signing>,
    #[serde(default)]
    pub(super) env: BTreeMap<String, String>,
    pub(super) file_base64: Option<String>,
}

/// Secret as an operator pasted it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SecretCheck {
    pub(super) variable: String,
    pub(super) value: String,
}

/// Expected outcome of a case.
#[derive(Debug, Deserialize)]
pub(super) struct ExpectedOutcome {
    status: Option<Value>,
    body: Option<String>,
    /// If set, a 400 that mentions JSON is accepted as well.
    or: Option<String>,
    pub(super) exit: Option<i32>,
    pub(super) table: Option<String>,
    #[serde(default, rename = "where")]
    pub(super) key: BTreeMap<String, String>,
    pub(super) row: Option<Map<String, Value>>,
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/cases")
}

/// Names of all files, sorted.
pub(super) fn files() -> Vec<String> {
    let entries = std::fs::read_dir(folder()).expect("the cases");
    let name = |entry: std::io::Result<std::fs::DirEntry>| {
        let name = entry.expect("an entry").file_name().into_string().expect("a name");
        name.strip_suffix(".json").expect("a JSON file").to_owned()
    };
    let mut names: Vec<String> = entries.map(name).collect();
    names.sort();
    names
}

impl RequestCase {
    /// Reads the file `name` and fills in its placeholders.
    pub(super) fn read(name: &str) -> Self {
        let path = folder().join(format!("{name}.json"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut value: Value = serde_json::from_str(&text).expect("JSON");
        fill(&mut value, &unique("c"));
        serde_json::from_value(value).unwrap_or_else(|error| panic!("{name}: {error}"))
    }
}

/// Fills in the placeholders of every string.
fn fill(value: &mut Value, uid: &str) {
    match value {
        Value::String(text) => *text = times(&text.replace("{uid}", uid)),
        Value::Array(items) => items.iter_mut().for_each(|item| fill(item, uid)),
        Value::Object(members) => members.iter_mut().for_each(|(name, member)| {
            if name == "body_base64" {
                let bytes = STANDARD.decode(member.as_str().expect("a text")).expect("base64");
                let text = String::from_utf8(bytes).expect("a text").replace("{uid}", uid);
                *member = STANDARD.encode(times(&text)).into();
            } else {
                fill(member, uid);
            }
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Fills in `{iso}` and `{iso-SECONDS|FORMAT}`.
fn times(text: &str) -> String {
    let mut parts = text.split("{iso");
    let mut filled = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (placeholder, rest) = part.split_once('}').expect("a closing brace");
        let (age, format) =
            placeholder.split_once('|').unwrap_or((placeholder, "%Y-%m-%dT%H:%M:%S.000Z"));
        let age: i64 = age.trim_start_matches('-').parse().unwrap_or(0);
        filled.push_str(&formatted(now_ms() / 1000 - age, format));
        filled.push_str(rest);
    }
    filled
}

fn formatted(seconds: i64, format: &str) -> String {
    let at = time::OffsetDateTime::from_unix_timestamp(seconds).expect("a time");
    let parts = [
        ("%Y", at.year().to_string()),
        ("%m", format!("{:02}", u8::from(at.month()))),
        ("%d", format!("{:02}", at.day())),
        ("%H", format!("{:02}", at.hour())),
        ("%M", format!("{:02}", at.minute())),
        ("%S", format!("{:02}", at.second())),
    ];
    let text =
        parts.iter().fold(format.to_owned(), |text, (name, value)| text.replace(name, value));
    assert!(!text.contains('%'), "unknown part of a time: {text}");
    text
}

impl CaseRequest {
    pub(super) fn method(&self) -> Method {
        self.method.parse().expect("a method")
    }

    /// Returns the request with its signature.
    pub(super) fn signed(&self) -> SignedWebhook {
        let body = match (&self.body, &self.body_base64) {
            (Some(text), _) => text.clone().into_bytes(),
            (None, Some(bytes)) => STANDARD.decode(bytes).expect("base64"),
            (None, None) => Vec::new(),
        };
        let headers =
            self.headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        let mut request = SignedWebhook { path: self.path.clone(), headers, body };
        if let Some(signing) = &self.signing {
            let added = signing.headers(&request.body);
            request.headers.extend(added);
        }
        request
    }
}

impl ExpectedOutcome {
    /// Checks the answer to the last request.
    #[track_caller]
    pub(super) fn holds_for(&self, answer: &HttpAnswer) {
        let allowed = match self.status.as_ref().expect("a status") {
            Value::Array(several) => several.clone(),
            one => vec![one.clone()],
        };
        let explained = self.or.is_some() && answer.status == 400 && answer.text.contains("JSON");
        let as_expected = allowed.contains(&Value::from(answer.status));
        assert!(as_expected || explained, "{} {}", answer.status, answer.text);
        if let Some(body) = &self.body {
            assert_eq!(&answer.text, body);
        }
    }
}
