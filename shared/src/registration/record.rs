//! A registration as it stands in Redis.
//!
//! Guarantee: what this version does not know of a record survives being changed by it; a record of a later version is
//! told apart before anything else of it is looked at. No secret can be printed.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::config::SecretText;
use crate::event::Millis;

/// The version that is written.
pub(super) const VERSION: u64 = 1;

/// What a platform's requests are verified with.
#[derive(Clone, Deserialize)]
#[serde(from = "Parts<String>")]
pub struct Material {
    key: Option<String>,
    secret: Zeroizing<String>,
}

#[derive(Deserialize, Serialize)]
struct Parts<S> {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<S>,
    secret: S,
}

impl From<Parts<String>> for Material {
    fn from(Parts { key, secret }: Parts<String>) -> Self {
        Self { key, secret: Zeroizing::new(secret) }
    }
}

impl Serialize for Material {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Parts { key: self.key.as_deref(), secret: self.secret.as_str() }.serialize(serializer)
    }
}

impl Material {
    /// A secret, with its API key where the scheme has one.
    #[must_use]
    pub fn new(secret: &str, key: Option<&str>) -> Self {
        Self { key: key.map(str::to_owned), secret: Zeroizing::new(secret.to_owned()) }
    }

    pub(super) fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// The secret as it was given, and without what was pasted along with it.
    pub(super) fn text(&self) -> SecretText {
        SecretText::new(self.secret.as_str())
    }

    pub(super) fn secret(&self) -> &str {
        &self.secret
    }

    pub(super) fn to_json(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(serde_json::to_vec(self).unwrap_or_default())
    }

    pub(super) fn from_json(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(text).ok()
    }
}

impl PartialEq for Material {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key && bool::from(self.secret.as_bytes().ct_eq(other.secret.as_bytes()))
    }
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Material(redacted)")
    }
}

/// A secret in Redis: sealed, or plain where that is allowed.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct StoredSecret {
    /// Base64 of a nonce and a [`Material`], sealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) sealed: Option<String>,
    /// It itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) plain: Option<Material>,
    /// From when on it verifies nothing any more, by Redis's clock; `None`: it stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at_ms: Option<Millis>,
    /// What a later version knows of it.
    #[serde(flatten)]
    pub(super) more: Map<String, Value>,
}

impl StoredSecret {
    /// Whether it verifies nothing any more at `now`.
    #[must_use]
    pub fn is_expired(&self, now: Millis) -> bool {
        self.expires_at_ms.is_some_and(|at| at <= now)
    }
}

/// What is to become of a registered platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It takes webhooks.
    Active,
    /// It takes none any more; what it has queued is worked off, and then it goes.
    Draining,
}

/// A registration.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Record {
    /// The form's version.
    pub v: u64,
    /// The definition as it was registered, without what it verifies with.
    pub definition: Map<String, Value>,
    /// What it verifies with, newest first.
    pub secrets: Vec<StoredSecret>,
    /// Where its processed events go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// See [`State`].
    pub state: State,
    /// When draining began, by Redis's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draining_since: Option<Millis>,
    /// When it was registered first, by Redis's clock.
    pub registered_at: Millis,
    /// When it was changed last, by Redis's clock.
    pub updated_at: Millis,
    /// What a later release of this version knows of it.
    #[serde(flatten)]
    pub(super) more: Map<String, Value>,
}

/// Why a record cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unreadable {
    /// Written by a later version.
    #[error("its version is {0}; this process knows {VERSION}")]
    Later(u64),
    /// Not a record.
    #[error("it is no registration")]
    Nonsense,
}

impl Record {
    /// Reads what stands in Redis.
    pub(super) fn parse(raw: &[u8]) -> Result<Self, Unreadable> {
        #[derive(Deserialize)]
        struct Version {
            v: u64,
        }
        let Version { v } = serde_json::from_slice(raw).map_err(|_| Unreadable::Nonsense)?;
        if v > VERSION {
            return Err(Unreadable::Later(v));
        }
        serde_json::from_slice(raw).map_err(|_| Unreadable::Nonsense)
    }

    /// Whether it has a destination that can be sent to, also while it is being removed.
    #[must_use]
    pub fn delivers(&self) -> bool {
        self.url.is_some() && !self.secrets.is_empty()
    }

    /// What is to stand in Redis.
    pub(super) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The aliases that an unusable record may have claimed.
    pub(super) fn aliases_of(raw: &[u8]) -> Vec<String> {
        let Ok(record) = serde_json::from_slice::<Value>(raw) else { return Vec::new() };
        let list = |value: &Value| match value {
            Value::Array(list) => {
                list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
            }
            Value::String(one) => vec![one.clone()],
            _ => Vec::new(),
        };
        record.pointer("/definition/aliases").map(list).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const RECORD: &str = r#"{"v":1,"definition":{"rate_limit":5},"secrets":[{"plain":{"secret":"5ecret"},"hint":"x"}],
        "state":"active","registered_at":1,"updated_at":2,"colour":"red"}"#;

    #[test]
    fn what_it_does_not_know_survives() {
        let record = Record::parse(RECORD.as_bytes()).unwrap();
        assert_eq!(record.state, State::Active);
        let written: Value = serde_json::from_slice(&record.to_json()).unwrap();
        assert_eq!(written, serde_json::from_str::<Value>(RECORD).unwrap());
        assert!(!format!("{record:?}").contains("5ecret"));
    }

    #[test]
    fn later_versions_are_told_from_nonsense() {
        assert_eq!(Record::parse(br#"{"v":2,"anything":[]}"#).unwrap_err(), Unreadable::Later(2));
        for nonsense in ["", "[]", "{}", r#"{"v":"1"}"#, r#"{"v":1}"#] {
            assert_eq!(
                Record::parse(nonsense.as_bytes()).unwrap_err(),
                Unreadable::Nonsense,
                "{nonsense}"
            );
        }
    }

    #[test]
    fn an_unusable_record_still_tells_its_aliases() {
        assert_eq!(
            Record::aliases_of(br#"{"v":9,"definition":{"aliases":["a","b"]}}"#),
            ["a", "b"]
        );
        assert_eq!(Record::aliases_of(br#"{"definition":{"aliases":"a"}}"#), ["a"]);
        assert!(Record::aliases_of(b"[1").is_empty());
    }

    #[test]
    fn a_secret_expires_at_its_instant() {
        let at = |expires_at_ms| StoredSecret { expires_at_ms, ..StoredSecret::default() };
        assert!(
            at(Some(5)).is_expired(5)
                && !at(Some(5)).is_expired(4)
                && !at(None).is_expired(Millis::MAX)
        );
    }
}
