//! What requests are verified with.
//!
//! Guarantee: nothing here can be printed, and memory that held a secret is zeroed when it is dropped.

use std::fmt;

use jsonwebtoken::DecodingKey;
use zeroize::Zeroizing;

use super::base64_text;
use super::mac::constant_time_eq;
use super::spec::{Scheme, SecretEncoding};
use crate::config::SecretText;

/// A key's bytes.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

/// A secret whose text cannot become a key. Never shows the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// Nothing to sign with.
    #[error("is empty")]
    Empty,
    /// The definition says base64.
    #[error("is not base64")]
    Base64,
    /// A secret of Standard Webhooks is base64, with or without what services put in front of it.
    #[error(
        "is not base64; a secret of Standard Webhooks is whsec_ and the key in base64, or that base64 alone"
    )]
    StandardWebhooks,
    /// The definition says hex.
    #[error("is not hex")]
    Hex,
    /// A private or public key of Standard Webhooks, where only shared secrets verify.
    #[error("is an asymmetric key of Standard Webhooks; a shared secret begins with whsec_")]
    Asymmetric,
}

impl Secret {
    /// A key of these bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(Zeroizing::new(bytes.into()))
    }

    /// A key from a secret's text.
    ///
    /// # Errors
    /// When it is empty or not of this encoding.
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

    /// Compares `text` with this secret. Only their lengths may show in the time that it takes.
    #[must_use]
    pub fn equals(&self, text: &[u8]) -> bool {
        constant_time_eq(&self.0, text)
    }

    /// The key.
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
    /// The API key, which is the token's issuer, and the API secret.
    #[must_use]
    pub fn new(key: impl Into<String>, secret: &Secret) -> Self {
        Self {
            key: key.into(),
            secret: secret.clone(),
            decoding: DecodingKey::from_secret(secret.expose()),
        }
    }

    /// The API key; no secret, but of no use to anybody else.
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

/// What a platform's requests are verified with: any of them will do.
#[derive(Clone, Debug)]
pub enum Keys {
    /// For every scheme but `livekit-jwt`.
    Secrets(Vec<Secret>),
    /// For `livekit-jwt`.
    Credentials(Vec<Credential>),
}

impl Keys {
    /// Whether nothing can verify.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Secrets(list) => list.is_empty(),
            Self::Credentials(list) => list.is_empty(),
        }
    }
}

impl Scheme {
    /// A key of this scheme from a secret's text, as `secret_encoding` or the scheme itself has it.
    ///
    /// # Errors
    /// When the text cannot be one.
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

    /// The keys that a secret's text may stand for: as it is without what was pasted along with it,
    /// and as it is literally, where the two differ. Any of them verifies.
    ///
    /// # Errors
    /// When the text cannot be one, either way.
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

    /// Whether it verifies with [`Keys::Credentials`] rather than [`Keys::Secrets`].
    #[must_use]
    pub fn uses_credentials(&self) -> bool {
        matches!(self, Self::LivekitJwt(_))
    }
}

/// `whsec_…`, which some services hand out as `v1,whsec_…`, or without either. A blank may follow
/// the comma.
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
