//! Parses the request that registers a platform.
//!
//! # Guarantees
//!
//! - A [`Registration`] has passed every check that does not depend on other registrations. All
//!   problems are reported at once (`request_reports_all_problems_at_once`).
//! - Problems name keys, never values.
//! - Its definition does not contain the secret (`secret_repeated_in_the_definition_is_refused`).

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};
use toml::Table;

use super::record::SigningSecret;
use super::snapshot::check_secret;
use crate::config::Problem;
use crate::json::Document;
use crate::outbound::config::destination_url;
use crate::platform::definition::syntax::duration;
use crate::platform::registry::{Registry, platform_name};
use crate::platform::{Platform, PlatformName};

/// Longest request in bytes.
pub const MAX_REQUEST_BYTES: usize = 64 * 1024;
/// Longest secret in bytes.
pub const MAX_SECRET_BYTES: usize = 4096;
/// Longest API key in bytes.
const MAX_KEY_BYTES: usize = 256;
/// Time for which old secrets stay valid by default.
const DEFAULT_OLD_SECRET_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// Minimum length of a secret that is searched for in the definition. A shorter one may be an
/// ordinary word.
const MIN_SEARCHED_BYTES: usize = 8;

/// A platform to register.
#[derive(Clone, Debug)]
pub struct Registration {
    /// The checked definition.
    pub platform: Arc<Platform>,
    /// Secret that verifies its requests.
    pub(super) signing_secret: SigningSecret,
    /// Definition as it was sent.
    pub(super) definition: Map<String, Value>,
    /// Time for which the previous secrets stay valid.
    pub(super) old_secret_lifetime: Duration,
    /// URL that receives the processed events.
    pub(super) url: Option<String>,
}

impl Registration {
    /// Parses `body`, a JSON object. Its members are `platform`, `secret`, `key` (the API key of
    /// `livekit-jwt`), `old_secret_expires_in`, `url` (receives the processed events) and all keys
    /// of a definition.
    ///
    /// # Errors
    /// Returns all problems.
    pub fn read(body: &[u8], base: &Registry) -> Result<Self, Vec<Problem>> {
        let mut fields = RequestFields { members: members(body)?, problems: Vec::new() };
        let name = fields.name();
        let signing_secret = fields.signing_secret();
        let old_secret_lifetime = fields.old_secret_lifetime();
        let url = fields.url();
        let RequestFields { members: definition, mut problems } = fields;
        // A missing name is already reported. The stand-in lets the rest of the definition be
        // checked too.
        let stand_in = || PlatformName::new("unnamed").ok();
        let platform = name.clone().or_else(stand_in).and_then(|name| {
            let compiled =
                to_toml(&definition).and_then(|table| base.compile_registered(&name, table));
            compiled.map_err(|found| problems.extend(found)).ok()
        });
        if let (Some(signing_secret), Some(platform)) = (&signing_secret, &platform)
            && let Err(reason) = check_secret(signing_secret, &platform.scheme)
        {
            let key = if platform.scheme.uses_credentials() != signing_secret.key().is_some() {
                "key"
            } else {
                "secret"
            };
            problems.push(Problem::new(key, reason));
        }
        if let Some(signing_secret) = &signing_secret
            && signing_secret.text().clean().len() >= MIN_SEARCHED_BYTES
            && contains_secret(&definition, signing_secret.text().clean())
        {
            problems.push(Problem::new(
                "secret",
                "also appears elsewhere in the request, where it would be shown",
            ));
        }
        match (name, platform, signing_secret, old_secret_lifetime) {
            (Some(_), Some(platform), Some(signing_secret), Some(old_secret_lifetime))
                if problems.is_empty() =>
            {
                Ok(Self {
                    platform: Arc::new(platform),
                    signing_secret,
                    definition,
                    old_secret_lifetime,
                    url,
                })
            }
            _ => Err(problems),
        }
    }
}

/// Members of a request that are not yet read. The rest of them is the definition.
struct RequestFields {
    members: Map<String, Value>,
    problems: Vec<Problem>,
}

impl RequestFields {
    fn problem(&mut self, key: &str, reason: impl std::fmt::Display) {
        self.problems.push(Problem::new(key, reason));
    }

    fn text(&mut self, key: &str) -> Option<String> {
        match self.members.remove(key)? {
            Value::String(text) => Some(text),
            _ => {
                self.problem(key, "must be a string");
                None
            }
        }
    }

    fn required(&mut self, key: &str) -> Option<String> {
        if !self.members.contains_key(key) {
            self.problem(key, "is missing");
        }
        self.text(key)
    }

    fn name(&mut self) -> Option<PlatformName> {
        let name = self.required("platform")?;
        platform_name(&name).map_err(|reason| self.problem("platform", reason)).ok()
    }

