//! Holds the keys that verify requests.
//!
//! # Guarantees
//!
//! - Debug output shows no key, and errors do not repeat a secret
//!   (`secrets_are_decoded_by_scheme_and_never_shown`).
//! - A secret verifies with and without what was pasted around it
//!   (`pasted_secret_verifies_with_and_without_surroundings`).
//!
//! Memory that holds a secret is zeroed when it is dropped.

use std::fmt;

use jsonwebtoken::DecodingKey;
use zeroize::Zeroizing;

use super::base64_text;
use super::mac::constant_time_eq;
use super::spec::{Scheme, SecretEncoding};
use crate::config::SecretText;

/// Bytes of a key.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

/// Error of a secret whose text cannot become a key. It never holds the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// The text is empty.
    #[error("is empty")]
    Empty,
    /// The definition requires base64.
    #[error("is not base64")]
    Base64,
    /// A Standard Webhooks secret must be base64, with or without its usual prefix.
    #[error(
        "is not base64; a secret of Standard Webhooks is whsec_ and the key in base64, or that \
         base64 alone"
    )]
    StandardWebhooks,
    /// The definition requires hex.
    #[error("is not hex")]
    Hex,
    /// A private or public key of Standard Webhooks. Only shared secrets are supported.
    #[error("is an asymmetric key of Standard Webhooks; a shared secret begins with whsec_")]
    Asymmetric,
}

impl Secret {
    /// Creates a key of these bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(Zeroizing::new(bytes.into()))
    }

    /// Decodes a key from the text of a secret.
    ///
    /// # Errors
    /// Returns an error if the text is empty or not in this encoding.
    pub fn decode(text: &str, encoding: SecretEncoding) -> Result<Self, SecretError> {
        let secret = match encoding {
            SecretEncoding::Utf8 => Self::new(text),
            SecretEncoding::Base64 => {
                Self::new(base64_text::decode_secret(text).ok_or(SecretError::Base64)?)
            }
            SecretEncoding::Hex => Self::new(hex::decode(text).map_err(|_| SecretError::Hex)?),
        };
        if secret.0.is_empty() { Err(SecretError::Empty) } else { Ok(secret) }
    }

    /// Compares `text` with this secret. The time that it takes shows only their lengths.
    #[must_use]
    pub fn equals(&self, text: &[u8]) -> bool {
        constant_time_eq(&self.0, text)
    }

    /// Bytes of the key.
    pub(super) fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

/// An API key with its secret.
#[derive(Clone)]
pub struct Credential {
    key: String,
    secret: Secret,
    decoding: DecodingKey,
}

impl Credential {
    /// Creates a credential from the API key, which is the issuer of the token, and the API secret.
    #[must_use]
    pub fn new(key: impl Into<String>, secret: &Secret) -> Self {
        Self {
            key: key.into(),
            secret: secret.clone(),
            decoding: DecodingKey::from_secret(secret.expose()),
        }
    }

    /// The API key. It is not secret.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    pub(super) fn secret(&self) -> &Secret {
        &self.secret
    }

    pub(super) fn decoding_key(&self) -> &DecodingKey {
        &self.decoding
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential(redacted)")
    }
}

/// Keys of a platform. A request is verified if any of them matches.
#[derive(Clone, Debug)]
pub enum Keys {
    /// For every scheme except `livekit-jwt`.
    Secrets(Vec<Secret>),
    /// For `livekit-jwt`.
    Credentials(Vec<Credential>),
}

impl Keys {
    /// Returns true if there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Secrets(list) => list.is_empty(),
            Self::Credentials(list) => list.is_empty(),
        }
    }
}

impl Scheme {
    /// Decodes a key of this scheme from the text of a secret. `secret_encoding` or the scheme
    /// itself names the encoding.
    ///
    /// # Errors
    /// Returns an error if the text cannot be a key.
    pub fn secret(&self, text: &str) -> Result<Secret, SecretError> {
        match self {
            Self::Hmac(spec) => Secret::decode(text, spec.secret_encoding),
            Self::Pairs(spec) => Secret::decode(text, spec.secret_encoding),
            Self::StandardWebhooks(_) => standard_webhooks(text),
            Self::LivekitJwt(_) | Self::SharedSecret(_) => {
                Secret::decode(text, SecretEncoding::Utf8)
            }
        }
    }

    /// Decodes the keys that a secret's text may mean: the text without what was pasted around it,
    /// and the literal text if it differs. Any of them verifies.
    ///
    /// # Errors
    /// Returns an error if neither form of the text can be a key.
    pub fn secrets(&self, text: &SecretText) -> Result<Vec<Secret>, SecretError> {
        if text.is_empty() {
            return Err(SecretError::Empty);
        }
        let clean = self.secret(text.clean());
        let literal = text.remark().and_then(|_| self.secret(text.literal()).ok());
        let differs = |literal: &Secret| {
            clean.as_ref().ok().is_none_or(|clean| clean.expose() != literal.expose())
        };
        match (clean.clone(), literal.filter(differs)) {
            (Err(_), Some(literal)) => Ok(vec![literal]),
            (clean, literal) => Ok(std::iter::once(clean?).chain(literal).collect()),
        }
    }

    /// Returns true if the scheme verifies with [`Keys::Credentials`], not with [`Keys::Secrets`].
    #[must_use]
    pub fn uses_credentials(&self) -> bool {
        matches!(self, Self::LivekitJwt(_))
    }
}

/// Decodes a Standard Webhooks secret: base64, `whsec_…` or `v1,whsec_…`. A blank may follow the
/// comma.
fn standard_webhooks(text: &str) -> Result<Secret, SecretError> {
    let text = base64_text::without_version(text);
    if ["whsk_", "whpk_"].iter().any(|prefix| text.starts_with(prefix)) {
        return Err(SecretError::Asymmetric);
    }
    let key = Secret::decode(text.strip_prefix("whsec_").unwrap_or(text), SecretEncoding::Base64);
    key.map_err(
        |error| {
            if error == SecretError::Base64 { SecretError::StandardWebhooks } else { error }
        },
    )
}
