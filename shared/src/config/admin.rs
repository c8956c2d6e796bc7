//! Who may use admin routes.
//!
//! Guarantee: without a configured token nobody; with one, only who presents it, compared in constant time.

use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::SecretText;

/// The token that admin routes ask for.
#[derive(Clone, Debug)]
pub struct AdminToken {
    token: SecretString,
    /// The token without the quotation marks that it is configured in.
    unquoted: Option<SecretString>,
}

/// Why an admin route refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdminAuthError {
    /// No `Authorization: Bearer …` came with the request (401).
    #[error("admin token required")]
    Missing,
    /// It is not the token, or there is none (403).
    #[error("admin token refused")]
    Forbidden,
}

impl AdminToken {
    /// Takes `token` as it is.
    #[must_use]
    pub fn new(token: SecretString) -> Self {
        Self { token, unquoted: None }
    }

    /// Takes the token that `text` holds. One in quotation marks is accepted with and without them.
    #[must_use]
    pub fn of(text: &SecretText) -> Self {
        let (token, clean) = (text.trimmed(), text.clean());
        Self { token: token.into(), unquoted: (clean != token).then(|| clean.into()) }
    }

    /// Whether `authorization`, the value of that header, may pass. `configured` is `None` where no token is
    /// configured: then nothing passes.
    ///
    /// # Errors
    /// Why not; the time taken says nothing about the token.
    pub fn authorize(
        configured: Option<&Self>,
        authorization: Option<&[u8]>,
    ) -> Result<(), AdminAuthError> {
        let Self { token, unquoted } = configured.ok_or(AdminAuthError::Forbidden)?;
        let presented = authorization.and_then(bearer).ok_or(AdminAuthError::Missing)?;
        // Digests have one length, so comparing them does not tell the token's.
        let presented = Sha256::digest(presented);
        let is_one =
            |token: &SecretString| Sha256::digest(token.expose_secret()).ct_eq(&presented).into();
        if is_one(token) | unquoted.as_ref().is_some_and(is_one) {
            Ok(())
        } else {
            Err(AdminAuthError::Forbidden)
        }
    }
}

fn bearer(header: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = header.split_at_checked("bearer ".len())?;
    let token = token.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer ") && !token.is_empty()).then_some(token)
}
