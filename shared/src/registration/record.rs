//! Defines the record of a registration in Redis.
//!
//! # Guarantees
//!
//! - Members that this version does not know survive a change (`record_keeps_unknown_members`).
//! - A record of a newer version is recognised before the rest of it is read
//!   (`newer_version_is_distinguished_from_malformed`).
//!
//! Debug output holds no secret.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::config::SecretText;
use crate::event::Millis;

/// Version that is written.
pub(super) const VERSION: u64 = 1;

/// Secret that verifies the requests of a platform.
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
    /// Creates a secret, with its API key if the scheme has one.
    #[must_use]
    pub fn new(secret: &str, key: Option<&str>) -> Self {
        Self { key: key.map(str::to_owned), secret: Zeroizing::new(secret.to_owned()) }
    }

    pub(super) fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// The secret as given, and without what was pasted around it.
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

/// A secret in Redis: sealed, or in plain text if that is allowed.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct StoredSecret {
    /// Base64 of a nonce and a sealed [`SigningSecret`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) sealed: Option<String>,
    /// The secret in plain text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) plain: Option<SigningSecret>,
    /// Expiry by Redis's clock. `None`: it does not expire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at_ms: Option<Millis>,
    /// Members that only newer versions know.
    #[serde(flatten)]
    pub(super) more: Map<String, Value>,
}

impl StoredSecret {
    /// Returns true if the secret has expired at `now`.
    #[must_use]
    pub fn is_expired(&self, now: Millis) -> bool {
        self.expires_at_ms.is_some_and(|at| at <= now)
    }
}

/// State of a registered platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RegistrationState {
    /// Accepts webhooks.
    Active,
    /// Accepts no more webhooks, and is removed once its queued events are processed.
    Draining,
}

/// Record of a registered platform.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct RegistrationRecord {
    /// Version of the format.
    pub v: u64,
    /// Definition as registered, without secrets.
    pub definition: Map<String, Value>,
    /// Secrets, newest first.
    pub secrets: Vec<StoredSecret>,
    /// URL that receives the processed events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// See [`RegistrationState`].
    pub state: RegistrationState,
    /// Start of the removal, by Redis's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draining_since: Option<Millis>,
    /// Time of the first registration, by Redis's clock.
    pub registered_at: Millis,
    /// Time of the last change, by Redis's clock.
    pub updated_at: Millis,
    /// Members that only newer releases know.
    #[serde(flatten)]
    pub(super) more: Map<String, Value>,
}

/// Reason why a record cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RegistrationRecordError {
    /// A newer version wrote it.
    #[error("unsupported record version {0}; this process supports {VERSION}")]
    NewerVersion(u64),
    /// Not a record.
    #[error("malformed registration record")]
    Malformed,
}

impl RegistrationRecord {
    /// Parses a record from Redis.
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

    /// Returns true if the registration has a destination that deliveries can be sent to, also
    /// during its removal.
    #[must_use]
    pub fn has_destination(&self) -> bool {
        self.url.is_some() && !self.secrets.is_empty()
    }

    /// Serializes the record for Redis.
    pub(super) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Returns the aliases that an unusable record may have claimed.
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

    const RECORD: &str = r#"{"v":1,"definition":{"rate_limit":5},
        "secrets":[{"plain":{"secret":"5ecret"},"hint":"x"}],
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
