//! What requests are verified with.
//!
//! Guarantee: nothing here can be printed, and memory that held a secret is zeroed when it is dropped.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::DecodingKey;
use zeroize::Zeroizing;

use super::mac::same;
use super::spec::{Scheme, SecretEncoding};

/// A key's bytes.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

/// A secret whose text cannot become a key. Never shows the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSecret {
    /// Nothing to sign with.
    #[error("is empty")]
    Empty,
    /// The definition says base64.
    #[error("is not padded standard base64")]
    Base64,
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
    pub fn decode(text: &str, encoding: SecretEncoding) -> Result<Self, InvalidSecret> {
        let secret = match encoding {
            SecretEncoding::Utf8 => Self::new(text),
            SecretEncoding::Base64 => Self::new(STANDARD.decode(text).map_err(|_| InvalidSecret::Base64)?),
        };
        if secret.0.is_empty() { Err(InvalidSecret::Empty) } else { Ok(secret) }
    }

    /// Compares `text` with this secret. Only their lengths may show in the time that it takes.
    #[must_use]
    pub fn is(&self, text: &[u8]) -> bool {
        same(&self.0, text)
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
        Self { key: key.into(), secret: secret.clone(), decoding: DecodingKey::from_secret(secret.expose()) }
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
    pub fn secret(&self, text: &str) -> Result<Secret, InvalidSecret> {
        match self {
            Self::Hmac(spec) => Secret::decode(text, spec.secret_encoding),
            Self::Pairs(spec) => Secret::decode(text, spec.secret_encoding),
            Self::StandardWebhooks(_) => {
                Secret::decode(text.strip_prefix("whsec_").unwrap_or(text), SecretEncoding::Base64)
            }
            Self::LivekitJwt(_) | Self::SharedSecret(_) => Secret::decode(text, SecretEncoding::Utf8),
        }
    }

    /// Whether it verifies with [`Keys::Credentials`] rather than [`Keys::Secrets`].
    #[must_use]
    pub fn uses_credentials(&self) -> bool {
        matches!(self, Self::LivekitJwt(_))
    }
}
