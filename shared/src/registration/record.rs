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
#[serde(from = "SecretFields<String>")]
pub struct SigningSecret {
    key: Option<String>,
    secret: Zeroizing<String>,
}

#[derive(Deserialize, Serialize)]
struct SecretFields<S> {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<S>,
    secret: S,
}

impl From<SecretFields<String>> for SigningSecret {
    fn from(SecretFields { key, secret }: SecretFields<String>) -> Self {
        Self { key, secret: Zeroizing::new(secret) }
    }
}

impl Serialize for SigningSecret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        SecretFields { key: self.key.as_deref(), secret: self.secret.as_str() }
            .serialize(serializer)
    }
}

impl SigningSecret {
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

impl PartialEq for SigningSecret {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key && bool::from(self.secret.as_bytes().ct_eq(other.secret.as_bytes()))
    }
}

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Material(redacted)")
    }
}

/// A secret in Redis: sealed, or plain where that is allowed.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct StoredSecret {
    /// Base64 of a nonce and a [`SigningSecret`], sealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) sealed: Option<String>,
    /// It itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) plain: Option<SigningSecret>,
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
pub enum RegistrationState {
    /// It takes webhooks.
    Active,
    /// It takes none any more; what it has queued is worked off, and then it goes.
    Draining,
}

/// A registration.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct RegistrationRecord {
    /// The form's version.
    pub v: u64,
    /// The definition as it was registered, without what it verifies with.
    pub definition: Map<String, Value>,
    /// What it verifies with, newest first.
    pub secrets: Vec<StoredSecret>,
    /// Where its processed events go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// See [`RegistrationState`].
    pub state: RegistrationState,
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
pub(super) enum RegistrationRecordError {
    /// Written by a later version.
    #[error("its version is {0}; this process knows {VERSION}")]
    NewerVersion(u64),
    /// Not a record.
    #[error("it is no registration")]
    Malformed,
}

impl RegistrationRecord {
    /// Reads what stands in Redis.
    pub(super) fn parse(raw: &[u8]) -> Result<Self, RegistrationRecordError> {
        #[derive(Deserialize)]
        struct RecordVersion {
            v: u64,
        }
        let RecordVersion { v } =
            serde_json::from_slice(raw).map_err(|_| RegistrationRecordError::Malformed)?;
        if v > VERSION {
            return Err(RegistrationRecordError::NewerVersion(v));
        }
        serde_json::from_slice(raw).map_err(|_| RegistrationRecordError::Malformed)
    }

    /// Whether it has a destination that can be sent to, also while it is being removed.
    #[must_use]
    pub fn has_destination(&self) -> bool {
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
    fn record_keeps_unknown_members() {
        let record = RegistrationRecord::parse(RECORD.as_bytes()).unwrap();
        assert_eq!(record.state, RegistrationState::Active);
        let written: Value = serde_json::from_slice(&record.to_json()).unwrap();
        assert_eq!(written, serde_json::from_str::<Value>(RECORD).unwrap());
        assert!(!format!("{record:?}").contains("5ecret"));
    }

    #[test]
    fn newer_version_is_distinguished_from_malformed() {
        assert_eq!(
            RegistrationRecord::parse(br#"{"v":2,"anything":[]}"#).unwrap_err(),
            RegistrationRecordError::NewerVersion(2)
        );
        for nonsense in ["", "[]", "{}", r#"{"v":"1"}"#, r#"{"v":1}"#] {
            assert_eq!(
                RegistrationRecord::parse(nonsense.as_bytes()).unwrap_err(),
                RegistrationRecordError::Malformed,
                "{nonsense}"
            );
        }
    }

    #[test]
    fn unusable_record_still_yields_its_aliases() {
        assert_eq!(
            RegistrationRecord::aliases_of(br#"{"v":9,"definition":{"aliases":["a","b"]}}"#),
            ["a", "b"]
        );
        assert_eq!(RegistrationRecord::aliases_of(br#"{"definition":{"aliases":"a"}}"#), ["a"]);
        assert!(RegistrationRecord::aliases_of(b"[1").is_empty());
    }

    #[test]
    fn secret_expires_at_its_instant() {
        let at = |expires_at_ms| StoredSecret { expires_at_ms, ..StoredSecret::default() };
        assert!(
            at(Some(5)).is_expired(5)
                && !at(Some(5)).is_expired(4)
                && !at(None).is_expired(Millis::MAX)
        );
    }
}