    fn signing_secret(&mut self) -> Option<SigningSecret> {
        let secret = self.required("secret").map(zeroize::Zeroizing::new);
        let key = self.text("key");
        if secret.as_ref().is_some_and(|secret| !(1..=MAX_SECRET_BYTES).contains(&secret.len())) {
            self.problem("secret", format_args!("must be 1 to {MAX_SECRET_BYTES} bytes"));
            return None;
        }
        let fits = |key: &String| {
            (1..=MAX_KEY_BYTES).contains(&key.len()) && !key.contains(char::is_control)
        };
        if key.as_ref().is_some_and(|key| !fits(key)) {
            self.problem(
                "key",
                format_args!("must be 1 to {MAX_KEY_BYTES} bytes without control characters"),
            );
            return None;
        }
        Some(SigningSecret::new(&secret?, key.as_deref()))
    }

    /// Returns `None` after a problem.
    fn old_secret_lifetime(&mut self) -> Option<Duration> {
        const KEY: &str = "old_secret_expires_in";
        if !self.members.contains_key(KEY) {
            return Some(DEFAULT_OLD_SECRET_LIFETIME);
        }
        let text = self.text(KEY)?;
        if matches!(text.as_str(), "0ms" | "0s" | "0m" | "0h" | "0d") {
            return Some(Duration::ZERO);
        }
        duration(&text).map_err(|reason| self.problem(KEY, reason)).ok()
    }

    fn url(&mut self) -> Option<String> {
        let text = self.text("url")?;
        match destination_url(&text) {
            Ok(url) => Some(url.into()),
            Err(reason) => {
                self.problem("url", reason);
                None
            }
        }
    }
}

/// Parses the members of a JSON object. Null members count as absent.
fn members(body: &[u8]) -> Result<Map<String, Value>, Vec<Problem>> {
    let wrong = |reason: String| vec![Problem::new("body", reason)];
    // serde_json would silently drop one of two equal keys.
    Document::parse(body).map_err(|error| wrong(error.to_string()))?;
    match serde_json::from_slice(body) {
        Ok(Value::Object(mut members)) => {
            members.retain(|_, value| !value.is_null());
            Ok(members)
        }
        Ok(_) => Err(wrong("must be an object".to_owned())),
        Err(_) => Err(wrong("has a number that is too large".to_owned())),
    }
}

/// Converts a definition to TOML, the format of files.
///
/// # Errors
/// Returns the values that TOML cannot represent.
pub(super) fn to_toml(definition: &Map<String, Value>) -> Result<Table, Vec<Problem>> {
    let mut problems = Vec::new();
    let table = toml_table("", definition, &mut problems);
    if problems.is_empty() { Ok(table) } else { Err(problems) }
}

fn toml_table(path: &str, members: &Map<String, Value>, problems: &mut Vec<Problem>) -> Table {
    let mut table = Table::new();
    for (key, value) in members {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        if let Some(value) = toml_value(&path, value, problems) {
            table.insert(key.clone(), value);
        }
    }
    table
}

fn toml_value(path: &str, value: &Value, problems: &mut Vec<Problem>) -> Option<toml::Value> {
    Some(match value {
        Value::Bool(on) => toml::Value::Boolean(*on),
        Value::String(text) => toml::Value::String(text.clone()),
        Value::Array(list) => {
            let list = list.iter().enumerate();
            toml::Value::Array(
                list.filter_map(|(at, value)| {
                    toml_value(&format!("{path}[{at}]"), value, problems)
                })
                .collect(),
            )
        }
        Value::Object(members) => toml::Value::Table(toml_table(path, members, problems)),
        Value::Number(number) => match (number.as_i64(), number.is_f64(), number.as_f64()) {
            (Some(whole), ..) => toml::Value::Integer(whole),
            (None, true, Some(number)) => toml::Value::Float(number),
            _ => {
                problems.push(Problem::new(path, "must be a number of at most 64 bits"));
                return None;
            }
        },
        Value::Null => {
            problems.push(Problem::new(path, "must not be null; leave it out"));
            return None;
        }
    })
}

/// Returns true if a text or a key in `definition` contains `secret`.
fn contains_secret(definition: &Map<String, Value>, secret: &str) -> bool {
    definition
        .iter()
        .any(|(key, value)| key.contains(secret) || value_contains_secret(value, secret))
}

fn value_contains_secret(value: &Value, secret: &str) -> bool {
    match value {
        Value::String(text) => text.contains(secret),
        Value::Array(list) => list.iter().any(|value| value_contains_secret(value, secret)),
        Value::Object(members) => contains_secret(members, secret),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests;
